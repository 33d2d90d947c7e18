//! The queue service: the waiting room of each schedule.
//!
//! It owns one place for each fan and schedule, and decides which fans may reserve when:
//! `WAITING` → `ACTIVE` → `COMPLETED` or `EXPIRED`, first come first served. All of its state is
//! in Valkey, and each event or command is one Lua function there (`lua/`), so a place, the
//! inbox and the event about it change in one step. Position and wait are queries; passes and
//! tickets are signed when a place is read.
//!
//! | consumes | does |
//! |---|---|
//! | `concert.schedule_opened`, `.schedule_cancelled` | opens the room, closes it |
//! | `reservation.created`, `.expired`, `.cancelled` | a hold keeps its fan's place until it ends |
//! | `payment.completed`, `reservation.cancelled` | counts the seats that are sold |
//! | `payment.completed` | ends the place, unless another hold of the fan lives |
//! | `payment.failed{hold_gone}` | returns the fan to the front of the queue |
//! | `user.withdrawn` | ends the fan's places |
//!
//! A place ends when a payment was completed and no hold of its fan lives; every end of a hold
//! and every payment checks this. A fan who holds seats cannot leave.
//!
//! It emits `queue.waiting`, `.activated`, `.returned`, `.completed`, `.expired`, each with the
//! place's version, which grows by one with every change.
//!
//! **Invariants:** a fan has at most one place in a room. At most `per_second` fans are
//! admitted in each second since the room opened, and at most `active_max` are ACTIVE at a
//! time. Fans are admitted in the order of their numbers; only fans returned after a lost hold
//! go first. Nothing of value depends on this store: PostgreSQL decides on seats and money, and
//! the room can be rebuilt from the stored events (`rebuild.rs`) and from the tickets that fans
//! hold.

mod domain;
mod handlers;
mod metrics;
mod rebuild;
mod room;
mod rooms;
mod signer;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use events::{
    Problem, Timestamp, codes,
    concert::{ScheduleCancelled, ScheduleOpened},
    payment::{PaymentCompleted, PaymentFailed},
    queue::{Enter, GetPlace, Jwks, Leave, Place},
    reservation::{ReservationCancelled, ReservationCreated, ReservationExpired},
    user::UserWithdrawn,
};
use mesh::{
    Allow, Link, Meta, QueryContext, Running, Service, clock,
    engine::Failure,
    valkey::{FunctionCall, Valkey},
};

pub use rebuild::WaitingRooms;
pub use room::{Config, NAME, Room};
pub use rooms::{RoomState, rooms};
pub use signer::Signer;

/// How often a room expires places and admits the next fans; `lua/line.lua` has the same number.
const TICK: Duration = Duration::from_millis(100);
/// Places changed by one tick of one room at most.
const TICK_PLACES_MAX: u32 = 1_000;
/// How often an instance checks for new keys.
const KEYS_EVERY: Duration = Duration::from_secs(60);

/// The service, which runs on a [`Valkey`].
pub fn service() -> Service<Valkey<Room>> {
    Service::<Valkey<Room>>::new(NAME)
        .soon()
        .consumes::<ScheduleOpened>(&[])
        .consumes::<ScheduleCancelled>(&[])
        .consumes::<ReservationCreated>(&[])
        .consumes::<ReservationExpired>(&["queue.completed"])
        .consumes::<ReservationCancelled>(&["queue.completed"])
        .consumes::<PaymentCompleted>(&["queue.completed"])
        .consumes::<PaymentFailed>(&["queue.completed", "queue.returned"])
        .consumes::<UserWithdrawn>(&["queue.expired"])
        .executes::<Enter>(Allow::User, &["queue.waiting"])
        .executes::<Leave>(Allow::User, &["queue.expired"])
        .queries::<GetPlace, _, _>(Allow::User, get_place)
        .queries::<Jwks, _, _>(Allow::Anyone, jwks)
        .every("admit", TICK, &["queue.activated", "queue.completed", "queue.expired"], due)
        .every("keys", KEYS_EVERY, &[], refresh_keys)
        .counts("queue.activated", &metrics::ADMITTED, &[])
        .samples(metrics::GAUGES, |engine: Arc<Valkey<Room>>| async move {
            metrics::sample(&engine).await
        })
}

/// Starts the service, which rebuilds its rooms when the store was emptied. All of the runtime for its engine is compiled in this crate, once, and
/// not again in every program that starts it.
pub fn start(engine: Arc<Valkey<Room>>, link: Link) -> Running {
    let rooms = WaitingRooms(engine.clone());
    mesh::start(service(), engine, link).keep_rebuilt(rooms)
}

async fn get_place(
    ctx: QueryContext<Valkey<Room>>,
    command: GetPlace,
    meta: Meta,
) -> Result<Place, Problem> {
    place_of(&ctx, &command, &meta, clock::now()).await
}

/// The caller's own place at `now`.
///
/// # Errors
/// `not_found` without a place, `unavailable` while the store is away.
async fn place_of(
    valkey: &Valkey<Room>,
    command: &GetPlace,
    meta: &Meta,
    now: Timestamp,
) -> Result<Place, Problem> {
    let (schedule, user) = (command.schedule_id, meta.caller.user_id()?);
    let value = valkey.read(FunctionCall::new("look").arg(schedule).arg(user), now).await?;
    handlers::place(schedule, user, &value, valkey.config(), now)
}

async fn jwks(
    ctx: QueryContext<Valkey<Room>>,
    _command: Jwks,
    _meta: Meta,
) -> Result<serde_json::Value, Problem> {
    Ok(ctx.config().signer.jwks())
}

/// One tick for each room in which something is due.
///
/// # Errors
/// When a function fails. An unreachable store is no failure here: there is nothing to do until
/// it is back.
async fn due(valkey: Valkey<Room>, now: Timestamp) -> Result<Vec<FunctionCall>, Failure> {
    match valkey.read(FunctionCall::new("due"), now).await {
        Ok(rooms) => {
            let tick = |room| FunctionCall::new("tick").arg(room).arg(TICK_PLACES_MAX);
            Ok(rooms.0.into_iter().map(tick).collect())
        }
        Err(problem) if problem.is(codes::UNAVAILABLE) => Ok(Vec::new()),
        Err(problem) => Err(Failure::Refused(problem.to_string())),
    }
}

async fn refresh_keys(valkey: Valkey<Room>, now: Timestamp) -> Result<Vec<FunctionCall>, Failure> {
    valkey.config().signer.refresh(&valkey, now).await?;
    Ok(Vec::new())
}
