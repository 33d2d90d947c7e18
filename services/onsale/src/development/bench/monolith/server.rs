//! The monolith itself: two requests over HTTP, one transaction each.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{delete, post},
    serve::ListenerExt,
};
use clap::Args;
use events::{
    PaymentId, Problem, ReservationId, ScheduleId, UserId, codes,
    payment::{Pay, Payment, PaymentFailure, PaymentState},
};
use futures::FutureExt;
use mesh::auth::Verifier;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::{
    app::{App, Refused, answer, failed},
    cancel::cancel,
};
use crate::{development::environment::write_secret, stop};

const PAY: &str = include_str!("pay.sql");
/// The variable that names it to the child.
pub(super) const DATABASE_VARIABLE: &str = "ONSALE_MONOLITH_DATABASE_URL";
/// The constraint that keeps a wallet from falling below zero.
const ENOUGH: &str = "wallets_enough";
/// PostgreSQL's error code for a required value that is missing.
const NOT_NULL: &str = "23502";

/// Options of the hidden `onsale bench monolith`.
#[derive(Debug, Clone, Args)]
pub struct Monolith {
    /// Its database
    #[arg(long, env = DATABASE_VARIABLE, hide_env_values = true)]
    pub database_url: String,
    /// The keys that verify access tokens: a JSON Web Key Set
    #[arg(long)]
    pub keys: PathBuf,
    /// Connections to the database
    #[arg(long)]
    pub connections: u32,
    /// The file that it writes once it is ready
    #[arg(long)]
    pub ready_file: PathBuf,
}

/// The content of that file.
#[derive(Serialize, Deserialize)]
pub(super) struct Ready {
    pub(super) addr: SocketAddr,
}

/// Runs the hidden `onsale bench monolith`.
///
/// # Errors
/// When it has no database, no keys, or no port.
pub async fn serve(options: Monolith) -> Result<()> {
    let pool = PgPoolOptions::new()
        // All of them from the beginning, and for good; testing each before use would cost
        // every request another round trip.
        .max_connections(options.connections)
        .min_connections(options.connections)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect(&options.database_url)
        .await
        .context("the monolith's database")?;
    let keys: serde_json::Value = serde_json::from_slice(&std::fs::read(&options.keys)?)?;
    let fetch = Arc::new(move |_| {
        let keys = keys.clone();
        async move { Ok(keys) }.boxed()
    });
    let app = Arc::new(App { pool, verifier: Verifier::new(fetch) });
    let router = Router::new()
        .route("/v1/payments", post(pay))
        .route("/v1/reservations/{id}", delete(cancel))
        .with_state(app);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let ready = serde_json::to_vec(&Ready { addr: listener.local_addr()? })?;
    let listener = listener.tap_io(|stream| {
        // If this fails, an answer is only late.
        let _ = stream.set_nodelay(true);
    });
    let serving = tokio::spawn(axum::serve(listener, router).into_future());
    write_secret(&options.ready_file, &ready)?;
    stop::wait(true).await;
    serving.abort();
    Ok(())
}

/// One request to pay.
pub(super) struct PayRequest<'a> {
    pub(super) reservation: ReservationId,
    pub(super) fan: UserId,
    pub(super) key: Option<&'a str>,
}

async fn pay(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let fan = app.caller(&headers).await?;
    let command: Pay = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(codes::INVALID, error.to_string()))?;
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
    let request = PayRequest { reservation: command.reservation_id, fan, key };
    let payment = pay_now(&app.pool, &request).await?;
    // It has ended, so there is nothing to wait for; without `Prefer: wait` the answer is where
    // the outcome is.
    let waits = headers.get("prefer").is_some_and(|value| value.as_bytes().starts_with(b"wait="));
    if waits {
        return Ok(answer(StatusCode::OK, &payment));
    }
    let place = [(header::LOCATION, format!("/v1/payments/{}", payment.payment_id))];
    Ok((place, answer(StatusCode::ACCEPTED, &payment)).into_response())
}

