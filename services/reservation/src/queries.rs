//! Queries, and the one command whose pass is verified before a batch decides it.

use events::{
    Page, Problem, ReservationId, ScheduleId, SeatId, Timestamp, UserId, codes,
    queue::PassClaims,
    reservation::{FindReservations, GetReservation, Reservation as View, Reserve},
    state::{SeatOwner, SeatStated, StateSeats, Stated},
};
use mesh::{
    Meta, QueryContext,
    auth::TokenError,
    page::Cut,
    postgres::{Postgres, read_failed},
};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    domain::{Pass, normalized},
    handlers::Hold,
    unit_of_work::{ReservationRow, UnitOfWork},
};

/// The most due holds that one timer tick looks up.
pub(crate) const DUE_MAX: i64 = 2_000;
/// Reservations of one cancelled show that are cancelled in one batch.
pub(crate) const EMPTIED_MAX: i64 = 500;

type Context = QueryContext<Postgres<UnitOfWork>>;

/// Checks the signature of the pass, outside any transaction, and leaves the rest to a batch.
/// A request with an invalid pass goes there too: a repeat of a granted request gets the stored
/// answer, even when its pass has run out since.
pub(crate) async fn reserve(ctx: Context, command: Reserve, meta: Meta) -> Result<View, Problem> {
    let now = mesh::clock::now();
    let verified = ctx.link().verifier().verify::<PassClaims>(&command.pass, now).await;
    let is_late = matches!(verified, Err(TokenError::Expired));
    let pass = match verified {
        Ok(claims) => pass(claims),
        Err(TokenError::Forged | TokenError::Expired) => None,
        Err(error @ (TokenError::KeyUnknown | TokenError::Unavailable)) => return Err(error.into()),
    };
    let seats = command.seats.iter().map(normalized).collect();
    let hold = Hold { schedule_id: command.schedule_id, seats, pass, is_late };
    ctx.decide(hold, &meta).await
}

fn pass(claims: PassClaims) -> Option<Pass> {
    Some(Pass {
        user_id: claims.sub,
        schedule_id: claims.schedule,
        place_version: claims.place_version,
        reserve_until: Timestamp::from_unix_millis(claims.exp.checked_mul(1_000)?)?,
    })
}

/// One of the caller's reservations.
pub(crate) async fn get(ctx: Context, query: GetReservation, meta: Meta) -> Result<View, Problem> {
    let user_id = meta.caller.user_id()?;
    let row: Option<ReservationRow> =
        sqlx::query_as("select * from reservations where id = $1 and user_id = $2")
            .bind(query.reservation_id.0)
            .bind(user_id.0)
            .fetch_optional(ctx.pool())
            .await
            .map_err(read_failed)?;
    view(row.ok_or(codes::NOT_FOUND)?)
}

/// The caller's reservations, newest first.
pub(crate) async fn find(
    ctx: Context,
    query: FindReservations,
    meta: Meta,
) -> Result<Page<View>, Problem> {
    let user_id = meta.caller.user_id()?;
    let cut = Cut::new(query.cursor.as_deref(), query.limit)?;
    let rows: Vec<ReservationRow> = sqlx::query_as(
        "select * from reservations where user_id = $1 and id < $2 order by id desc limit $3",
    )
    .bind(user_id.0)
    .bind(cut.before)
    .bind(cut.rows())
    .fetch_all(ctx.pool())
    .await
    .map_err(read_failed)?;
    let views = rows.into_iter().map(view).collect::<Result<Vec<_>, _>>()?;
    Ok(cut.page(views, |view| view.reservation_id.0))
}

fn view(row: ReservationRow) -> Result<View, Problem> {
    row.reservation().map(|reservation| reservation.view()).map_err(read_failed)
}

/// Seats read for one page.
pub(crate) const STATED_MAX: i64 = 2_000;

/// A seat and its owner, if any: `seat`, `hold_version`, then the id, fan, state, number of
/// seats and hard cap of the reservation.
type StatedRow = (
    String,
    i64,
    Option<Uuid>,
    Option<Uuid>,
    Option<String>,
    Option<i32>,
    Option<time::OffsetDateTime>,
);

/// The seats of a schedule that ever had an owner, for services that have lost their copy.
pub(crate) async fn stated(
    pool: &PgPool,
    query: StateSeats,
) -> Result<Stated<SeatStated, SeatId>, Problem> {
    let rows: Vec<StatedRow> = sqlx::query_as(
        "select s.seat, s.hold_version, r.id, r.user_id, r.state, jsonb_array_length(r.seats),
                r.hard_cap_at
         from (select seat, hold_version, reservation_id from seats
               where schedule_id = $1 and seat > $2 order by seat limit $3) as s
         left join reservations r on r.id = s.reservation_id and r.state in ('PENDING', 'CONFIRMED')
         order by s.seat",
    )
    .bind(query.schedule_id.0)
    .bind(query.after.map_or(String::new(), |seat| seat.0))
    .bind(STATED_MAX)
    .fetch_all(pool)
    .await
    .map_err(read_failed)?;
    let last = rows.last().filter(|_| rows.len() as i64 == STATED_MAX);
    let next = last.map(|row| SeatId(row.0.clone()));
    // A seat that never had an owner is left out.
    let items = rows.into_iter().filter(|row| row.1 > 0).map(seat_stated).collect();
    Ok(Stated { items, next })
}

fn seat_stated((seat, hold_version, id, user, state, seats, hard_cap): StatedRow) -> SeatStated {
    let owner = id.zip(user).zip(hard_cap).map(|((id, user), hard_cap)| SeatOwner {
        reservation_id: ReservationId(id),
        user_id: UserId(user),
        is_sold: state.as_deref() == Some("CONFIRMED"),
        seats: seats.unwrap_or_default().unsigned_abs(),
        hard_cap_at: Timestamp(hard_cap),
    });
    SeatStated { seat: SeatId(seat), hold_version, owner }
}

/// The holds whose time is up, the longest overdue first.
pub(crate) async fn due_holds(pool: &PgPool, now: Timestamp) -> sqlx::Result<Vec<ReservationId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "select id from reservations where state = 'PENDING' and expires_at <= $1
         order by expires_at limit $2",
    )
    .bind(now.0)
    .bind(DUE_MAX)
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(ReservationId).collect())
}

/// The cancelled shows that may still have reservations, each with some that still own seats.
/// They are found through the seats: these lie together, so no further index is needed.
pub(crate) async fn cancelled_shows(
    pool: &PgPool,
) -> sqlx::Result<Vec<(ScheduleId, Vec<ReservationId>)>> {
    let shows: Vec<(Uuid, Vec<Uuid>)> = sqlx::query_as(
        "select c.id, array(
             select distinct s.reservation_id from seats s
             where s.schedule_id = c.id and s.reservation_id is not null limit $1)
         from schedules c where c.state = 'cancelling' order by c.id limit 4",
    )
    .bind(EMPTIED_MAX)
    .fetch_all(pool)
    .await?;
    let ids = |ids: Vec<Uuid>| ids.into_iter().map(ReservationId).collect();
    Ok(shows.into_iter().map(|(id, owners)| (ScheduleId(id), ids(owners))).collect())
}
