//! What a batch writes beside the service's own rows: claims, outbox messages and answers.

use bytes::Bytes;
use uuid::Uuid;

use super::{
    answers::Answers,
    work::{Entry, Work},
};
use crate::{
    outbound::message::Message,
    parked::{ParkedState, one_line},
};

/// What the last statement of a batch writes.
pub(crate) struct Closing<'a> {
    /// Messages that this statement claims, in the order of their ids.
    pub(crate) claims: &'a [Uuid],
    /// Messages for the outbox.
    pub(crate) emitted: &'a [Message],
    /// Answers to commands.
    pub(crate) answers: &'a Answers,
}

/// What that statement found.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    /// How many of the messages were not in the inbox before.
    pub(crate) claimed: usize,
    /// Whether any parked event holds its order key. The batch has its locks by now, so no other
    /// transaction can park an event under one of its keys any more.
    pub(crate) has_parked: bool,
}

impl Closing<'_> {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.emitted.is_empty() && self.answers.given_now().is_empty()
    }
}

/// An event to be parked.
pub(crate) struct Parking {
    pub(crate) key: String,
    pub(crate) state: ParkedState,
    pub(crate) cause: String,
    pub(crate) envelope: Bytes,
    pub(crate) subject: String,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
}

impl Parking {
    /// The event at index `at` of a message.
    pub(super) fn of(work: &Work, at: usize, state: ParkedState, cause: String) -> Option<Self> {
        let (delivery, entry): (_, &Entry) = (work.delivery()?, work.entries.get(at)?);
        Some(Self {
            key: entry.key(),
            state,
            cause: one_line(&cause),
            envelope: entry.raw.clone(),
            subject: delivery.subject.to_string(),
            stream: delivery.stream.clone(),
            sequence: delivery.sequence,
        })
    }
}
