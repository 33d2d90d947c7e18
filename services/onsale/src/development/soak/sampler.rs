//! What is sampled: each process, each table, each stream.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh::{MeshClient, trace::Tracer};
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::series::{Expected, STORED, Series};
use crate::{
    config::{Config, OPERATOR},
    development::bench::procs,
    fleet,
    registry::WITH_DATABASE,
};

/// How long one look at a server may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Tables with nothing but what ages: those of the mesh, and those of the service that only looks.
const AGEING_SERVICE: &str = "audit";
/// Answers are forgotten by the clock of the database, for which no days pass.
const KEPT_BY_DATABASE_CLOCK: &str = "mesh.answers";
/// The tables of a database, partitions with their table, in bytes.
const TABLES: &str = r"select n.nspname || '.' || regexp_replace(c.relname, '_([0-9]{8}|rest)$', ''),
        sum(pg_total_relation_size(c.oid))::bigint
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and n.nspname in ('public', 'mesh')
    group by 1";

/// Everything that was sampled.
pub(super) struct Sampler {
    began: Instant,
    series: BTreeMap<(String, String), Series>,
    databases: Vec<(&'static str, PgPool)>,
    client: MeshClient,
    streams: Vec<String>,
    /// Looks that failed, as while a service restarts.
    pub(super) failed: u64,
}

/// A process to be sampled.
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) pid: i32,
    /// Whether its children belong to it, as those of PostgreSQL do.
    pub(super) with_children: bool,
}

impl Sampler {
    pub(super) async fn open(config: &Config) -> Result<Self> {
        let mut databases = Vec::new();
        for service in WITH_DATABASE {
            let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ANSWER_WITHIN);
            let pool = pool.connect(config.database_url(service)?).await;
            databases.push((service, pool.with_context(|| format!("the database of {service}"))?));
        }
        let link = fleet::link(config, OPERATOR, Tracer::off()).await?;
        let streams = fleet::topology(config)?.streams().map(str::to_owned).collect();
        Ok(Self {
            began: Instant::now(),
            series: BTreeMap::new(),
            databases,
            client: MeshClient::new(link),
            streams,
            failed: 0,
        })
    }

    /// Seconds since the first sample.
    pub(super) fn secs(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// The series, without those that were always zero.
    pub(super) fn series(&self) -> Vec<Series> {
        let some = |series: &&Series| series.samples.iter().any(|at| at.1 > 0.0);
        self.series.values().filter(some).cloned().collect()
    }

    /// A process was started again: what was before it says nothing about it.
    pub(super) fn restarted(&mut self, name: &str) {
        let now = self.secs();
        let of_it = self.series.values_mut().filter(|series| series.of == name);
        of_it.for_each(|series| series.since = now);
    }

    /// Looks at everything once.
    pub(super) async fn sample(&mut self, processes: &[Watched]) {
        let at = self.secs();
        for process in processes {
            let Some(seen) = look(process) else {
                self.failed += 1;
                continue;
            };
            for (what, value, noise) in seen {
                self.add(at, &process.name, what, Expected::Bounded, noise, value);
            }
        }
        let databases = self.databases.clone();
        for (service, pool) in databases {
            let tables = sqlx::query_as::<_, (String, i64)>(TABLES).fetch_all(&pool);
            match tokio::time::timeout(ANSWER_WITHIN, tables).await {
                Ok(Ok(tables)) => {
                    for (table, bytes) in tables {
                        let ages = service == AGEING_SERVICE || table.starts_with("mesh.");
                        let expected = match ages && table != KEPT_BY_DATABASE_CLOCK {
                            true => Expected::Bounded,
                            false => Expected::Kept,
                        };
                        let what = format!("{table}, {STORED}");
                        self.add(at, service, &what, expected, 1.0, bytes as f64 / 1e6);
                    }
                }
                _ => self.failed += 1,
            }
        }
        for stream in self.streams.clone() {
            match self.client.stream_usage(&stream).await {
                Ok(Some(usage)) => {
                    let mb = usage.bytes as f64 / 1e6;
                    let what = format!("stream, {STORED}");
                    self.add(at, &stream, &what, Expected::Bounded, 1.0, mb);
                }
                _ => self.failed += 1,
            }
        }
    }

    fn add(&mut self, at: f64, of: &str, what: &str, expected: Expected, noise: f64, value: f64) {
        let key = (of.to_owned(), what.to_owned());
        let series = self.series.entry(key).or_insert_with(|| Series {
            of: of.to_owned(),
            what: what.to_owned(),
            expected,
            noise,
            samples: Vec::new(),
            since: 0.0,
        });
        series.samples.push((at, value));
    }
}

/// What a process has now: name with its unit, value, noise. `None` when it is not there.
fn look(process: &Watched) -> Option<[(&'static str, f64, f64); 4]> {
    let children = match process.with_children {
        true => procs::children_of(process.pid).into_iter().map(|(pid, _)| pid).collect(),
        false => Vec::new(),
    };
    let mut sum = look_at(process.pid)?;
    for child in children {
        // It may have ended meanwhile.
        let Some(more) = look_at(child) else { continue };
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    let [memory, handles, connections, threads] = sum;
    Some([
        ("memory, MB", memory, 6.0),
        ("file handles", handles, 12.0),
        ("connections", connections, 12.0),
        ("threads", threads, 4.0),
    ])
}

/// Memory of its own, handles, sockets and threads.
fn look_at(pid: i32) -> Option<[f64; 4]> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name| procs::number_in(&status, name).unwrap_or(0) as f64;
    let handles: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().collect();
    let is_socket = |entry: &&fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    let sockets = handles.iter().filter(is_socket).count();
    let memory = number("RssAnon:") / 1_024.0;
    Some([memory, handles.len() as f64, sockets as f64, number("Threads:")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_handles_and_threads() {
        let own = std::process::id() as i32;
        let one = Watched { name: "own".into(), pid: own, with_children: false };
        let [(_, memory, _), (_, handles, _), _, (_, threads, _)] = look(&one).unwrap();
        assert!(memory > 0.0 && handles > 2.0 && threads >= 1.0);
        assert!(look(&Watched { pid: i32::MAX, ..one }).is_none());
    }
}
