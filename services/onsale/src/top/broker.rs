//! What the broker shows to the operator: its own faults, its streams and consumers, and who
//! answers.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, anyhow, bail};
use events::producer_of;
use futures::future::{join_all, try_join_all};
use mesh::{Link, LinkSettings, MeshClient, deadline::within, trace::Tracer};

use super::look::{ConsumerLine, Part};
use crate::{
    config::{Config, OPERATOR},
    registry::{self, SERVICES},
};

/// How long a service may take to answer a ping.
const PING_WITHIN: Duration = Duration::from_millis(1_500);

/// What the broker has shown.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// What keeps it from its work.
    pub(super) faults: Vec<String>,
    /// The last sequence of the stream of each service that has one.
    pub(super) last: BTreeMap<&'static str, u64>,
    pub(super) consumers: Vec<ConsumerLine>,
    /// Whether an instance of a service answers.
    pub(super) answers: BTreeMap<&'static str, bool>,
}

/// The broker, as the operator.
pub(super) struct Broker {
    settings: LinkSettings,
    link: Option<Link>,
    /// The services with a stream.
    emitting: Vec<&'static str>,
}

impl Broker {
    pub(super) fn new(config: &Config) -> Self {
        let mut emitting: Vec<&str> = registry::wirings()
            .iter()
            .flat_map(|wiring| wiring.emits().map(producer_of).collect::<Vec<_>>())
            .collect();
        emitting.sort_unstable();
        emitting.dedup();
        let settings = LinkSettings {
            service: OPERATOR,
            nats_url: config.nats_url.clone(),
            nkey_seed: config.nkey_seeds.get(OPERATOR).cloned(),
        };
        Self { settings, link: None, emitting }
    }

    pub(super) async fn look(&mut self) -> Part<Shown> {
        self.try_look().await.into()
    }

    async fn try_look(&mut self) -> Result<Shown> {
        if self.settings.nats_url.is_empty() {
            bail!("ONSALE_NATS_URL is not set");
        }
        let link = match &self.link {
            Some(link) => link.clone(),
            None => {
                let link = Link::connect_now(self.settings.clone(), Tracer::off()).await;
                let link = link.map_err(|error| anyhow!("{error}"))?;
                self.link.insert(link).clone()
            }
        };
        if !link.is_connected() {
            bail!("there is no connection to the broker; onsale doctor");
        }
        let client = MeshClient::new(link);
        let (faults, streams, answers) =
            tokio::join!(client.broker_fault(), self.streams(&client), answers(&client));
        let mut shown = streams?;
        shown.faults.extend(faults.map_err(|error| anyhow!("{error}"))?);
        shown.answers = answers;
        Ok(shown)
    }

    async fn streams(&self, client: &MeshClient) -> Result<Shown> {
        let streams = try_join_all(self.emitting.iter().map(|producer| async move {
            let (extent, consumers) =
                tokio::try_join!(client.extent(producer), client.consumers(producer))?;
            Ok::<_, mesh::StreamError>((*producer, extent.last, consumers))
        }));
        let mut shown = Shown::default();
        for (producer, last, consumers) in streams.await.map_err(|e| anyhow!(e.with_cause()))? {
            shown.last.insert(producer, last);
            shown.consumers.extend(consumers.into_iter().map(|one| ConsumerLine {
                service: one.name,
                producer,
                pending: one.lag.saturating_sub(one.ack_pending),
                ack_pending: one.ack_pending,
                redelivered: one.redelivered,
                consumed: one.acknowledged,
            }));
        }
        Ok(shown)
    }

    pub(super) async fn close(&mut self) {
        if let Some(link) = self.link.take() {
            link.drain().await;
        }
    }
}

/// Which services answer; the gateway is asked over HTTP.
async fn answers(client: &MeshClient) -> BTreeMap<&'static str, bool> {
    let services = SERVICES.into_iter().filter(|service| *service != gateway::NAME);
    let pings = services.map(|service| async move {
        let pong = within(PING_WITHIN, service, client.ping(service)).await;
        (service, matches!(pong, Ok(Ok(_))))
    });
    join_all(pings).await.into_iter().collect()
}
