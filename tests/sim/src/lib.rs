//! Simulated sales: the handlers of the services, unchanged, in a world where everything goes
//! wrong.
//!
//! Accounts, seats, payments and wallets run as in production, from the decoded message to the
//! outbox, on tables in memory (`mesh::memory`, which passes the conformance suite of engines).
//! Around them is a broker that behaves like JetStream ([`broker`]), a virtual clock and one
//! seeded source of chance. Messages come twice, late and out of order; publishes are lost, or
//! flushed much later; processes die before and after a commit, stand still, or cannot reach
//! the broker; the broker forgets its tail, or everything; clocks jump. Then nothing goes wrong
//! any more, everything comes to rest, and [`checks`] looks at what has become of it: every
//! invariant, every promise that was made to a person, and whether the auditor agrees.
//!
//! The waiting room, the seat map and the rankings are not here: they decide in Lua inside
//! Valkey. Fans are given passes as the waiting room would sign them.
//!
//! A run is a function of its seed. `cargo sim --seed N` replays one.

pub mod broker;
pub mod checks;
mod concert;
mod faults;
mod node;
mod people;
mod services;
mod shrink;
mod trace;
mod world;

use std::collections::BTreeMap;

pub use faults::{Fault, Mutation};
pub use shrink::shrink;
use trace::Trace;
use world::World;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Options {
    /// Fans.
    pub people: usize,
    /// What each of them does.
    pub visits: u32,
    /// Seconds until nobody begins anything new and nothing goes wrong any more.
    pub open_secs: i64,
    /// What may go wrong.
    pub faults: Vec<Fault>,
    /// A mistake that is planted.
    pub mutation: Option<Mutation>,
}

impl Default for Options {
    fn default() -> Self {
        let faults = Fault::ALL.to_vec();
        Self { people: 12, visits: 12, open_secs: 60, faults, mutation: None }
    }
}

/// What has become of a sale.
#[derive(Debug)]
pub struct Report {
    /// Payments, holds and withdrawals.
    pub sagas: u64,
    /// Messages that were emitted.
    pub events: u64,
    /// How they have ended.
    pub ends: BTreeMap<String, u64>,
    /// The faults that came by themselves.
    pub faults: BTreeMap<Fault, u64>,
    /// What is wrong; nothing should be.
    pub wrong: Vec<String>,
    /// What happened to what is wrong.
    pub timeline: Vec<String>,
}

/// Simulates a sale.
pub fn run(seed: u64, options: &Options) -> Report {
    World::new(seed, options).run()
}
