//! The driver: connections of its own, each paying one hold after the other.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use events::payment::{Payment, PaymentState};
use hdrhistogram::Histogram;
use hyper::Method;
use uuid::Uuid;

use super::{
    hall::{Hall, Hold},
    line::Line,
    wire::{Wire, connect, send},
};

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

/// Pays every hold of the hall, `concurrency` at once. One payment of `traced_every` asks to be
/// recorded as a trace.
pub(super) async fn pay_all(
    addr: SocketAddr,
    hall: &Hall,
    concurrency: usize,
    traced_every: Option<usize>,
) -> Result<Line> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = Vec::with_capacity(concurrency);
    for _ in 0..concurrency {
        connections.push((connect(addr).await?, connect(addr).await?));
    }
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for (paying, losing) in connections {
        workers.spawn(work(paying, losing, hall.holds.clone(), next.clone(), traced_every));
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
    mut paying: Wire,
    mut losing: Wire,
    holds: Arc<Vec<Hold>>,
    next: Arc<AtomicUsize>,
    traced_every: Option<usize>,
) -> Result<Seen> {
    let mut seen = Seen::new()?;
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(hold) = holds.get(index) else { return Ok(seen) };
        let is_traced = traced_every.is_some_and(|every| index.is_multiple_of(every));
        let began = Instant::now();
        let end = if hold.is_lost {
            // Both at once: the cancellation reaches reservation before the debit does.
            let (paid, _) =
                tokio::try_join!(pay(&mut paying, hold, is_traced), lose(&mut losing, hold))?;
            paid
        } else {
            pay(&mut paying, hold, is_traced).await?
        };
        seen.micros.record(began.elapsed().as_micros() as u64)?;
        match end {
            End::Completed => seen.completed += 1,
            End::Compensated => seen.compensated += 1,
            End::Refused => seen.refused += 1,
        }
    }
}

async fn pay(connection: &mut Wire, hold: &Hold, is_traced: bool) -> Result<End> {
    let body = format!(r#"{{"reservation_id":"{}"}}"#, hold.reservation_id);
    let key = Uuid::now_v7().to_string();
    let traceparent = is_traced.then(traceparent);
    let mut headers = vec![("prefer", "wait=20"), ("idempotency-key", key.as_str())];
    headers.extend(traceparent.as_deref().map(|traceparent| ("traceparent", traceparent)));
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

/// A new context that is recorded.
fn traceparent() -> String {
    let (trace, span) = (Uuid::new_v4().simple(), Uuid::new_v4().as_u64_pair().0 | 1);
    format!("00-{trace}-{span:016x}-01")
}

async fn lose(connection: &mut Wire, hold: &Hold) -> Result<()> {
    let path = format!("/v1/reservations/{}", hold.reservation_id);
    let (status, body) =
        send(connection, Method::DELETE, &path, &hold.token, &[], Bytes::new()).await?;
    if status >= 300 {
        bail!("giving a hold up was answered {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}
