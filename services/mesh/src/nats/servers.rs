//! The servers of the broker, as each reports itself: how it syncs, its disk, its clock. This is
//! for monitoring; a service does not need it.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use events::Timestamp;
use futures::StreamExt;
use serde::Deserialize;

use crate::{MeshClient, clock, deadline::within, nats::error::BrokerError, nats::link::BROKER};

/// The subject on which the broker's system account answers for its servers (`nats.conf`).
const SERVERS: &str = "broker.jetstream";
/// How long the first server may take to answer …
const FIRST_WITHIN: Duration = Duration::from_secs(2);
/// … and how long the others may take after it: their number is not known here.
const OTHERS_WITHIN: Duration = Duration::from_millis(200);
/// Servers of one broker at most.
const SERVERS_MAX: usize = 64;

/// A server of the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerServer {
    /// Its name.
    pub name: String,
    /// Whether it writes each message to the disk before it acknowledges it.
    pub syncs_always: bool,
    /// How long a message may stay unwritten otherwise.
    pub sync_interval: Duration,
    /// The folder of its streams.
    pub store_dir: String,
    /// Bytes that its streams use on the disk.
    pub used: u64,
    /// Bytes that its streams may use.
    pub used_max: u64,
    /// By how many milliseconds its clock is ahead of ours, give or take half of `round_trip`.
    pub ahead_millis: i64,
    /// How long its answer took.
    pub round_trip: Duration,
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
    server: Server,
}

#[derive(Deserialize)]
struct Server {
    name: String,
    time: Timestamp,
}

#[derive(Deserialize)]
struct Data {
    config: Config,
    storage: u64,
}

#[derive(Deserialize)]
struct Config {
    max_storage: i64,
    store_dir: String,
    #[serde(default)]
    sync_interval: u64,
    #[serde(default)]
    sync_always: bool,
}

impl MeshClient {
    /// The servers of the broker; none when this user may not ask, or the broker is configured
    /// without that. Only the operator may.
    ///
    /// # Errors
    /// When there is no connection, or an answer cannot be read.
    pub async fn broker_servers(&self) -> Result<Vec<BrokerServer>, BrokerError> {
        let link = self.link();
        if !link.is_connected() {
            return Err(BrokerError::NotConnected);
        }
        let inbox = link.client().new_inbox();
        let mut answers = link.subscribe(inbox.clone()).await?;
        let (asked_at, since) = (clock::now(), Instant::now());
        link.publish(SERVERS, Some(inbox), HeaderMap::new(), Bytes::new()).await?;
        let mut servers = Vec::new();
        let mut limit = FIRST_WITHIN;
        while servers.len() < SERVERS_MAX {
            let Ok(Some(answer)) = within(limit, BROKER, answers.next()).await else { break };
            // The broker itself says so when nobody answers on this subject.
            if answer.status.is_some() {
                break;
            }
            servers.push(server(&answer.payload, asked_at, since.elapsed())?);
            limit = OTHERS_WITHIN;
        }
        servers.sort_by(|one: &BrokerServer, other| one.name.cmp(&other.name));
        Ok(servers)
    }
}

fn server(
    payload: &[u8],
    asked_at: Timestamp,
    round_trip: Duration,
) -> Result<BrokerServer, BrokerError> {
    let answer: Answer = serde_json::from_slice(payload)
        .map_err(|source| BrokerError::Malformed { what: SERVERS.to_owned(), source })?;
    let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX);
    let config = answer.data.config;
    Ok(BrokerServer {
        name: answer.server.name,
        syncs_always: config.sync_always,
        sync_interval: Duration::from_nanos(config.sync_interval),
        store_dir: config.store_dir,
        used: answer.data.storage,
        used_max: u64::try_from(config.max_storage).unwrap_or(0),
        ahead_millis: answer.server.time.unix_millis() - asked_at.unix_millis() - half,
        round_trip,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_read_with_its_clock() {
        let answer = br#"{"server":{"name":"onsale","time":"2026-11-29T15:43:50.600Z"},
            "data":{"config":{"max_storage":100,"store_dir":"/d","sync_interval":120000000000,
            "sync_always":true},"storage":7}}"#;
        let asked: Timestamp = "2026-11-29T15:43:50Z".parse().expect("a moment");
        let server = server(answer, asked, Duration::from_millis(200)).expect("readable");
        assert_eq!((server.ahead_millis, server.used, server.used_max), (500, 7, 100));
        assert!(server.syncs_always);
        assert_eq!(server.sync_interval, Duration::from_secs(120));
    }
}
