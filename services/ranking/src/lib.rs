//! The ranking service: the concerts that sell most, and those that sold out fastest.
//!
//! A read model in Valkey, made of events alone. Each event is one Lua function there (`lua/`),
//! so the counts and the inbox entry change in one step. All of it can be rebuilt from the
//! streams next to the live generation ([`mesh::valkey::rebuild()`]). Every count uses the
//! events' own times, so a rebuild gives the same result.
//!
//! | consumes | does |
//! |---|---|
//! | `concert.schedule_opened` | records how many seats there are, and since when they are on sale |
//! | `concert.schedule_cancelled` | removes the show from the fastest sell-outs |
//! | `payment.completed` | counts the seats at the time of the sale |
//! | `payment.refunded` | subtracts them at that same time |
//!
//! **Invariants:** a payment counts once, whatever number of event ids it comes under, and not
//! at all when its refund came first. The order of events changes nothing. A window slides in
//! steps: of a minute (1 h), ten minutes (24 h), an hour (7 d); a sale counts until its whole
//! step is older than the window. A show is sold out at the first moment at which every seat
//! was sold, whatever is refunded later.

mod charts;
mod domain;
mod handlers;
mod rebuild;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError};

pub use charts::{Charts, Config, NAME};
use events::{
    Problem, Timestamp,
    concert::{ScheduleCancelled, ScheduleOpened},
    payment::{PaymentCompleted, PaymentRefunded},
    ranking::{ConcertRanking, RankConcerts},
};
use mesh::{Allow, Link, Meta, QueryContext, Running, Service, clock, valkey::Valkey};
pub use rebuild::read_model;

/// The services whose events it is made of, in this order: payments refer to schedules.
pub const ORDER: &[&str] = &["concert", "payment"];

/// How long a ranking is served from memory, so that a popular page costs the store one query a
/// second. `at` in the answer shows its age.
const FRESH_MILLIS: i64 = 1_000;

/// The service, which runs on a [`Valkey`].
pub fn service() -> Service<Valkey<Charts>> {
    Service::<Valkey<Charts>>::new(NAME)
        .later()
        .consumes::<ScheduleOpened>(&[])
        .consumes::<ScheduleCancelled>(&[])
        .consumes::<PaymentCompleted>(&[])
        .consumes::<PaymentRefunded>(&[])
        .queries::<RankConcerts, _, _>(Allow::Anyone, rank)
}

/// Starts the service, which rebuilds its rankings when the store was emptied. All of the runtime for its engine is compiled in this crate, once, and
/// not again in every program that starts it.
pub fn start(engine: Arc<Valkey<Charts>>, link: Link) -> Running {
    let kept = read_model(engine.clone());
    mesh::start(service(), engine, link).keep_rebuilt(kept)
}

async fn rank(
    ctx: QueryContext<Valkey<Charts>>,
    command: RankConcerts,
    _meta: Meta,
) -> Result<ConcertRanking, Problem> {
    let limit = domain::limit(command.limit)?;
    let now = clock::now();
    let latest = &ctx.config().latest;
    let cached = latest
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .find(|ranking| is_fresh(ranking, &command, now))
        .cloned();
    let mut ranking = match cached {
        Some(ranking) => ranking,
        None => {
            let ranking = ranking_of(&ctx, &command, now).await?;
            let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
            latest.retain(|old| (old.by, old.window) != (ranking.by, ranking.window));
            latest.push(ranking.clone());
            ranking
        }
    };
    ranking.places.truncate(limit);
    Ok(ranking)
}

fn is_fresh(ranking: &ConcertRanking, command: &RankConcerts, now: Timestamp) -> bool {
    let age_millis = now.unix_millis() - ranking.at.unix_millis();
    (ranking.by, ranking.window) == (command.by, command.window)
        && (0..FRESH_MILLIS).contains(&age_millis)
}

/// The whole ranking at `now`.
///
/// # Errors
/// `unavailable` while the store is away or being rebuilt.
async fn ranking_of(
    valkey: &Valkey<Charts>,
    command: &RankConcerts,
    now: Timestamp,
) -> Result<ConcertRanking, Problem> {
    let RankConcerts { by, window, .. } = *command;
    let rows = valkey.read(handlers::look(command), now).await?;
    Ok(ConcertRanking { by, window, at: now, places: domain::places(by, &rows.0)? })
}
