//! The Valkey engine.
