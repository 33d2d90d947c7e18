//! What keeps a service's state, its inbox, its outbox and its parked events.
//!
//! | file | what it is |
//! |---|---|
//! | `engine`, `failure` | what a store must do, and why it could not |
//! | `postgres`, `valkey` | the two stores of production |
//! | `memory` | the store of the simulation |

pub mod engine;
mod failure;
#[cfg(feature = "sim")]
pub mod memory;
pub mod postgres;
pub mod valkey;
