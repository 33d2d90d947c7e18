//! The wall clock and new ids. All code gets both from here.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use events::Timestamp;
use uuid::Uuid;

/// By how many milliseconds the clock of this process is ahead of the machine's. Nothing sets it
/// outside of a proof, and then reading the clock costs one more load.
static AHEAD_MILLIS: AtomicI64 = AtomicI64::new(0);

/// Moves the clock of this process, as if it ran on a machine whose clock is ahead by this much,
/// or behind: for a proof that runs it beside others, or that lets days pass.
pub fn move_to(ahead_millis: i64) {
    AHEAD_MILLIS.store(ahead_millis, Relaxed);
}

/// An id of now as an id of a later moment, or of an earlier one. Ids keep their order: the
/// highest 48 bits of a UUIDv7 are its milliseconds.
fn later(id: Uuid, millis: i64) -> Uuid {
    Uuid::from_u128(id.as_u128().wrapping_add_signed(i128::from(millis) << 80))
}

/// Now, in UTC, to the microsecond.
#[expect(clippy::disallowed_methods, reason = "the one place that may read the clock")]
pub fn now() -> Timestamp {
    #[cfg(feature = "sim")]
    if let Some(now) = simulated::now() {
        return now;
    }
    let ahead = time::Duration::milliseconds(AHEAD_MILLIS.load(Relaxed));
    (time::OffsetDateTime::now_utc() + ahead).into()
}

/// Now, as spans have it. It decides nothing, so a simulation does not set it.
#[expect(clippy::disallowed_methods, reason = "the one place that may read the clock")]
pub(crate) fn system_time() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// A new unique id: a UUIDv7 of now.
pub fn new_id() -> Uuid {
    #[cfg(feature = "sim")]
    if let Some(id) = simulated::new_id() {
        return id;
    }
    later(Uuid::now_v7(), AHEAD_MILLIS.load(Relaxed))
}

/// The clock and the randomness of a simulation, on the thread that runs it.
#[cfg(feature = "sim")]
pub mod simulated {
    use std::cell::RefCell;

    use events::Timestamp;
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
    use uuid::Uuid;

    struct World {
        now: Timestamp,
        random: StdRng,
        /// Number of ids made so far. Later ids are greater, as in a real process.
        ids: u64,
    }

    thread_local! {
        static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    }

    /// Simulates the clock on this thread until the returned guard is dropped.
    pub fn begin(now: Timestamp, seed: u64) -> Simulation {
        let world = World { now, random: StdRng::seed_from_u64(seed), ids: 0 };
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
            world.random.fill(&mut random[..]);
            // The counter orders ids of the same millisecond; the version and variant bits are
            // left alone.
            random[0] = (world.ids >> 18) as u8 & 0x0f;
            random[1] = (world.ids >> 10) as u8;
            random[2] = (world.ids >> 4) as u8 & 0x3f;
            random[3] = (world.ids << 4) as u8;
            let millis = u64::try_from(millis).unwrap_or_default();
            Some(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_a_later_moment_differs_in_its_time_alone() {
        let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
        let day = 24 * 3_600 * 1_000;
        let moved = later(first, day);
        let millis = |id: Uuid| (id.as_u128() >> 80) as i64;
        assert_eq!(millis(moved), millis(first) + day);
        assert_eq!((moved.get_version_num(), moved.as_u128() << 48), (7, first.as_u128() << 48));
        assert!(later(second, day) > moved);
        assert!(later(first, -day) < first);
        assert_eq!(later(later(first, -day), day), first);
    }
}
