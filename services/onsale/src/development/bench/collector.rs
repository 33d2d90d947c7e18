//! A collector of spans that counts what it is sent and keeps nothing: what is measured is the
//! cost of recording and sending, not that of a store.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
    routing::post,
};
use tokio::{net::TcpListener, task::JoinHandle};

/// A server that speaks OTLP over HTTP. It stops when dropped.
pub(super) struct Collector {
    pub(super) addr: SocketAddr,
    received: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Collector {
    /// Listens on a free port of 127.0.0.1.
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a collector")?;
        let addr = listener.local_addr()?;
        let received = Arc::<AtomicU64>::default();
        let app = Router::new()
            .route("/v1/traces", post(take))
            .layer(DefaultBodyLimit::disable())
            .with_state(received.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the collector has ended");
            }
        });
        Ok(Self { addr, received, server })
    }

    /// Bytes of spans that have come so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Everything is taken: an answer without content is the one that says so.
async fn take(State(received): State<Arc<AtomicU64>>, body: Bytes) -> impl IntoResponse {
    received.fetch_add(body.len() as u64, Ordering::Relaxed);
    [(CONTENT_TYPE, "application/x-protobuf")]
}
