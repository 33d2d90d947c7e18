//! What happened in each saga, what is still to come, and what never should have happened.
//!
//! Reads every stream whole and decides nothing.
//!
//! | knows | and then |
//! |---|---|
//! | every fact of the others | keeps it, and where its saga stands |
//! | that an awaited fact did not come | `audit.saga_stalled` |
//! | facts that cannot all be true | `audit.violation` |
//!
//! | file | what it is |
//! |---|---|
//! | `heard`, `keys` | a fact, and what its saga is found by |
//! | `flows`, `timeline` | what may follow what, and what that makes of a saga's facts |
//! | `auditor`, `kept` | the rules that always hold, and what they are held against |
//! | `listener`, `facts`, `sagas`, `copying` | streams in: facts and sagas in one transaction |
//! | `watchdog`, `book`, `handlers` | what is reported, once |
//! | `reads` | what operators and fans ask |
//! | `forgetting` | what is too old |
//! | `rehearsal` | sagas made up, to measure and to test with |
//!
//! **Invariants.** Facts, sagas and their keys are made of the streams alone: no clock and no
//! order of reading is in them, and replaying gives the same rows. A stall is told once for
//! each awaited fact, a violation once for the facts that make it.

pub mod auditor;
mod copying;
mod event_table;
pub mod flows;
mod forgetting;
mod handlers;
pub mod kept;
mod keys;
mod listener;
mod observed;
mod reads;
pub mod rehearsal;
mod sagas;
pub mod timeline;
mod unit_of_work;
mod watchdog;

use std::{sync::LazyLock, time::Duration};

use events::{
    audit::{FindSagas, FindViolations, GetSaga, ReportStall, ReportViolation},
    concert, notification, payment, point, queue, reservation,
    user::{self, Role},
};
use mesh::{Allow, Service, postgres::Postgres};

pub use auditor::Auditor;
pub use forgetting::forget;
pub use observed::Observed;
pub use timeline::Progress;
pub use unit_of_work::{Keys, UnitOfWork};

use listener::Listener;

/// The service.
pub const NAME: &str = "audit";

/// What the service remembers.
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations!["audit/0101_audit.sql"];

/// The facts of all the others.
static FOLLOWED: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let all = [
        user::EVENTS,
        concert::EVENTS,
        queue::EVENTS,
        reservation::EVENTS,
        payment::EVENTS,
        point::EVENTS,
        notification::EVENTS,
    ];
    all.concat()
});

/// Facts of one stream that are taken in at once when there are many: one transaction.
const PIECE: usize = 1_000;

/// How often deadlines are looked at: a stall is told within a second.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// Days that facts are kept for, unless said otherwise.
const KEEP_DAYS: u16 = 30;
/// Names the days that facts are kept for.
const KEEP_DAYS_VARIABLE: &str = "ONSALE_AUDIT_KEEP_DAYS";

/// The service's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Days that facts are kept for.
    pub keep_days: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self { keep_days: KEEP_DAYS }
    }
}

impl Config {
    /// Rules from the environment: `ONSALE_AUDIT_KEEP_DAYS`, from 1 to 3650.
    ///
    /// # Errors
    /// Names the variable that cannot be read.
    pub fn from_env() -> Result<Self, String> {
        Self::from_var(std::env::var(KEEP_DAYS_VARIABLE).ok())
    }

    fn from_var(days: Option<String>) -> Result<Self, String> {
        let Some(days) = days.filter(|days| !days.is_empty()) else { return Ok(Self::default()) };
        match days.parse() {
            Ok(keep_days @ 1..=3_650) => Ok(Self { keep_days }),
            _ => Err(format!("{KEEP_DAYS_VARIABLE} must be a number from 1 to 3650, not `{days}`")),
        }
    }
}

/// The service, to be run on a [`Postgres`].
pub fn service() -> Service<Postgres<UnitOfWork>> {
    let listener = Listener::new();
    let (reader, dog) = (listener.clone(), listener.clone());
    let (of_one, of_many) = (listener.clone(), listener);
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .answers::<ReportStall>(Allow::Inside, &["audit.saga_stalled"])
        .answers::<ReportViolation>(Allow::Inside, &["audit.violation"])
        .reads::<GetSaga, _, _>(Allow::User, move |ctx, command, meta| {
            reads::saga(of_one.clone(), ctx, command, meta)
        })
        .reads::<FindSagas, _, _>(Allow::Role(Role::Operator), move |ctx, command, meta| {
            reads::sagas(of_many.clone(), ctx, command, meta)
        })
        .reads::<FindViolations, _, _>(Allow::Role(Role::Operator), reads::violations)
        .follows(&FOLLOWED, PIECE, move |ctx, read| {
            let reader = reader.clone();
            async move { reader.take(ctx, read).await }
        })
        .every::<ReportStall, _, _>("stalls", WATCH_EVERY, move |pool, _| {
            watchdog::due(dog.clone(), pool)
        })
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod rules_tests {
    use super::*;

    #[test]
    fn the_days_kept_are_a_number_of_days() {
        let kept =
            |days: &str| Config::from_var(Some(days.to_owned())).map(|config| config.keep_days);
        assert_eq!(Config::from_var(None), Ok(Config { keep_days: 30 }));
        assert_eq!((kept(""), kept("7")), (Ok(30), Ok(7)));
        for bad in ["0", "-1", "3651", "a week", "7d"] {
            assert!(kept(bad).is_err(), "{bad}");
        }
    }
}
