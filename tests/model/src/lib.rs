//! The payment saga as a model, checked exhaustively.
//!
//! The model has the handlers of reservation, payment and point as they are, on their tables in
//! memory, and a [`Sale`]: one seat, two payments, a clock. Everything that may happen in any
//! order is a [`Step`]: a fan sends a command, time passes, a timer runs, a waiting message is
//! handled. Each message waits at each of its consumers for as long as it likes, so delay and
//! reordering are in every path. A message may be handled and come again: its consumer has died
//! after the commit, or its producer before it marked the row as published. There is no inbox
//! here, so each repeat reaches the handler. A process that dies before its commit has changed
//! nothing, and so it is no step.
//!
//! `stateright` visits every state that can be reached. In each the [`properties`] hold, and every
//! path ends: each step lowers the measure of [`Sale::work_left`], so no path is endless, and a
//! path that ends with anything undone is a counterexample.
//!
//! [`properties`]: checks::properties

mod bugs;
mod checks;
mod handling;
mod saga;
mod sale;
mod scenario;
mod steps;
mod stores;

use stateright::{Checker, Model as _};

pub use bugs::Bug;
pub use saga::Saga;
pub use sale::Sale;
pub use scenario::Scenario;
pub use steps::Step;

/// What a check has found.
#[derive(Debug)]
pub struct Found {
    /// How many different states were visited.
    pub states: usize,
    /// Properties that do not hold, each with the steps of a counterexample.
    pub broken: Vec<(&'static str, Vec<Step>)>,
    /// Outcomes that should be possible and were never seen.
    pub unseen: Vec<&'static str>,
}

/// Visits every state of a scenario. With a planted mistake it stops at the first counterexample.
pub fn check(saga: Saga) -> Found {
    let is_planted = saga.bug.is_some();
    let mut checker = saga.checker().threads(1);
    if is_planted {
        checker = checker.finish_when(stateright::HasDiscoveries::AnyFailures);
    }
    let checker = checker.spawn_bfs().join();
    let mut seen = checker.discoveries();
    let (mut broken, mut unseen) = (Vec::new(), Vec::new());
    for property in checker.model().properties() {
        let path = seen.remove(property.name);
        match (property.expectation, path) {
            (stateright::Expectation::Sometimes, None) => unseen.push(property.name),
            (stateright::Expectation::Sometimes, Some(_)) | (_, None) => {}
            (_, Some(path)) => broken.push((property.name, path.into_actions())),
        }
    }
    Found { states: checker.unique_state_count(), broken, unseen }
}
