//! The rankings on a real Valkey. Time is an argument everywhere, so no test waits.

mod facts;
mod replay;
mod sell_out;
mod stage;
mod windows;
