//! The service of these tests: counters, each a value and a version.

use events::{Command, Event, ScheduleId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The service.
pub const NAME: &str = "counter";
/// What it emits.
pub const EMITS: &[&str] = &[Moved::NAME];

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The counter moves, and is made when it is not there.
    Plain,
    /// It moves, but must be there: else the event is early.
    Late,
    /// It moves, and then the store refuses it.
    Breaks,
    /// The handler panics, having changed what it could.
    Panics,
    /// It moves and emits so many events, each under a subject of its own.
    Spreads(u32),
}

impl How {
    /// As the Lua side reads it.
    pub fn word(self) -> String {
        match self {
            Self::Spreads(count) => count.to_string(),
            other => format!("{other:?}").to_lowercase(),
        }
    }
}

/// `counter.bumped`: somebody moved a counter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bumped {
    /// Which.
    pub counter: Uuid,
    /// By how much.
    pub amount: i64,
    /// What becomes of it.
    pub how: How,
}

/// `counter.opened`: a counter is there now. Its key is who opened it: another one than the
/// counter's, so that it comes through when that is held, or the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Which.
    pub counter: Uuid,
    /// By whom.
    pub by: Uuid,
}

/// `counter.moved`: what becomes of a counter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Which.
    pub counter: Uuid,
    /// Its value now.
    pub value: i64,
    /// Its version now.
    pub version: i64,
    /// What makes the subject another one.
    pub apart: Option<ScheduleId>,
}

/// `counter.add`: moves a counter, and makes it when it is not there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// Which.
    pub counter: Uuid,
    /// By how much; 0 is refused.
    pub amount: i64,
    /// What becomes of it.
    pub how: How,
}

/// What [`Add`] is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Added {
    /// Its value now.
    pub value: i64,
    /// Its version now.
    pub version: i64,
}

impl Event for Bumped {
    const NAME: &'static str = "counter.bumped";

    fn schedule(&self) -> Option<ScheduleId> {
        None
    }

    fn about(&self) -> Uuid {
        self.counter
    }
}

impl Event for Opened {
    const NAME: &'static str = "counter.opened";

    fn schedule(&self) -> Option<ScheduleId> {
        None
    }

    fn about(&self) -> Uuid {
        self.by
    }
}

impl Event for Moved {
    const NAME: &'static str = "counter.moved";

    fn schedule(&self) -> Option<ScheduleId> {
        self.apart
    }

    fn about(&self) -> Uuid {
        self.counter
    }
}

impl Command for Add {
    const ENDPOINT: &'static str = "counter.add";
    type Reply = Added;
}
