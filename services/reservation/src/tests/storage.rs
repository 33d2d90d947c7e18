//! The same handlers on a real database, with several batches at once.

use events::state::StateSeats;
use mesh::testkit;
use sqlx::PgPool;

use super::*;
use crate::{
    domain::{Schedule, Seat},
    queries,
};

async fn pool() -> PgPool {
    testkit::pool(&crate::MIGRATIONS).await
}

/// Runs a batch of one message by the mesh. Returns why it could not be stored.
async fn batch(
    pool: &PgPool,
    act: impl FnOnce(&mut UnitOfWork, &mut Context<'_, Config>),
) -> sqlx::Result<()> {
    testkit::batch(pool, &Config::default(), &Caller::Mesh, |_| {}, act).await
}

async fn handle<E: Event>(pool: &PgPool, event: &E)
where
    UnitOfWork: Handle<E>,
{
    testkit::handle::<UnitOfWork, E>(pool, &Config::default(), event).await;
}

async fn execute<C: events::Command>(
    pool: &PgPool,
    caller: &Caller,
    command: &C,
) -> Result<C::Reply, Refusal>
where
    UnitOfWork: Execute<C>,
{
    testkit::execute::<UnitOfWork, C>(pool, &Config::default(), caller, command).await
}

/// Puts a show of `seats` seats on sale, right now.
async fn open(pool: &PgPool, hold_secs: u32, seats: usize) -> ScheduleId {
    let now = mesh::clock::now();
    let mut opened = opened();
    opened.schedule_id = Uuid::now_v7().into();
    (opened.opens_at, opened.starts_at) = (now.plus_secs(-1), now.plus_secs(3_600));
    opened.refund_until = None;
    opened.hold_secs = hold_secs;
    opened.seats[0].seats = (1..=seats).map(|n| n.to_string()).collect();
    handle(pool, &opened).await;
    opened.schedule_id
}

async fn reserve(
    pool: &PgPool,
    schedule_id: ScheduleId,
    user_id: UserId,
    seats: &[usize],
) -> Result<View, Refusal> {
    reserve_with(pool, schedule_id, user_id, 1, seats).await
}

/// Requests a hold with a pass of this version of the place.
async fn reserve_with(
    pool: &PgPool,
    schedule_id: ScheduleId,
    user_id: UserId,
    place_version: u64,
    seats: &[usize],
) -> Result<View, Refusal> {
    let reserve_until = mesh::clock::now().plus_secs(60);
    let pass = Some(Pass { user_id, schedule_id, place_version, reserve_until });
    let seats = seats.iter().map(|n| seat(*n)).collect();
    execute(pool, &caller(user_id), &Hold { schedule_id, seats, pass, is_late: false }).await
}

fn debited(hold: &View, hold_version: i64) -> PointDebited {
    PointDebited {
        user_id: hold.user_id,
        payment_id: Uuid::now_v7().into(),
        reservation_id: hold.reservation_id,
        schedule_id: hold.schedule_id,
        hold_version,
        amount: hold.amount,
        balance: 0,
    }
}

async fn state(pool: &PgPool, id: ReservationId) -> String {
    sqlx::query_scalar("select state from reservations where id = $1")
        .bind(id.0)
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn owned(pool: &PgPool, schedule_id: ScheduleId) -> i64 {
    sqlx::query_scalar(
        "select count(*) from seats where schedule_id = $1 and reservation_id is not null",
    )
    .bind(schedule_id.0)
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn the_seats_of_an_arena_are_stored_sold_and_freed() {
    let pool = pool().await;
    let show = open(&pool, 300, 10_000).await;
    let hold = reserve(&pool, show, fan(1), &[1, 10_000]).await.unwrap();
    assert_eq!(owned(&pool, show).await, 2);
    handle(&pool, &debited(&hold, 1)).await;
    assert_eq!(state(&pool, hold.reservation_id).await, "CONFIRMED");
    let cancel = Cancel { reservation_id: hold.reservation_id };
    let cancelled = execute(&pool, &caller(fan(1)), &cancel).await.unwrap();
    assert_eq!((cancelled.seats, cancelled.created_at), (hold.seats, hold.created_at));
    assert_eq!(
        (state(&pool, hold.reservation_id).await.as_str(), owned(&pool, show).await),
        ("CANCELLED", 0)
    );
    let next = reserve(&pool, show, fan(2), &[1, 2]).await.unwrap();
    handle(&pool, &debited(&next, 2)).await;
    assert_eq!(state(&pool, next.reservation_id).await, "CONFIRMED", "its version is the second");
}

#[tokio::test]
async fn of_many_batches_at_once_exactly_one_gets_the_seats() {
    let pool = pool().await;
    let show = open(&pool, 300, 100).await;
    for round in 0..25 {
        let (first, second) = (2 * round + 1, 2 * round + 2);
        let tries = (0..8_u128).map(|n| {
            let pool = pool.clone();
            // In both orders: rows are locked by key, so the batches cannot deadlock.
            let seats = if n % 2 == 0 { [first, second] } else { [second, first] };
            let buyer = fan(1_000 * round as u128 + n);
            tokio::spawn(async move { reserve(&pool, show, buyer, &seats).await })
        });
        let mut granted = 0;
        for attempt in tries.collect::<Vec<_>>() {
            match attempt.await.unwrap() {
                Ok(_) => granted += 1,
                answer => assert!(refusal(answer).is(events::codes::SEAT_TAKEN)),
            }
        }
        assert_eq!(granted, 1, "round {round}");
    }
    assert_eq!(owned(&pool, show).await, 50);
}

#[tokio::test]
async fn two_first_holds_of_a_fan_at_once_stay_within_the_limit() {
    let pool = pool().await;
    for _ in 0..10 {
        let show = open(&pool, 300, 10).await;
        let buyer = UserId(Uuid::now_v7());
        let (one, two) = tokio::join!(
            reserve(&pool, show, buyer, &[1, 2, 3]),
            reserve(&pool, show, buyer, &[4, 5, 6]),
        );
        assert!(one.is_ok() != two.is_ok(), "one of the two is too much");
    }
}

#[tokio::test]
async fn an_owner_is_never_overwritten() {
    let pool = pool().await;
    let show = open(&pool, 300, 2).await;
    reserve(&pool, show, fan(1), &[1]).await.unwrap();
    let overwrite = batch(&pool, |unit, _| {
        let seats = unit.seats.entry(show).or_default();
        seats.load(seat(1), Seat::new(100));
        seats.change(&seat(1)).unwrap().owner = Some(Uuid::now_v7().into());
    });
    assert!(overwrite.await.is_err(), "the row has another owner than this batch read");
    let again = batch(&pool, |unit, _| {
        unit.open(show, Schedule::Cancelled, std::iter::empty());
    });
    assert!(again.await.is_err(), "a schedule is inserted once");
}

#[tokio::test]
async fn a_due_hold_is_found_by_the_timer_and_expired_by_a_late_debit() {
    let pool = pool().await;
    let show = open(&pool, 0, 2).await;
    let swept = reserve(&pool, show, fan(1), &[1]).await.unwrap();
    let paid = reserve(&pool, show, fan(2), &[2]).await.unwrap();
    let due = queries::due_holds(&pool, mesh::clock::now()).await.unwrap();
    assert!(due.contains(&swept.reservation_id) && due.contains(&paid.reservation_id));
    let expire = ExpireHold { reservation_id: swept.reservation_id };
    execute(&pool, &Caller::Mesh, &expire).await.unwrap();
    handle(&pool, &debited(&paid, 1)).await;
    for hold in [&swept, &paid] {
        assert_eq!(state(&pool, hold.reservation_id).await, "EXPIRED");
    }
    assert_eq!(owned(&pool, show).await, 0);
    let due = queries::due_holds(&pool, mesh::clock::now()).await.unwrap();
    assert!(!due.contains(&swept.reservation_id) && !due.contains(&paid.reservation_id));
}

#[tokio::test]
async fn a_cancelled_show_is_emptied_and_then_no_longer_found() {
    let pool = pool().await;
    let show = open(&pool, 300, 10).await;
    for n in 1..=10 {
        reserve(&pool, show, fan(n), &[n as usize]).await.unwrap();
    }
    handle(&pool, &ScheduleCancelled { schedule_id: show, ..schedule_cancelled() }).await;
    let mut ticks = 0;
    loop {
        let shows = queries::cancelled_shows(&pool).await.unwrap();
        let Some((schedule_id, reservations)) = shows.into_iter().find(|(id, _)| *id == show)
        else {
            break;
        };
        execute(&pool, &Caller::Mesh, &EmptyShow { schedule_id, reservations }).await.unwrap();
        ticks += 1;
    }
    assert_eq!((ticks, owned(&pool, show).await), (2, 0));
    assert!(
        refusal(reserve(&pool, show, fan(11), &[1]).await).is(events::codes::SCHEDULE_CANCELLED)
    );
}

/// Inserts a hold for each of these seats, each of another fan.
async fn hold_all(pool: &PgPool, show: ScheduleId, seats: usize, expires_in_secs: i64) {
    let ids: Vec<Uuid> = (0..seats).map(|_| Uuid::now_v7()).collect();
    let names: Vec<String> = (1..=seats).map(|n| seat(n).0).collect();
    let expires_at = mesh::clock::now().plus_secs(expires_in_secs).0;
    sqlx::query(
        "with held as (select * from unnest($2::uuid[], $3::text[]) as h (id, seat)), made as (
             insert into reservations (id, schedule_id, user_id, state, seats, amount,
                 hold_version, created_at, expires_at, hard_cap_at)
             select id, $1, id, 'PENDING', jsonb_build_array(
                        jsonb_build_object('seat', seat, 'price', 100)),
                    100, 1, now(), $4, $4 from held)
         update seats s set reservation_id = held.id, hold_version = 1
         from held where s.schedule_id = $1 and s.seat = held.seat",
    )
    .bind(show.0)
    .bind(ids)
    .bind(names)
    .bind(expires_at)
    .execute(pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_cancelled_show_with_more_seats_than_one_batch_takes_is_emptied_completely() {
    let pool = pool().await;
    let seats = 2 * queries::EMPTIED_MAX as usize + 1;
    let show = open(&pool, 300, seats).await;
    hold_all(&pool, show, seats, 300).await;
    handle(&pool, &ScheduleCancelled { schedule_id: show, ..schedule_cancelled() }).await;
    let mut left = vec![owned(&pool, show).await];
    loop {
        let shows = queries::cancelled_shows(&pool).await.unwrap();
        let Some((schedule_id, reservations)) = shows.into_iter().find(|(id, _)| *id == show)
        else {
            break;
        };
        execute(&pool, &Caller::Mesh, &EmptyShow { schedule_id, reservations }).await.unwrap();
        left.push(owned(&pool, show).await);
    }
    assert_eq!(left, [1_001, 501, 1, 0, 0]);
    let cancelled: i64 = sqlx::query_scalar(
        "select count(*) from reservations where schedule_id = $1 and state = 'CANCELLED'",
    )
    .bind(show.0)
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(cancelled, seats as i64);
}

/// The holds of other tests are left alone: these are due in a year.
#[tokio::test]
async fn due_holds_beyond_the_limit_of_one_tick_are_found_by_the_next() {
    let pool = pool().await;
    let seats = queries::DUE_MAX as usize + 1;
    let show = open(&pool, 300, seats).await;
    let year_secs = 365 * 86_400;
    hold_all(&pool, show, seats, year_secs).await;
    let then = mesh::clock::now().plus_secs(year_secs + 60);
    let mut found = Vec::new();
    loop {
        let due = queries::due_holds(&pool, then).await.unwrap();
        assert!(due.len() <= queries::DUE_MAX as usize);
        let ended = sqlx::query(
            "update reservations set state = 'EXPIRED' where id = any($1) and schedule_id = $2",
        )
        .bind(due.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(show.0)
        .execute(&pool)
        .await
        .unwrap();
        if ended.rows_affected() == 0 {
            break;
        }
        found.push(ended.rows_affected() as usize);
    }
    assert!(found.len() >= 2, "{found:?}");
    assert_eq!(found.iter().sum::<usize>(), seats);
}

#[tokio::test]
async fn the_stated_seats_are_complete_over_any_number_of_pages() {
    let pool = pool().await;
    for seats in [1, queries::STATED_MAX as usize, 2 * queries::STATED_MAX as usize + 1] {
        let show = open(&pool, 300, seats + 1).await;
        hold_all(&pool, show, seats, 300).await;
        let sold: (Uuid, String) = sqlx::query_as(
            "update reservations set state = 'CONFIRMED', payment_id = id
             where id = (select reservation_id from seats
                         where schedule_id = $1 and reservation_id is not null limit 1)
             returning id, seats->0->>'seat'",
        )
        .bind(show.0)
        .fetch_one(&pool)
        .await
        .unwrap();
        let mut query = StateSeats { schedule_id: show, after: None };
        let mut stated = Vec::new();
        let mut pages = 0;
        loop {
            let page = queries::stated(&pool, query.clone()).await.unwrap();
            assert!(page.items.len() <= queries::STATED_MAX as usize);
            stated.extend(page.items);
            pages += 1;
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        let names: std::collections::BTreeSet<_> = stated.iter().map(|it| &it.seat).collect();
        assert_eq!(
            (stated.len(), names.len()),
            (seats, seats),
            "all but the one that was never held"
        );
        assert!(pages <= seats / queries::STATED_MAX as usize + 1);
        for seat in &stated {
            let owner = seat.owner.as_ref().unwrap();
            assert_eq!(owner.is_sold, seat.seat.0 == sold.1, "{seat:?}");
            assert_eq!((owner.seats, seat.hold_version), (1, 1));
        }
    }
}

#[tokio::test]
async fn the_holds_of_a_withdrawn_fan_are_cancelled() {
    let pool = pool().await;
    let (show, leaver) = (open(&pool, 300, 10).await, UserId(Uuid::now_v7()));
    let held = reserve(&pool, show, leaver, &[1, 2]).await.unwrap();
    let paid = reserve(&pool, show, leaver, &[3]).await.unwrap();
    handle(&pool, &debited(&paid, 1)).await;
    handle(&pool, &withdrawn(leaver, Uuid::now_v7().as_u128(), false)).await;
    assert_eq!(state(&pool, held.reservation_id).await, "CANCELLED");
    assert_eq!(state(&pool, paid.reservation_id).await, "CONFIRMED");
    assert_eq!(owned(&pool, show).await, 1);
}

#[tokio::test]
async fn a_withdrawal_with_forfeit_closes_the_account_and_frees_holds_and_tickets() {
    let pool = pool().await;
    let (show, leaver) = (open(&pool, 300, 10).await, UserId(Uuid::now_v7()));
    let held = reserve(&pool, show, leaver, &[1]).await.unwrap();
    let paid = reserve(&pool, show, leaver, &[2]).await.unwrap();
    handle(&pool, &debited(&paid, 1)).await;
    let n = Uuid::now_v7().as_u128();
    handle(&pool, &withdrawal_requested(leaver, n, false)).await;
    reserve(&pool, show, leaver, &[3]).await.expect("tickets block the withdrawal");
    handle(&pool, &withdrawal_requested(leaver, n + 1, true)).await;
    let refused = reserve(&pool, show, leaver, &[4]).await;
    assert!(refusal(refused).is(events::codes::ACCOUNT_CLOSING));
    handle(&pool, &withdrawal_refused(leaver, n)).await;
    let refused = reserve(&pool, show, leaver, &[4]).await;
    assert!(refusal(refused).is(events::codes::ACCOUNT_CLOSING));
    handle(&pool, &withdrawn(leaver, n + 1, true)).await;
    for id in [held.reservation_id, paid.reservation_id] {
        assert_eq!(state(&pool, id).await, "CANCELLED");
    }
    assert_eq!(owned(&pool, show).await, 0);
    let refund: Option<String> =
        sqlx::query_scalar("select refund from reservations where id = $1")
            .bind(paid.reservation_id.0)
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(refund.as_deref(), Some("forfeited"));
}

/// When the clearance is first, the hold is refused. When the hold is first, the clearance has
/// marked it, and its payment waits.
#[tokio::test]
async fn a_hold_and_a_clearance_do_not_miss_each_other() {
    let pool = pool().await;
    let show = open(&pool, 300, 100).await;
    let mut refused = 0;
    for n in 1..=100 {
        let fan = UserId(Uuid::now_v7());
        let attempt = withdrawal_requested(fan, Uuid::now_v7().as_u128(), false);
        let seats = [n];
        let (held, ()) = tokio::join!(reserve(&pool, show, fan, &seats), handle(&pool, &attempt));
        let Ok(hold) = held else {
            refused += 1;
            continue;
        };
        let is_marked: bool = sqlx::query_scalar("select closing from reservations where id = $1")
            .bind(hold.reservation_id.0)
            .fetch_one(&pool)
            .await
            .unwrap();
        assert!(is_marked, "round {n}: the clearance has missed the hold");
    }
    assert!(refused < 100, "the hold was never first");
}

#[tokio::test]
async fn the_latest_end_of_a_place_is_kept() {
    use events::queue::{PlaceEnd, QueueExpired};
    let pool = pool().await;
    let (show, user_id) = (open(&pool, 300, 2).await, UserId(Uuid::now_v7()));
    let ended = |place_version| QueueExpired {
        schedule_id: show,
        user_id,
        place_version,
        reason: PlaceEnd::Timeout,
    };
    reserve_with(&pool, show, user_id, 2, &[1]).await.unwrap();
    handle(&pool, &ended(3)).await;
    handle(&pool, &ended(1)).await;
    let answer = reserve_with(&pool, show, user_id, 2, &[2]).await;
    assert!(refusal(answer).is(events::codes::NOT_ACTIVE));
    reserve_with(&pool, show, user_id, 5, &[2]).await.unwrap();
}
