//! Giving a reservation up, before or after it was paid.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use events::{
    PaymentId, ReservationId, ScheduleId, Timestamp, UserId, codes,
    reservation::{PricedSeat, Reservation, ReservationState},
};
use sqlx::{
    PgPool,
    types::{Json, time::OffsetDateTime},
};
use uuid::Uuid;

use super::app::{App, Refused, answer, failed};

const CANCEL: &str = include_str!("cancel.sql");

mesh::row! {
    /// A reservation as it is stored.
    struct Row {
        schedule_id: Uuid,
        state: String,
        seats: Json<Vec<PricedSeat>>,
        amount: i64,
        created_at: OffsetDateTime,
        expires_at: OffsetDateTime,
        payment_id: Option<Uuid>,
    }
}

pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let fan = app.caller(&headers).await?;
    let reservation = cancel_now(&app.pool, ReservationId(id), fan).await?;
    Ok(answer(StatusCode::ACCEPTED, &reservation))
}

/// Frees the seats, and gives back what was paid.
pub(super) async fn cancel_now(
    pool: &PgPool,
    reservation_id: ReservationId,
    fan: UserId,
) -> Result<Reservation, Refused> {
    let mut transaction = pool.begin().await.map_err(failed)?;
    let row: Option<Row> = sqlx::query_as(
        "select schedule_id, state, seats, amount, created_at, expires_at, payment_id
         from reservations where id = $1 and user_id = $2 for update",
    )
    .bind(reservation_id.0)
    .bind(fan.0)
    .fetch_optional(&mut *transaction)
    .await
    .map_err(failed)?;
    let row = row.ok_or(codes::NOT_FOUND)?;
    if !matches!(row.state.as_str(), "PENDING" | "CONFIRMED") {
        return Err(codes::HOLD_GONE.into());
    }
    let seats: Vec<String> = row.seats.iter().map(|seat| seat.seat.to_string()).collect();
    sqlx::query(CANCEL)
        .bind(reservation_id.0)
        .bind(fan.0)
        .bind(row.schedule_id)
        .bind(seats)
        .bind(row.payment_id)
        .bind(row.payment_id.map_or(0, |_| row.amount))
        .bind(Uuid::now_v7())
        .bind(mesh::clock::now().0)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(Reservation {
        reservation_id,
        schedule_id: ScheduleId(row.schedule_id),
        user_id: fan,
        state: ReservationState::Cancelled,
        seats: row.seats.0,
        amount: row.amount,
        created_at: Timestamp(row.created_at),
        expires_at: Timestamp(row.expires_at),
        payment_id: row.payment_id.map(PaymentId),
        reason: Some(events::reservation::CancelReason::ByFan),
    })
}
