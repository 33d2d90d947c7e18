//! The waiting room on a real Valkey. Time is an argument everywhere, so no test waits.

mod handling;
mod harness;
mod holds;
mod line;
mod lockstep;
mod model;
mod seats;
mod store;
