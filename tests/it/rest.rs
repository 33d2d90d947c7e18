//! The content of all stores once nothing is in flight any more, to be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use onsale::{
    development::{environment::Environment, lag::Observer},
    registry::{LISTENERS, WITH_DATABASE},
};
use redis::aio::ConnectionManager;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use crate::{broker::Broker, messages::id_of};

/// Longer than the period of any timer, so that everything due has been done.
const QUIET: Duration = Duration::from_millis(600);
/// How long it may take until everything is at rest: a message that was delivered to a service
/// that was killed is redelivered after half a minute.
const REST_WITHIN: Duration = Duration::from_secs(45);
/// The pause between two looks.
const PROBE: Duration = Duration::from_millis(50);
/// The keys in Valkey that belong to the mesh; the others are the services' own.
const OF_THE_MESH: [&str; 5] = ["inbox:", "answer:", "outbox:", "parked:", "reached:"];

/// Tables that follow the clock and not the events: failed log-ins are swept, and the watchdog
/// removes deadlines. Also how far the export has come, which is a position, not content.
const OF_THE_CLOCK: [&str; 4] = ["log_in_failures", "watch", "export", "exported"];

/// The services whose state in Valkey is compared. The seat map is not among them, because it has
/// a numbering of its own.
const IN_VALKEY: [&str; 2] = ["queue", "ranking"];
/// The services that handle events in Valkey.
const CONSUMED_IN_VALKEY: [&str; 3] = ["queue", "ranking", "concert"];

/// Every row of every table, by `service.table`, and every key in Valkey.
pub type Dump = BTreeMap<String, Vec<String>>;

/// All stores of a mesh, and its broker.
pub struct Stores {
    pub broker: Broker,
    databases: BTreeMap<&'static str, PgPool>,
    valkey: ConnectionManager,
    readers: Observer,
}

impl Stores {
    pub async fn of(env: &Environment) -> Self {
        let mut databases = BTreeMap::new();
        for service in WITH_DATABASE {
            let url = env.config.database_url(service).expect("an address");
            let pool = PgPoolOptions::new().max_connections(1).connect(url).await;
            databases.insert(service, pool.expect("a database"));
        }
        let client = redis::Client::open(env.config.valkey_url.as_str()).expect("an address");
        let valkey = ConnectionManager::new(client).await.expect("a Valkey");
        let broker = Broker::of(env, onsale::config::PROVISIONER).await;
        let readers = Observer::open(&env.config, &LISTENERS).await.expect("an observer");
        Self { broker, databases, valkey, readers }
    }

    /// The database of a service.
    pub fn database(&self, service: &str) -> &PgPool {
        &self.databases[service]
    }

    pub fn valkey(&self) -> ConnectionManager {
        self.valkey.clone()
    }

    /// Waits until nothing is in flight and nothing changes any more, and returns what there is
    /// then. The listeners must run, too.
    pub async fn at_rest(&self) -> Dump {
        let until = Instant::now() + REST_WITHIN;
        let mut still: Option<(Dump, Instant)> = None;
        loop {
            let ends = self.broker.ends().await;
            let dump = self.dump().await;
            let (behind, unpublished, unsent) = (
                self.behind().await,
                self.events_unpublished().await,
                self.messages_unsent().await,
            );
            let is_idle = behind.is_empty() && unpublished == 0 && unsent == 0;
            still = match still {
                Some((seen, since)) if is_idle && seen == dump => {
                    if since.elapsed() >= QUIET {
                        return dump;
                    }
                    Some((seen, since))
                }
                _ if is_idle && self.broker.ends().await == ends => Some((dump, Instant::now())),
                _ => None,
            };
            assert!(
                Instant::now() < until,
                "no rest within {REST_WITHIN:?}: {behind:?}, {unpublished} events not published, \
                 {unsent} messages not sent"
            );
            tokio::time::sleep(PROBE).await;
        }
    }

    /// The consumers and stream readers that have events still to handle.
    async fn behind(&self) -> Vec<String> {
        let mut behind = self.broker.behind().await;
        let lags = self.readers.lags().await.expect("how far readers have come");
        let text = |lag: onsale::development::lag::Lag| {
            format!("{}: {} of {}", lag.service, lag.events, lag.producer)
        };
        behind.extend(lags.into_iter().map(text));
        behind
    }

    /// Messages to fans that are still to be sent: each one leads to an event.
    async fn messages_unsent(&self) -> i64 {
        sqlx::query_scalar("select count(*) from messages where state = 'PENDING'")
            .fetch_one(self.database(notification::NAME))
            .await
            .expect("a count")
    }

    /// How many messages are not published yet, and how many early events are to be retried soon.
    pub async fn events_unpublished(&self) -> i64 {
        let mut count = 0;
        for pool in self.databases.values() {
            count += sqlx::query_scalar::<_, i64>(
                "select (select count(*) from mesh.outbox where stream_seq is null)
                     + (select count(*) from mesh.parked
                        where ended_at is null and state = 'early')",
            )
            .fetch_one(pool)
            .await
            .expect("an outbox");
        }
        for service in CONSUMED_IN_VALKEY {
            for waiting in ["outbox:unsent", "parked:due"] {
                let key = format!("{{{service}}}:{waiting}");
                let mut valkey = self.valkey.clone();
                let card = redis::cmd("ZCARD").arg(key).query_async::<i64>(&mut valkey).await;
                count += card.expect("what waits in Valkey");
            }
        }
        count
    }

