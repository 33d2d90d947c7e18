//! `ONSALE_HEALTH_ADDR`: serves whether the services of this process are alive and ready, and what
//! they measure.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use gateway::Readiness;
use mesh::{
    Link,
    health::Health,
    metrics::{Format, Metrics},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{config, fleet::Fleet};

/// Where `dev` and `demo` serve this, unless it is taken.
const DEVELOPMENT_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

/// One service of this process.
struct Part {
    link: Link,
    what: What,
}

enum What {
    /// A service with a store, a publisher and consumers.
    Service(Health),
    /// The gateway has none of these.
    Gateway(Readiness),
}

impl Part {
    /// Whether it is ready, its name, and its report.
    async fn report(&self) -> (bool, String, Value) {
        let faults = match &self.what {
            What::Service(health) => health.faults(),
            What::Gateway(readiness) => readiness.own().await,
        };
        let is_connected = self.link.is_whole();
        let is_ready = is_connected && faults.is_empty();
        let mut report = json!({ "ready": is_ready, "connected": is_connected, "ails": faults });
        if let What::Service(health) = &self.what {
            let counts = health.counts();
            report["handled"] = counts.handled.into();
            report["messages"] = counts.messages.into();
            report["repeats"] = counts.repeats.into();
            report["parked"] = counts.parked.into();
            report["dead"] = counts.dead.into();
            report["published"] = counts.published.into();
            report["unanswered"] = counts.unanswered.into();
            report["missed"] = counts.missed.into();
        }
        (is_ready, self.link.service().to_owned(), report)
    }
}

/// What is served, once the services run.
struct Served {
    parts: Vec<Part>,
    metrics: Metrics,
}

type LaterServed = Arc<OnceLock<Served>>;

/// Answers `/healthz`, `/readyz` and `/metrics` until dropped.
pub struct Listener {
    addr: SocketAddr,
    served: LaterServed,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// Starts to listen: the process is alive from now on, and ready only after
    /// [`Listener::watch`].
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn open(addr: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(addr).await;
        let listener = listener.with_context(|| {
            format!("cannot listen on {addr}; set ONSALE_HEALTH_ADDR to another address")
        })?;
        let addr = listener.local_addr()?;
        let served = LaterServed::default();
        let routes = Router::new()
            .route("/healthz", get(async || Json(json!({ "status": "alive" }))))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(served.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "health is no longer served");
            }
        });
        Ok(Self { addr, served, task })
    }

    /// The same for `dev` and `demo`, which listen in any case: where the environment says, or on
    /// [`DEVELOPMENT_ADDR`], or on a free port when that is taken.
    ///
    /// # Errors
    /// When the address of the environment is taken, or no port is free.
    pub async fn open_for_development() -> Result<Self> {
        if let Some(addr) = config::health_addr()? {
            return Self::open(addr).await;
        }
        match Self::open(DEVELOPMENT_ADDR).await {
            Ok(listener) => Ok(listener),
            Err(_) => Self::open(([127, 0, 0, 1], 0).into()).await,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on these services, which have been started, decide whether the process is ready.
    pub fn watch(&self, fleet: &Fleet) {
        let running = fleet.running().iter().map(|running| Part {
            link: running.link().clone(),
            what: What::Service(running.health().clone()),
        });
        let gateway = fleet.gateway().map(|(link, readiness)| Part {
            link: link.clone(),
            what: What::Gateway(readiness.clone()),
        });
        let (parts, metrics) = (running.chain(gateway).collect(), fleet.metrics().clone());
        let _ = self.served.set(Served { parts, metrics });
    }
}

/// What the services measure, in the format that the scraper accepts.
async fn metrics(State(served): State<LaterServed>, headers: HeaderMap) -> Response {
    let Some(Served { metrics, .. }) = served.get() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept.unwrap_or_default());
    ([(header::CONTENT_TYPE, format.content_type())], metrics.text(format)).into_response()
}

async fn ready(State(served): State<LaterServed>) -> (StatusCode, Json<Value>) {
    let Some(Served { parts, .. }) = served.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "starting" })));
    };
    let reports = futures::future::join_all(parts.iter().map(Part::report)).await;
    let is_ready = reports.iter().all(|(is_ready, ..)| *is_ready);
    let mut services = serde_json::Map::new();
    for (_, name, report) in reports {
        // A service may have two halves, each on a store of its own.
        let name = if services.contains_key(&name) { format!("{name}-2") } else { name };
        services.insert(name, report);
    }
    let (status, word) = match is_ready {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    };
    (status, Json(json!({ "status": word, "services": services })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Http;

    #[tokio::test]
    async fn a_process_that_still_starts_is_alive_but_not_ready() {
        let listener = Listener::open(([127, 0, 0, 1], 0).into()).await.unwrap();
        let http = Http::new(format!("http://{}", listener.addr()));
        assert_eq!(http.get("/healthz").send().await.unwrap().status, 200);
        assert_eq!(http.get("/readyz").send().await.unwrap().status, 503);
    }
}
