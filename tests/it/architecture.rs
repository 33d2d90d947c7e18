//! The architecture invariants, checked on the project itself.

mod crates;
mod documents;
mod flows;
mod sources;
