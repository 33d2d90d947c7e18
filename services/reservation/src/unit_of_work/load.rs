//! Loads the unit of work: one statement per table, rows locked in the order of the keys.

use std::collections::{BTreeSet, HashMap};

use events::{
    AttemptId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId,
    reservation::PricedSeat,
};
use mesh::postgres::{GATES, Rows, column, gates, unknown};
use sqlx::{PgConnection, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    keys::Keys,
    names::{cancel_reason_of, refund_of, state_of},
    rows::UnitOfWork,
};
use crate::domain::{Bought, Place, Reservation, Schedule, Seat, Terms};

/// Sales take the lock of their schedule shared, a cancellation takes it exclusively. Once the
/// cancellation is stored, no new hold can be granted, so the sweep of its reservations ends.
pub(super) async fn schedules(
    keys: &Keys,
    tx: &mut PgConnection,
) -> sqlx::Result<Rows<ScheduleId, Schedule>> {
    let ids: Vec<Uuid> = keys.selling.union(&keys.changing).map(|id| id.0).collect();
    if ids.is_empty() {
        return Ok(Rows::default());
    }
    let statement = if keys.changing.is_empty() {
        "select id, state, opens_at, starts_at, refund_until, hold_secs, seats_per_fan_max
         from schedules where id = any($1) order by id for share"
    } else {
        "select id, state, opens_at, starts_at, refund_until, hold_secs, seats_per_fan_max
         from schedules where id = any($1) order by id for update"
    };
    let rows: Vec<ScheduleRow> = sqlx::query_as(statement).bind(ids).fetch_all(tx).await?;
    rows.into_iter().map(|row| Ok((ScheduleId(row.id), row.schedule()?))).collect()
}

mesh::row! {
    struct ScheduleRow {
        id: Uuid,
        state: String,
        opens_at: Option<OffsetDateTime>,
        starts_at: Option<OffsetDateTime>,
        refund_until: Option<OffsetDateTime>,
        hold_secs: Option<i32>,
        seats_per_fan_max: Option<i32>,
    }
}

impl ScheduleRow {
    fn schedule(self) -> sqlx::Result<Schedule> {
        match (self.state.as_str(), self.opens_at, self.starts_at) {
            ("open", Some(opens_at), Some(starts_at)) => Ok(Schedule::Open(Terms {
                opens_at: Timestamp(opens_at),
                starts_at: Timestamp(starts_at),
                refund_until: Timestamp(self.refund_until.unwrap_or(starts_at)),
                hold_secs: self.hold_secs.unwrap_or_default().unsigned_abs(),
                seats_per_fan_max: self.seats_per_fan_max.unwrap_or_default().unsigned_abs(),
            })),
            ("cancelling", ..) => Ok(Schedule::Cancelling),
            ("cancelled", ..) => Ok(Schedule::Cancelled),
            (other, ..) => Err(unknown("state", other)),
        }
    }
}

/// A buyer's place is locked even when no event of it has arrived, since the pass may be
/// faster: a missing row is inserted. The same statement takes the gates of the buyers. When a
/// fan makes two first holds at once, the second one waits for the row of the first, and counts
/// its seats afterwards.
pub(super) async fn places(
    keys: &Keys,
    tx: &mut PgConnection,
) -> sqlx::Result<Rows<(ScheduleId, UserId), Place>> {
    let wanted: Vec<_> = keys.places.union(&keys.buyers).collect();
    if wanted.is_empty() {
        return Ok(Rows::default());
    }
    let found: Vec<(Uuid, Uuid, i64)> = sqlx::query_as(
        "select p.schedule_id, p.user_id, p.ended_version
         from places p join unnest($1::uuid[], $2::uuid[]) as k (schedule_id, user_id)
             on p.schedule_id = k.schedule_id and p.user_id = k.user_id
         where (select count(pg_advisory_xact_lock_shared($3, gate))
                from unnest($4::int4[]) as gate) >= 0
         order by p.schedule_id, p.user_id for update of p",
    )
    .bind(column(&wanted, |key| key.0.0))
    .bind(column(&wanted, |key| key.1.0))
    .bind(GATES)
    .bind(gates(keys.buyers.iter().map(|key| key.1)))
    .fetch_all(&mut *tx)
    .await?;
    let mut places = Rows::default();
    for (schedule_id, user_id, version) in found {
        let place = Place { ended_version: version.unsigned_abs() };
        places.load((ScheduleId(schedule_id), UserId(user_id)), place);
    }
    let missing: Vec<_> = keys.buyers.iter().filter(|key| !places.contains(key)).collect();
    if !missing.is_empty() {
        sqlx::query(
            "insert into places (schedule_id, user_id, ended_version)
             select k.*, 0 from unnest($1::uuid[], $2::uuid[]) as k order by 1, 2
             on conflict do nothing",
        )
        .bind(column(&missing, |key| key.0.0))
        .bind(column(&missing, |key| key.1.0))
        .execute(tx)
        .await?;
    }
    Ok(places)
}

