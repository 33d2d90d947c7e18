//! Real NATS, PostgreSQL and Valkey as child processes, for the demo and for the tests.
//!
//! [`Servers::start`] finds the binaries (pinned and fetched once, see `cache`), starts the
//! three servers on free ports of 127.0.0.1, creates a database and a role per service and a
//! NATS user per identity, and returns when all servers answer. Each [`Server`] can be killed
//! and restarted on the same port and data.
//!
//! **Invariant:** no server outlives this process, however it dies: dropping [`Servers`] stops
//! them in order, and the kernel kills them if this process had no chance to (`process`).

mod account;
mod alone;
mod binaries;
mod cache;
mod data;
mod error;
mod faults;
mod identities;
mod keeper;
mod nats;
mod options;
mod ports;
mod postgres;
mod probe;
mod process;
mod program;
mod say;
mod secrets;
mod server;
mod servers;
mod valkey;

pub use alone::Standalone;
pub use binaries::PINNED;
pub use data::Data;
pub use error::Error;
pub use identities::{IDENTITIES, ISSUER, NATS_CONF};
pub use keeper::{Keeper, full_disks};
pub use options::{Options, Ports};
pub use program::Program;
pub use say::Say;
pub use server::Server;
pub use servers::Servers;
