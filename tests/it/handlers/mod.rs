//! Every handler of every service: given its events twice, late, backwards, in company;
//! failing at each failpoint; stopped in the middle. Which handlers there are, the services
//! say themselves.

mod company;
mod failing;
pub mod scenario;
mod stopped;
mod twice;

pub use twice::receipt_is_clean;
