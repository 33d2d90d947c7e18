//! How a message or command ends.

use bytes::Bytes;
use events::Problem;

/// The outcome of a message or a command.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The message was taken in, and events that could not be handled are parked; or the answer
    /// to a command.
    Done(Answered),
    /// The message was taken in before: nothing to do.
    Repeat,
    /// What the command depends on is not here yet.
    NotYet(Problem),
    /// The command can never succeed, for this reason.
    Never(String),
}

/// The answer to a command: the reply as JSON with its status, or a problem.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// HTTP status.
    pub status: u16,
    /// JSON; empty for events and timers.
    pub body: Bytes,
}

impl Answered {
    /// A refusal as an answer.
    pub fn refused(problem: &Problem) -> Self {
        Self {
            status: problem.status,
            body: serde_json::to_vec(problem).expect("problems are plain data").into(),
        }
    }

    /// Whether the command was granted.
    pub fn is_granted(&self) -> bool {
        self.status < 400
    }
}
