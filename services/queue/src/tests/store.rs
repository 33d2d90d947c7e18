//! The store: idempotency keys, restarts, and rebuilds after a loss.

use std::future::{pending, ready};

use bytes::Bytes;
use events::{codes, concert::ScheduleState, queue::PlaceState};
use futures::stream;
use mesh::{
    Idempotency,
    engine::{Engine, Failure},
};

use super::harness::{
    ADMISSION, BATCH, Harness, SCHEDULE, at, batches, completed, created, fan, hold, hold_expired,
    known, opened, paid, schedule_stated, seat_stated, withdrawn,
};
use crate::{
    Config, Room,
    rebuild::{Known, rebuild},
};

fn key(scope: u8, body: u8) -> Idempotency {
    Idempotency { scope: [scope; 32], body: [body; 32] }
}

#[tokio::test]
async fn a_repeated_key_gives_the_stored_answer_and_another_body_is_refused() {
    let harness = Harness::open().await;
    harness.enter(fan(0), 0).await.unwrap();
    let first = harness.enter_once(fan(1), &key(1, 1), 0).await.unwrap();
    harness.leave(fan(0), 10).await.unwrap();
    let again = harness.enter_once(fan(1), &key(1, 1), 20).await.unwrap();
    assert_eq!(again, first);
    let reused = harness.enter_once(fan(1), &key(1, 2), 20).await.unwrap_err();
    assert!(reused.is(codes::IDEMPOTENCY_KEY_REUSED));
    let fresh = harness.enter_once(fan(1), &key(2, 1), 20).await.unwrap();
    assert_eq!(fresh.position, Some(0));
}

#[tokio::test]
async fn a_refusal_is_not_stored_under_its_key() {
    let harness = Harness::empty().await;
    assert!(harness.enter_once(fan(1), &key(1, 1), 0).await.unwrap_err().is(codes::NOT_FOUND));
    harness.handle(opened(SCHEDULE, ADMISSION, 10), 0).await;
    harness.enter_once(fan(1), &key(1, 1), 0).await.unwrap();
}

#[tokio::test]
async fn an_event_carries_its_saga_cause_and_parent_span() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.rows().await;
    let event = events::EventId(uuid::Uuid::now_v7());
    let mut meta = harness.kit.meta("payment.completed", mesh::Caller::Mesh);
    meta.event_id = Some(event);
    meta.trace = mesh::trace::TraceParent::from_header(Some(PARENT));
    harness.room.handle(completed(1, fan(0), 1_000), &meta, at(1_000)).await.unwrap();
    let rows = harness.rows().await;
    assert_eq!((rows[0].saga_id, rows[0].cause_id), (meta.saga_id, Some(event.0)));
    assert_eq!(rows[0].traceparent.as_deref(), Some(PARENT));
}

#[tokio::test]
async fn a_killed_valkey_comes_back_with_everything_it_acknowledged() {
    let harness = Harness::open_alone().await;
    harness.admit(2).await;
    harness.enter(fan(2), 1_000).await.unwrap();
    let before = harness.look(fan(2), 1_000).await.unwrap();
    harness.kit.store.server().kill();
    assert!(harness.look(fan(2), 1_000).await.unwrap_err().is(codes::UNAVAILABLE));
    harness.kit.store.server().restart().await.unwrap();
    let after = wait_for_answer(&harness).await;
    assert_eq!(after, before);
    assert_eq!(harness.state(fan(0), 1_000).await, PlaceState::Active);
}

