//! What a provider is handed, and what comes of it.

use std::time::{Duration, Instant};

use events::{
    ScheduleId, Timestamp, UserId,
    notification::{Locale, MessageKind},
};
use uuid::Uuid;

use crate::{domain::Delivery, words::Words};

/// Concurrent requests to a provider.
pub(crate) const AT_ONCE: usize = 16;

/// A message to be sent. It has a telephone number and so is never logged.
pub(crate) struct Parcel {
    pub(crate) id: Uuid,
    pub(crate) subject_id: Uuid,
    pub(crate) kind: MessageKind,
    pub(crate) user_id: UserId,
    pub(crate) schedule_id: ScheduleId,
    pub(crate) phone: Option<String>,
    pub(crate) locale: Locale,
    pub(crate) words: Words,
    pub(crate) created_at: Timestamp,
    /// Whether a try before this one may have reached the provider.
    pub(crate) again: bool,
    /// The receipt by which the provider is asked for the status.
    pub(crate) receipt: Option<String>,
}

/// The time limits of one round of sending, so that a provider that hangs delays nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// When it began, for the signatures.
    pub(crate) now: Timestamp,
    /// No request begins after this.
    pub(crate) until: Instant,
    /// How long one request may take.
    pub(crate) within: Duration,
}

impl Round {
    /// Whether there is time for another request.
    pub(crate) fn is_open(&self) -> bool {
        Instant::now() < self.until
    }
}

/// The outcome of a round.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// How each message's try ended.
    pub(crate) deliveries: Vec<(Uuid, Delivery)>,
    /// The endpoint has answered that it is gone for good.
    pub(crate) gone: bool,
}
