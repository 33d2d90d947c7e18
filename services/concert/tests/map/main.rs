//! The seat map on a real Valkey.

mod fences;
mod history;
mod replay;
mod stage;
