//! The registry of services: the one list that every other one derives from, or is tested
//! against.

use anyhow::{Result, bail};
use mesh::Wiring;
use sqlx::migrate::Migrator;

/// A service of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Accounts and tokens.
    User,
    /// Concerts, schedules, seat plans, and the live seat map.
    Concert,
    /// The waiting room.
    Queue,
    /// Holds and tickets.
    Reservation,
    /// Payments and refunds.
    Payment,
    /// Wallets.
    Point,
    /// What sells best.
    Ranking,
    /// Messages to fans.
    Notification,
    /// The export of sales events.
    DataPlatform,
    /// Sagas observed and audited.
    Audit,
    /// The HTTP edge.
    Gateway,
}

/// What is known of a service before it is started.
pub struct Entry {
    /// The service.
    pub service: Service,
    /// Its name: of its identity on the broker, its database and its container.
    pub name: &'static str,
    /// The migrations of its database, if it has one.
    database: Option<fn() -> &'static Migrator>,
    /// Whether it keeps something in Valkey.
    in_valkey: bool,
    /// Whether a sale does without it: it consumes events and decides nothing.
    only_listens: bool,
    /// What it declares of itself, for each store that it has.
    wirings: &'static [fn() -> Wiring],
}

/// Every service, in the order in which they are started.
pub const REGISTRY: [Entry; 11] = [
    Entry {
        database: Some(|| &user::MIGRATIONS),
        wirings: &[|| user::service().wiring()],
        ..entry(Service::User, user::NAME)
    },
    Entry {
        database: Some(|| &concert::MIGRATIONS),
        in_valkey: true,
        wirings: &[|| concert::service().wiring(), || concert::map_service().wiring()],
        ..entry(Service::Concert, concert::NAME)
    },
    Entry {
        in_valkey: true,
        wirings: &[|| queue::service().wiring()],
        ..entry(Service::Queue, queue::NAME)
    },
    Entry {
        database: Some(|| &reservation::MIGRATIONS),
        wirings: &[|| reservation::service().wiring()],
        ..entry(Service::Reservation, reservation::NAME)
    },
    Entry {
        database: Some(|| &payment::MIGRATIONS),
        wirings: &[|| payment::service().wiring()],
        ..entry(Service::Payment, payment::NAME)
    },
    Entry {
        database: Some(|| &point::MIGRATIONS),
        wirings: &[|| point::service().wiring()],
        ..entry(Service::Point, point::NAME)
    },
    Entry {
        in_valkey: true,
        only_listens: true,
        wirings: &[|| ranking::service().wiring()],
        ..entry(Service::Ranking, ranking::NAME)
    },
    Entry {
        database: Some(|| &notification::MIGRATIONS),
        only_listens: true,
        wirings: &[|| notification::service().wiring()],
        ..entry(Service::Notification, notification::NAME)
    },
    Entry {
        database: Some(|| &data_platform::MIGRATIONS),
        only_listens: true,
        wirings: &[|| data_platform::service().wiring()],
        ..entry(Service::DataPlatform, data_platform::NAME)
    },
    Entry {
        database: Some(|| &audit::MIGRATIONS),
        only_listens: true,
        wirings: &[|| audit::service().wiring()],
        ..entry(Service::Audit, audit::NAME)
    },
    entry(Service::Gateway, gateway::NAME),
];

/// A service without a store.
const fn entry(service: Service, name: &'static str) -> Entry {
    Entry { service, name, database: None, in_valkey: false, only_listens: false, wirings: &[] }
}

/// The names of all services, in the order in which they are started.
pub const SERVICES: [&str; REGISTRY.len()] = names(Which::All);
/// The services that keep a PostgreSQL database.
pub const WITH_DATABASE: [&str; count(Which::WithDatabase)] = names(Which::WithDatabase);
/// The services that keep something in Valkey.
pub const WITH_VALKEY: [&str; count(Which::InValkey)] = names(Which::InValkey);
/// The services that a sale does without: they consume its events and decide nothing in it.
pub const LISTENERS: [&str; count(Which::Listens)] = names(Which::Listens);

#[derive(Clone, Copy)]
enum Which {
    All,
    WithDatabase,
    InValkey,
    Listens,
}

const fn is(entry: &Entry, which: Which) -> bool {
    match which {
        Which::All => true,
        Which::WithDatabase => entry.database.is_some(),
        Which::InValkey => entry.in_valkey,
        Which::Listens => entry.only_listens,
    }
}

const fn count(which: Which) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < REGISTRY.len() {
        if is(&REGISTRY[at], which) {
            count += 1;
        }
        at += 1;
    }
    count
}

const fn names<const N: usize>(which: Which) -> [&'static str; N] {
    let (mut at, mut names, mut next) = (0, [""; N], 0);
    while at < REGISTRY.len() {
        if is(&REGISTRY[at], which) {
            names[next] = REGISTRY[at].name;
            next += 1;
        }
        at += 1;
    }
    names
}

/// The service of this name.
///
/// # Errors
/// Names all services when there is none.
pub fn find(name: &str) -> Result<Entry> {
    match REGISTRY.into_iter().find(|entry| entry.name == name) {
        Some(entry) => Ok(entry),
        None => bail!("there is no service `{name}`; there are {}", SERVICES.join(", ")),
    }
}

/// The migrations of a service's own database.
pub fn migrations(name: &str) -> Option<&'static Migrator> {
    let entry = REGISTRY.into_iter().find(|entry| entry.name == name)?;
    entry.database.map(|migrations| migrations())
}

/// What every service declares of itself.
pub fn wirings() -> Vec<Wiring> {
    REGISTRY.iter().flat_map(|entry| entry.wirings).map(|wiring| wiring()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_declares_bears_its_name() {
        for entry in REGISTRY {
            for wiring in entry.wirings {
                assert_eq!(wiring().service, entry.name);
            }
        }
    }

    #[test]
    fn an_unknown_service_is_refused_with_those_that_there_are() {
        let error = find("venue").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with("there is no service `venue`; there are user, "), "{error}");
    }
}