    /// Each parked event that has not ended: its service, its state and its id.
    pub async fn parked(&self) -> Vec<(String, String, Uuid)> {
        let mut parked = Vec::new();
        for (service, pool) in &self.databases {
            let rows: Vec<(String, Vec<u8>)> =
                sqlx::query_as("select state, envelope from mesh.parked where ended_at is null")
                    .fetch_all(pool)
                    .await
                    .expect("parked events");
            parked.extend(rows.into_iter().map(|(state, event)| (*service, state, event)));
        }
        let mut valkey = self.valkey.clone();
        for service in CONSUMED_IN_VALKEY {
            let open = (format!("{{{service}}}:parked:open"), 0, -1);
            let open = redis::cmd("ZRANGE").arg(open).query_async::<Vec<u64>>(&mut valkey).await;
            for number in open.expect("parked events") {
                let row = (format!("{{{service}}}:parked:row:{number}"), "state", "envelope");
                let row = redis::cmd("HMGET").arg(row).query_async(&mut valkey).await;
                let (state, event): (String, Vec<u8>) = row.expect("a parked event");
                parked.push((service, state, event));
            }
        }
        let row = |(service, state, event): (&str, String, Vec<u8>)| {
            let event: serde_json::Value = serde_json::from_slice(&event).expect("JSON");
            (service.to_owned(), state, id_of(&event))
        };
        let mut parked: Vec<_> = parked.into_iter().map(row).collect();
        parked.sort_unstable();
        parked
    }

    /// Everything that the services themselves store.
    pub async fn dump(&self) -> Dump {
        let mut dump = Dump::new();
        for service in IN_VALKEY {
            dump.extend(self.in_valkey(service).await);
        }
        for (service, pool) in &self.databases {
            let tables: Vec<String> = sqlx::query_scalar(
                "select format('%I.%I', schemaname, tablename) from pg_tables
                 where schemaname not in ('mesh', 'pg_catalog', 'information_schema')
                   and tablename <> all($1)",
            )
            .bind(OF_THE_CLOCK.as_slice())
            .fetch_all(pool)
            .await
            .expect("tables");
            for table in tables {
                let sql = format!("select to_jsonb(t)::text from {table} t order by 1");
                let rows: Vec<String> =
                    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.expect("rows");
                dump.insert(format!("{service} {table}"), rows);
            }
        }
        dump
    }

    async fn in_valkey(&self, service: &str) -> Dump {
        let mut valkey = self.valkey.clone();
        let root = format!("{{{service}}}:");
        let all = format!("{root}*");
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(all).query_async(&mut valkey).await.expect("keys");
        let live: Option<String> = redis::cmd("GET")
            .arg(format!("{root}whole"))
            .query_async(&mut valkey)
            .await
            .expect("whether it is whole");
        let generation = format!("g{}:", live.unwrap_or_default());
        let mut dump = Dump::new();
        for key in keys {
            let name = key.strip_prefix(&root).unwrap_or(&key);
            let name = name.strip_prefix(&generation).unwrap_or(name);
            if OF_THE_MESH.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let kind: String =
                redis::cmd("TYPE").arg(&key).query_async(&mut valkey).await.expect("a type");
            let rows = match kind.as_str() {
                "hash" => pairs(&mut valkey, redis::cmd("HGETALL").arg(&key)).await,
                "zset" => {
                    let all = (&key, 0, -1, "WITHSCORES");
                    pairs(&mut valkey, redis::cmd("ZRANGE").arg(all)).await
                }
                "set" => redis::cmd("SMEMBERS")
                    .arg(&key)
                    .query_async(&mut valkey)
                    .await
                    .expect("members"),
                "string" => {
                    vec![
                        redis::cmd("GET").arg(&key).query_async(&mut valkey).await.expect("a text"),
                    ]
                }
                // The key was removed between the two commands.
                _ => continue,
            };
            let mut rows: Vec<String> = rows;
            rows.sort();
            dump.insert(format!("{service} in Valkey: {name}"), rows);
        }
        dump
    }
}

async fn pairs(valkey: &mut ConnectionManager, command: &redis::Cmd) -> Vec<String> {
    let flat: Vec<String> = command.query_async(valkey).await.expect("pairs");
    flat.chunks(2).map(|pair| pair.join(" = ")).collect()
}

/// The dump without what audit stores. Audit records each event that was ever emitted, so an
/// event that is emitted again under a new id rightly adds to it: a row of its own in its saga,
/// and often a violation. An event that is repeated under its old id adds nothing; then the whole
/// dump can be compared.
pub fn but_audit(mut dump: Dump) -> Dump {
    dump.retain(|name, _| !name.starts_with("audit "));
    dump
}

/// Asserts that two dumps are the same; the message shows only the differences.
pub fn assert_same(before: &Dump, after: &Dump, what: &str) {
    let none = Vec::new();
    let mut differences = String::new();
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (was, is) = (before.get(name).unwrap_or(&none), after.get(name).unwrap_or(&none));
        for row in was.iter().filter(|row| !is.contains(row)) {
            differences += &format!("- {name}: {row}\n");
        }
        for row in is.iter().filter(|row| !was.contains(row)) {
            differences += &format!("+ {name}: {row}\n");
        }
    }
    assert!(differences.is_empty(), "{what}:\n{differences}");
}
