//! The runtime of the mesh: everything that is the same for every service.
//!
//! A service is a [`Service`] table over an [`engine::Engine`]: the facts it hears, the
//! endpoints it answers, its timers. [`start`] runs it:
//!
//! ```text
//!  JetStream ──consumer──┐                         ┌── relay ── JetStream
//!  NATS ─────endpoint────┤ intake → lane → engine ─┤
//!  clock ────timer───────┘          (one batch)    └── answers, acks
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `book`, `turn`, `caller` | what a service author writes against |
//! | `service`, `desk` | the table of a service, and what a read has at hand |
//! | `work`, `engine`, `lane` | one message, one batch, the loop that runs batches |
//! | `postgres`, `valkey` | the two engines: inbox, state and outbox in one step |
//! | `relay` | from the outbox to JetStream, in order, as atomic batches |
//! | `consumer`, `endpoint`, `timer` | the three ways in |
//! | `follower` | whole streams in, for a service that only learns |
//! | `dead_letter` | the way out for what can never succeed, and the line behind it |
//! | `link`, `auth`, `keys` | the connection to NATS, tokens verified, tokens signed |
//! | `ask` | the edge's side: commands asked, facts followed |
//! | `topology` | streams and consumers as data: apply, check |
//! | `trace`, `health`, `failpoint`, `supervise`, `clock` | seen, known, broken, kept alive, told the time |
//!
//! **Architecture invariant:** nothing but this crate speaks to NATS. A service cannot
//! publish; it can only tell a fact inside its transaction.

mod ask;
pub mod auth;
mod book;
mod caller;
pub mod clock;
mod consumer;
mod courtesy;
mod dead_letter;
mod desk;
mod endpoint;
pub mod engine;
pub mod failpoint;
mod follower;
pub mod health;
pub mod keys;
mod lane;
mod link;
pub mod page;
pub mod postgres;
pub mod relay;
mod run;
mod service;
pub mod supervise;
mod timer;
pub mod topology;
pub mod trace;
mod turn;
pub mod valkey;
mod work;

pub use ask::{ASK_TIMEOUT, Announcements, AskHeaders, Asker, Fact, Following, STORED_FACTS_MAX};
pub use book::{Answer, Book, Hear, Miss, Refusal};
pub use caller::{Allow, Caller};
pub use desk::Desk;
pub use follower::{READ_EVERY, Read};
pub use link::{Link, LinkSettings};
pub use run::{Running, start};
pub use service::{Service, Wiring, parse};
pub use turn::{Announcement, Told, Turn};
pub use work::{Answered, Idempotency, Meta, Outcome, Work};
