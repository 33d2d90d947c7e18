//! What goes wrong in a sale.

use clap::ValueEnum;
use events::EventId;
use rand::{RngExt as _, rngs::StdRng};

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// A publish is lost, its acknowledgement is lost, or it is stuck in the client and goes out
    /// much later.
    Publish,
    /// A message is redelivered for no reason.
    Repeat,
    /// A delivery is late, and later messages overtake it.
    Delay,
    /// An acknowledgement or an answer is lost.
    Acknowledgement,
    /// A process dies between any two of its effects: a commit, a publish, a mark, a lease, an
    /// acknowledgement, an answer.
    Death,
    /// The handlers cannot handle an event, and panic, until a new version is deployed; then an
    /// operator retries the dead letters.
    Poison,
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
    /// The streams are those of the last sync, or empty, and grow again past what their
    /// consumers had reached: these are not set back.
    Regrow,
    /// The clocks of all services jump, forwards or back.
    ClockJump,
}

/// The average pause between two faults that come at times of their own, in seconds.
pub const EVERY_SECS: i64 = 8;

impl Fault {
    /// All faults.
    pub const ALL: [Self; 13] = [
        Self::Publish,
        Self::Repeat,
        Self::Delay,
        Self::Acknowledgement,
        Self::Death,
        Self::Poison,
        Self::Kill,
        Self::Pause,
        Self::Cut,
        Self::RollBack,
        Self::Wipe,
        Self::Regrow,
        Self::ClockJump,
    ];

    /// All faults but the one that NATS does not show, and of which not every case is mended.
    pub fn usual() -> Vec<Self> {
        Self::ALL.into_iter().filter(|fault| *fault != Self::Regrow).collect()
    }

    /// How often in a thousand it strikes where it can; 0 for one that comes at times of its own.
    fn rate(self) -> u32 {
        match self {
            Self::Publish | Self::Repeat | Self::Delay | Self::Acknowledgement => 30,
            Self::Death => 6,
            Self::Poison => 4,
            _ => 0,
        }
    }

    /// Whether it comes at times of its own.
    pub fn comes_by_itself(self) -> bool {
        self.rate() == 0
    }
}

/// Whether the handlers cannot handle this event, in the sale with this seed.
pub fn is_poison(event: EventId, seed: u64) -> bool {
    let (high, low) = event.0.as_u64_pair();
    let mixed = (high ^ low ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) % 1_000 < u64::from(Fault::Poison.rate())
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
