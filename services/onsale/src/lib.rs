//! The one binary: every service, every tool, and the demo.
//!
//! | file | what it is |
//! |---|---|
//! | `cli` | the command line |
//! | `config` | addresses of the servers and keys of the services, from the environment |
//! | `fleet` | starting and stopping services in this process |
//! | `environment` | real servers of our own, for the demo and for development |
//! | `files` | the data files of the project, carried inside the binary |
//! | `replay` | rebuilding a read model next to the live one |
//! | `retention` | streams that are full, and consumers that lag by a day |
//! | `sale` | a sale as a file |
//! | `operator` | the operator, logged in at a gateway, for the tools that need it |
//! | `saga` | sagas, listed and drawn |
//! | `flows` | which events follow from which, as tables and diagrams |
//! | `http` | a fan's HTTP client |
//! | `demo` | a sale from opening to receipt |
//! | `receipt` | what the databases say afterwards |
//! | `box_office` | what an organizer does before a sale |
//! | `bench` | benchmarks |
//! | `dead_letters` | events that services could not handle |
//! | `doctor` | what is wrong with a deployment |
//! | `export` | exporting sales events again, a range of them |
//! | `lag` | how far the listeners are behind |
//! | `health` | whether the services of this process can do their work |
//! | `verify` | whether events and databases keep the invariants |
//! | `secrets` | the passwords and keys of a deployment |

pub mod bench;
pub mod box_office;
pub mod cli;
pub mod config;
pub mod dead_letters;
pub mod demo;
pub mod doctor;
pub mod environment;
pub mod export;
pub mod files;
pub mod fleet;
pub mod flows;
pub mod health;
pub mod http;
pub mod lag;
pub mod operator;
pub mod receipt;
pub mod replay;
mod retention;
pub mod saga;
pub mod sale;
pub mod secrets;
pub mod verify;
