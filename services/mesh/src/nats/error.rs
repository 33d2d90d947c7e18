//! Why the broker could not be reached, or did not do what it was asked.
//!
//! [`BrokerError`] is what the broker did. Its text names its cause as well: logs and health
//! reports print only that. [`StreamError`] is what a reader of streams could not do because of
//! it. Its text is for any caller and names no cause; the place that handles it logs
//! [`StreamError::with_cause`].

use std::{sync::Arc, time::Duration};

use async_nats::{
    PublishError, RequestErrorKind, SubscribeError, client::PublishErrorKind, jetstream,
};
use events::Problem;

use super::problem::unavailable;
use crate::{deadline::Late, store::engine::Failure};

/// Why a connection to the mesh cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is malformed.
    #[error("`{address}` is not a NATS address")]
    Address {
        /// As configured.
        address: String,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The broker does not admit this user.
    #[error("NATS refuses {user}: {source}")]
    Refused {
        /// The service that connects.
        user: String,
        /// The broker's reason.
        source: async_nats::ConnectError,
    },
    /// There is no broker at the address, or it does not answer.
    #[error("NATS cannot be reached: {0}")]
    Away(#[source] async_nats::ConnectError),
}

/// Why the broker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// There is no connection right now, and nothing was sent.
    #[error("there is no connection to the broker")]
    NotConnected,
    /// The connection was lost while an answer was awaited.
    #[error("the connection to the broker was lost")]
    Disconnected,
    /// The broker has not answered in time. It is unknown what it has done.
    #[error(transparent)]
    Late(#[from] Late),
    /// The broker has passed a request on, and no answer has come in time. It is unknown what
    /// was done.
    #[error("the request was not answered within {} s", .0.as_secs_f32())]
    Unanswered(Duration),
    /// Nobody answers requests of this kind.
    #[error("no responders")]
    NoResponders,
    /// The broker carries no message of this size.
    #[error("the message is too large for the broker")]
    TooLarge,
    /// The client could not send a message.
    #[error("{0}")]
    Publish(#[source] PublishError),
    /// The client could not send a request, or not receive its answer.
    #[error("{0}")]
    Request(#[source] async_nats::RequestError),
    /// The client could not subscribe.
    #[error("{0}")]
    Subscribe(#[source] SubscribeError),
    /// JetStream could not be asked.
    #[error("{what}: {source}")]
    JetStream {
        /// What the request was about.
        what: String,
        /// Why there is no answer.
        source: jetstream::context::RequestError,
    },
    /// JetStream refuses.
    #[error("{what}: {source}")]
    Refused {
        /// What the request was about.
        what: String,
        /// Its reason.
        source: jetstream::Error,
    },
    /// A consumer is not there, or cannot be used.
    #[error("{what}: {source}")]
    Consumer {
        /// Its service and stream.
        what: String,
        /// The client's reason.
        source: async_nats::Error,
    },
    /// The answer cannot be read.
    #[error("{what}: {source}")]
    Malformed {
        /// What the request was about.
        what: String,
        /// What is wrong with the answer.
        source: serde_json::Error,
    },
    /// A read of stored messages was answered with another status than it may have.
    #[error("the broker answers a read with status {0}")]
    Status(u16),
}

/// Why streams are not read or followed. The text is for any caller, the cause for operators.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StreamError {
    /// The broker does not deliver stored messages, or there is no such stream.
    #[error("Stored events cannot be read right now.")]
    Unread(#[source] Arc<BrokerError>),
    /// There is no subscription without a connection.
    #[error("Events cannot be followed: the connection to the mesh is closed.")]
    NotFollowed(#[source] Arc<BrokerError>),
}

/// Why the broker has not written a probe.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no stream for the probe after its creation was answered.
    #[error("it does not create a stream")]
    NoStream,
    /// The write was not acknowledged in time.
    #[error("it does not acknowledge the message")]
    NotAcknowledged,
    /// The broker was away, or refused something.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl BrokerError {
    /// The error of a request that had `limit` to be answered.
    pub(super) fn of_request(error: async_nats::RequestError, limit: Duration) -> Self {
        match error.kind() {
            RequestErrorKind::TimedOut => Self::Unanswered(limit),
            RequestErrorKind::NoResponders => Self::NoResponders,
            RequestErrorKind::MaxPayloadExceeded => Self::TooLarge,
            RequestErrorKind::InvalidSubject | RequestErrorKind::Other => Self::Request(error),
        }
    }

    /// Whether the limit of a request is over, so that it is unknown what was done.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Late(_) | Self::Unanswered(_))
    }
}

impl StreamError {
    /// Stored messages cannot be read.
    pub fn unread(cause: BrokerError) -> Self {
        Self::Unread(Arc::new(cause))
    }

    /// There is no subscription, or it has ended.
    pub fn not_followed(cause: BrokerError) -> Self {
        Self::NotFollowed(Arc::new(cause))
    }

    /// The text with its cause, for logs and operators.
    pub fn with_cause(&self) -> String {
        let (Self::Unread(cause) | Self::NotFollowed(cause)) = self;
        format!("{} ({cause})", self.to_string().trim_end_matches('.'))
    }
}

/// What a caller is answered; the cause is not part of it.
impl From<StreamError> for Problem {
    fn from(error: StreamError) -> Self {
        unavailable(&error.to_string())
    }
}

impl From<PublishError> for BrokerError {
    fn from(error: PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Self::TooLarge,
            PublishErrorKind::InvalidSubject | PublishErrorKind::Send => Self::Publish(error),
        }
    }
}

impl From<SubscribeError> for BrokerError {
    fn from(error: SubscribeError) -> Self {
        Self::Subscribe(error)
    }
}

/// What needs the broker waits for it as for a store.
impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What needs stored events waits for them as for a store.
impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self::Unavailable(error.with_cause())
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_request_that_was_not_answered_is_told_from_one_that_could_not_be_sent() {
        let limit = Duration::from_secs(2);
        let of = |kind: RequestErrorKind| BrokerError::of_request(kind.into(), limit);
        assert!(of(RequestErrorKind::TimedOut).is_late());
        assert!(!of(RequestErrorKind::NoResponders).is_late());
        assert!(!of(RequestErrorKind::Other).is_late());
        let text = of(RequestErrorKind::TimedOut).to_string();
        assert_eq!(text, "the request was not answered within 2 s");
    }

    #[test]
    fn an_error_names_its_cause_and_keeps_it() {
        let source = serde_json::from_str::<u8>("x").unwrap_err();
        let error = BrokerError::Malformed { what: "stream POINT".into(), source };
        assert!(error.to_string().starts_with("stream POINT: expected value"), "{error}");
        assert!(error.source().is_some_and(|source| source.is::<serde_json::Error>()));
        assert!(matches!(Failure::from(error), Failure::Unavailable(_)));
    }

    #[test]
    fn callers_are_not_told_why_streams_cannot_be_read_and_operators_are() {
        let error = StreamError::unread(BrokerError::Status(503));
        assert!(error.source().is_some());
        let cause = "the broker answers a read with status 503";
        let operators = format!("Stored events cannot be read right now ({cause})");
        assert_eq!(error.with_cause(), operators);
        assert!(Failure::from(error.clone()).to_string().contains(cause));
        assert_eq!(Problem::from(error).detail, "Stored events cannot be read right now.");
    }
}
