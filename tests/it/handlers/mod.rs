//! Every handler of every service: given its facts twice, late, backwards; failing at each
//! failpoint; stopped in the middle. Which handlers there are, the services say themselves.

mod failing;
pub mod scenario;
mod stopped;
mod twice;

pub use twice::receipt_is_clean;
