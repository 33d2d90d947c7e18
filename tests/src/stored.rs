//! Everything that the services have stored, as one digest for each table.

use std::{collections::BTreeMap, time::Duration};

use onsale::{
    development::lag::Observer,
    registry::{LISTENERS, WITH_DATABASE},
};
use redis::AsyncTypedCommands;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::Instant;

use crate::mesh::{Mesh, SOON};

/// Rows and digest of each table, and of each kind of key in Valkey.
pub type Stored = BTreeMap<String, (i64, String)>;

/// The tables, without those that only say how far publishers and readers have come, who compares
/// outbox and stream, and which migrations were applied.
const TABLES: &str = "select n.nspname, c.relname from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and n.nspname in ('public', 'mesh')
      and c.relname not in ('verified', 'comparison', 'positions', 'reached', '_sqlx_migrations')";
/// Columns of the mesh's own rows that follow the clock: marks, leases, and how often something
/// was refused or tried.
const OF_THE_CLOCK: &str =
    "array['stream_seq', 'leased_until', 'refusals', 'due_at', 'attempts', 'unsettled']";
/// The mesh's keys in Valkey that follow the clock.
const KEYS_OF_THE_CLOCK: [&str; 7] = [
    "outbox:waiting",
    "outbox:unsent",
    "outbox:marks",
    "outbox:sent",
    "outbox:agreed",
    "outbox:comparison",
    "parked:due",
];
const UNPUBLISHED: &str = "select count(*) from mesh.outbox where stream_seq is null";
/// Parked events that wait for what they depend on, and are retried automatically.
const EARLY: &str = "select count(*) from mesh.parked where ended_at is null and state = 'early'";

/// Messages to fans that are still to be sent: each one leads to an event.
const UNSENT: &str = "select count(*) from messages where state = 'PENDING'";
/// The pause between two looks.
const PROBE: Duration = Duration::from_millis(10);

/// The rows that count. A cleared record of failed log-ins is deleted some seconds later; the
/// export has a watermark that follows the clock, and the watchdog removes deadlines that have
/// passed.
fn wanted(table: &str) -> &'static str {
    match table {
        "log_in_failures" => "failed_at <> '{}'",
        "export" | "watch" => "false",
        _ => "true",
    }
}

/// A reader of every service's store.
pub struct Stores {
    pools: Vec<(&'static str, PgPool)>,
    valkey: redis::Client,
    operator: async_nats::Client,
    readers: Observer,
}

impl Stores {
    /// Opens the stores of a mesh.
    ///
    /// # Panics
    /// When one cannot be reached.
    pub async fn of(mesh: &Mesh) -> Self {
        let config = &mesh.env.config;
        let open = |service| {
            let url = config.database_url(service).expect("a service with a database");
            (service, PgPool::connect_lazy(url).expect("an address"))
        };
        Self {
            pools: WITH_DATABASE.into_iter().map(open).collect(),
            valkey: redis::Client::open(config.valkey_url.as_str()).expect("an address"),
            operator: mesh.nats("operator").await,
            readers: Observer::open(config, &LISTENERS).await.expect("an observer"),
        }
    }

    /// What is stored once nothing is in flight any more.
    ///
    /// # Panics
    /// When the mesh does not come to rest; the message says what is still in flight.
    pub async fn at_rest(&self) -> Stored {
        let until = Instant::now() + SOON;
        loop {
            let before = self.now().await;
            let waiting = self.in_flight().await;
            // An event emitted during the first look shows in the second.
            let after = self.now().await;
            let changing: Vec<&String> =
                after.keys().filter(|table| before.get(*table) != after.get(*table)).collect();
            if waiting.is_empty() && before == after {
                return after;
            }
            let unrest = format!("{waiting:?}, and these change: {changing:?}");
            assert!(Instant::now() < until, "no rest within {SOON:?}: {unrest}");
            tokio::time::sleep(PROBE).await;
        }
    }

