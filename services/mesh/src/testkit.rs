//! What the tests of the mesh and of the services share. It is behind the feature `testkit`, which
//! only dev-dependencies enable.
//!
//! | file | what it is |
//! |---|---|
//! | `kit` | messages, commands and parked events without a broker |
//! | `valkey` | a Valkey for one test |
//! | `on_valkey` | a service on it, whose handlers are called outside any batch |
//! | `postgres` | a database for one test, and the handlers of a unit of work in one transaction |

mod kit;
mod on_valkey;
mod postgres;
mod valkey;

pub use kit::{Delivered, Kit};
pub use on_valkey::OnValkey;
pub use postgres::{batch, database, execute, handle, pool};
pub use valkey::OwnValkey;
