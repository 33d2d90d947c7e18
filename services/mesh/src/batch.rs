//! The batch: what is waiting is taken together, decided in one transaction and settled.
//!
//! | file | what it is |
//! |---|---|
//! | `worker` | the loop: take what is waiting, run it, settle each message and command |
//! | `run` | one batch in one transaction: claim, load, decide, save, close, commit |
//! | `work` | what a batch is made of: messages with their events, and commands |
//! | `spans` | what traces show of them |
//! | `outcome` | how each of them ends |
//! | `unit`, `handler` | what differs from service to service: the unit of work and its handlers |
//! | `unreadable`, `panic` | why an event has no handler, and handlers that panic |
//! | `outlook` | whether a batch may be run as if nothing had happened before |
//! | `inbox`, `answers` | messages taken in before, and answers under idempotency keys |
//! | `parking` | events that cannot be handled now |
//! | `counted` | counts what a stored batch has taken in |
//! | `transaction`, `closing` | what a batch needs of a store |

pub(crate) mod answers;
pub(crate) mod closing;
mod counted;
pub(crate) mod handler;
mod inbox;
pub(crate) mod outcome;
pub(crate) mod outlook;
pub(crate) mod panic;
mod parking;
pub(crate) mod run;
pub(crate) mod spans;
pub(crate) mod transaction;
pub(crate) mod unit;
pub(crate) mod unreadable;
pub(crate) mod work;
pub(crate) mod worker;
