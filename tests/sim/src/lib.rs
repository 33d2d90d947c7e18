//! Simulated sales: the handlers of the services, unchanged, in a world full of faults.
//!
//! Accounts, seats, payments and wallets run as in production, from the decoded message to the
//! outbox, on tables in memory (`mesh::memory`, which passes the conformance suite of engines).
//! Around them are a broker that behaves like JetStream ([`broker`]), a virtual clock and one
//! seeded random generator. Messages come twice, late and out of order; publishes are lost or
//! flushed much later; processes die between any two of their effects, pause, or cannot reach the
//! broker; the broker loses its tail, or everything, or grows again under its consumers; clocks
//! jump; handlers panic on some events until a new version is deployed. Then the faults end,
//! everything comes to rest, and [`checks`] looks at the outcome: every invariant, every promise
//! that was made to a fan, and whether the auditor agrees.
//!
//! The waiting room, the seat map and the rankings are not simulated: they decide in Lua inside
//! Valkey. Fans get passes as the waiting room would sign them.
//!
//! A run is a function of its seed. `cargo sim --seed N` replays one.

pub mod broker;
pub mod checks;
mod concert;
mod faults;
mod host;
mod mutations;
mod node;
mod people;
mod plant;
mod services;
mod shrink;
mod trace;
mod world;

use std::collections::BTreeMap;

pub use faults::Fault;
pub use mutations::Mutation;
pub use shrink::shrink;
use trace::Trace;
use world::World;

/// The settings of a simulation.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many fans there are.
    pub people: usize,
    /// How many commands each of them sends.
    pub visits: u32,
    /// Seconds until fans begin nothing new and the faults end.
    pub open_secs: i64,
    /// The faults that may happen.
    pub faults: Vec<Fault>,
    /// The mistake that is planted, if any.
    pub mutation: Option<Mutation>,
}

impl Default for Options {
    fn default() -> Self {
        let faults = Fault::usual();
        Self { people: 12, visits: 12, open_secs: 60, faults, mutation: None }
    }
}

/// The outcome of a sale.
#[derive(Debug)]
pub struct Report {
    /// How many payments, holds and withdrawals there were.
    pub sagas: u64,
    /// How many messages were emitted.
    pub events: u64,
    /// How the sagas ended, each with a count.
    pub ends: BTreeMap<String, u64>,
    /// The faults that came at times of their own, each with a count.
    pub faults: BTreeMap<Fault, u64>,
    /// What is wrong; it should be empty.
    pub wrong: Vec<String>,
    /// The history of the entities that are wrong.
    pub timeline: Vec<String>,
}

impl Report {
    /// Whether it shows that this mistake was planted. Without an inbox events follow twice from
    /// one cause; of a mistake that needs more than that, more must be seen.
    pub fn finds(&self, mutation: Mutation) -> bool {
        let is_sign =
            |wrong: &String| mutation == Mutation::InboxOff || !wrong.starts_with(checks::TWICE);
        self.wrong.iter().any(is_sign)
    }
}

/// Simulates a sale.
pub fn run(seed: u64, options: &Options) -> Report {
    World::new(seed, options).run()
}
