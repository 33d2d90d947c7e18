//! A service's own keys in a Valkey: how they are reached, whatever Lua module they belong to.
//!
//! [`Keyspace`] knows no service's types, so it is compiled once. What it does as a store is in
//! `store`, `outbox` and `parked`; `batch` runs cases on it.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use events::{Problem, Timestamp, codes};
use redis::{
    Client, IntoConnectionInfo, ToRedisArgs,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};
use tracing::error;

use super::{
    call::{Names, Parts, command, send},
    function_call::{Ended, FunctionCall, Reply},
};
use crate::{
    failpoint::{
        Failpoint, Failpoints,
        crash::{Step, reach},
    },
    store::engine::Failure,
};

/// How long a call may take before its connection counts as lost; it runs for some 50 ms.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Calls queued for the one connection at most, including reads.
const PIPELINE_CALLS_MAX: usize = 1_024;
/// No arguments.
pub(super) const NOTHING: &[&str] = &[];

/// A service's own keys in a Valkey; cheap to clone.
#[derive(Clone)]
pub struct Keyspace {
    pub(super) connection: ConnectionManager,
    pub(super) names: Arc<Names>,
    pub(super) failpoints: Arc<Failpoints>,
    /// Whether an event was parked when this instance last ran a batch: a hint that saves a second
    /// call.
    pub(super) has_parked: Arc<AtomicBool>,
}

impl Keyspace {
    /// The keys on the Valkey at `url`; it connects when first needed.
    pub(super) fn new(url: &str, names: Names) -> Result<Self, Failure> {
        let info =
            url.into_connection_info()?.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let settings = ConnectionManagerConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(CONNECTION_TIMEOUT))
            .set_number_of_retries(1)
            .set_pipeline_buffer_size(PIPELINE_CALLS_MAX);
        let connection = ConnectionManager::new_lazy_with_config(Client::open(info)?, settings)?;
        Ok(Self {
            connection,
            names: Arc::new(names),
            failpoints: Arc::new(Failpoints::default()),
            has_parked: Arc::default(),
        })
    }

    /// The points where tests can make this service fail.
    pub fn failpoints(&self) -> &Arc<Failpoints> {
        &self.failpoints
    }

    /// Calls `reads.<name>` immediately, outside any batch.
    ///
    /// # Errors
    /// The function's refusal, or `unavailable` when the store does not answer or is being
    /// rebuilt.
    pub async fn read(&self, call: FunctionCall, now: Timestamp) -> Result<Reply, Problem> {
        let mut cmd = self.names.read(call.name, now);
        cmd.arg(&call.args);
        let answer = send(&mut self.connection.clone(), &self.names, &cmd).await;
        match answer.and_then(Parts::of).and_then(Ended::read) {
            Ok(Ended::Done(value)) => Ok(value),
            Ok(Ended::No(problem) | Ended::NotYet(problem)) => Err(problem),
            Ok(Ended::Lost) => Err(Problem::new(codes::UNAVAILABLE, "It is being rebuilt.")
                .with("retry_after_secs", 1)),
            Ok(ended) => {
                error!(
                    service = self.names.service,
                    call = call.name,
                    ?ended,
                    "a read ended unexpectedly"
                );
                Err(codes::INTERNAL.into())
            }
            Err(Failure::Refused(cause)) => {
                error!(service = self.names.service, call = call.name, %cause, "a read failed");
                Err(codes::INTERNAL.into())
            }
            Err(failure) => Err(Problem::new(codes::UNAVAILABLE, failure.to_string())),
        }
    }

    /// Whether the store is complete; a new or emptied one is not.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn is_whole(&self) -> Result<bool, Failure> {
        let mut exists = redis::cmd("EXISTS");
        exists.arg(self.key("whole"));
        let found: i64 = command(&self.connection, &exists).await?;
        Ok(found == 1)
    }

    /// Declares the store complete; until then it takes nothing in.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn seal(&self) -> Result<(), Failure> {
        self.names.assert_replayable(false);
        self.serve("seal", NOTHING).await.map(drop)
    }

    /// The time on the clock of the store.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn clock(&self) -> Result<Timestamp, Failure> {
        let (secs, micros): (i64, i64) = command(&self.connection, &redis::cmd("TIME")).await?;
        Timestamp::from_unix_millis(secs * 1_000 + micros / 1_000)
            .ok_or_else(|| Failure::Refused("its clock cannot be read".into()))
    }

    /// A value kept beside the service's state; empty when there is none.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn load(&self, name: &str) -> Result<String, Failure> {
        let mut get = redis::cmd("GET");
        get.arg(self.key(name));
        let found: Option<String> = command(&self.connection, &get).await?;
        Ok(found.unwrap_or_default())
    }

    /// Writes such a value if it still is `seen`; returns whether it was.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn swap(&self, name: &str, seen: &str, new: &str) -> Result<bool, Failure> {
        Ok(self.serve("swap", (name, seen, new)).await?.take::<u8>()? == 1)
    }

    /// The name of one of the mesh's own keys.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.names.root)
    }

    /// Calls one of the mesh's own functions.
    pub(super) async fn serve(&self, name: &str, args: impl ToRedisArgs) -> Result<Parts, Failure> {
        self.serve_at(name, args, crate::clock::now()).await
    }

    pub(super) async fn serve_at(
        &self,
        name: &str,
        args: impl ToRedisArgs,
        now: Timestamp,
    ) -> Result<Parts, Failure> {
        let mut cmd = self.names.serve(name, now);
        cmd.arg(args);
        let answer = send(&mut self.connection.clone(), &self.names, &cmd).await;
        answer.and_then(Parts::of).map_err(|failure| match failure {
            // All of these functions may be repeated.
            Failure::Uncertain(cause) => Failure::Unavailable(cause),
            other => other,
        })
    }

    /// Fails where a failpoint is armed for one of these events, commands or timers.
    pub(super) fn before_commit<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<(), Failure> {
        // One function call decides, writes and commits.
        reach(Step::Closed);
        match self.failpoints.should_fail(Failpoint::BeforeCommit, names) {
            true => Err(Failure::Unavailable("failpoint: before commit".into())),
            false => Ok(()),
        }
    }
}
