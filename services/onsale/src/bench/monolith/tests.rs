//! The monolith refuses what it must.
