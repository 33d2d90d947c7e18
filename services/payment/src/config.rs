//! The configuration of this service.

/// This service has no settings: every deadline belongs to another service.
#[derive(Debug, Clone, Default)]
pub struct Config {}
