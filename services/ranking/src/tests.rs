//! The rankings on a real Valkey. Time is an argument everywhere, so no test waits.

mod handling;
mod harness;
mod lockstep;
mod replay;
mod sell_out;
mod windows;
