//! The one binary: every service, every tool, and the demo.
//!
//! | file | what it is |
//! |---|---|
//! | `config` | where the servers are and who we are to them, from the environment |
//! | `fleet` | starting and stopping services in this process |
//! | `stage` | real servers of our own, for the demo and for development |
//! | `files` | the data files of the project, carried inside the binary |
//! | `room` | what lies in Valkey after Valkey has lost it |
//! | `replay` | a read model built anew next to what is live |
//! | `sale` | a sale as a file |
//! | `operator` | the operator, logged in at a gateway, for the tools that need it |
//! | `saga` | sagas, listed and drawn |
//! | `flows` | what follows from what, as tables and diagrams |
//! | `http` | a fan's HTTP client |
//! | `demo` | a sale from opening to receipt |
//! | `receipt` | what the databases say afterwards |
//! | `box_office` | what an organizer does before a sale |
//! | `bench` | how fast it is |
//! | `operator` | the operator, logged in at a gateway, for the tools that need it |
//! | `dead_letters` | what services could not take in |
//! | `doctor` | what is wrong with a deployment |
//! | `export` | sales facts exported again, a range of them |
//! | `lag` | how far those who only listen are behind |
//! | `health` | whether the services of this process can do their work |
//! | `verify` | whether facts and databases keep what must always hold |
//! | `secrets` | the passwords and keys of a deployment |

pub mod bench;
pub mod box_office;
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
pub mod room;
pub mod saga;
pub mod sale;
pub mod secrets;
pub mod verify;
