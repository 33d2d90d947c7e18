//! How the servers are started.

use std::{path::PathBuf, sync::Arc};

use crate::{data::Data, say::Say};

/// How the servers are started.
#[derive(Clone)]
pub struct Options {
    /// Where their data is kept.
    pub data: Data,
    /// Fixed ports, for the servers that need one.
    pub ports: Ports,
    /// The services that get a database and a role of their own; none by default.
    pub(crate) services: Vec<String>,
    /// How many nodes the broker has.
    pub(crate) nodes: usize,
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

    /// The same, with a database for each of these services.
    pub fn databases<'a>(mut self, services: impl IntoIterator<Item = &'a str>) -> Self {
        self.services.extend(services.into_iter().map(str::to_owned));
        self
    }

    /// The same, with a broker of three nodes, for a temporary folder. The fixed ports are those of
    /// the first one.
    pub fn three_nodes(mut self) -> Self {
        self.nodes = 3;
        self
    }

    fn with(data: Data) -> Self {
        Self {
            data,
            ports: Ports::default(),
            services: Vec::new(),
            nodes: 1,
            say: Arc::new(|line| eprintln!("{line}")),
        }
    }
}
