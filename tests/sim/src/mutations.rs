//! Mistakes that are planted around the handlers, in the store, in the publisher and in the
//! consumer, to see whether the checks find them.

use clap::ValueEnum;
use mesh::memory::Mistake;

/// A planted mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Mutation {
    /// The inbox keeps no message ids.
    InboxOff,
    /// No answer is stored under its idempotency key.
    AnswersOff,
    /// Messages are claimed in a transaction of their own, before they are handled.
    ClaimBeforeCommit,
    /// Outbox rows are written in a transaction of their own, after the commit.
    OutboxAfterCommit,
    /// An event that fails undoes the events before it, which count as handled.
    SavepointForgotten,
    /// Events do not wait behind a parked event with their key.
    ParkedKeyIgnored,
    /// Parked events are never retried.
    ParkedForgotten,
    /// Messages are marked as published before they are.
    MarkedBefore,
    /// Messages without a mark are never swept.
    SweepOff,
    /// Outbox and stream are never compared.
    RollBackUnnoticed,
    /// Messages are acknowledged before they are handled.
    AcknowledgedBefore,
    /// The last event of a message is not handled.
    HalfHandled,
    /// Timers never run.
    TimersOff,
    /// The timer that ends holds goes by what it has seen earlier.
    TimerUnchecked,
    /// A debit confirms the fan who has the seat by now.
    OwnerFenceOff,
    /// A late debit brings an expired hold back to life.
    LateDebitConfirms,
    /// A hold is extended past its hard cap.
    ExtensionUncapped,
    /// Money is given back without a look at the ledger, and there is no inbox.
    RefundUnchecked,
    /// Money is taken without a look at the ledger, and there is no inbox.
    DebitUnchecked,
    /// No consumer gets `point.refunded`.
    RefundLost,
    /// No consumer gets `reservation.confirm_refused`.
    RefusalLost,
    /// No consumer gets `reservation.confirmed`.
    ConfirmationLost,
    /// No consumer gets `reservation.cancelled`.
    CancellationLost,
    /// No consumer gets `point.debited`.
    DebitLost,
    /// No consumer gets `user.withdrawal_refused`.
    WithdrawalRefusalLost,
}

impl Mutation {
    /// The event that no consumer gets.
    pub fn silenced(self) -> Option<&'static str> {
        match self {
            Self::RefundLost => Some("point.refunded"),
            Self::RefusalLost => Some("reservation.confirm_refused"),
            Self::ConfirmationLost => Some("reservation.confirmed"),
            Self::CancellationLost => Some("reservation.cancelled"),
            Self::DebitLost => Some("point.debited"),
            Self::WithdrawalRefusalLost => Some("user.withdrawal_refused"),
            _ => None,
        }
    }

    /// The mistake of the stores, if it is theirs.
    pub fn of_stores(self) -> Option<Mistake> {
        match self {
            Self::InboxOff | Self::RefundUnchecked | Self::DebitUnchecked => {
                Some(Mistake::ForgetsMessages)
            }
            Self::AnswersOff => Some(Mistake::ForgetsAnswers),
            Self::ClaimBeforeCommit => Some(Mistake::ClaimBeforeCommit),
            Self::OutboxAfterCommit => Some(Mistake::OutboxAfterCommit),
            Self::SavepointForgotten => Some(Mistake::ForgetsSavepoints),
            Self::ParkedKeyIgnored => Some(Mistake::IgnoresHeldKeys),
            _ => None,
        }
    }

    /// A sale with this mistake fails within so many seeds, counted from 1.
    pub fn found_within(self) -> u64 {
        match self {
            Self::SavepointForgotten | Self::OwnerFenceOff => 200,
            _ => 60,
        }
    }
}
