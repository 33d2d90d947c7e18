//! Calls of a service's functions: their names, how a call is sent, how an answer is read.

use std::time::Duration;

use events::Timestamp;
use redis::{Cmd, FromRedisValue, RedisError, Value, aio::ConnectionManager};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    deadline::within,
    outbound::message::{EVENT_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGE_EVENTS_MAX},
    store::engine::{Failure, is_away, is_unusable},
};

/// The Lua that every library begins with, in the order in which the files need each other.
const MESH_LUA: &str = concat!(
    include_str!("stage.lua"),
    include_str!("commands.lua"),
    include_str!("mesh.lua"),
    include_str!("outbox.lua"),
    include_str!("parked.lua"),
    include_str!("replay.lua"),
    include_str!("batch.lua"),
);

/// How long the builder of a generation may be silent before it has lost its lease.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// A service's library in Valkey. Its name contains a hash of its text, so two versions of a
/// service can run side by side, and a library once loaded never changes.
pub(super) struct Names {
    pub(super) service: &'static str,
    /// Whether its state can be rebuilt next to the live one.
    pub(super) is_replayable: bool,
    /// The key that all calls name, and what the mesh's own keys begin with.
    pub(super) root: String,
    run: String,
    read: String,
    serve: String,
    lua: String,
}

impl Names {
    pub(super) fn new(service: &'static str, module: &str, is_replayable: bool) -> Self {
        let known = format!(
            "local IS_REPLAYABLE, SOURCE = {is_replayable}, '/onsale/{service}'\n\
             local MESSAGE_EVENTS_MAX, MESSAGE_BYTES_MAX, EVENT_BYTES_MAX = \
             {MESSAGE_EVENTS_MAX}, {MESSAGE_BYTES_MAX}, {EVENT_BYTES_MAX}\n\
             local SHADOW_MILLIS = {}\n",
            LEASE.as_millis()
        );
        let digest = Sha256::digest([&known, MESH_LUA, module].concat());
        let edition: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{}_{edition}", service.replace('-', "_"));
        let [run, read, serve] = ["run", "read", "serve"].map(|of| format!("{name}_{of}"));
        let lua = format!(
            "#!lua name={name}\n{known}{MESH_LUA}\n{module}\n\
             host.register_function('{run}', run)\n\
             host.register_function{{ function_name = '{read}', callback = read, \
             flags = {{ 'no-writes' }} }}\n\
             host.register_function('{serve}', serve)\n"
        );
        Self { service, is_replayable, root: format!("{{{service}}}"), run, read, serve, lua }
    }

    /// Panics in a call that is only for modules that can be replayed, or only for others.
    pub(super) fn assert_replayable(&self, is_replayable: bool) {
        let how = if self.is_replayable { "next to its live state" } else { "in place" };
        assert!(self.is_replayable == is_replayable, "{} is rebuilt {how}", self.service);
    }

    /// A call that runs a batch.
    pub(super) fn run(&self, now: Timestamp, is_restoring: bool) -> Cmd {
        self.call(&self.run, now, is_restoring)
    }

    /// A call of `reads.<name>`.
    pub(super) fn read(&self, name: &str, now: Timestamp) -> Cmd {
        let mut cmd = self.call(&self.read, now, false);
        cmd.arg(name);
        cmd
    }

    /// A call of `serves.<name>`, one of the mesh's own functions.
    pub(super) fn serve(&self, name: &str, now: Timestamp) -> Cmd {
        let mut cmd = self.call(&self.serve, now, false);
        cmd.arg(name);
        cmd
    }

    /// A call with the arguments that `begin` reads. The random half of the ids that one call
    /// makes is `bxxx-xxxxxxxxxxxx`.
    fn call(&self, function: &str, now: Timestamp, is_restoring: bool) -> Cmd {
        let mut cmd = redis::cmd("FCALL");
        cmd.arg(function).arg(1).arg(&self.root);
        cmd.arg(now.unix_millis()).arg(now.to_string());
        cmd.arg(&Uuid::new_v4().to_string()[19..]).arg(if is_restoring { "1" } else { "" });
        cmd
    }
}