mesh::row! {
    pub(crate) struct ReservationRow {
        id: Uuid,
        schedule_id: Uuid,
        user_id: Uuid,
        state: String,
        seats: Json<Vec<PricedSeat>>,
        amount: i64,
        hold_version: i64,
        created_at: OffsetDateTime,
        expires_at: OffsetDateTime,
        hard_cap_at: OffsetDateTime,
        extended: bool,
        payment_id: Option<Uuid>,
        closing: bool,
        refund: Option<String>,
        place_version: i64,
        cancel_reason: Option<String>,
        traceparent: Option<String>,
    }
}

impl ReservationRow {
    pub(crate) fn reservation(self) -> sqlx::Result<Reservation> {
        Ok(Reservation {
            id: ReservationId(self.id),
            schedule_id: ScheduleId(self.schedule_id),
            user_id: UserId(self.user_id),
            state: state_of(&self.state)?,
            seats: self.seats.0,
            amount: self.amount,
            hold_version: self.hold_version,
            created_at: Timestamp(self.created_at),
            expires_at: Timestamp(self.expires_at),
            hard_cap_at: Timestamp(self.hard_cap_at),
            extended: self.extended,
            payment_id: self.payment_id.map(PaymentId),
            closing: self.closing,
            refund: self.refund.as_deref().map(refund_of).transpose()?,
            place_version: self.place_version.unsigned_abs(),
            cancel_reason: self.cancel_reason.as_deref().map(cancel_reason_of).transpose()?,
            traceparent: self.traceparent,
        })
    }
}

pub(super) async fn reservations(
    keys: &Keys,
    tx: &mut PgConnection,
) -> sqlx::Result<Rows<ReservationId, Reservation>> {
    let ids: Vec<Uuid> = keys.reservations.union(&keys.ending).map(|id| id.0).collect();
    let leaving: Vec<Uuid> = keys.leaving.iter().map(|id| id.0).collect();
    let rows: Vec<ReservationRow> = match (ids.is_empty(), leaving.is_empty()) {
        (true, true) => return Ok(Rows::default()),
        // This is nearly always the case, so it has its own statement and its own plan.
        (false, true) => {
            sqlx::query_as("select * from reservations where id = any($1) order by id for update")
                .bind(ids)
                .fetch_all(tx)
                .await?
        }
        (_, false) => {
            sqlx::query_as(
                "select * from reservations
                 where id = any($1::uuid[] || array(
                     select id from reservations where user_id = any($2)
                     and (state in ('PENDING', 'CONFIRMED') or refund = 'due')))
                 order by id for update",
            )
            .bind(ids)
            .bind(leaving)
            .fetch_all(tx)
            .await?
        }
    };
    rows.into_iter().map(|row| Ok((ReservationId(row.id), row.reservation()?))).collect()
}

