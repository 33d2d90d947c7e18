//! The Valkey engine: inbox, state, outbox and parked events in one atomic function call for
//! a batch.
//!
//! | file | what it is |
//! |---|---|
//! | `function_call` | what a service implements: a Lua module, and the calls of its functions |
//! | `engine` | a service's keys with its Lua module, as an engine |
//! | `keyspace`, `store` | a service's keys, the same for every Lua module; they are a store |
//! | `case` | what a call runs, as its arguments |
//! | `batch` + `batch.lua` | a batch as one call: claims, decisions in order, emitted events |
//! | `mesh.lua` | what a service's functions can use, and how one of them is run |
//! | `stage.lua`, `commands.lua` | staged reads and writes by key: a function that fails leaves nothing |
//! | `outbox` + `outbox.lua` | unpublished messages, and the marks of published ones |
//! | `parked` + `parked.lua` | events that could not be taken in |
//! | `replay` + `replay.lua`, `rebuild` | a read model rebuilt next to the live one |
//! | `read_model` | a read model: its store and what it is made of |
//! | `restore` | a store rebuilt in place, which answers no call meanwhile |
//! | `spans` | the spans of the events that a function has emitted |
//! | `call`, `pack` | the functions' names, how a call is sent, how an answer is read |
//!
//! When the connection is lost during a call, messages are redelivered and the inbox drops those
//! that were taken in; commands are written to be harmless when run twice.

mod batch;
mod call;
mod case;
mod engine;
mod function_call;
mod keyspace;
mod outbox;
mod pack;
mod parked;
mod read_model;
mod rebuild;
mod replay;
mod restore;
mod spans;
mod store;

pub use engine::Valkey;
pub use function_call::{At, CallFor, CallOn, FunctionCall, LuaModule, Reply};
pub(crate) use function_call::{of_command, of_due, of_event};
pub use keyspace::Keyspace;
pub use read_model::ReadModel;
pub use rebuild::{Progress, Rebuilt, Sources, Statements, rebuild};
pub use replay::{Difference, Fed, Replay, ReplayedEvent};
pub use restore::Restoring;

#[cfg(test)]
mod tests;
