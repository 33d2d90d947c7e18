//! How far the listeners are behind: events in the streams that they have yet to consume.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use mesh::{Link, LinkSettings, MeshClient, postgres::Positions, trace::Tracer};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::{
    config::{Config, OPERATOR},
    registry,
};

/// How often the lag is read while a caller waits for it to end.
const PROBE: Duration = Duration::from_millis(100);

/// Events that one service has yet to consume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// The service that consumes them.
    pub service: &'static str,
    /// The service that emitted them.
    pub producer: String,
    /// How many.
    pub events: u64,
}

/// Reads consumers and positions, as the operator.
pub struct Observer {
    client: MeshClient,
    link: Link,
    services: Vec<Consumer>,
}

struct Consumer {
    service: &'static str,
    consumed: BTreeSet<&'static str>,
    followed: BTreeSet<&'static str>,
    pool: Option<PgPool>,
}

impl Observer {
    /// Observes the named services.
    ///
    /// # Errors
    /// When the broker cannot be reached, or a database that is read from is not configured.
    pub async fn open(config: &Config, services: &[&str]) -> Result<Self> {
        let settings = LinkSettings {
            service: OPERATOR,
            nats_url: config.nats_url.clone(),
            nkey_seed: config.nkey_seeds.get(OPERATOR).cloned(),
        };
        let link = Link::connect_now(settings, Tracer::off()).await.map_err(anyhow::Error::msg)?;
        let mut consumers = Vec::new();
        for wiring in registry::wirings() {
            if !services.contains(&wiring.service) {
                continue;
            }
            let followed = wiring.read_streams();
            let pool = match followed.is_empty() {
                true => None,
                false => Some(
                    PgPoolOptions::new()
                        .max_connections(1)
                        .connect(config.database_url(wiring.service)?)
                        .await
                        .with_context(|| format!("the database of {}", wiring.service))?,
                ),
            };
            let consumed = wiring.consumed_streams();
            consumers.push(Consumer { service: wiring.service, consumed, followed, pool });
        }
        Ok(Self { client: MeshClient::new(link.clone()), link, services: consumers })
    }

    /// The operator's mesh client.
    pub(crate) fn client(&self) -> MeshClient {
        self.client.clone()
    }

    /// The lag of each service, stream by stream; services without lag are left out.
    ///
    /// # Errors
    /// When the broker or a database cannot be read.
    pub async fn lags(&self) -> Result<Vec<Lag>> {
        let mut lags = Vec::new();
        for consumer in &self.services {
            for producer in &consumer.consumed {
                let events = self.client.consumer_lag(producer, consumer.service).await;
                let events = events.map_err(|problem| anyhow!(problem.to_string()))?;
                lags.push(Lag {
                    service: consumer.service,
                    producer: (*producer).to_owned(),
                    events,
                });
            }
            let Some(pool) = &consumer.pool else { continue };
            let positions = Positions::load(pool).await?;
            for producer in &consumer.followed {
                let last = self.client.last_sequence(producer).await;
                let last = last.map_err(|error| anyhow!(error.with_cause()))?;
                let events = last.saturating_sub(positions.of(producer));
                lags.push(Lag {
                    service: consumer.service,
                    producer: (*producer).to_owned(),
                    events,
                });
            }
        }
        lags.retain(|lag| lag.events > 0);
        Ok(lags)
    }

    /// Waits until no service lags.
    ///
    /// # Errors
    /// When a service still lags after `patience`: which one, and by how much.
    pub async fn wait_until_caught_up(&self, patience: Duration) -> Result<()> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let lags = self.lags().await?;
            if lags.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= until {
                let behind: Vec<String> = lags
                    .iter()
                    .map(|lag| {
                        format!("{} by {} events of {}", lag.service, lag.events, lag.producer)
                    })
                    .collect();
                bail!("still behind after {} s: {}", patience.as_secs(), behind.join(", "));
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.link.drain().await;
    }
}
