//! The wall clock and new ids, read here and nowhere else.

use events::Timestamp;
use uuid::Uuid;

/// Now, in UTC, to the microsecond.
#[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
pub fn now() -> Timestamp {
    #[cfg(feature = "sim")]
    if let Some(now) = simulated::now() {
        return now;
    }
    time::OffsetDateTime::now_utc().into()
}

/// An id that nobody else has: a UUIDv7 of now.
pub fn new_id() -> Uuid {
    #[cfg(feature = "sim")]
    if let Some(id) = simulated::new_id() {
        return id;
    }
    Uuid::now_v7()
}

/// The clock and the chance of a simulation, on the thread that runs it.
#[cfg(feature = "sim")]
pub mod simulated {
    use std::cell::RefCell;

    use events::Timestamp;
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
    use uuid::Uuid;

    struct World {
        now: Timestamp,
        chance: StdRng,
        /// Ids made so far: later ones are greater, as those of one process are.
        ids: u64,
    }

    thread_local! {
        static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    }

    /// From here on this thread lives in a simulation, until what is returned is dropped.
    pub fn begin(now: Timestamp, seed: u64) -> Simulation {
        let world = World { now, chance: StdRng::seed_from_u64(seed), ids: 0 };
        WORLD.with_borrow_mut(|of| *of = Some(world));
        Simulation(())
    }

    /// Ends the simulation of its thread when it is dropped.
    pub struct Simulation(());

    impl Simulation {
        /// Sets the clock, forwards or back.
        pub fn set(&self, now: Timestamp) {
            WORLD.with_borrow_mut(|world| {
                if let Some(world) = world {
                    world.now = now;
                }
            });
        }
    }

    impl Drop for Simulation {
        fn drop(&mut self) {
            WORLD.with_borrow_mut(|world| *world = None);
        }
    }

    pub(super) fn now() -> Option<Timestamp> {
        WORLD.with_borrow(|world| Some(world.as_ref()?.now))
    }

    pub(super) fn new_id() -> Option<Uuid> {
        WORLD.with_borrow_mut(|world| {
            let world = world.as_mut()?;
            world.ids += 1;
            let millis = world.now.0.unix_timestamp_nanos() / 1_000_000;
            let mut random = [0; 10];
            world.chance.fill(&mut random[..]);
            // What is equal in time is ordered by the counter; the bits that say what kind of
            // id it is are spared.
            random[0] = (world.ids >> 18) as u8 & 0x0f;
            random[1] = (world.ids >> 10) as u8;
            random[2] = (world.ids >> 4) as u8 & 0x3f;
            random[3] = (world.ids << 4) as u8;
            let millis = u64::try_from(millis).unwrap_or_default();
            Some(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
        })
    }
}
