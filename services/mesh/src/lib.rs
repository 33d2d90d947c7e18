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
//! | file | what it is |
//! |---|---|
//! | `unit_of_work`, `context`, `caller` | what a service author writes against |
//! | `service`, `query_context` | the table of a service, and what a query works with |
//! | `message`, `work` | one message with its events; what a batch is made of |
//! | `input`, `repeat`, `own_id` | strict parsing of requests; idempotency keys and proposed ids |
//! | `consumer`, `endpoint`, `timer`, `intake` | the three inputs, and the queue they share |
//! | `bundle`, `reply` | many commands in one request, and the answers to commands |
//! | `worker`, `engine` | the loop that runs batches, and the store it runs them on |
//! | `batch` | one batch in one transaction, the same for every engine with a unit of work |
//! | `postgres`, `valkey`, `memory` | the engines: inbox, state, outbox and parked events |
//! | `agreement` | detects that a consumed stream was replaced or rolled back |
//! | `publisher` | publishes the outbox to JetStream, and compares the two |
//! | `parked` | events that could not be handled: retried, or dead letters |
//! | `follower`, `stored` | reads whole streams, for a service that decides nothing |
//! | `throttle` | lets a listener yield to busy services on its machine |
//! | `link`, `auth`, `keys` | connections to NATS, verification of tokens, signing of tokens |
//! | `callout` | lets accounts connect over NATS, each with an inbox of its own |
//! | `deadline` | a time limit for every wait |
//! | `taken_in` | how far the consumers of a stream have come |
//! | `client` | the mesh client: sends commands and follows events from outside a service |
//! | `observe` | the broker seen from outside: whether it can write, how consumers stand |
//! | `topology` | streams and consumers as data: apply, check |
//! | `run`, `supervise` | starts and stops a service, and restarts tasks that end |
//! | `trace`, `health`, `failpoint`, `clock` | spans, readiness, injected failures, time and ids |
//! | `housekeeping` | checks the store and the broker, and trims the store |
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

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
