//! What the events alone say: whether they can all be true, and how far each saga has come.
//!
//! | file | what is in it |
//! |---|---|
//! | `observed` | [`Observed`]: an event with its attributes, whatever it was read from |
//! | `auditor` | [`Auditor`]: the rules that always hold, and the violations of them |
//! | `timeline` | [`timeline::Progress`]: how far a saga has come; [`timeline::saga`]: its story |
//!
//! Both take events one by one, in any order and however often, and judge them by the
//! [`flows::Flows`]. Nothing here reads a clock, a database or a broker: the service `audit`, the
//! command line and the tests bring the events.
//!
//! Begin with [`Auditor::handle`] for each event, then [`Auditor::settled`] for what should have
//! come by now, or [`Auditor::at_rest`] when nothing is on its way any more.

mod auditor;
mod observed;
pub mod timeline;

pub use auditor::{Auditor, OPEN_SECS, OVERDUE_SECS, SLACK_SECS, SeatSeen};
pub use observed::Observed;