/// Waits for the connection to come back by itself.
async fn wait_for_answer(harness: &Harness) -> events::queue::Place {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match harness.look(fan(2), 1_000).await {
            Ok(place) => return place,
            Err(problem) => assert!(std::time::Instant::now() < deadline, "{problem}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_emptied_store_handles_nothing_until_it_is_rebuilt() {
    let harness = Harness::open_alone().await;
    harness.kit.store.empty().await;
    harness.kit.store.redis::<()>(&["FUNCTION", "FLUSH"]).await;
    assert!(harness.look(fan(0), 0).await.unwrap_err().is(codes::UNAVAILABLE));
    assert!(harness.room.store().check().await.is_err());
    assert!(crate::due(harness.room.clone(), at(0)).await.unwrap().is_empty());
    let call = mesh::valkey::FunctionCall::new("enter").arg(SCHEDULE).arg(fan(0)).arg("");
    let lost = harness.room.perform(&[call], at(0)).await;
    assert!(matches!(lost, Err(Failure::Emptied)), "{lost:?}");
    rebuild(&harness.room, stream::empty(), pending(), at(0)).await.unwrap();
    harness.room.store().check().await.unwrap();
    assert!(harness.look(fan(0), 0).await.unwrap_err().is(codes::NOT_FOUND));
}

/// A room with a fan in every state, and everything that it can be rebuilt from.
async fn used_room() -> (Harness, Vec<Known>) {
    let mut harness = Harness::open().await;
    harness.admit(5).await;
    for n in 5..9 {
        harness.enter(fan(n), 1_000).await.unwrap();
    }
    let hold_gone = events::payment::PaymentFailure::HoldGone;
    harness.handle(super::harness::failed(9, fan(1), hold_gone, 1_000), 1_000).await;
    harness.handle(created(1, fan(2), 400_000), 1_000).await;
    harness.handle(paid(3, fan(3), 4), 1_000).await;
    harness.handle(created(4, fan(4), 400_000), 1_000).await;
    harness.handle(paid(5, fan(4), 1), 1_000).await;
    harness.leave(fan(6), 1_000).await.unwrap();
    let mut known_items: Vec<Known> = harness
        .rows()
        .await
        .into_iter()
        .map(|row| Known::Event(row.subject, row.payload))
        .collect();
    known_items.push(known(&opened(SCHEDULE, ADMISSION, 10)));
    known_items.push(known(&created(1, fan(2), 400_000)));
    known_items.push(known(&paid(3, fan(3), 4)));
    known_items.push(known(&created(4, fan(4), 400_000)));
    known_items.push(known(&paid(5, fan(4), 1)));
    known_items.push(known(&withdrawn(fan(77))));
    known_items.push(known(&super::harness::failed(9, fan(1), hold_gone, 1_000)));
    known_items
        .push(Known::Event("onsale.queue.waiting.v1.-".into(), Bytes::from_static(b"rubbish")));
    for seat in [
        seat_stated(1, fan(2), 1, false),
        seat_stated(3, fan(3), 4, true),
        seat_stated(3, fan(3), 4, true),
        seat_stated(4, fan(4), 1, false),
        seat_stated(5, fan(4), 1, true),
    ] {
        known_items.push(seat);
    }
    (harness, known_items)
}

#[tokio::test]
async fn a_room_is_rebuilt_from_its_events_in_any_order() {
    for is_backwards in [false, true] {
        let (mut harness, mut known_items) = used_room().await;
        let mut before = Vec::new();
        for n in 0..9 {
            before.push(harness.look(fan(n), 2_000).await.unwrap());
        }
        harness.kit.store.empty().await;
        if is_backwards {
            known_items.reverse();
        }
        // The second seat of a sale is left out when it is in the same batch as the first.
        let is_twin = |known: &Known| matches!(known, Known::Seat(_, it) if it.seat.0 == "A-1-3");
        let twin = known_items.iter().position(is_twin).unwrap();
        let is_left_out = twin / BATCH == (twin + 1) / BATCH;
        let count = known_items.len() as u64 - 2 - u64::from(is_left_out);
        let rebuilt =
            rebuild(&harness.room, batches(known_items), pending(), at(2_000)).await.unwrap();
        assert_eq!(
            rebuilt, count,
            "all but the failed payment, the rubbish, and such a second seat"
        );
        harness.emitted().await;
        for (n, before) in (0..9).zip(before) {
            let after = harness.look(fan(n), 2_000).await.unwrap();
            assert_eq!(after, before, "fan {n}, backwards: {is_backwards}");
        }
        // A hold still keeps its place, also that of a fan who has paid for another hold, and the
        // next number is a new one.
        harness.tick_through(61_000..61_300).await;
        for n in [2, 4] {
            assert_eq!(harness.state(fan(n), 61_300).await, PlaceState::Active);
        }
        harness.handle(hold_expired(4, fan(4)), 61_300).await;
        assert_eq!(harness.state(fan(4), 61_300).await, PlaceState::Completed);
        harness.enter(fan(20), 61_300).await.unwrap();
        let emitted = harness.emitted().await;
        assert_eq!(emitted.last().unwrap().data["ticket"], 1_000_010);
        assert!(harness.enter(fan(77), 61_300).await.unwrap_err().is(codes::ACCOUNT_CLOSING));
    }
}

#[tokio::test]
async fn a_rebuild_that_is_started_again_changes_nothing_twice() {
    let (mut harness, known_items) = used_room().await;
    harness.kit.store.empty().await;
    rebuild(&harness.room, batches(known_items.clone()), pending(), at(2_000)).await.unwrap();
    let before = harness.look(fan(5), 2_000).await.unwrap();
    harness.kit.store.redis::<()>(&["DEL", "{queue}:whole"]).await;
    rebuild(&harness.room, batches(known_items), pending(), at(2_000)).await.unwrap();
    assert_eq!(harness.look(fan(5), 2_000).await.unwrap(), before);
    assert_eq!(harness.emitted().await, [], "nothing is emitted again");
}

#[tokio::test]
async fn a_room_is_rebuilt_from_stated_schedules_and_seats_without_stream_events() {
    let harness = Harness::open().await;
    harness.kit.store.empty().await;
    let known_items = vec![
        schedule_stated(10, ScheduleState::Open),
        seat_stated(1, fan(1), 2, true),
        seat_stated(2, fan(2), 7, true),
        seat_stated(3, fan(3), 1, false),
    ];
    rebuild(&harness.room, batches(known_items), pending(), at(2_000)).await.unwrap();
    harness.enter(fan(3), 2_000).await.unwrap();
    harness.tick_through(2_000..2_300).await;
    assert_eq!(harness.state(fan(3), 2_300).await, PlaceState::Active);
    assert!(harness.leave(fan(3), 2_300).await.unwrap_err().is(codes::HOLDING_SEATS));
    // Nine seats are sold: the tenth closes the room, and a counted payment is not counted again.
    harness.handle(paid(2, fan(2), 7), 2_300).await;
    harness.enter(fan(4), 2_300).await.unwrap();
    harness.handle(paid(3, fan(3), 1), 2_300).await;
    assert!(harness.enter(fan(5), 2_300).await.unwrap_err().is(codes::SOLD_OUT));
}

/// The reservation service treats every pass up to the ended version as void.
#[tokio::test]
async fn a_place_in_a_rebuilt_room_has_a_version_above_every_lost_one() {
    let mut harness = Harness::open().await;
    let mut last = 0;
    for now in [2_000, 5_000, 8_000] {
        harness.kit.store.empty().await;
        let known_items = vec![schedule_stated(10, ScheduleState::Open)];
        rebuild(&harness.room, batches(known_items), pending(), at(now)).await.unwrap();
        harness.emitted().await;
        for _ in 0..5 {
            harness.enter(fan(1), now).await.unwrap();
            harness.leave(fan(1), now).await.unwrap();
        }
        for emitted in harness.emitted().await {
            let version = emitted.data["place_version"].as_u64().unwrap();
            assert!(version > last, "{version} after {last}");
            last = version;
        }
    }
}

#[tokio::test]
async fn a_cancelled_show_is_cancelled_in_a_rebuilt_room() {
    let harness = Harness::open().await;
    harness.kit.store.empty().await;
    let known_items = vec![schedule_stated(10, ScheduleState::Cancelled)];
    rebuild(&harness.room, batches(known_items), pending(), at(2_000)).await.unwrap();
    assert!(harness.enter(fan(3), 2_000).await.unwrap_err().is(codes::SCHEDULE_CANCELLED));
}

/// The payment is read before the other hold that keeps the place.
#[tokio::test]
async fn nothing_follows_from_an_event_during_a_rebuild() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.handle(created(2, fan(0), 400_000), 1_000).await;
    harness.handle(paid(1, fan(0), 1), 1_000).await;
    assert_eq!(harness.state(fan(0), 1_000).await, PlaceState::Active);
    let rows = harness.rows().await;
    let mut known_items: Vec<Known> =
        rows.into_iter().map(|row| Known::Event(row.subject, row.payload)).collect();
    known_items.push(schedule_stated(10, ScheduleState::Open));
    known_items.push(known(&paid(1, fan(0), 1)));
    known_items.push(known(&hold_expired(7, fan(0))));
    known_items.push(known(&created(2, fan(0), 400_000)));
    harness.kit.store.empty().await;
    rebuild(&harness.room, batches(known_items), pending(), at(1_500)).await.unwrap();
    assert_eq!(harness.state(fan(0), 1_500).await, PlaceState::Active);
    assert_eq!(harness.emitted().await, [], "nothing was decided");
    harness.handle(hold_expired(2, fan(0)), 2_000).await;
    assert_eq!(harness.names().await, ["completed 0"]);
}

#[tokio::test]
async fn a_corrupt_room_is_rebuilt_in_place_and_every_place_stays() {
    let mut harness = Harness::open().await;
    harness.admit(2).await;
    harness.enter(fan(5), 1_000).await.unwrap();
    harness.handle(paid(1, fan(0), 4), 1_000).await;
    let before = harness.look(fan(5), 1_000).await.unwrap();
    harness.emitted().await;
    let room = format!("{{queue}}:room:{SCHEDULE}");
    let sold = format!("{{queue}}:sold:{SCHEDULE}");
    harness
        .kit
        .store
        .redis::<()>(&["HSET", &room, "sold", "10", "per_second", "0", "cancelled", "1"])
        .await;
    harness.kit.store.redis::<()>(&["HSET", &sold, &hold(77).to_string(), "6"]).await;
    harness.room.unseal().await.unwrap();
    assert!(harness.look(fan(5), 1_000).await.unwrap_err().is(codes::UNAVAILABLE));
    let known_items =
        vec![schedule_stated(10, ScheduleState::Open), seat_stated(1, fan(0), 4, true)];
    rebuild(&harness.room, batches(known_items), pending(), at(1_000)).await.unwrap();
    assert_eq!(harness.look(fan(5), 1_000).await.unwrap(), before);
    assert_eq!(harness.state(fan(1), 1_000).await, PlaceState::Active);
    assert_eq!(harness.emitted().await, []);
    // Exactly six seats are left.
    harness.handle(paid(2, fan(50), 5), 1_100).await;
    harness.enter(fan(6), 1_100).await.unwrap();
    harness.handle(paid(3, fan(51), 1), 1_100).await;
    assert!(harness.enter(fan(7), 1_100).await.unwrap_err().is(codes::SOLD_OUT));
}

#[tokio::test]
async fn only_one_instance_rebuilds_at_once_and_one_that_lost_the_lock_writes_nothing() {
    let harness = Harness::open().await;
    harness.kit.store.empty().await;
    let first = harness.room.begin_restoring().await.unwrap().expect("no other rebuild");
    let second = rebuild(&harness.room, stream::empty(), pending(), at(0)).await;
    assert!(matches!(second, Err(Failure::Contended(_))), "{second:?}");
    // An instance that was paused for long finds that another has the lock.
    harness.kit.store.redis::<()>(&["DEL", "{queue}:shadow"]).await;
    let known_items = vec![schedule_stated(10, ScheduleState::Open)];
    rebuild(&harness.room, batches(known_items), pending(), at(0)).await.unwrap();
    let call = mesh::valkey::FunctionCall::new("cancel").arg(SCHEDULE);
    assert!(matches!(first.perform(&[call], at(0)).await, Err(Failure::Contended(_))));
    assert!(matches!(first.seal().await, Err(Failure::Contended(_))));
    harness.enter(fan(1), 0).await.unwrap();
}

#[tokio::test]
async fn a_step_of_a_rebuild_that_writes_nothing_renews_its_lease_as_well() {
    let harness = Harness::open().await;
    harness.kit.store.empty().await;
    let restoring = harness.room.begin_restoring().await.unwrap().expect("no other rebuild");
    let lease = "{queue}:shadow";
    harness.kit.store.redis::<()>(&["PEXPIRE", lease, "5000"]).await;
    restoring.perform(&[], at(0)).await.unwrap();
    let left: i64 = harness.kit.store.redis(&["PTTL", lease]).await;
    assert!(left > 5_000, "{left}");
    harness.kit.store.redis::<()>(&["DEL", lease]).await;
    assert!(matches!(restoring.perform(&[], at(0)).await, Err(Failure::Contended(_))));
}

#[tokio::test]
async fn an_instance_that_is_stopped_leaves_the_rebuild_to_another_at_once() {
    let harness = Harness::open().await;
    harness.kit.store.empty().await;
    let stopped = rebuild(&harness.room, stream::pending(), ready(()), at(0)).await;
    assert!(matches!(stopped, Err(Failure::Refused(_))), "{stopped:?}");
    rebuild(&harness.room, stream::empty(), pending(), at(0)).await.unwrap();
    assert!(harness.room.is_whole().await.unwrap());
}

#[tokio::test]
async fn a_whole_store_is_not_rebuilt() {
    let (harness, known_items) = used_room().await;
    let count = rebuild(&harness.room, batches(known_items), pending(), at(2_000)).await.unwrap();
    assert_eq!(count, 0);
}

#[tokio::test]
async fn a_ticket_restores_the_number_of_a_place_whose_event_was_lost() {
    let harness = Harness::open().await;
    harness.enter(fan(0), -9).await.unwrap();
    let ticket = harness.enter(fan(1), -8).await.unwrap().ticket;
    harness.kit.store.empty().await;
    let known_items = vec![known(&opened(SCHEDULE, ADMISSION, 10))];
    rebuild(&harness.room, batches(known_items), pending(), at(-7)).await.unwrap();
    // The instance that still had the keys wrote them back; other fans have entered meanwhile.
    harness.enter(fan(5), -6).await.unwrap();
    harness.enter(fan(6), -6).await.unwrap();
    harness.enter(fan(7), -6).await.unwrap();
    let place = harness.enter_with(fan(1), ticket.clone(), -5).await.unwrap();
    assert_eq!((place.ticket, place.position), (ticket, Some(0)));
    assert_eq!(harness.enter(fan(8), -4).await.unwrap().position, Some(4));
}

#[tokio::test]
async fn two_instances_share_their_keys() {
    let harness = Harness::open().await;
    let second = harness.kit.store.engine::<Room>(Config::default());
    second.config().signer.refresh(&second, at(1)).await.unwrap();
    assert_eq!(second.config().signer.jwks(), harness.room.config().signer.jwks());
    // A day later one of them rotates the keys, and the other loads the new one.
    let tomorrow = at(25 * 3_600_000);
    second.config().signer.refresh(&second, tomorrow).await.unwrap();
    harness.room.config().signer.refresh(&harness.room, tomorrow).await.unwrap();
    let keys = harness.room.config().signer.jwks();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    assert_eq!(second.config().signer.jwks(), keys);
}
