//! The rankings on a real Valkey. Time is an argument everywhere, so no test waits.

#![expect(clippy::disallowed_methods, reason = "a test that waits too long fails by itself")]

mod handling;
mod harness;
mod replay;
mod sell_out;
mod windows;