/// What buyers hold and have bought. No other batch can add to it meanwhile, because that takes
/// the lock of the buyer's place; a hold that ends meanwhile may still be counted. The same
/// statement loads the buyers whose accounts are being closed: there are hardly any.
pub(super) async fn held(
    unit: &mut UnitOfWork,
    keys: &Keys,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    if keys.buyers.is_empty() {
        return Ok(());
    }
    let buyers: Vec<_> = keys.buyers.iter().collect();
    let rows: Vec<HeldRow> = sqlx::query_as(
        "select r.schedule_id, r.user_id, r.id,
             case when r.state in ('PENDING', 'CONFIRMED')
                 then jsonb_array_length(r.seats) else 0 end as seats,
             case r.state when 'PENDING' then r.expires_at end as holds_until,
             r.place_version, r.payment_id is not null as is_paid
         from reservations r join unnest($1::uuid[], $2::uuid[]) as k (schedule_id, user_id)
             on r.user_id = k.user_id and r.schedule_id = k.schedule_id
         where r.state in ('PENDING', 'CONFIRMED') or r.payment_id is not null
         union all
         select attempt, user_id, attempt, -1, null, 0, false from withdrawals
         where user_id = any($2) and standing in ('cleared', 'withdrawn')",
    )
    .bind(column(&buyers, |key| key.0.0))
    .bind(column(&buyers, |key| key.1.0))
    .fetch_all(tx)
    .await?;
    for row in rows {
        if row.seats < 0 {
            unit.note_closing(AttemptId(row.id), UserId(row.user_id));
            continue;
        }
        let buyer = (ScheduleId(row.schedule_id), UserId(row.user_id));
        let bought = Bought {
            seats: row.seats.unsigned_abs() as usize,
            holds_until: row.holds_until.map(Timestamp),
            place_version: row.place_version.unsigned_abs(),
            is_paid: row.is_paid,
        };
        unit.held.entry(buyer).or_default().insert(ReservationId(row.id), bought);
    }
    Ok(())
}

mesh::row! {
    struct HeldRow {
        schedule_id: Uuid,
        user_id: Uuid,
        id: Uuid,
        seats: i32,
        holds_until: Option<OffsetDateTime>,
        place_version: i64,
        is_paid: bool,
    }
}

pub(super) async fn seats(
    keys: &Keys,
    tx: &mut PgConnection,
) -> sqlx::Result<HashMap<ScheduleId, Rows<SeatId, Seat>>> {
    let mut seats: HashMap<ScheduleId, Rows<SeatId, Seat>> = HashMap::new();
    if keys.seats.is_empty() {
        return Ok(seats);
    }
    let wanted: Vec<_> = keys.seats.iter().collect();
    let rows: Vec<(Uuid, String, i64, Option<Uuid>, i64)> = sqlx::query_as(
        "select s.schedule_id, s.seat, s.price, s.reservation_id, s.hold_version
         from seats s join unnest($1::uuid[], $2::text[]) as k (schedule_id, seat)
             on s.schedule_id = k.schedule_id and s.seat = k.seat
         order by s.schedule_id, s.seat for update of s",
    )
    .bind(column(&wanted, |key| key.0.0))
    .bind(column(&wanted, |key| key.1.0.as_str()))
    .fetch_all(tx)
    .await?;
    for (schedule_id, name, price, owner, hold_version) in rows {
        let seat = Seat { price, owner: owner.map(ReservationId), hold_version };
        seats.entry(ScheduleId(schedule_id)).or_default().load(SeatId(name), seat);
    }
    Ok(seats)
}

/// Loads the schedules of reservations whose fans leave or give them back. These are not
/// locked: a show that is being called off right now is refunded in any case.
pub(super) async fn shows(
    unit: &mut UnitOfWork,
    keys: &Keys,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    let wanted = |row: &&Reservation| {
        keys.leaving.contains(&row.user_id) || keys.returning.contains(&row.id)
    };
    let of = unit.reservations.values().filter(wanted).map(|row| row.schedule_id);
    let shows: BTreeSet<_> = of.filter(|show| !unit.schedules.contains(show)).collect();
    if shows.is_empty() {
        return Ok(());
    }
    let rows: Vec<ScheduleRow> = sqlx::query_as(
        "select id, state, opens_at, starts_at, refund_until, hold_secs, seats_per_fan_max
         from schedules where id = any($1)",
    )
    .bind(shows.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    for row in rows {
        unit.schedules.load(ScheduleId(row.id), row.schedule()?);
    }
    Ok(())
}
