//! The protocol of a withdrawal between `user` and the services with something at stake.
//!
//! `user` asks (`user.withdrawal_requested`), each service at stake answers an attempt once
//! (`.withdrawal_cleared` or `.withdrawal_blocked`), and `user` decides
//! (`user.withdrawn` or `user.withdrawal_refused`). [`Standing`] is what a service at stake
//! stores for each attempt; it reaches the same end in whatever order the events come.

use serde::{Deserialize, Serialize};

/// Why an account is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WithdrawalReason {
    /// A payment runs; wait for its end.
    PaymentRunning,
    /// Money is on its way back; wait until it is there.
    RefundDue,
    /// There are tickets for shows to come; cancel them, or forfeit them.
    Tickets,
    /// There are points in the wallet; spend them, or forfeit them.
    Points,
    /// A service did not answer in time; try again later.
    NoAnswer,
    /// A service was asked after the attempt had been refused.
    TooLate,
}

impl WithdrawalReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::PaymentRunning,
        Self::RefundDue,
        Self::Tickets,
        Self::Points,
        Self::NoAnswer,
        Self::TooLate,
    ];

    /// Its name in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PaymentRunning => "payment_running",
            Self::RefundDue => "refund_due",
            Self::Tickets => "tickets",
            Self::Points => "points",
            Self::NoAnswer => "no_answer",
            Self::TooLate => "too_late",
        }
    }

    /// The reason with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// Where an attempt stands at a service with something at stake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing blocks it, and nothing new begins for this fan.
    Cleared,
    /// Something blocks it; everything goes on.
    Blocked,
    /// The refusal arrived before the request.
    Overtaken,
    /// Refused, and answered.
    Refused,
    /// The account is closed.
    Withdrawn,
}

impl Standing {
    /// Every standing.
    pub const ALL: [Self; 5] =
        [Self::Cleared, Self::Blocked, Self::Overtaken, Self::Refused, Self::Withdrawn];

    /// Its name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cleared => "cleared",
            Self::Blocked => "blocked",
            Self::Overtaken => "overtaken",
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// The standing with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|standing| standing.as_str() == name)
    }

    /// Whether nothing new may begin for the fan.
    pub fn closes(self) -> bool {
        matches!(self, Self::Cleared | Self::Withdrawn)
    }

    /// Handles the request of an attempt; `block` is what blocks it. Returns the new standing
    /// and the answer: cleared, or the reason against it. `None` when it was answered before.
    pub fn asked(
        known: Option<Self>,
        block: Option<WithdrawalReason>,
    ) -> Option<(Self, Result<(), WithdrawalReason>)> {
        match (known, block) {
            (None, None) => Some((Self::Cleared, Ok(()))),
            (None, Some(reason)) => Some((Self::Blocked, Err(reason))),
            (Some(Self::Overtaken), _) => Some((Self::Refused, Err(WithdrawalReason::TooLate))),
            (Some(_), _) => None,
        }
    }

    /// Handles the refusal of an attempt. Returns the new standing; `None` when nothing changes.
    pub fn refused(known: Option<Self>) -> Option<Self> {
        match known {
            None => Some(Self::Overtaken),
            Some(Self::Cleared | Self::Blocked) => Some(Self::Refused),
            Some(Self::Overtaken | Self::Refused | Self::Withdrawn) => None,
        }
    }

    /// Handles the withdrawal by this attempt. Returns the new standing; `None` when nothing
    /// changes.
    pub fn withdrawn(known: Option<Self>) -> Option<Self> {
        (known != Some(Self::Withdrawn)).then_some(Self::Withdrawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_as_it_was_written() {
        for standing in Standing::ALL {
            assert_eq!(Standing::named(standing.as_str()), Some(standing));
        }
        for reason in WithdrawalReason::ALL {
            assert_eq!(WithdrawalReason::named(reason.as_str()), Some(reason));
            assert_eq!(serde_json::to_value(reason).expect("plain data"), reason.as_str());
        }
    }

    #[test]
    fn an_attempt_is_answered_once_by_what_blocks_it() {
        let block = Some(WithdrawalReason::Points);
        assert_eq!(Standing::asked(None, None), Some((Standing::Cleared, Ok(()))));
        let blocked = Some((Standing::Blocked, Err(WithdrawalReason::Points)));
        assert_eq!(Standing::asked(None, block), blocked);
        for known in Standing::ALL.into_iter().filter(|known| *known != Standing::Overtaken) {
            assert_eq!(Standing::asked(Some(known), None), None, "{known:?}");
        }
    }

    #[test]
    fn a_request_that_arrives_after_its_refusal_closes_nothing_and_is_answered_once() {
        let overtaken = Standing::refused(None);
        assert_eq!(overtaken, Some(Standing::Overtaken));
        let (after, answer) = Standing::asked(overtaken, None).expect("an answer");
        assert_eq!((after, answer), (Standing::Refused, Err(WithdrawalReason::TooLate)));
        assert!(!after.closes() && !Standing::Overtaken.closes());
        assert_eq!(Standing::asked(Some(after), None), None);
    }

    #[test]
    fn a_refusal_opens_a_cleared_attempt_and_never_a_withdrawn_one() {
        assert_eq!(Standing::refused(Some(Standing::Cleared)), Some(Standing::Refused));
        assert_eq!(Standing::refused(Some(Standing::Withdrawn)), None);
        assert_eq!(Standing::withdrawn(Some(Standing::Cleared)), Some(Standing::Withdrawn));
        assert_eq!(Standing::withdrawn(Some(Standing::Withdrawn)), None);
        assert!(Standing::Withdrawn.closes() && Standing::Cleared.closes());
    }
}
