//! The architecture invariants, checked on the project itself.

mod circles;
mod crates;
pub mod documents;
mod flows;
mod registry;
mod sources;
