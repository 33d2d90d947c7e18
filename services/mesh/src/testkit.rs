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

/// The seeds of a test in lock-step: `LOCKSTEP_SEED` alone, the first `LOCKSTEP_SEEDS`, or as many as
/// usual.
///
/// # Panics
/// When one of them is no number.
pub fn lockstep_seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse().expect("a number"));
    match number("LOCKSTEP_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LOCKSTEP_SEEDS").unwrap_or(usual),
    }
}
