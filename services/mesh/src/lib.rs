//! The runtime of the mesh: everything that is the same for every service.
//!
//! A service is a [`Service`] table over an [`engine::Engine`]: the facts it hears, the
//! endpoints it answers, its timers. [`start`] runs it:
//!
//! ```text
//!  JetStream ──consumer──┐                           ┌── publisher ── JetStream
//!  NATS ─────endpoint────┤ intake → worker → engine ─┤
//!  clock ────timer───────┘           (one batch)     └── answers, acks
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `book`, `turn`, `caller` | what a service author writes against |
//! | `service`, `desk` | the table of a service, and what a read has at hand |
//! | `message`, `work` | one message with its events; what a batch is made of |
//! | `input`, `repeat`, `own_id` | what callers send, read strictly; whose their keys and ids are |
//! | `consumer`, `endpoint`, `timer`, `intake` | the three ways in, and where they meet |
//! | `worker`, `engine` | the loop that runs batches, and what it runs them on |
//! | `batch` | one batch in one transaction, whatever keeps the service's state |
//! | `postgres`, `valkey`, `memory` | the engines: inbox, state, outbox and parked events |
//! | `agreement` | whether consumed streams are still those that were consumed |
//! | `publisher` | from the outbox to JetStream, and the comparison of the two |
//! | `parked` | events that could not be taken in: tried again, or dead letters |
//! | `follower`, `stored` | whole streams in, for a service that only learns |
//! | `link`, `auth`, `keys` | the connections to NATS, tokens verified, tokens signed |
//! | `callout` | accounts let in over NATS, each with an inbox of its own |
//! | `deadline` | nobody is waited for without an end |
//! | `taken_in` | how far the consumers of a stream have come |
//! | `ask` | the edge's side: commands asked, events followed |
//! | `observe` | the broker seen from outside: whether it can write, how it stands |
//! | `topology` | streams and consumers as data: apply, check |
//! | `trace`, `health`, `failpoint`, `supervise`, `clock` | seen, known, broken, kept alive, told the time |
//! | `housekeeping` | the store and the broker, looked at and tidied |
//!
//! **Architecture invariant:** nothing but this crate speaks to NATS. A service cannot
//! publish; it can only emit inside its transaction.

mod agreement;
pub mod auth;
mod batch;
mod bundle;
mod caller;
mod callout;
mod client;
pub mod clock;
mod consumer;
mod context;
pub mod deadline;
mod endpoint;
pub mod engine;
pub mod failpoint;
mod follower;
pub mod health;
mod housekeeping;
pub mod input;
mod intake;
pub mod keys;
mod link;
#[cfg(feature = "sim")]
pub mod memory;
pub mod message;
mod observe;
mod own_id;
pub mod page;
pub mod parked;
pub mod postgres;
mod publisher;
mod query_context;
mod repeat;
mod reply;
mod run;
mod service;
mod stored;
mod supervise;
mod taken_in;
#[cfg(feature = "testkit")]
pub mod testkit;
mod throttle;
mod timer;
pub mod tls;
pub mod topology;
pub mod trace;
mod unit_of_work;
pub mod valkey;
mod work;
mod worker;

pub use bundle::{Bundler, Bundlers};
pub use caller::{Allow, Caller};
pub use callout::Callout;
pub use client::{Announcements, COMMAND_TIMEOUT, Following, MeshClient, RequestHeaders, away};
pub use context::{Announcement, Context, Emitted};
pub use follower::{READ_EVERY, Read};
pub use input::parse;
pub use link::{Link, LinkSettings};
pub use observe::{Fill, Standing};
pub use own_id::{claimed_user, own_id};
pub use query_context::QueryContext;
pub use repeat::{IDEMPOTENCY_KEY, check_key};
pub use run::{Running, start};
pub use service::{Service, Wiring};
pub use stored::{EVENTS_A_SEQUENCE, Extent, STORED_MESSAGES_MAX, StoredEvent, StoredMessage};
pub use taken_in::ConsumerState;
pub use unit_of_work::{Execute, Handle, HandleError, Refusal, UnitOfWork};
pub use work::{Answered, Entry, Idempotency, Meta, Outcome, Work};
