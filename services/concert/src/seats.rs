//! The seat map: a copy of the seats' states in Valkey, made of the reservation service's events.
//!
//! Each event of a reservation updates its seats. What one call to Valkey changes visibly is one
//! change of the map, with the next sequence, or several if it has many seats. The map is read whole or from a position in its history on.
//! Each change is also announced as it happens, so that a gateway that draws the map for many
//! watchers reads it once and then follows the announcements.

mod count;
pub(crate) mod handle;
mod rebuild;

use std::sync::Arc;

use events::{
    Problem, ScheduleId, Timestamp, codes,
    concert::{
        GetSeatChanges, GetSeats, MapState, ScheduleCancelled, Seat, SeatChanges, SeatDelta,
        SeatMap, SeatState, SectionCount,
    },
    reservation::{
        ReservationCancelled, ReservationConfirmed, ReservationCreated, ReservationExpired,
    },
};
use mesh::{
    Allow, Link, QueryContext, Running, Service, clock,
    valkey::{FunctionCall, LuaModule, Reply, Valkey},
};
use quick_cache::sync::Cache;
use sqlx::PgPool;

pub use self::rebuild::read_model;
use crate::{NAME, map, plan_store};

/// Schedules whose section sizes are kept in memory at most.
const SIZES_MAX: usize = 4_096;

/// The services whose events the map is made of. Those of `concert` itself are consumed like any
/// other's: the map is kept by another instance on another store.
pub const REBUILT_FROM: &[&str] = &["reservation", "concert"];

/// The seat maps' functions in Valkey.
pub struct SeatMaps;

impl LuaModule for SeatMaps {
    const NAME: &'static str = NAME;
    const LUA: &'static str = include_str!("lua/seats.lua");
    const IS_REPLAYABLE: bool = true;
    type Config = MapConfig;
}

/// What the Rust side of the map needs: how many seats each section has. Without a database it
/// has no plans and no map can be read; that is enough to rebuild one.
pub struct MapConfig {
    pool: Option<PgPool>,
    sizes: Cache<ScheduleId, Arc<Vec<SectionCount>>>,
}

impl Default for MapConfig {
    fn default() -> Self {
        Self { pool: None, sizes: Cache::new(SIZES_MAX) }
    }
}

impl MapConfig {
    /// Reads plans from this database, each once: they never change.
    pub fn new(pool: PgPool) -> Self {
        Self { pool: Some(pool), ..Self::default() }
    }

    /// The sections of a schedule, with every seat free.
    async fn sections(&self, schedule: ScheduleId) -> Result<Arc<Vec<SectionCount>>, Problem> {
        // Of many that miss it at once, one reads it, and the others wait for it.
        let read = async {
            let pool = self.pool.as_ref().ok_or(codes::UNAVAILABLE)?;
            Ok(Arc::new(map::empty(&plan_store::read(schedule, pool).await?)))
        };
        self.sizes.get_or_insert_async(&schedule, read).await
    }
}

/// The half of this service that keeps the map.
pub fn map_service() -> Service<Valkey<SeatMaps>> {
    Service::<Valkey<SeatMaps>>::new(NAME)
        .soon()
        .consumes::<ScheduleCancelled>(&[])
        .consumes::<ReservationCreated>(&[])
        .consumes::<ReservationConfirmed>(&[])
        .consumes::<ReservationExpired>(&[])
        .consumes::<ReservationCancelled>(&[])
        .queries::<GetSeats, _, _>(
            Allow::Anyone,
            |ctx: QueryContext<Valkey<SeatMaps>>, command, _| async move {
                let sections = ctx.config().sections(command.schedule_id).await?;
                snapshot(&ctx, &command, &sections, clock::now()).await
            },
        )
        .queries::<GetSeatChanges, _, _>(
            Allow::Anyone,
            |ctx: QueryContext<Valkey<SeatMaps>>, command, _| async move {
                since(&ctx, &command, clock::now()).await
            },
        )
        .samples(count::GAUGES, |maps: Arc<Valkey<SeatMaps>>| async move {
            count::sample(&maps, maps.config().pool.as_ref()).await
        })
}

/// Starts the seat maps, which are rebuilt when the store was emptied.
pub fn start_map(engine: Arc<Valkey<SeatMaps>>, link: Link) -> Running {
    let kept = read_model(engine.clone());
    mesh::start(map_service(), engine, link).keep_rebuilt(kept)
}

/// The current map.
///
/// # Errors
/// `unavailable` while the store is away or is being rebuilt.
pub(crate) async fn snapshot(
    valkey: &Valkey<SeatMaps>,
    command: &GetSeats,
    sections: &[SectionCount],
    now: Timestamp,
) -> Result<SeatMap, Problem> {
    let GetSeats { schedule_id, section } = command;
    let value = valkey.read(FunctionCall::new("snapshot").arg(schedule_id), now).await?;
    let (epoch, sequence) = (value.get(0)?, value.get(1)?);
    let state = match value.get::<String>(2)?.as_str() {
        "cancelled" => MapState::Cancelled,
        _ => MapState::Open,
    };
    let seats = seats_of(&value)?;
    let (sections, seats) = map::draw(sections, section.as_deref(), state, seats);
    Ok(SeatMap { schedule_id: *schedule_id, epoch, sequence, state, sections, seats })
}

/// The changes since a position in the map's history.
///
/// # Errors
/// `unavailable` while the store is away or is being rebuilt.
pub(crate) async fn since(
    valkey: &Valkey<SeatMaps>,
    command: &GetSeatChanges,
    now: Timestamp,
) -> Result<SeatChanges, Problem> {
    let GetSeatChanges { schedule_id, epoch, sequence } = command;
    let call = FunctionCall::new("since").arg(schedule_id).arg(epoch).arg(sequence);
    let value = valkey.read(call, now).await?;
    let deltas: Result<Vec<SeatDelta>, _> =
        value.0.iter().skip(3).map(|text| serde_json::from_str(text)).collect();
    Ok(SeatChanges {
        epoch: value.get(0)?,
        sequence: value.get(1)?,
        is_gone: value.get::<String>(2)? == "gone",
        deltas: deltas.map_err(|_| codes::INTERNAL)?,
    })
}

/// The pairs of seat and state after the first three values.
fn seats_of(value: &Reply) -> Result<Vec<Seat>, Problem> {
    let pairs = value.0.get(3..).unwrap_or_default().chunks_exact(2);
    pairs
        .map(|pair| {
            let state = match pair[1].as_str() {
                "held" => SeatState::Held,
                "sold" => SeatState::Sold,
                _ => return Err(codes::INTERNAL.into()),
            };
            Ok(Seat { seat: events::SeatId(pair[0].clone()), state })
        })
        .collect()
}
