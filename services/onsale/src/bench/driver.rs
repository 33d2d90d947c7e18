//! The driver: connections of its own, each paying one hold after the other.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use events::{
    ReservationId,
    payment::{Payment, PaymentState},
};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use uuid::Uuid;

use super::{Line, stand::Hall};

/// A payment that takes longer than this is an error.
const PAYMENT_WITHIN: Duration = Duration::from_secs(30);

/// A hold to be paid.
pub(super) struct Hold {
    pub(super) reservation_id: ReservationId,
    pub(super) token: Arc<str>,
    /// Whether the hold is given up while its payment runs.
    pub(super) is_lost: bool,
}

/// How one payment ended.
enum End {
    Completed,
    Compensated,
    Refused,
}

/// What one connection has seen.
struct Seen {
    micros: Histogram<u64>,
    completed: usize,
    compensated: usize,
    refused: usize,
}

/// Pays every hold of the hall, `concurrency` at once.
pub(super) async fn pay_all(addr: SocketAddr, hall: &Hall, concurrency: usize) -> Result<Line> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = Vec::with_capacity(concurrency);
    for _ in 0..concurrency {
        connections.push((connect(addr).await?, connect(addr).await?));
    }
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for (paying, losing) in connections {
        workers.spawn(work(paying, losing, hall.holds.clone(), next.clone()));
    }
    let mut all = Seen::new()?;
    while let Some(seen) = workers.join_next().await {
        let seen = seen.context("a worker panicked")??;
        all.micros.add(&seen.micros)?;
        all.completed += seen.completed;
        all.compensated += seen.compensated;
        all.refused += seen.refused;
    }
    let elapsed = began.elapsed().as_secs_f64();
    Ok(Line {
        concurrency,
        requests: hall.holds.len(),
        payments_per_s: (all.completed + all.compensated) as f64 / elapsed,
        p50_ms: all.micros.value_at_quantile(0.5) as f64 / 1_000.0,
        p99_ms: all.micros.value_at_quantile(0.99) as f64 / 1_000.0,
        completed: all.completed,
        compensated: all.compensated,
        refused: all.refused,
        ..Line::default()
    })
}

impl Seen {
    fn new() -> Result<Self> {
        Ok(Self { micros: Histogram::new(3)?, completed: 0, compensated: 0, refused: 0 })
    }
}

async fn work(
    mut paying: SendRequest<Full<Bytes>>,
    mut losing: SendRequest<Full<Bytes>>,
    holds: Arc<Vec<Hold>>,
    next: Arc<AtomicUsize>,
) -> Result<Seen> {
    let mut seen = Seen::new()?;
    while let Some(hold) = holds.get(next.fetch_add(1, Ordering::Relaxed)) {
        let began = Instant::now();
        let end = if hold.is_lost {
            // Both at once: the cancellation reaches reservation before the debit does.
            let (paid, _) = tokio::try_join!(pay(&mut paying, hold), lose(&mut losing, hold))?;
            paid
        } else {
            pay(&mut paying, hold).await?
        };
        seen.micros.record(began.elapsed().as_micros() as u64)?;
        match end {
            End::Completed => seen.completed += 1,
            End::Compensated => seen.compensated += 1,
            End::Refused => seen.refused += 1,
        }
    }
    Ok(seen)
}

/// Opens one kept connection.
pub(super) async fn connect(addr: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One request on a kept connection; returns its status and body.
pub(super) async fn send(
    connection: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    token: &str,
    headers: &[(&'static str, &str)],
    body: Bytes,
) -> Result<(u16, Bytes)> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body))?;
    connection.ready().await?;
    let response = tokio::time::timeout(PAYMENT_WITHIN, connection.send_request(request))
        .await
        .context("no answer in time")??;
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

async fn pay(connection: &mut SendRequest<Full<Bytes>>, hold: &Hold) -> Result<End> {
    let body = format!(r#"{{"reservation_id":"{}"}}"#, hold.reservation_id);
    let key = Uuid::now_v7().to_string();
    let headers = [("prefer", "wait=20"), ("idempotency-key", key.as_str())];
    let (status, body) =
        send(connection, Method::POST, "/v1/payments", &hold.token, &headers, body.into()).await?;
    if status == 409 && hold.is_lost {
        return Ok(End::Refused);
    }
    let text = || String::from_utf8_lossy(&body).into_owned();
    let payment: Payment =
        serde_json::from_slice(&body).with_context(|| format!("{status}: {}", text()))?;
    match payment.state {
        PaymentState::Completed | PaymentState::Refunded => Ok(End::Completed),
        PaymentState::Failed if hold.is_lost => Ok(End::Compensated),
        PaymentState::Failed => bail!("a payment failed that should not: {}", text()),
        PaymentState::Requested => bail!("a payment did not end in time: {}", text()),
    }
}

async fn lose(connection: &mut SendRequest<Full<Bytes>>, hold: &Hold) -> Result<()> {
    let path = format!("/v1/reservations/{}", hold.reservation_id);
    let (status, body) =
        send(connection, Method::DELETE, &path, &hold.token, &[], Bytes::new()).await?;
    if status >= 300 {
        bail!("giving a hold up was answered {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}
