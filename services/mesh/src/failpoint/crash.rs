//! Steps at which the whole process can be made to end at once, as if it was killed there.
//!
//! A process that is killed at a random moment is seldom killed between two given statements.
//! These are named, so that a proof can end a process at each of them under load.

use std::{
    fmt,
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// A step of the batch worker or of the publisher, in the order in which an event passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A batch was taken from the intake; nothing was written.
    Taken,
    /// Its transaction has begun and its messages are claimed.
    Claimed,
    /// Every event and command is decided and its state written; nothing is closed.
    Decided,
    /// Inbox, outbox and answers are written; nothing is committed.
    Closed,
    /// It is committed; no caller was answered, no message acknowledged, no event published.
    Committed,
    /// Callers were answered and messages acknowledged.
    Settled,
    /// The publisher has taken unpublished messages from the outbox, under a lease.
    Swept,
    /// A message was sent to the broker, which has not acknowledged it.
    Sent,
    /// The broker has acknowledged a message, which has no mark yet.
    Stored,
    /// Published messages have their marks.
    Marked,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Taken,
        Self::Claimed,
        Self::Decided,
        Self::Closed,
        Self::Committed,
        Self::Settled,
        Self::Swept,
        Self::Sent,
        Self::Stored,
        Self::Marked,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taken => "taken",
            Self::Claimed => "claimed",
            Self::Decided => "decided",
            Self::Closed => "closed",
            Self::Committed => "committed",
            Self::Settled => "settled",
            Self::Swept => "swept",
            Self::Sent => "sent",
            Self::Stored => "stored",
            Self::Marked => "marked",
        })
    }
}

/// Where and when a process ends: at the n-th arrival at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashAt {
    /// The step.
    pub step: Step,
    /// At which arrival, from 1.
    pub arrival: u32,
}

impl fmt::Display for CrashAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.step, self.arrival)
    }
}

/// A text that names no step and arrival.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a step and an arrival, like committed:3; steps are {}", steps())]
pub struct NoCrashAt;

fn steps() -> String {
    Step::ALL.map(|step| step.to_string()).join(", ")
}

impl FromStr for CrashAt {
    type Err = NoCrashAt;

    fn from_str(text: &str) -> Result<Self, NoCrashAt> {
        let (step, arrival) = text.split_once(':').ok_or(NoCrashAt)?;
        let step = Step::ALL.into_iter().find(|known| known.to_string() == step);
        let arrival = arrival.parse().ok().filter(|arrival| *arrival > 0);
        Ok(Self { step: step.ok_or(NoCrashAt)?, arrival: arrival.ok_or(NoCrashAt)? })
    }
}

static ARMED: OnceLock<(CrashAt, AtomicU32)> = OnceLock::new();

/// Ends this process once it arrives there. Only the first call of a process counts.
pub fn crash_at(at: CrashAt) {
    let _ = ARMED.set((at, AtomicU32::new(0)));
}

/// The process is at this step. Where nothing is armed, which is always so in production, this
/// costs one load.
pub(crate) fn reach(step: Step) {
    let Some((at, arrivals)) = ARMED.get() else { return };
    if at.step == step && arrivals.fetch_add(1, Relaxed) + 1 == at.arrival {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_read_as_it_is_written() {
        for step in Step::ALL {
            let at = CrashAt { step, arrival: 12 };
            assert_eq!(at.to_string().parse(), Ok(at));
        }
        for bad in ["", "committed", "committed:0", "committed:x", "nowhere:1"] {
            assert_eq!(bad.parse::<CrashAt>(), Err(NoCrashAt), "{bad}");
        }
        assert!(NoCrashAt.to_string().contains("committed, settled"));
    }
}
