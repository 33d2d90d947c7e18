//! The architecture invariants, checked on the project itself.

mod crates;
mod flows;
mod sources;
