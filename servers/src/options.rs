//! How the servers are started.

use std::{path::PathBuf, sync::Arc};

use crate::{data::Data, say::Say};

/// The services that get a database and a role of their own; the others have none.
pub const SERVICES: &[&str] = &[
    "user",
    "concert",
    "reservation",
    "payment",
    "point",
    "notification",
    "data-platform",
    "audit",
];

/// The identities that have a user on the broker; `nats.conf` has their permissions. A service
/// has two: one publishes its events, the other one answers.
pub const IDENTITIES: &[&str] = &[
    "user",
    "concert",
    "queue",
    "reservation",
    "payment",
    "point",
    "ranking",
    "notification",
    "data-platform",
    "audit",
    "user-answers",
    "concert-answers",
    "queue-answers",
    "reservation-answers",
    "payment-answers",
    "point-answers",
    "ranking-answers",
    "notification-answers",
    "data-platform-answers",
    "audit-answers",
    "callout",
    "gateway",
    "client",
    "operator",
    "provisioner",
];
/// The identity that admits accounts: no user of the broker, but the key that signs their JWTs.
pub const ISSUER: &str = "issuer";

/// How the servers are started.
#[derive(Clone)]
pub struct Options {
    /// Where their data is kept.
    pub data: Data,
    /// Fixed ports, for the servers that need one.
    pub ports: Ports,
    /// The services that get a database; [`SERVICES`] by default.
    pub services: Vec<String>,
    /// Where progress is reported; standard error by default.
    pub say: Say,
}

/// Ports on 127.0.0.1; `None` takes a free one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    /// NATS, for clients.
    pub nats: Option<u16>,
    /// NATS, for `/healthz` and `/varz`.
    pub nats_monitor: Option<u16>,
    /// PostgreSQL.
    pub postgres: Option<u16>,
    /// Valkey.
    pub valkey: Option<u16>,
}

impl Options {
    /// Options with a temporary folder, for tests.
    pub fn temporary() -> Self {
        Self::with(Data::Temporary)
    }

    /// Options with a folder that is kept; it is created if it does not exist.
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        Self::with(Data::Folder(folder.into()))
    }

    fn with(data: Data) -> Self {
        Self {
            data,
            ports: Ports::default(),
            services: SERVICES.iter().map(|service| (*service).to_owned()).collect(),
            say: Arc::new(|line| eprintln!("{line}")),
        }
    }
}
