//! The seat map on a real Valkey.

mod fences;
mod harness;
mod history;
mod lockstep;
mod replay;
