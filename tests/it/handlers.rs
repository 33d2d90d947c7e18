//! Every handler of every service: it gets its events twice, late, in reverse order and together
//! with others; it fails at each failpoint; its service is stopped in the middle. The list of
//! handlers comes from what the services declare.

mod company;
mod failing;
pub mod scenario;
mod stopped;
mod twice;

pub use twice::receipt_is_clean;
