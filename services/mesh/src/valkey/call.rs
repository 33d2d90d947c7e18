//! Calls of a service's functions: their names, their arguments, their round trips.

use events::{EventId, Timestamp};
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, aio::ConnectionManager};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Act, Library};
use crate::{engine::Failure, work::Meta};

/// What every library begins with.
const MESH_LUA: &str = include_str!("mesh.lua");

/// The library as it is known to Valkey. Its name is made from its text, so two versions of
/// a service can run side by side, and a library once loaded never changes.
pub(super) struct Names {
    pub(super) root: String,
    pub(super) run: String,
    pub(super) read: String,
    pub(super) feed: String,
    serve: String,
    lua: String,
}

impl Names {
    pub(super) fn of<L: Library>() -> Self {
        let generations = format!("local IS_REPLAYABLE = {}\n", L::IS_REPLAYABLE);
        let digest = Sha256::digest([&generations, MESH_LUA, L::LUA].concat());
        let edition: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{}_{edition}", L::NAME.replace('-', "_"));
        let [run, read, feed, serve] =
            ["run", "read", "feed", "serve"].map(|function| format!("{name}_{function}"));
        let lua = format!(
            "#!lua name={name}\n{generations}{MESH_LUA}\n{}\n\
             redis.register_function('{run}', run)\n\
             redis.register_function('{feed}', feed)\n\
             redis.register_function{{ function_name = '{read}', callback = read, \
             flags = {{ 'no-writes' }} }}\n\
             redis.register_function('{serve}', serve)\n",
            L::LUA
        );
        Self { root: format!("{{{}}}", L::NAME), run, read, feed, serve, lua }
    }
}

/// What is known of a message beside its deed.
pub(super) struct Envelope<'a> {
    pub(super) meta: &'a Meta,
    pub(super) traceparent: Option<String>,
}

/// The arguments of a call that comes from a message; `mesh.lua` reads them in `begin`.
pub(super) fn arguments(act: &Act, envelope: &Envelope<'_>, now: Timestamp) -> Vec<Vec<u8>> {
    let meta = envelope.meta;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (scope, body) = match &meta.idempotency {
        Some(key) => (hex(&key.scope), hex(&key.body)),
        None => Default::default(),
    };
    let mut all = vec![
        act.name.into(),
        now.unix_millis().to_string().into_bytes(),
        seed(),
        meta.event_id.map(|id| id.0.as_bytes().to_vec()).unwrap_or_default(),
        meta.saga_id.to_string().into_bytes(),
        meta.event_id.map_or(meta.id, |id| id.0).to_string().into_bytes(),
        envelope.traceparent.clone().unwrap_or_default().into_bytes(),
        scope.into_bytes(),
        body.into_bytes(),
        if act.is_restoring { b"1".to_vec() } else { Vec::new() },
        meta.delivered.to_string().into_bytes(),
    ];
    all.extend(act.args.iter().map(|arg| arg.clone().into_bytes()));
    all
}

/// The arguments of a call that no message asks for: a saga of its own, from no cause.
pub(super) fn quiet(act: &Act, now: Timestamp) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new(); 11];
    all[0] = act.name.into();
    all[1] = now.unix_millis().to_string().into_bytes();
    all[2] = seed();
    all[4] = Uuid::now_v7().to_string().into_bytes();
    if act.is_restoring {
        all[9] = b"1".to_vec();
    }
    all[10] = b"1".to_vec();
    all.extend(act.args.iter().map(|arg| arg.clone().into_bytes()));
    all
}

/// The arguments of a call that takes a stored fact into a shadow.
pub(super) fn feeding(
    act: &Act,
    event_id: EventId,
    generation: &str,
    now: Timestamp,
) -> Vec<Vec<u8>> {
    let mut all = quiet(act, now);
    all[3] = event_id.0.as_bytes().to_vec();
    all[7] = generation.into();
    all
}

/// The random half of the ids of one act's facts: `bxxx-xxxxxxxxxxxx`.
fn seed() -> Vec<u8> {
    Uuid::now_v7().to_string()[19..].into()
}

pub(super) async fn pipeline(
    connection: &mut ConnectionManager,
    function: &str,
    names: &Names,
    calls: &[Vec<Vec<u8>>],
) -> Result<Vec<RedisResult<Value>>, Failure> {
    let mut pipe = redis::pipe();
    pipe.ignore_errors();
    for arguments in calls {
        pipe.cmd("FCALL").arg(function).arg(1).arg(&names.root).arg(arguments);
    }
    pipe.query_async(connection).await.map_err(|error: RedisError| {
        if error.is_connection_refusal() {
            Failure::Unavailable(error.to_string())
        } else {
            Failure::Uncertain(error.to_string())
        }
    })
}

/// Calls one of the relay's functions.
pub(super) async fn serve(
    connection: &mut ConnectionManager,
    names: &Names,
    arguments: Vec<Vec<u8>>,
) -> Result<Value, Failure> {
    let calls = [arguments];
    let mut results = pipeline(connection, &names.serve, names, &calls).await?;
    if results.first().is_some_and(is_missing) {
        load(connection, names).await?;
        results = pipeline(connection, &names.serve, names, &calls).await?;
    }
    let result = results.pop().ok_or_else(|| Failure::Refused("no answer".into()))?;
    result.map_err(|error| {
        if is_away(&error) {
            Failure::Unavailable(error.to_string())
        } else {
            Failure::Refused(error.to_string())
        }
    })
}

/// Loads the library; another instance may have done so a moment ago.
pub(super) async fn load(connection: &mut ConnectionManager, names: &Names) -> Result<(), Failure> {
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg(&names.lua);
    match load.query_async::<Value>(connection).await {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("already exists") => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn is_missing(result: &RedisResult<Value>) -> bool {
    result.as_ref().is_err_and(|error| error.to_string().contains("Function not found"))
}

/// Whether a server answered that it cannot work right now, whatever it was asked.
pub(super) fn is_away(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    let kinds = [BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain];
    matches!(error.kind(), ErrorKind::Server(kind) if kinds.contains(&kind))
        || matches!(error.code(), Some("OOM" | "MISCONF" | "BUSY" | "NOREPLICAS"))
}
