//! Saves the unit of work: rows that are new or changed, in the order of the keys.

use mesh::postgres::column;
use sqlx::{PgConnection, types::Json};

use super::{
    names::{cancel_reason_name, refund_name, schedule_state, state_name},
    rows::UnitOfWork,
};
use crate::domain::Schedule;

/// A plain insert. When two batches open the same schedule at once, the second one fails; its
/// retry finds the schedule of the first.
pub(super) async fn insert_schedules(unit: &UnitOfWork, tx: &mut PgConnection) -> sqlx::Result<()> {
    let new = unit.schedules.added();
    if new.is_empty() {
        return Ok(());
    }
    let terms = |schedule: &Schedule| match schedule {
        Schedule::Open(terms) => Some(*terms),
        Schedule::Cancelling | Schedule::Cancelled => None,
    };
    sqlx::query(
        "insert into schedules (id, state, opens_at, starts_at, hold_secs, seats_per_fan_max,
             refund_until)
         select * from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[],
             $5::integer[], $6::integer[], $7::timestamptz[])",
    )
    .bind(column(&new, |(id, _)| id.0))
    .bind(column(&new, |(_, schedule)| schedule_state(schedule)))
    .bind(column(&new, |(_, schedule)| terms(schedule).map(|terms| terms.opens_at.0)))
    .bind(column(&new, |(_, schedule)| terms(schedule).map(|terms| terms.starts_at.0)))
    .bind(column(&new, |(_, schedule)| terms(schedule).map(|terms| terms.hold_secs as i32)))
    .bind(column(&new, |(_, schedule)| terms(schedule).map(|terms| terms.seats_per_fan_max as i32)))
    .bind(column(&new, |(_, schedule)| terms(schedule).map(|terms| terms.refund_until.0)))
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn update_schedules(unit: &UnitOfWork, tx: &mut PgConnection) -> sqlx::Result<()> {
    let changed = unit.schedules.changed();
    if changed.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update schedules s set state = n.state
         from unnest($1::uuid[], $2::text[]) as n (id, state) where s.id = n.id",
    )
    .bind(column(&changed, |(id, _)| id.0))
    .bind(column(&changed, |(_, schedule)| schedule_state(schedule)))
    .execute(tx)
    .await?;
    Ok(())
}

/// Compares the versions once more, for places that had no row to lock.
pub(super) async fn places(unit: &UnitOfWork, tx: &mut PgConnection) -> sqlx::Result<()> {
    let dirty = unit.places.dirty();
    if dirty.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into places (schedule_id, user_id, ended_version)
         select * from unnest($1::uuid[], $2::uuid[], $3::bigint[]) order by 1, 2
         on conflict (schedule_id, user_id) do update set ended_version = excluded.ended_version
         where places.ended_version < excluded.ended_version",
    )
    .bind(column(&dirty, |(key, _)| key.0.0))
    .bind(column(&dirty, |(key, _)| key.1.0))
    .bind(column(&dirty, |(_, place)| place.ended_version as i64))
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn insert_reservations(
    unit: &UnitOfWork,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    let new = unit.reservations.added();
    if new.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into reservations (id, schedule_id, user_id, state, seats, amount,
             hold_version, created_at, expires_at, hard_cap_at, extended, payment_id, closing,
             refund, place_version, cancel_reason, traceparent)
         select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::jsonb[],
             $6::bigint[], $7::bigint[], $8::timestamptz[], $9::timestamptz[],
             $10::timestamptz[], $11::boolean[], $12::uuid[], $13::boolean[], $14::text[],
             $15::bigint[], $16::text[], $17::text[])",
    )
    .bind(column(&new, |(id, _)| id.0))
    .bind(column(&new, |(_, new)| new.schedule_id.0))
    .bind(column(&new, |(_, new)| new.user_id.0))
    .bind(column(&new, |(_, new)| state_name(new.state)))
    .bind(column(&new, |(_, new)| Json(&new.seats)))
    .bind(column(&new, |(_, new)| new.amount))
    .bind(column(&new, |(_, new)| new.hold_version))
    .bind(column(&new, |(_, new)| new.created_at.0))
    .bind(column(&new, |(_, new)| new.expires_at.0))
    .bind(column(&new, |(_, new)| new.hard_cap_at.0))
    .bind(column(&new, |(_, new)| new.extended))
    .bind(column(&new, |(_, new)| new.payment_id.map(|id| id.0)))
    .bind(column(&new, |(_, new)| new.closing))
    .bind(column(&new, |(_, new)| new.refund.map(refund_name)))
    .bind(column(&new, |(_, new)| new.place_version as i64))
    .bind(column(&new, |(_, new)| new.cancel_reason.map(cancel_reason_name)))
    .bind(column(&new, |(_, new)| new.traceparent.as_deref()))
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes the columns that may change: the state, the end (once), the payment, the refund, and
/// what a withdrawal sets.
pub(super) async fn update_reservations(
    unit: &UnitOfWork,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    let changed = unit.reservations.changed();
    if changed.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update reservations r set state = n.state, expires_at = n.expires_at,
             extended = n.extended, payment_id = n.payment_id, closing = n.closing,
             refund = n.refund, cancel_reason = n.cancel_reason
         from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::boolean[], $5::uuid[],
             $6::boolean[], $7::text[], $8::text[])
             as n (id, state, expires_at, extended, payment_id, closing, refund, cancel_reason)
         where r.id = n.id",
    )
    .bind(column(&changed, |(id, _)| id.0))
    .bind(column(&changed, |(_, new)| state_name(new.state)))
    .bind(column(&changed, |(_, new)| new.expires_at.0))
    .bind(column(&changed, |(_, new)| new.extended))
    .bind(column(&changed, |(_, new)| new.payment_id.map(|id| id.0)))
    .bind(column(&changed, |(_, new)| new.closing))
    .bind(column(&changed, |(_, new)| new.refund.map(refund_name)))
    .bind(column(&changed, |(_, new)| new.cancel_reason.map(cancel_reason_name)))
    .execute(tx)
    .await?;
    Ok(())
}

