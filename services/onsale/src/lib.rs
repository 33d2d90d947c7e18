//! The one binary: every service and every tool; and for development also servers, the demo and
//! benchmarks.
//!
//! | file | what it is |
//! |---|---|
//! | `cli`, `log` | the command line, and what a command logs |
//! | `config` | addresses of the servers and keys of the services, from the environment |
//! | `registry` | every service: its name, its stores, what it declares |
//! | `fleet` | starting and stopping services in this process |
//! | `stop` | waiting to be asked to stop |
//! | `files` | the data files of the project, carried inside the binary |
//! | `health` | whether the services of this process can do their work |
//! | `deployment` | how the tools reach a deployment |
//! | `databases` | the databases that a sale is read from |
//! | `http` | an HTTP client of the gateway |
//! | `operator` | the operator, logged in at a gateway, for the tools that need it |
//! | `replay` | rebuilding what is in Valkey |
//! | `retention` | streams that are full, and consumers that lag by a day |
//! | `saga` | sagas, listed and drawn |
//! | `flows` | which events follow from which, as tables and diagrams |
//! | `dead_letters` | events that services could not handle |
//! | `doctor` | what is wrong with a deployment |
//! | `top` | a mesh on one screen, live |
//! | `export` | exporting sales events again, a range of them |
//! | `verify` | whether events and databases keep the invariants |
//! | `secrets` | the passwords and keys of a deployment |
//! | `development` | demo, dev and bench, with the feature `development` |
//!
//! No file depends on one that depends on it; a test checks that.

pub mod cli;
pub mod config;
pub mod databases;
pub mod dead_letters;
pub mod deployment;
#[cfg(feature = "development")]
pub mod development;
pub mod doctor;
pub mod export;
pub mod files;
pub mod fleet;
pub mod flows;
pub mod health;
pub mod http;
pub mod log;
pub mod operator;
pub mod registry;
pub mod replay;
mod retention;
pub mod saga;
pub mod secrets;
mod stop;
pub mod top;
pub mod verify;
