//! The faults, and the mistakes that are planted to see whether the checks find them.

use clap::ValueEnum;
use rand::{RngExt as _, rngs::StdRng};

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// A publish is lost, its acknowledgement is lost, or it is stuck in the client and goes out
    /// much later.
    Publish,
    /// A message is redelivered for no reason.
    Repeat,
    /// An acknowledgement or an answer is lost.
    Acknowledgement,
    /// A process dies in a batch, before the commit or right after it.
    Death,
    /// A process is killed.
    Kill,
    /// A process is paused, sometimes for longer than the acknowledgement timeout.
    Pause,
    /// A process cannot reach the broker.
    Cut,
    /// The broker is restarted with what was on its disk.
    RollBack,
    /// The broker has lost everything; the topology is applied again.
    Wipe,
    /// The clocks of all services jump, forwards or back.
    ClockJump,
}

/// The average pause between two faults that come at times of their own, in seconds.
pub const EVERY_SECS: i64 = 8;

impl Fault {
    /// All faults.
    pub const ALL: [Self; 10] = [
        Self::Publish,
        Self::Repeat,
        Self::Acknowledgement,
        Self::Death,
        Self::Kill,
        Self::Pause,
        Self::Cut,
        Self::RollBack,
        Self::Wipe,
        Self::ClockJump,
    ];

    /// How often in a thousand it strikes where it can; 0 for one that comes at times of its own.
    fn rate(self) -> u32 {
        match self {
            Self::Publish | Self::Repeat | Self::Acknowledgement => 30,
            Self::Death => 10,
            _ => 0,
        }
    }

    /// Whether it comes at times of its own.
    pub fn comes_by_itself(self) -> bool {
        self.rate() == 0
    }
}

/// Whether a fault that may come strikes here.
pub fn fires(fault: Fault, may_come: &[Fault], chance: &mut StdRng) -> bool {
    may_come.contains(&fault) && chance.random_range(0..1_000) < fault.rate()
}

/// The outcome of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    /// It is stored and acknowledged.
    Good,
    /// It is stored, and the acknowledgement is lost.
    Unacknowledged,
    /// It is not stored.
    Lost,
    /// It is stuck in the client, and is stored much later.
    Stuck,
}

/// The outcome of a publish.
pub fn luck(may_come: &[Fault], chance: &mut StdRng) -> Luck {
    if !fires(Fault::Publish, may_come, chance) {
        return Luck::Good;
    }
    [Luck::Unacknowledged, Luck::Lost, Luck::Stuck][chance.random_range(0..3)]
}

/// A planted mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mutation {
    /// The inbox keeps no message ids.
    InboxOff,
    /// No answer is stored under its idempotency key.
    AnswersOff,
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
    /// Parked events are never retried.
    ParkedForgotten,
    /// Timers never run.
    TimersOff,
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
}
