//! What a payment costs: processor time, transactions, rows, bytes.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use sqlx::PgPool;

use super::procs;

/// A backend of PostgreSQL reports the rows that it has written at most this long after its last
/// transaction: ten seconds, and a little for the report itself.
const ROWS_REPORTED_WITHIN: Duration = Duration::from_millis(10_500);

/// The name of the driver among the components.
pub(super) const DRIVER: &str = "driver";
/// The name of the database among them.
pub(super) const POSTGRES: &str = "postgres";

/// A part of the system that is counted separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    pub(super) name: &'static str,
    pub(super) pid: i32,
}

impl Component {
    fn time(self) -> Duration {
        // Each connection of PostgreSQL is a process.
        if self.name == POSTGRES {
            procs::time_of_family(self.pid)
        } else {
            procs::time_of(self.pid)
        }
    }

    /// This process.
    pub(super) fn driver() -> Self {
        Self { name: DRIVER, pid: std::process::id() as i32 }
    }

    /// PostgreSQL, when it runs on this machine.
    pub(super) async fn postgres(pool: &PgPool) -> Result<Option<Self>> {
        let read = "select pg_backend_pid()";
        let backend: i32 = sqlx::query_scalar(read).fetch_one(pool).await?;
        // On another machine, this id is another process here, or none.
        let is_here = procs::name_of(backend).is_some_and(|name| name == POSTGRES);
        let parent = procs::parent_of(backend).filter(|_| is_here);
        Ok(parent.map(|pid| Self { name: POSTGRES, pid }))
    }

    /// The servers that a process has started, without PostgreSQL.
    pub(super) fn servers_of(pid: i32) -> Vec<Self> {
        let named = |(pid, name): (i32, String)| Some(Self { name: component_of(&name)?, pid });
        procs::children_of(pid).into_iter().filter_map(named).collect()
    }
}

fn component_of(process: &str) -> Option<&'static str> {
    match process {
        "nats-server" => Some("nats"),
        "valkey-server" | "redis-server" => Some("valkey"),
        _ => None,
    }
}

/// Counts what some components use, and what some databases do.
pub(super) struct Meter {
    components: Vec<Component>,
    databases: Vec<String>,
    others: Vec<String>,
    pool: PgPool,
}

/// What was used up to a moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    times: BTreeMap<&'static str, Duration>,
    /// The part of PostgreSQL's time that its connections to the databases of others took.
    others: Duration,
    written: BTreeMap<&'static str, u64>,
    transactions: i64,
    log_bytes: i64,
}

/// What one payment costs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Costs {
    /// Microseconds of processor time, by component, until every service had consumed its events.
    pub cpu_us_per_payment: BTreeMap<&'static str, f64>,
    /// Bytes to storage: PostgreSQL's log, and what the others have written.
    pub synced_bytes_per_payment: BTreeMap<&'static str, f64>,
    /// Transactions that wrote something.
    pub transactions_per_payment: f64,
    /// Rows inserted, updated and deleted; `None` when they were not counted.
    pub rows_per_payment: Option<f64>,
}

impl Meter {
    /// Counts these; `urls` names the databases whose rows are counted.
    pub(super) fn new<'a>(
        components: Vec<Component>,
        urls: impl Iterator<Item = &'a str>,
        pool: PgPool,
    ) -> Self {
        let databases = urls.map(|url| database_of(url).to_owned()).collect();
        Self { components, databases, others: Vec::new(), pool }
    }

    /// Counts what connections to these databases use as the use of others.
    pub(super) fn beside<'a>(mut self, urls: impl Iterator<Item = &'a str>) -> Self {
        self.others = urls.map(|url| database_of(url).to_owned()).collect();
        self
    }

    pub(super) async fn read(&self) -> Result<Reading> {
        let (transactions, log_bytes) = sqlx::query_as(
            "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                    (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint",
        )
        .fetch_one(&self.pool)
        .await?;
        let others: Vec<i32> =
            sqlx::query_scalar("select pid from pg_stat_activity where datname = any($1)")
                .bind(&self.others)
                .fetch_all(&self.pool)
                .await?;
        let others = others.into_iter().map(procs::time_of).sum();
        let mut times: BTreeMap<_, _> =
            self.components.iter().map(|part| (part.name, part.time())).collect();
        if let Some(postgres) = times.get_mut(POSTGRES) {
            *postgres = postgres.saturating_sub(others);
        }
        let writers =
            self.components.iter().filter(|part| ![POSTGRES, DRIVER].contains(&part.name));
        let written = writers.filter_map(|part| Some((part.name, procs::written_by(part.pid)?)));
        Ok(Reading { times, others, written: written.collect(), transactions, log_bytes })
    }

    /// Rows written so far, once every backend has reported what it wrote.
    pub(super) async fn rows(&self) -> Result<i64> {
        tokio::time::sleep(ROWS_REPORTED_WITHIN).await;
        sqlx::query_scalar(
            "select coalesce(sum(tup_inserted + tup_updated + tup_deleted), 0)::bigint
             from pg_stat_database where datname = any($1)",
        )
        .bind(&self.databases)
        .fetch_one(&self.pool)
        .await
        .context("reading pg_stat_database")
    }
}

