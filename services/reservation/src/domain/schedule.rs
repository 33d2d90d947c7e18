//! What is sold, and when: every deadline of a schedule is judged here.

use events::{Problem, Timestamp, codes};

/// Whether a schedule is on sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// From its opening to its start.
    Open(Terms),
    /// Called off; some of its reservations may still have to be cancelled.
    Cancelling,
    /// Called off, and nobody owns a seat of it any more.
    Cancelled,
}

/// On what terms a schedule is sold.
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
    /// The terms, while it is on sale: from the opening on, and not from the start on.
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

    /// Since when no ticket of it can be given back, if that is so at `now`. What a show that is
    /// off has taken goes back in any case.
    pub fn refunds_ended(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Open(terms) => Some(terms.refund_until).filter(|until| now >= *until),
            Self::Cancelling | Self::Cancelled => None,
        }
    }

    /// What a schedule becomes when its show is called off; `None` when it is already.
    /// One that was never heard of has no owners to let go.
    pub fn called_off(known: Option<&Self>) -> Option<Self> {
        match known {
            None => Some(Self::Cancelled),
            Some(Self::Open(_)) => Some(Self::Cancelling),
            Some(Self::Cancelling | Self::Cancelled) => None,
        }
    }
}
