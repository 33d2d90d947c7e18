//! The runtime of the mesh: everything that is the same for every service.
//!
//! A service is a [`Service`] table over an [`engine::Engine`]: the events it consumes, the
//! endpoints it answers, its timers. [`start`] runs it:
//!
//! ```text
//!  JetStream ──consumer──┐                           ┌── publisher ── JetStream
//!  NATS ─────endpoint────┤ intake → worker → engine ─┤
//!  clock ────timer───────┘           (one batch)     └── answers, acks
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | `service` | what a service author writes against: the table of a service, handlers, their context, the unit of work |
//! | `inbound` | what comes in: consumer, endpoint, timer, whole streams, and the queue they share |
//! | `batch` | the loop that runs batches, and one batch in one transaction |
//! | `store` | what a store must do, and the stores: PostgreSQL, Valkey, memory for the simulation |
//! | `outbound` | what goes out: the outbox, published to JetStream |
//! | `parked` | events that could not be handled: retried, or dead letters |
//! | `nats` | connections to NATS, the mesh client, stored events, topology |
//! | `auth` | tokens verified and signed, accounts let in over NATS |
//! | `run`, `supervise` | starts and stops a service, and restarts tasks that end |
//! | `housekeeping`, `kept` | checks the store and the broker, and trims the store; rebuilds a store that was emptied |
//! | `trace`, `metrics`, `health` | spans; what is counted and measured; readiness |
//! | `otel` | the variables that name a collector of spans and metrics |
//! | `failpoint`, `clock` | injected failures, time and ids |
//! | `throttle`, `deadline`, `tls` | listeners yield to busy services; a time limit for every wait; TLS for HTTP clients |
//!
//! No file depends on one that depends on it; a test checks that.
//!
//! **Architecture invariant:** nothing but this crate speaks to NATS. A service cannot
//! publish; it can only emit inside its transaction.

pub mod auth;
mod batch;
pub mod clock;
pub mod deadline;
pub mod failpoint;
pub mod health;
mod housekeeping;
mod inbound;
mod kept;
pub mod metrics;
mod nats;
mod otel;
mod outbound;
pub mod parked;
mod run;
mod service;
mod store;
mod supervise;
#[cfg(feature = "testkit")]
pub mod testkit;
mod throttle;
pub mod tls;
pub mod trace;

pub use auth::{
    callout::{Callout, SeedError},
    keys,
};
pub use batch::work::{Answered, Entry, Idempotency, Meta, Outcome, Work};
pub use inbound::{
    bundle::{Bundler, Bundlers},
    follower::READ_EVERY,
    input::{self, parse},
    own_id::{claimed_user, own_id},
    pace::UnderWay,
    read::Read,
    repeat::{IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_CHARS_MAX, check_key},
};
pub use kept::{Kept, stopped};
pub use nats::{
    client::{Announcements, COMMAND_TIMEOUT, Following, MeshClient, RequestHeaders},
    consumer_state::ConsumerState,
    error::{BrokerError, ConnectError, ProbeError, StreamError},
    link::{Link, LinkSettings},
    observe::{ConsumerProgress, StreamUsage},
    permitted::{Attempt, misgranted},
    problem::away,
    servers::BrokerServer,
    stored::{Extent, STORED_MESSAGES_MAX, Unread},
    stored_event::{EVENTS_A_SEQUENCE, StoredEvent, StoredMessage},
    topology,
};
pub use outbound::message;
pub use run::{Running, start};
pub use service::{
    Service, Wiring,
    caller::{Allow, Caller},
    context::{Announcement, Context, Emitted},
    page,
    query_context::QueryContext,
    unit_of_work::{Execute, Handle, HandleError, Refusal, UnitOfWork},
};
#[cfg(feature = "sim")]
pub use store::memory;
pub use store::{engine, postgres, valkey};
pub use supervise::{TaskError, Tasks};

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
