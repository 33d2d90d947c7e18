//! The ranking service: what sells most, and what sold out fastest.
//!
//! A read model in Valkey, made of facts alone. Each fact is one Lua function there (`lua/`),
//! so what is counted and the inbox entry change in one step. All of it can be built anew
//! from the streams next to what is live ([`mesh::valkey::rebuild()`]); every count is made of
//! the facts' own times, so it comes out the same.
//!
//! | hears | does |
//! |---|---|
//! | `concert.schedule_opened` | knows how many seats there are, and since when they are sold |
//! | `concert.schedule_cancelled` | takes the show out of the fastest |
//! | `payment.completed` | counts the seats at the moment of the sale |
//! | `payment.refunded` | takes them out of that same moment again |
//!
//! **Invariants:** a payment counts once, under however many event ids it comes, and not at
//! all when its return was heard first. The order in which facts are heard changes nothing.
//! A window slides in steps: of a minute (1 h), ten minutes (24 h), an hour (7 d); a sale
//! counts until its whole step is older than the window. A show is sold out at the first
//! moment at which every seat was sold, whatever is returned later.

pub mod domain;
mod handlers;

use std::sync::{Mutex, PoisonError};

use events::{
    Problem, Timestamp,
    concert::{ScheduleCancelled, ScheduleOpened},
    payment::{PaymentCompleted, PaymentRefunded},
    ranking::{ConcertRanking, RankConcerts},
};
pub use handlers::{sale_stated, schedule_stated};
use mesh::{
    Allow, Meta, QueryContext, Service, clock,
    valkey::{LuaModule, Valkey},
};

/// The service.
pub const NAME: &str = "ranking";
/// Whose facts it is made of; payments are of schedules.
pub const ORDER: &[&str] = &["concert", "payment"];

/// How long a ranking is handed out again before the store is asked anew, so that a page that
/// everybody opens costs it one look a second. `at` says how old it is.
const FRESH_MILLIS: i64 = 1_000;

/// What the service's Rust side knows: the rankings it made last, one of each kind.
#[derive(Default)]
pub struct Config {
    latest: Mutex<Vec<ConcertRanking>>,
}

/// The functions in Valkey.
pub struct Charts;

impl LuaModule for Charts {
    const NAME: &'static str = NAME;
    const LUA: &'static str = concat!(
        include_str!("lua/charts.lua"),
        include_str!("lua/handle.lua"),
        include_str!("lua/ranks.lua"),
    );
    const IS_REPLAYABLE: bool = true;
    type Config = Config;
}

/// The service, to be run on a [`Valkey`].
pub fn service() -> Service<Valkey<Charts>> {
    Service::<Valkey<Charts>>::new(NAME)
        .later()
        .consumes::<ScheduleOpened>(&[])
        .consumes::<ScheduleCancelled>(&[])
        .consumes::<PaymentCompleted>(&[])
        .consumes::<PaymentRefunded>(&[])
        .reads::<RankConcerts, _, _>(Allow::Anyone, rank)
}

async fn rank(
    ctx: QueryContext<Valkey<Charts>>,
    command: RankConcerts,
    _meta: Meta,
) -> Result<ConcertRanking, Problem> {
    let limit = domain::limit(command.limit)?;
    let now = clock::now();
    let latest = &ctx.config().latest;
    let made = latest
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .find(|ranking| is_fresh(ranking, &command, now))
        .cloned();
    let mut ranking = match made {
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

/// The ranking as at `now`, to its last place.
///
/// # Errors
/// `unavailable` while the store is away or being rebuilt.
pub async fn ranking_of(
    valkey: &Valkey<Charts>,
    command: &RankConcerts,
    now: Timestamp,
) -> Result<ConcertRanking, Problem> {
    let RankConcerts { by, window, .. } = *command;
    let rows = valkey.read(handlers::look(command), now).await?;
    Ok(ConcertRanking { by, window, at: now, places: domain::places(by, &rows.0)? })
}
