//! What a batch leaves behind beside the service's own rows.

use uuid::Uuid;

use super::answers::Answers;
use crate::message::Message;

/// What is written at the end of a batch, in one step.
pub(crate) struct Closing<'a> {
    /// Messages that are claimed now, in the order of their ids.
    pub(crate) claims: &'a [Uuid],
    /// What is emitted.
    pub(crate) emitted: &'a [Message],
    /// What commands were answered.
    pub(crate) answers: &'a Answers,
}

/// What was found on writing it.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    /// How many of the messages were never taken in before.
    pub(crate) claimed: usize,
    /// Whether a parked event holds its key. The batch holds its locks by now, so none of its
    /// keys can come to be held behind its back.
    pub(crate) has_parked: bool,
}

impl Closing<'_> {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.emitted.is_empty() && self.answers.given_now().is_empty()
    }
}