/// Inserts the seats of the schedules opened in this batch.
pub(super) async fn insert_seats(unit: &UnitOfWork, tx: &mut PgConnection) -> sqlx::Result<()> {
    for (schedule_id, seats) in &unit.seats {
        let new = seats.added();
        if new.is_empty() {
            continue;
        }
        sqlx::query(
            "insert into seats (schedule_id, seat, price, reservation_id, hold_version)
             select $1, * from unnest($2::text[], $3::bigint[], $4::uuid[], $5::bigint[])",
        )
        .bind(schedule_id.0)
        .bind(column(&new, |(id, _)| id.0.as_str()))
        .bind(column(&new, |(_, seat)| seat.price))
        .bind(column(&new, |(_, seat)| seat.owner.map(|id| id.0)))
        .bind(column(&new, |(_, seat)| seat.hold_version))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Writes new owners and freed seats. A row that has changed since it was read has another
/// owner, who must not be overwritten: then the whole batch fails.
pub(super) async fn update_seats(unit: &UnitOfWork, tx: &mut PgConnection) -> sqlx::Result<()> {
    let mut changed = Vec::new();
    for (schedule_id, seats) in &unit.seats {
        let of_schedule = seats.changed();
        changed.extend(of_schedule.into_iter().filter_map(|(id, new)| {
            let read = seats.stored(id)?;
            Some((schedule_id, id, new, read))
        }));
    }
    if changed.is_empty() {
        return Ok(());
    }
    let written = sqlx::query(
        "update seats s set reservation_id = n.owner, hold_version = n.version
         from unnest($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::uuid[], $6::bigint[])
             as n (schedule_id, seat, owner, version, read_owner, read_version)
         where s.schedule_id = n.schedule_id and s.seat = n.seat
             and s.hold_version = n.read_version
             and s.reservation_id is not distinct from n.read_owner",
    )
    .bind(column(&changed, |(schedule_id, ..)| schedule_id.0))
    .bind(column(&changed, |(_, seat, ..)| seat.0.as_str()))
    .bind(column(&changed, |(_, _, new, _)| new.owner.map(|id| id.0)))
    .bind(column(&changed, |(_, _, new, _)| new.hold_version))
    .bind(column(&changed, |(.., read)| read.owner.map(|id| id.0)))
    .bind(column(&changed, |(.., read)| read.hold_version))
    .execute(tx)
    .await?;
    if written.rows_affected() == changed.len() as u64 {
        Ok(())
    } else {
        Err(sqlx::Error::RowNotFound)
    }
}