/// Pays at once, or not at all.
pub(super) async fn pay_now(pool: &PgPool, request: &PayRequest<'_>) -> Result<Payment, Refused> {
    let (id, now) = (PaymentId(Uuid::now_v7()), mesh::clock::now());
    let paid: sqlx::Result<Option<(Uuid, i64)>> = sqlx::query_as(PAY)
        .bind(request.reservation.0)
        .bind(request.fan.0)
        .bind(id.0)
        .bind(Uuid::now_v7())
        .bind(request.key)
        .bind(now.0)
        .fetch_optional(pool)
        .await;
    let reason = match paid {
        Ok(Some((schedule, amount))) => {
            return Ok(Payment {
                payment_id: id,
                reservation_id: request.reservation,
                schedule_id: ScheduleId(schedule),
                user_id: request.fan,
                amount,
                state: PaymentState::Completed,
                reason: None,
                requested_at: now,
                ended_at: Some(now),
            });
        }
        Ok(None) => return instead(pool, request).await,
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            return instead(pool, request).await;
        }
        Err(sqlx::Error::Database(error)) if error.constraint() == Some(ENOUGH) => {
            PaymentFailure::InsufficientBalance
        }
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(NOT_NULL) => {
            PaymentFailure::NoWallet
        }
        Err(error) => return Err(failed(error)),
    };
    fail(pool, request, id, reason).await
}

/// A payment that took nothing; the hold lives on.
async fn fail(
    pool: &PgPool,
    request: &PayRequest<'_>,
    id: PaymentId,
    reason: PaymentFailure,
) -> Result<Payment, Refused> {
    let name = match reason {
        PaymentFailure::InsufficientBalance => "insufficient_balance",
        PaymentFailure::NoWallet => "no_wallet",
        PaymentFailure::HoldGone => "hold_gone",
        PaymentFailure::ShowCancelled => "show_cancelled",
    };
    let now = mesh::clock::now();
    let (schedule, amount): (Uuid, i64) = sqlx::query_as(
        "with emitted as (
             insert into outbox (kind, payload, at)
             values ('payment.failed', jsonb_build_object('payment_id', $3::uuid,
                 'reservation_id', $1::uuid, 'user_id', $2::uuid, 'reason', $4::text), $5)
         )
         insert into payments (id, reservation_id, schedule_id, user_id, amount, hold_version,
             requested_at, ended_at, state, reason, idempotency_key)
         select $3, id, schedule_id, user_id, amount, hold_version, $5, $5, 'FAILED', $4, $6
         from reservations where id = $1 and user_id = $2
         returning schedule_id, amount",
    )
    .bind(request.reservation.0)
    .bind(request.fan.0)
    .bind(id.0)
    .bind(name)
    .bind(now.0)
    .bind(request.key)
    .fetch_one(pool)
    .await
    .map_err(failed)?;
    Ok(Payment {
        payment_id: id,
        reservation_id: request.reservation,
        schedule_id: ScheduleId(schedule),
        user_id: request.fan,
        amount,
        state: PaymentState::Failed,
        reason: Some(reason),
        requested_at: now,
        ended_at: Some(now),
    })
}

/// The answer when nothing could be paid: the one that was given before, or why there is none.
async fn instead(pool: &PgPool, request: &PayRequest<'_>) -> Result<Payment, Refused> {
    if let Some(before) = answered_before(pool, request).await? {
        let is_same = before.reservation_id == request.reservation;
        return if is_same { Ok(before) } else { Err(codes::IDEMPOTENCY_KEY_REUSED.into()) };
    }
    let read = "select state from reservations where id = $1 and user_id = $2";
    let state: Option<String> = sqlx::query_scalar(read)
        .bind(request.reservation.0)
        .bind(request.fan.0)
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    Err(match state.as_deref() {
        None => codes::NOT_FOUND.into(),
        Some("CONFIRMED") => codes::ALREADY_PAID.into(),
        Some(_) => codes::HOLD_GONE.into(),
    })
}

async fn answered_before(
    pool: &PgPool,
    request: &PayRequest<'_>,
) -> Result<Option<Payment>, Refused> {
    let Some(key) = request.key else { return Ok(None) };
    let stored: Option<(sqlx::types::Json<Payment>,)> = sqlx::query_as(
        "select jsonb_strip_nulls(jsonb_build_object('payment_id', id,
             'reservation_id', reservation_id, 'schedule_id', schedule_id, 'user_id', user_id,
             'amount', amount, 'state', state, 'reason', reason,
             'requested_at', requested_at, 'ended_at', ended_at))
         from payments where user_id = $1 and idempotency_key = $2",
    )
    .bind(request.fan.0)
    .bind(key)
    .fetch_optional(pool)
    .await
    .map_err(failed)?;
    Ok(stored.map(|(payment,)| payment.0))
}
