//! One mesh under test: holds made and paid, costs counted, databases checked.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::{
    counts::{self, Counter},
    driver,
    line::{Line, Traffic},
    meter::{Component, Meter},
    monolith,
    options::Load,
    procs::Memory,
    stand::{Setup, Stand},
};
use crate::{
    databases::Databases,
    development::{lag::Observer, receipt::Receipt},
    registry::LISTENERS,
};

/// How long the mesh may take to come to rest after the last answer.
const REST_WITHIN: Duration = Duration::from_secs(60);
/// How long the listeners may take to consume the events of all payments.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(180);

/// One mesh under test, from its start to the check of its databases.
pub(super) struct Run {
    pub(super) stand: Stand,
    listeners: Observer,
    counter: Counter,
    meter: Meter,
    schedules: Vec<Uuid>,
}

impl Run {
    /// Starts a mesh.
    pub(super) async fn start(setup: &Setup<'_>) -> Result<Self> {
        let stand = Stand::start(setup).await?;
        let here: Vec<&str> =
            LISTENERS.into_iter().filter(|service| !setup.without.contains(service)).collect();
        let listeners = Observer::open(&stand.config, &here).await?;
        let counter = Counter::open(&stand.config, listeners.client()).await?;
        let url = stand.config.database_url(payment::NAME)?;
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
        let mut components = components_of(&stand)?;
        components.extend(Component::postgres(&pool).await?);
        components.push(Component::driver());
        let urls = stand.config.database_urls.iter();
        let own = urls.filter(|(name, _)| *name != monolith::NAME).map(|(_, url)| url.as_str());
        let meter = Meter::new(components, own, pool);
        Ok(Self { stand, listeners, counter, meter, schedules: Vec::new() })
    }

    /// Makes holds and pays them. The listeners have consumed the events of the holds before the
    /// first is paid, and those of the payments before this returns.
    pub(super) async fn pay(&mut self, load: &Load) -> Result<Line> {
        let Load { concurrency, requests, lost, rows, traced_every } = *load;
        eprintln!("{concurrency} at once: making {requests} holds …");
        let hall = self.stand.prepare(requests, lost).await?;
        self.listeners.wait_until_caught_up(CAUGHT_UP_WITHIN).await?;
        let rows = if rows { Some(self.meter.rows().await?) } else { None };
        let counted = self.counter.count().await?;
        eprintln!("{concurrency} at once: paying …");
        let memory = Memory::watch(self.stand.pid()?);
        let before = self.meter.read().await?;
        let mut line = driver::pay_all(self.stand.addr, &hall, concurrency, traced_every).await?;
        let (paid, paid_at) = (self.meter.read().await?, Instant::now());
        line.resident_mb = memory.most_mb().await;
        self.listeners.wait_until_caught_up(CAUGHT_UP_WITHIN).await?;
        line.behind_s = paid_at.elapsed().as_secs_f64();
        let after = self.meter.read().await?.with_driver_of(&paid);
        let payments = line.completed + line.compensated;
        line.costs = after.costs_since(&before, payments);
        if let Some(rows) = rows {
            let written = self.meter.rows().await? - rows;
            line.costs.rows_per_payment = Some(written as f64 / payments.max(1) as f64);
        }
        let published = counts::between(&counted, &self.counter.count().await?);
        line.traffic = Traffic::of(&published, payments);
        self.schedules.extend(hall.schedules.iter().map(|schedule| schedule.0));
        Ok(line)
    }

    /// Checks the databases and stops; returns how many payments were checked.
    pub(super) async fn end(self) -> Result<i64> {
        let databases = Databases::open(&self.stand.config).await?;
        let receipt = Receipt::at_rest(&databases, &self.schedules, REST_WITHIN).await?;
        drop(databases);
        self.listeners.close().await;
        self.stand.stop().await;
        let broken = receipt.broken();
        if !broken.is_empty() {
            bail!("invariants are broken:\n  {}", broken.join("\n  "));
        }
        Ok(receipt.payments.values().sum())
    }
}

/// The one process with all services, and the servers that it has started.
pub(super) fn components_of(stand: &Stand) -> Result<Vec<Component>> {
    let pid = stand.pid()?;
    let services = Component { name: "services", pid };
    Ok([services].into_iter().chain(Component::servers_of(pid)).collect())
}
