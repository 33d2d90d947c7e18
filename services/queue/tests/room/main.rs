//! The waiting room on a real Valkey. Time is an argument everywhere, so no test waits.

mod facts;
mod holds;
mod line;
mod seats;
mod stage;
mod store;
