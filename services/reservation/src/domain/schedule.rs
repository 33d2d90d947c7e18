//! Schedules and their terms: every deadline of a schedule is checked here.

use events::{Problem, Timestamp, codes};

/// Whether a schedule is on sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// On sale from its opening to its start.
    Open(Terms),
    /// Called off; some of its reservations may still have to be cancelled.
    Cancelling,
    /// Called off, and no seat of it has an owner any more.
    Cancelled,
}

/// The terms on which a schedule is sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// When sales begin.
    pub opens_at: Timestamp,
    /// When the show begins and sales end.
    pub starts_at: Timestamp,
    /// Until when a ticket can be given back for its money.
    pub refund_until: Timestamp,
    /// Seconds a hold lives.
    pub hold_secs: u32,
    /// Seats one fan may hold or own.
    pub seats_per_fan_max: u32,
}

impl Schedule {
    /// The terms, while it is on sale: from the opening up to, but not including, the start.
    ///
    /// # Errors
    /// `not_open_yet`, `schedule_closed` or `schedule_cancelled`.
    pub fn on_sale(&self, now: Timestamp) -> Result<&Terms, Problem> {
        match self {
            Self::Open(terms) if now < terms.opens_at => Err(codes::NOT_OPEN_YET.into()),
            Self::Open(terms) if now >= terms.starts_at => Err(codes::SCHEDULE_CLOSED.into()),
            Self::Open(terms) => Ok(terms),
            Self::Cancelling | Self::Cancelled => Err(codes::SCHEDULE_CANCELLED.into()),
        }
    }

    /// The refund deadline, once it is over at `now`. A cancelled show is refunded in any case.
    pub fn refunds_ended(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Open(terms) => Some(terms.refund_until).filter(|until| now >= *until),
            Self::Cancelling | Self::Cancelled => None,
        }
    }

    /// What a schedule becomes when its show is called off; `None` when it is called off
    /// already. An unknown schedule has no reservations to cancel.
    pub fn schedule_cancelled(known: Option<&Self>) -> Option<Self> {
        match known {
            None => Some(Self::Cancelled),
            Some(Self::Open(_)) => Some(Self::Cancelling),
            Some(Self::Cancelling | Self::Cancelled) => None,
        }
    }
}
