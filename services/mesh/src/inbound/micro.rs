//! The protocol of NATS services: what `nats micro list`, `info` and `stats` show.
//!
//! Requests come to `$SRV.<verb>`, `$SRV.<verb>.<name>` and `$SRV.<verb>.<name>.<id>`. The mesh
//! answers them itself and not by the client library, because only it knows when a request of a
//! bundle is answered, and how. The counts begin with the process: they survive that an
//! instance leaves its queue group for a while.

use std::{collections::BTreeMap, sync::Arc};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use events::Timestamp;
use futures::stream::SelectAll;
use serde_json::{Value, json};
use tracing::warn;

use super::{counts::Counts, reply::inbox};
use crate::{
    Allow, Link, clock,
    nats::{client::STATE, error::BrokerError},
    service::EndpointSpec,
};

/// What may be asked about a service.
const VERBS: [&str; 3] = ["PING", "INFO", "STATS"];

/// What one instance of a service says about itself.
pub(crate) struct Micro {
    service: &'static str,
    id: String,
    started: Timestamp,
    /// The endpoints that are answered over NATS.
    pub(crate) endpoints: Vec<MicroEndpoint>,
}

/// An endpoint as it is described.
pub(crate) struct MicroEndpoint {
    /// Its name in the service's table.
    pub(crate) endpoint: &'static str,
    pub(crate) subject: String,
    pub(crate) counts: Arc<Counts>,
}

impl MicroEndpoint {
    /// The last token of the subject, which is unique within a service.
    fn name(&self) -> &str {
        self.subject.rsplit('.').next().unwrap_or_default()
    }
}

impl Micro {
    /// A service that starts now, with those of its endpoints that others may ask.
    pub(crate) fn new(
        service: &'static str,
        endpoints: &BTreeMap<&'static str, EndpointSpec>,
    ) -> Self {
        let asked = endpoints.values().filter(|spec| spec.allow != Allow::Inside);
        let described = asked.map(|spec| MicroEndpoint {
            endpoint: spec.endpoint,
            subject: subject_of(service, spec.endpoint, spec.allow),
            counts: Arc::default(),
        });
        Self {
            service,
            id: clock::new_id().simple().to_string(),
            started: clock::now(),
            endpoints: described.collect(),
        }
    }

    /// The name of the service among all NATS services.
    fn name(&self) -> String {
        format!("onsale-{}", self.service)
    }

    /// Subscribes to the requests about this service.
    pub(crate) async fn listen(&self, link: &Link) -> Result<SelectAll<Subscriber>, BrokerError> {
        let (name, id) = (self.name(), &self.id);
        let mut requests = SelectAll::new();
        for verb in VERBS {
            for subject in [
                format!("$SRV.{verb}"),
                format!("$SRV.{verb}.{name}"),
                format!("$SRV.{verb}.{name}.{id}"),
            ] {
                requests.push(link.subscribe_to_answer(subject).await?);
            }
        }
        Ok(requests)
    }

    /// Answers such a request, if its answer goes to an inbox.
    pub(crate) async fn answer(&self, link: &Link, request: &Message) {
        let Some(to) = request.reply.clone().filter(|reply| inbox(reply).is_some()) else { return };
        let verb = request.subject.split('.').nth(1).unwrap_or_default();
        let sent = link.answer(to, HeaderMap::new(), self.said(verb)).await;
        if let Err(error) = sent {
            warn!(service = self.service, %error, "a description could not be sent");
        }
    }

    fn said(&self, verb: &str) -> Bytes {
        let kind = match verb {
            "PING" => "ping_response",
            "INFO" => "info_response",
            _ => "stats_response",
        };
        let mut said = json!({
            "type": format!("io.nats.micro.v1.{kind}"),
            "name": self.name(),
            "id": self.id,
            "version": env!("CARGO_PKG_VERSION"),
            "metadata": {},
        });
        match verb {
            "PING" => {}
            "INFO" => {
                said["description"] = format!("Onsale: the {} service", self.service).into();
                said["endpoints"] = self.endpoints.iter().map(|one| self.described(one)).collect();
            }
            _ => {
                said["started"] = self.started.to_string().into();
                said["endpoints"] = self.endpoints.iter().map(|one| self.counted(one)).collect();
            }
        }
        said.to_string().into()
    }

    fn described(&self, endpoint: &MicroEndpoint) -> Value {
        json!({
            "name": endpoint.name(),
            "subject": endpoint.subject,
            "queue_group": self.service,
            "metadata": {},
        })
    }

    fn counted(&self, endpoint: &MicroEndpoint) -> Value {
        let counted = endpoint.counts.read();
        let nanos = u64::try_from(counted.took.as_nanos()).unwrap_or(u64::MAX);
        json!({
            "name": endpoint.name(),
            "subject": endpoint.subject,
            "queue_group": self.service,
            "num_requests": counted.requests,
            "num_errors": counted.errors,
            "last_error": counted.last_error,
            "processing_time": nanos,
            "average_processing_time": nanos.checked_div(counted.requests).unwrap_or(0),
        })
    }
}

/// The subject of an endpoint. The mesh's own endpoints exist once for each service.
fn subject_of(service: &str, endpoint: &str, allow: Allow) -> String {
    if allow == Allow::Service {
        return format!("{STATE}{endpoint}");
    }
    match endpoint.strip_prefix("mesh.") {
        Some(verb) => format!("cmd.{service}.{verb}"),
        None => format!("cmd.{endpoint}"),
    }
}
