//! How far the consumers of a stream have come, as JetStream reports it.

use events::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use crate::{Link, nats::error::BrokerError};

/// The clocks of the broker and of a service may differ by this much.
const CLOCKS_MILLIS: i64 = 60_000;

/// A consumer of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerState {
    /// The service that it belongs to.
    pub name: String,
    /// The sequence up to which it has acknowledged everything.
    pub floor: u64,
    /// The lag: messages not delivered yet, or delivered and not acknowledged.
    pub lag: u64,
    /// Messages delivered and not acknowledged.
    pub ack_pending: u64,
    /// Messages that were delivered more than once and are not acknowledged.
    pub redelivered: u64,
    /// How many deliveries it has acknowledged without a gap; it grows while the service works.
    pub acknowledged: u64,
    /// When it was created.
    pub made_at: Timestamp,
    /// The subjects that it filters for; none for all.
    pub filters: Vec<String>,
}

#[derive(Deserialize)]
struct Listed {
    consumers: Option<Vec<Info>>,
}

#[derive(Deserialize)]
struct Info {
    name: String,
    created: Timestamp,
    config: Config,
    ack_floor: Floor,
    num_pending: u64,
    num_ack_pending: u64,
    #[serde(default)]
    num_redelivered: u64,
}

#[derive(Deserialize)]
struct Floor {
    consumer_seq: u64,
    stream_seq: u64,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    filter_subject: String,
    #[serde(default)]
    filter_subjects: Vec<String>,
}

impl ConsumerState {
    /// The prefixes of the subjects that it filters for.
    pub(crate) fn subjects(&self) -> Vec<String> {
        let all = || vec![String::new()];
        let prefix = |filter: &String| filter.trim_end_matches('>').to_owned();
        let subjects: Vec<String> = self.filters.iter().map(prefix).collect();
        if subjects.is_empty() { all() } else { subjects }
    }

    /// The least id of a message that was emitted since the consumer was created.
    pub(crate) fn made_since(&self) -> Uuid {
        let millis = self.made_at.unix_millis().saturating_sub(CLOCKS_MILLIS).max(0);
        Uuid::from_u128((millis as u128) << 80)
    }
}

impl From<Info> for ConsumerState {
    fn from(info: Info) -> Self {
        let Config { filter_subject, mut filter_subjects } = info.config;
        filter_subjects.extend(Some(filter_subject).filter(|one| !one.is_empty()));
        Self {
            name: info.name,
            floor: info.ack_floor.stream_seq,
            lag: info.num_pending + info.num_ack_pending,
            ack_pending: info.num_ack_pending,
            redelivered: info.num_redelivered,
            acknowledged: info.ack_floor.consumer_seq,
            made_at: info.created,
            filters: filter_subjects,
        }
    }
}

/// How far a service is behind in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct ConsumerLag {
    /// Messages that were not delivered to it yet.
    #[serde(rename = "num_pending")]
    pub(crate) pending: u64,
    /// Messages that it has not acknowledged yet.
    #[serde(rename = "num_ack_pending")]
    pub(crate) ack_pending: u64,
    /// Those of them that were delivered more than once.
    #[serde(rename = "num_redelivered")]
    pub(crate) redelivered: u64,
}

impl Link {
    /// How far this service is behind in a stream that it consumes.
    pub(crate) async fn consumer_lag(&self, stream: &str) -> Result<ConsumerLag, BrokerError> {
        let subject = format!("CONSUMER.INFO.{stream}.{}", self.service());
        self.jetstream_request(subject, format!("its consumer of {stream}")).await
    }

    /// The consumers of a stream.
    pub(crate) async fn consumers(&self, stream: &str) -> Result<Vec<ConsumerState>, BrokerError> {
        // The broker lists up to 256 at once; a mesh has far fewer services.
        let (subject, what) = (format!("CONSUMER.LIST.{stream}"), format!("consumers of {stream}"));
        let Listed { consumers } = self.jetstream_request(subject, what).await?;
        Ok(consumers.unwrap_or_default().into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str) -> ConsumerState {
        let info = format!(
            r#"{{"name":"point","created":"2026-11-29T15:43:50.123456789Z","config":{config},
                "ack_floor":{{"consumer_seq":3,"stream_seq":7}},"num_pending":2,"num_ack_pending":1,"num_redelivered":1}}"#
        );
        serde_json::from_str::<Info>(&info).unwrap().into()
    }

    #[test]
    fn a_consumer_is_read_with_one_filter_or_several_or_none() {
        let some = read(r#"{"filter_subjects":["onsale.a.b.v1.>","onsale.a.c.v1.>"]}"#);
        assert_eq!((some.floor, some.lag, some.acknowledged), (7, 3, 3));
        assert_eq!((some.ack_pending, some.redelivered), (1, 1));
        assert_eq!(some.subjects(), ["onsale.a.b.v1.", "onsale.a.c.v1."]);
        assert_eq!(read(r#"{"filter_subject":"onsale.a.b.v1.>"}"#).subjects(), ["onsale.a.b.v1."]);
        assert_eq!(read("{}").subjects(), [""]);
    }

    #[test]
    fn a_message_emitted_before_a_consumer_was_created_is_not_missed_by_it() {
        let since = read("{}").made_since();
        let at = |millis: i64| Uuid::from_u128((millis as u128) << 80 | 1);
        let made = read("{}").made_at.unix_millis();
        assert!(at(made) > since && at(made - 2 * CLOCKS_MILLIS) < since);
    }
}
