//! What may happen next.

use std::{fmt, sync::Arc};

use events::ReservationId;

use crate::scenario::Ask;

/// A service of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Decides who owns the seat.
    Reservation,
    /// Begins and ends payments.
    Payment,
    /// Has the wallets and their ledger.
    Point,
}

/// An event that waits for one of its consumers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiting {
    /// The consumer.
    pub at: Service,
    /// The name of the event.
    pub event: &'static str,
    /// The event as JSON.
    pub data: Arc<str>,
    /// At most this many messages can follow from it, itself included.
    pub weight: u64,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}: {}", self.event, self.at, self.data)
    }
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A fan or the organizer sends a command.
    Ask(Ask),
    /// The clock goes on to its next time.
    TimePasses,
    /// The timer expires a hold whose time is up.
    Expire(ReservationId),
    /// The timer empties a show that is called off.
    EmptyShow,
    /// A consumer handles an event, for good.
    Handle(Waiting),
    /// A consumer handles an event, and the event comes again.
    HandleAndDie(Waiting),
}
