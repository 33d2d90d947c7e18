//! The invariants of the design, checked on the project itself.

mod crates;
mod flows;
mod sources;