    /// What is stored now.
    ///
    /// # Panics
    /// When a store cannot be read.
    pub async fn now(&self) -> Stored {
        let mut stored = Stored::new();
        for (service, pool) in &self.pools {
            let tables: Vec<(String, String)> =
                sqlx::query_as(TABLES).fetch_all(pool).await.expect("the tables");
            assert!(tables.len() > 4, "{service} has tables of its own: {tables:?}");
            for (schema, table) in tables {
                let row = match schema.as_str() {
                    "mesh" => format!("(to_jsonb(t) - {OF_THE_CLOCK})::text"),
                    _ => "t::text".to_owned(),
                };
                let sql = format!(
                    "select count(*), md5(coalesce(string_agg(md5({row}), '' order by {row}), ''))
                     from {schema}.{table} t where {}",
                    wanted(&table)
                );
                let read = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(pool).await;
                stored.insert(format!("{service}.{schema}.{table}"), read.expect("a table"));
            }
        }
        stored.extend(self.valkey_now().await);
        stored
    }

    /// The keys of every service in Valkey, by kind.
    async fn valkey_now(&self) -> Stored {
        let mut connection =
            self.valkey.get_multiplexed_async_connection().await.expect("a connection");
        let mut kinds = Stored::new();
        let mut keys = connection.keys("*").await.expect("the keys");
        keys.sort_unstable();
        for key in keys {
            let kind = kind_of(&key);
            if key.contains(":reached:") {
                continue;
            }
            if KEYS_OF_THE_CLOCK.iter().any(|of_clock| key.ends_with(&format!(":{of_clock}"))) {
                continue;
            }
            let dump = redis::cmd("DUMP").arg(&key).query_async::<Vec<u8>>(&mut connection).await;
            let (count, digest) = kinds.entry(kind).or_default();
            *count += 1;
            digest.push_str(&format!("{:?};", dump.unwrap_or_default()));
        }
        kinds
    }

    /// Events that are not yet published, those that a consumer has still to handle, and
    /// messages to fans that are not yet sent: the service, and how many.
    async fn in_flight(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for (service, pool) in &self.pools {
            let mut counts = vec![("not published", UNPUBLISHED), ("early", EARLY)];
            counts.extend((*service == notification::NAME).then_some(("not sent", UNSENT)));
            for (what, sql) in counts {
                let count: i64 = sqlx::query_scalar(sql).fetch_one(pool).await.expect("a count");
                waiting.extend((count > 0).then(|| format!("{service}: {count} {what}")));
            }
        }
        let mut valkey =
            self.valkey.get_multiplexed_async_connection().await.expect("a connection");
        for key in ["{queue}:outbox:unsent", "{ranking}:outbox:unsent", "{queue}:parked:due"] {
            let count = valkey.zcard(key).await.expect("a count");
            waiting.extend((count > 0).then(|| format!("{key}: {count}")));
        }
        let streams = self.ask("$JS.API.STREAM.NAMES").await;
        for stream in streams["streams"].as_array().expect("names of streams") {
            let stream = stream.as_str().unwrap_or_default();
            let listed = self.ask(&format!("$JS.API.CONSUMER.LIST.{stream}")).await;
            for consumer in listed["consumers"].as_array().into_iter().flatten() {
                let count = |field: &str| consumer[field].as_i64().unwrap_or(1);
                let events = count("num_pending") + count("num_ack_pending");
                let name = consumer["name"].as_str().unwrap_or_default();
                waiting.extend((events > 0).then(|| format!("{name}: {events} of {stream}")));
            }
        }
        let lags = self.readers.lags().await.expect("how far readers have come");
        let behind =
            lags.iter().map(|lag| format!("{}: {} of {}", lag.service, lag.events, lag.producer));
        waiting.extend(behind);
        waiting
    }

    async fn ask(&self, subject: &str) -> Value {
        let reply = self.operator.request(subject.to_owned(), "".into()).await.expect("an answer");
        serde_json::from_slice(&reply.payload).expect("JSON")
    }
}

/// The service and the kind of a key: `queue.inbox` of `{queue}:inbox:20500`, and `ranking.inbox`
/// of `{ranking}:g3:inbox:20500`. A rebuilt model has another generation, and the same content.
fn kind_of(key: &str) -> String {
    let mut parts = key.split(':');
    let root = parts.next().unwrap_or_default().trim_matches(['{', '}']);
    let is_generation = |part: &str| {
        part.strip_prefix('g')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let kind = parts.find(|part| !is_generation(part)).unwrap_or_default();
    format!("{root}.{kind}")
}