/// The database that a URL names.
fn database_of(url: &str) -> &str {
    let path = url.split('?').next().unwrap_or(url);
    path.rsplit('/').next().unwrap_or(path)
}

impl Reading {
    /// Counts the driver no further than the other reading does: afterwards it only waits for the
    /// rest to be done.
    pub(super) fn with_driver_of(mut self, other: &Self) -> Self {
        if let Some(time) = other.times.get(DRIVER) {
            self.times.insert(DRIVER, *time);
        }
        self
    }

    /// Processor time used since, of the components together and of the others' connections.
    pub(super) fn time_since(&self, before: &Self) -> Duration {
        let all = |reading: &Self| reading.times.values().sum::<Duration>() + reading.others;
        all(self).saturating_sub(all(before))
    }

    /// The costs of each of so many payments since.
    pub(super) fn costs_since(&self, before: &Self, payments: usize) -> Costs {
        let each = |count: f64| count / payments.max(1) as f64;
        let time = |(name, now): (&&'static str, &Duration)| {
            let was = before.times.get(name).copied().unwrap_or_default();
            (*name, each(now.saturating_sub(was).as_secs_f64() * 1e6))
        };
        let bytes = |(name, now): (&&'static str, &u64)| {
            let was = before.written.get(name).copied().unwrap_or(*now);
            (*name, each(now.saturating_sub(was) as f64))
        };
        let mut synced: BTreeMap<_, _> = self.written.iter().map(bytes).collect();
        synced.insert(POSTGRES, each((self.log_bytes - before.log_bytes) as f64));
        Costs {
            cpu_us_per_payment: self.times.iter().map(time).collect(),
            synced_bytes_per_payment: synced,
            transactions_per_payment: each((self.transactions - before.transactions) as f64),
            rows_per_payment: None,
        }
    }
}

impl Costs {
    /// Microseconds of processor time of everything together.
    pub(super) fn cpu_us(&self) -> f64 {
        self.cpu_us_per_payment.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(ms: u64, written: u64, transactions: i64, log_bytes: i64) -> Reading {
        let times = [("services", 2 * ms), (POSTGRES, ms), (DRIVER, ms)];
        let times = times.map(|(name, ms)| (name, Duration::from_millis(ms)));
        let written = BTreeMap::from([("nats", written)]);
        let others = Duration::from_millis(ms);
        Reading { times: times.into(), others, written, transactions, log_bytes }
    }

    #[test]
    fn costs_are_the_difference_divided_by_the_payments() {
        let (before, after) = (reading(10, 1_000, 5, 100), reading(20, 9_000, 45, 1_100));
        let costs = after.costs_since(&before, 10);
        let cpu = BTreeMap::from([("services", 2_000.0), (POSTGRES, 1_000.0), (DRIVER, 1_000.0)]);
        assert_eq!(costs.cpu_us_per_payment, cpu);
        assert_eq!(costs.cpu_us(), 4_000.0);
        assert_eq!(after.time_since(&before), Duration::from_millis(50));
        let synced = BTreeMap::from([("nats", 800.0), (POSTGRES, 100.0)]);
        assert_eq!(costs.synced_bytes_per_payment, synced);
        assert_eq!(costs.transactions_per_payment, 4.0);
    }

    #[test]
    fn the_driver_costs_nothing_while_it_waits_for_the_rest() {
        let (before, paid, done) =
            (reading(10, 0, 0, 0), reading(20, 0, 0, 0), reading(50, 0, 0, 0));
        let costs = done.with_driver_of(&paid).costs_since(&before, 1);
        assert_eq!(costs.cpu_us_per_payment[DRIVER], 10_000.0);
        assert_eq!(costs.cpu_us_per_payment["services"], 80_000.0);
    }

    #[test]
    fn no_payment_is_no_division_by_zero() {
        let costs = reading(2, 0, 3, 0).costs_since(&reading(1, 0, 0, 0), 0);
        assert!(costs.cpu_us().is_finite());
    }

    #[test]
    fn a_database_is_named_last_in_its_url() {
        assert_eq!(
            database_of("postgres://a:b@127.0.0.1:1/onsale_point?sslmode=disable"),
            "onsale_point"
        );
        assert_eq!(
            database_of("postgres://127.0.0.1/onsale_data_platform"),
            "onsale_data_platform"
        );
    }

    #[test]
    fn servers_are_known_by_their_process_names() {
        assert_eq!(component_of("nats-server"), Some("nats"));
        assert_eq!(component_of("redis-server"), Some("valkey"));
        assert_eq!(component_of("postgres"), None);
    }
}
