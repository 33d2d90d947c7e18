//! What goes wrong, and the mistakes that are planted to see whether the checks find them.

use clap::ValueEnum;
use rand::{RngExt as _, rngs::StdRng};

use crate::node::Luck;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// A publish is lost, not heard of, or sits in the client and goes out much later.
    Publish,
    /// A message comes again for no reason.
    Repeat,
    /// An acknowledgement or an answer is lost.
    Acknowledgement,
    /// A batch ends with the death of its process: before the commit, or right after it.
    Death,
    /// A process is killed.
    Kill,
    /// A process stands still for longer than messages wait for their acknowledgement.
    Pause,
    /// A process cannot reach the broker.
    Cut,
    /// The broker is restarted and knows what was on its disk.
    RollBack,
    /// The broker has lost everything; the topology is applied again.
    Wipe,
    /// The clocks of all services are set, forwards or back.
    ClockJump,
}

/// Seconds between two faults that come by themselves, about.
pub const EVERY_SECS: i64 = 8;

impl Fault {
    /// All of them.
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

    /// How often in a thousand it strikes where it can; 0 for one that comes by itself.
    fn rate(self) -> u32 {
        match self {
            Self::Publish | Self::Repeat | Self::Acknowledgement => 30,
            Self::Death => 10,
            _ => 0,
        }
    }

    /// Whether it comes by itself, now and then.
    pub fn comes_by_itself(self) -> bool {
        self.rate() == 0
    }
}

/// Whether a fault that may come strikes here.
pub fn strikes(fault: Fault, may_come: &[Fault], chance: &mut StdRng) -> bool {
    may_come.contains(&fault) && chance.random_range(0..1_000) < fault.rate()
}

/// What becomes of a publish.
pub fn luck(may_come: &[Fault], chance: &mut StdRng) -> Luck {
    if !strikes(Fault::Publish, may_come, chance) {
        return Luck::Good;
    }
    [Luck::Unconsumed, Luck::Lost, Luck::Stuck][chance.random_range(0..3)]
}

/// A mistake that is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mutation {
    /// The inbox remembers nothing.
    InboxOff,
    /// No answer is kept under its key.
    AnswersOff,
    /// Messages are marked as published before they are.
    MarkedBefore,
    /// What has no mark is never looked for.
    SweepOff,
    /// Outbox and stream are never compared.
    RollBackUnnoticed,
    /// Messages are acknowledged before they are taken in.
    AcknowledgedBefore,
    /// The last event of a message is forgotten.
    HalfHandled,
    /// Parked events are never tried again.
    ParkedForgotten,
    /// Timers never look.
    TimersOff,
    /// No points are given back.
    RefundLost,
    /// A refused confirmation is told to nobody.
    RefusalLost,
    /// A confirmation is told to nobody.
    ConfirmationLost,
    /// A cancellation is told to nobody.
    CancellationLost,
    /// A debit is told to nobody.
    DebitLost,
    /// A refused withdrawal opens nothing again.
    WithdrawalRefusalLost,
}

impl Mutation {
    /// The event that nobody is told of.
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