/// How long a call may take, including loading the library and new connections; each answer has
/// a timeout of its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a plain command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// The name of the store in timeout errors.
const VALKEY: &str = "Valkey";

/// Sends a plain command.
#[expect(clippy::disallowed_methods, reason = "it has a limit")]
pub(super) async fn command<T: FromRedisValue>(
    connection: &ConnectionManager,
    cmd: &Cmd,
) -> Result<T, Failure> {
    let mut connection = connection.clone();
    Ok(within(COMMAND_TIMEOUT, VALKEY, cmd.query_async(&mut connection)).await??)
}

/// Sends a call and waits for its answer, up to [`CALL_TIMEOUT`].
pub(super) async fn send(
    connection: &mut ConnectionManager,
    names: &Names,
    cmd: &Cmd,
) -> Result<Value, Failure> {
    let answer = within(CALL_TIMEOUT, VALKEY, send_and_load(connection, names, cmd)).await;
    answer.unwrap_or_else(|late| Err(Failure::Uncertain(late.to_string())))
}

/// Sends a call. If the library is missing (a new or emptied Valkey) it is loaded, and the call,
/// which had no effect, is repeated.
#[expect(clippy::disallowed_methods, reason = "it has a limit")]
async fn send_and_load(
    connection: &mut ConnectionManager,
    names: &Names,
    cmd: &Cmd,
) -> Result<Value, Failure> {
    match cmd.query_async(connection).await {
        Err(error) if is_missing(&error) => {
            load(connection, names).await?;
            cmd.query_async(connection).await.map_err(failure)
        }
        answer => answer.map_err(failure),
    }
}

/// Loads the library; another instance may have loaded it a moment ago.
#[expect(clippy::disallowed_methods, reason = "it has a limit")]
async fn load(connection: &mut ConnectionManager, names: &Names) -> Result<(), Failure> {
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg(&names.lua);
    match load.query_async::<Value>(connection).await {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("already exists") => Ok(()),
        Err(error) => Err(failure(error)),
    }
}

fn is_missing(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

/// The failure of a call that got no answer.
fn failure(error: RedisError) -> Failure {
    let may_have_worked =
        !is_unusable(&error) && !is_away(&error) && !error.is_connection_refusal();
    match Failure::from(error) {
        Failure::Unavailable(text) if may_have_worked => Failure::Uncertain(text),
        failure => failure,
    }
}

/// The parts of an answer, read one after the other.
pub(super) struct Parts(std::vec::IntoIter<Value>);

impl Parts {
    pub(super) fn of(answer: Value) -> Result<Self, Failure> {
        match answer {
            Value::Array(parts) => Ok(Self(parts.into_iter())),
            other => Err(Failure::Refused(format!("expected an array, not {other:?}"))),
        }
    }

    /// The next part, as a `T`.
    pub(super) fn take<T: FromRedisValue>(&mut self) -> Result<T, Failure> {
        let part = self.0.next().unwrap_or(Value::Nil);
        redis::from_redis_value(part).map_err(|error| Failure::Refused(error.to_string()))
    }

    /// The next part, a text that may be cut within a character.
    pub(super) fn lossy(&mut self) -> Result<String, Failure> {
        Ok(String::from_utf8_lossy(&self.take::<Vec<u8>>()?).into_owned())
    }

    /// The next part, a list.
    pub(super) fn list(&mut self) -> Result<Self, Failure> {
        Self::of(self.0.next().unwrap_or(Value::Nil))
    }

    /// Lists in a list, each read by `read`.
    pub(super) fn each<T>(
        self,
        read: impl Fn(Parts) -> Result<T, Failure>,
    ) -> Result<Vec<T>, Failure> {
        self.0.map(|part| read(Self::of(part)?)).collect()
    }
}
