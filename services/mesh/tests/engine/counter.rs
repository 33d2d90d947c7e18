//! The service of these tests: counters, each a value and a version.

use events::{Command, Event, ScheduleId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The service.
pub const NAME: &str = "counter";
/// What it emits.
pub const EMITS: &[&str] = &[Moved::NAME];

/// What handling an event or command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The counter moves, and is created if it does not exist.
    Plain,
    /// It moves, but must exist: otherwise the event is early.
    Late,
    /// It moves, and then the store refuses it.
    Breaks,
    /// The handler panics after it has changed the state.
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

/// `counter.bumped`: moves a counter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bumped {
    /// The counter.
    pub counter: Uuid,
    /// By how much it moves.
    pub amount: i64,
    /// What handling it does.
    pub how: How,
}

/// `counter.opened`: creates a counter. Its order key is `by`: either another than the counter's,
/// so that the event comes through while that is held, or the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// The counter.
    pub counter: Uuid,
    /// The order key.
    pub by: Uuid,
}

/// `counter.moved`: a counter has moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// The counter.
    pub counter: Uuid,
    /// Its value now.
    pub value: i64,
    /// Its version now.
    pub version: i64,
    /// The subject key, if the event needs a subject of its own.
    pub apart: Option<ScheduleId>,
}

/// `counter.add`: moves a counter, and creates it if it does not exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// The counter.
    pub counter: Uuid,
    /// By how much it moves; 0 is refused.
    pub amount: i64,
    /// What handling it does.
    pub how: How,
}

/// The reply to [`Add`].
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
