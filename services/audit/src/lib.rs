//! The audit service: what happened in each saga, what is still to come, and what should never
//! have happened.
//!
//! It reads every stream from start to end and decides nothing. What the events mean is not here:
//! [`flows`] says what may follow what, and [`auditor`] what they say together. This crate brings
//! the events, keeps them, and reports and answers what comes of them.
//!
//! | what it finds | what it does |
//! |---|---|
//! | an event of another service | keeps it, and where its saga stands |
//! | an awaited event that did not come in time | emits `audit.saga_stalled` |
//! | events that cannot all be true | emits `audit.violation` |
//!
//! | file | what is in it |
//! |---|---|
//! | `listener`, `observe` | streams in, and the auditor with them; begin to read here |
//! | `event_table`, `sagas`, `copying` | events and their sagas, written in one transaction |
//! | `service_bits` | the services that took part in a saga, as its row has them |
//! | `keys` | the keys by which a saga is found |
//! | `kept` | all kept events, in the order from which an auditor is built |
//! | `watchdog`, `stalls` | deadlines that have passed, and what is then still awaited |
//! | `unit_of_work`, `handlers` | stalls and violations, each reported once |
//! | `queries` | the queries of operators and fans |
//! | `metrics` | how many sagas are open and stalled, and how many violations there are |
//! | `config` | the days that events are kept for |
//! | `forgetting` | deletes what is too old |
//! | `rehearsal` | made-up sagas, to measure and to test with |
//!
//! **Invariants.** Events, sagas and their keys depend on the streams alone: neither a clock nor
//! the order of reading is in them, and a replay gives the same rows. A stall is reported once
//! for each awaited event, a violation once for the events that make it.

mod config;
mod copying;
mod event_table;
mod forgetting;
mod handlers;
mod kept;
mod keys;
mod listener;
mod metrics;
mod observe;
mod queries;
pub mod rehearsal;
mod sagas;
mod service_bits;
mod stalls;
mod unit_of_work;
mod watchdog;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use events::{
    audit::{FindSagas, FindViolations, GetSaga, ReportStall, ReportViolation},
    user::Role,
};
use mesh::{Allow, Link, Running, Service, postgres::Postgres};

pub use config::{Config, ConfigError};
pub use forgetting::forget;
pub use observe::observe;
pub use unit_of_work::{Keys, UnitOfWork};

use listener::Listener;

/// The service.
pub const NAME: &str = "audit";

/// The service's tables.
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations!["audit/0101_audit.sql"];

/// The events of all other services.
static FOLLOWED: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    events::all_events().filter(|event| events::producer_of(event) != NAME).collect()
});

/// Events of one stream that are taken in together when there are many: one transaction.
const PIECE: usize = 1_000;

/// How often deadlines are checked: a stall is reported within a second.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// The service, to be run on a [`Postgres`].
pub fn service() -> Service<Postgres<UnitOfWork>> {
    let listener = Listener::new();
    let (reader, watchdog) = (listener.clone(), listener.clone());
    let (of_one, of_many) = (listener.clone(), listener.clone());
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .executes::<ReportStall>(Allow::Inside, &["audit.saga_stalled"])
        .executes::<ReportViolation>(Allow::Inside, &["audit.violation"])
        .queries::<GetSaga, _, _>(Allow::User, move |ctx, command, meta| {
            queries::saga(of_one.clone(), ctx, command, meta)
        })
        .queries::<FindSagas, _, _>(Allow::Role(Role::Operator), move |ctx, command, meta| {
            queries::sagas(of_many.clone(), ctx, command, meta)
        })
        .queries::<FindViolations, _, _>(Allow::Role(Role::Operator), queries::violations)
        .follows(&FOLLOWED, PIECE, move |ctx, read| {
            let reader = reader.clone();
            async move { reader.take(ctx, read).await }
        })
        .every::<ReportStall, _, _>("stalls", WATCH_EVERY, move |pool, _| {
            watchdog::due(watchdog.clone(), pool)
        })
        .samples(metrics::GAUGES, move |engine: Arc<Postgres<UnitOfWork>>| {
            let listener = listener.clone();
            async move { metrics::sample(&listener, engine.pool()).await }
        })
}

/// Starts the service. All of the runtime for its engine is compiled in this crate, once, and
/// not again in every program that starts it.
pub fn start(engine: Arc<Postgres<UnitOfWork>>, link: Link) -> Running {
    mesh::start(service(), engine, link)
}

#[cfg(test)]
mod tests;
