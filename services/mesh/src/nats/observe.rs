//! The broker seen from outside: whether it can write, how full its streams are, how far its
//! consumers have come. This is for monitoring; a service does not need it.

use std::time::Duration;

use async_nats::jetstream::{self, response::Response};
use bytes::Bytes;
use events::{Problem, Timestamp};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use uuid::Uuid;

use crate::{
    MeshClient,
    nats::error::{BrokerError, ProbeError},
    nats::link::{REQUEST_TIMEOUT, stream_of},
    nats::problem::unavailable,
};

/// How long the broker may take to write a probe.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// Size of a probe: as large as a busy batch, so that it does not fit into the last free bytes.
const PROBE_BYTES: usize = 512 * 1024;

/// The state of a durable consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerProgress {
    /// The lag: messages not delivered yet, or not acknowledged.
    pub lag: u64,
    /// Changes with each delivery and each acknowledgement.
    pub moved: (u64, u64),
    /// The time of the last delivery or acknowledgement; `None` before the first.
    pub active_at: Option<Timestamp>,
    /// Whether it is paused on the broker.
    pub is_paused: bool,
}

/// How much a stream holds, and how much it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamUsage {
    /// Bytes stored.
    pub bytes: u64,
    /// Maximum number of bytes; `None` for no limit.
    pub bytes_max: Option<u64>,
    /// Whether a full stream refuses new messages, instead of dropping old ones.
    pub refuses: bool,
}

impl StreamUsage {
    /// Whether there is room for a message of this size. The broker counts its headers and
    /// subject as well.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        const AROUND_A_MESSAGE: u64 = 512;
        self.bytes_max.is_none_or(|max| self.bytes + bytes + AROUND_A_MESSAGE <= max)
    }
}

#[derive(Deserialize)]
struct ConsumerInfo {
    num_pending: u64,
    num_ack_pending: u64,
    delivered: Progress,
    ack_floor: Progress,
    #[serde(default)]
    paused: bool,
}

#[derive(Deserialize)]
struct Progress {
    consumer_seq: u64,
    last_active: Option<Timestamp>,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: StreamConfig,
    state: StreamState,
}

#[derive(Deserialize)]
struct StreamConfig {
    #[serde(default)]
    max_bytes: i64,
    #[serde(default)]
    discard: String,
}

#[derive(Deserialize)]
struct StreamState {
    bytes: u64,
}

impl MeshClient {
    /// The state of the consumer of the service `consumer` in the stream of `producer`; `None`
    /// when there is no such consumer.
    ///
    /// # Errors
    /// `unavailable` when JetStream does not answer.
    pub async fn consumer_progress(
        &self,
        producer: &str,
        consumer: &str,
    ) -> Result<Option<ConsumerProgress>, Problem> {
        let path = format!("CONSUMER.INFO.{}.{consumer}", stream_of(producer));
        let info: Option<ConsumerInfo> =
            self.jetstream_request(&path, Bytes::new()).await.map_err(unanswered)?;
        Ok(info.map(|info| ConsumerProgress {
            lag: info.num_pending + info.num_ack_pending,
            moved: (info.delivered.consumer_seq, info.ack_floor.consumer_seq),
            active_at: info.delivered.last_active.max(info.ack_floor.last_active),
            is_paused: info.paused,
        }))
    }

    /// How full a stream is; `None` when there is no such stream.
    ///
    /// # Errors
    /// As [`MeshClient::consumer_progress`].
    pub async fn stream_usage(&self, stream: &str) -> Result<Option<StreamUsage>, Problem> {
        let path = format!("STREAM.INFO.{stream}");
        let info: Option<StreamInfo> =
            self.jetstream_request(&path, Bytes::new()).await.map_err(unanswered)?;
        Ok(info.map(|StreamInfo { config, state }| StreamUsage {
            bytes: state.bytes,
            bytes_max: u64::try_from(config.max_bytes).ok().filter(|bytes| *bytes > 0),
            refuses: config.discard == "new",
        }))
    }

    /// Which of these services have no stream on the broker.
    ///
    /// # Errors
    /// As [`MeshClient::consumer_progress`].
    pub async fn missing_streams<'a>(
        &self,
        producers: &[&'a str],
    ) -> Result<Vec<&'a str>, Problem> {
        let mut missing = Vec::new();
        for producer in producers {
            if self.stream_usage(&stream_of(producer)).await?.is_none() {
                missing.push(*producer);
            }
        }
        Ok(missing)
    }

    /// The broker's own report of what keeps it from its work; `None` while nothing does.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn broker_fault(&self) -> Result<Option<String>, BrokerError> {
        self.link().broker_fault().await
    }

    /// Makes the broker write a message, into a stream that is created for it and then deleted.
    /// Only the provisioner may do this.
    ///
    /// # Errors
    /// Why the message was not written.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let id = Uuid::now_v7().simple().to_string();
        let name = format!("PROBE_{id}");
        let subject = format!("probe.{id}");
        let config = json!({
            "name": name, "subjects": [subject], "storage": "file", "retention": "limits",
            "discard": "new", "num_replicas": 1,
        });
        let made: Option<serde_json::Value> = self
            .jetstream_request(&format!("STREAM.CREATE.{name}"), config.to_string().into())
            .await?;
        if made.is_none() {
            return Err(ProbeError::NoStream);
        }
        let written = self.write(subject).await;
        let path = format!("STREAM.DELETE.{name}");
        let deleted = self.jetstream_request::<serde_json::Value>(&path, Bytes::new()).await;
        written.and(deleted.map(drop).map_err(ProbeError::from))
    }

    async fn write(&self, subject: String) -> Result<(), ProbeError> {
        let body = Bytes::from(vec![0; PROBE_BYTES]);
        let written = self.link().request(subject.clone(), body, WRITE_TIMEOUT).await;
        let written = written.map_err(|error| match error {
            late if late.is_late() => ProbeError::NotAcknowledged,
            error => error.into(),
        })?;
        let written = read::<serde_json::Value>(&subject, &written.payload)?;
        Ok(written.map(drop).map_err(|source| BrokerError::Refused { what: subject, source })?)
    }

    /// The answer of JetStream's API; `None` when nothing has that name.
    async fn jetstream_request<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
    ) -> Result<Option<T>, BrokerError> {
        let subject = format!("$JS.API.{path}");
        let answer = self.link().request(subject, body, REQUEST_TIMEOUT).await?;
        match read(path, &answer.payload)? {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.code() == 404 => Ok(None),
            Err(source) => Err(BrokerError::Refused { what: path.to_owned(), source }),
        }
    }
}

/// What JetStream answers to a request about `what`, or its refusal.
fn read<T: DeserializeOwned>(
    what: &str,
    payload: &[u8],
) -> Result<Result<T, jetstream::Error>, BrokerError> {
    let answer = serde_json::from_slice(payload);
    match answer.map_err(|source| BrokerError::Malformed { what: what.to_owned(), source })? {
        Response::Ok(answer) => Ok(Ok(answer)),
        Response::Err { error } => Ok(Err(error)),
    }
}

/// The problem of a caller who asks about the broker.
fn unanswered(error: BrokerError) -> Problem {
    match error {
        BrokerError::NoResponders => unavailable("The broker keeps no streams."),
        error => unavailable(&error.to_string()),
    }
}
