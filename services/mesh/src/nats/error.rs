//! Why the broker could not be reached, or did not do what it was asked.
//!
//! The text of each error names its cause as well: logs and health reports print only that.

use std::time::Duration;

use async_nats::{
    PublishError, RequestErrorKind, SubscribeError, client::PublishErrorKind, jetstream,
};

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
}
