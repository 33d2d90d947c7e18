//! Entering, looking, leaving, and being admitted.

use events::{
    Timestamp, UserId, codes,
    concert::Admission,
    queue::{PassClaims, PlaceEnd, PlaceState, QueueActivated, QueueWaiting},
};

use super::harness::{ADMISSION, Harness, SCHEDULE, at, fan};

#[tokio::test]
async fn a_fan_who_enters_again_keeps_the_place() {
    let mut harness = Harness::open().await;
    harness.enter(fan(0), 0).await.unwrap();
    let first = harness.enter(fan(1), 0).await.unwrap();
    let again = harness.enter(fan(1), 50).await.unwrap();
    assert_eq!((first.state, first.position), (PlaceState::Waiting, Some(1)));
    assert_eq!((again.position, again.ticket), (Some(1), first.ticket));
    assert_eq!(harness.names().await, ["waiting 0", "waiting 1"]);

    harness.tick(100).await;
    let active = harness.enter(fan(1), 150).await.unwrap();
    assert_eq!(active.state, PlaceState::Active);
    assert_eq!(harness.names().await, ["activated 0", "activated 1"]);
}

#[tokio::test]
async fn a_fan_who_enters_everywhere_at_once_gets_one_place() {
    let mut harness = Harness::open().await;
    let entries = (0..50).map(|_| harness.enter(fan(1), 0));
    let places = futures::future::join_all(entries).await;
    let first = places[0].as_ref().unwrap();
    assert!(places.iter().all(|place| place.as_ref().unwrap() == first));
    assert_eq!(harness.names().await, ["waiting 1"]);
}

#[tokio::test]
async fn an_operator_sees_who_waits_who_is_admitted_and_how_long_it_takes() {
    let harness = Harness::open().await;
    for number in 0..12 {
        harness.enter(fan(number), -1_000).await.unwrap();
    }
    let rooms = crate::rooms(&harness.room, 10, at(-1_000)).await.unwrap();
    assert_eq!((rooms.len(), rooms[0].schedule_id), (1, SCHEDULE));
    assert_eq!((rooms[0].waiting, rooms[0].admitted), (12, 0));
    assert_eq!(rooms[0].expected_wait_secs, 2, "a second until it opens, and one for them all");

    harness.tick(950).await;
    let rooms = crate::rooms(&harness.room, 10, at(950)).await.unwrap();
    assert_eq!((rooms[0].waiting, rooms[0].admitted), (7, 5), "as many as may be active");
    assert_eq!(crate::rooms(&harness.room, 0, at(950)).await.unwrap(), []);
}

#[tokio::test]
async fn the_events_of_a_place_have_the_form_of_the_contract() {
    let mut harness = Harness::open().await;
    harness.enter(fan(7), 0).await.unwrap();
    harness.tick(123).await;
    let rows = harness.rows().await;
    let waiting: QueueWaiting = serde_json::from_slice(&rows[0].payload).unwrap();
    let expected = QueueWaiting {
        schedule_id: SCHEDULE,
        user_id: fan(7),
        ticket: 1,
        place_version: 1,
        entered_at: at(0),
    };
    assert_eq!(waiting, expected);
    let activated: QueueActivated = serde_json::from_slice(&rows[1].payload).unwrap();
    assert_eq!(activated.reserve_until, at(60_123));
    assert_eq!(activated.place_version, 2);
    use events::Event;
    assert_eq!(rows[1].subject, events::subject(QueueActivated::NAME, 1, Some(SCHEDULE)));
    assert_eq!((rows[1].about, rows[1].at), (fan(7).0, at(123)));
    assert_eq!(rows[0].saga_id, rows[1].saga_id, "a place is one saga");
    assert!(rows.iter().all(|row| row.event_id.0.get_version_num() == 7));
    assert_ne!(rows[0].event_id, rows[1].event_id);
}

#[tokio::test]
async fn times_are_emitted_to_the_millisecond_in_every_month() {
    let admission = Admission { pass_secs: 1, ..ADMISSION };
    for (n, text) in
        ["2028-02-28T23:59:59.007Z", "2027-12-31T23:59:58.999Z", "2100-02-28T12:00:00Z"]
            .iter()
            .enumerate()
    {
        let mut harness = Harness::empty().await;
        let now: Timestamp = text.parse().unwrap();
        let mut opened = super::harness::opened(SCHEDULE, admission, 1);
        opened.opens_at = now;
        opened.starts_at = now.plus_secs(1_000);
        let millis = now.unix_millis() - at(0).unix_millis();
        harness.handle(opened, millis).await;
        harness.enter(fan(n as u128), millis).await.unwrap();
        harness.tick(millis).await;
        let rows = harness.rows().await;
        let activated: QueueActivated = serde_json::from_slice(&rows[1].payload).unwrap();
        assert_eq!(activated.reserve_until, now.plus_secs(1), "{text}");
    }
}

#[tokio::test]
async fn an_unknown_schedule_is_not_found() {
    let harness = Harness::empty().await;
    assert!(harness.enter(fan(1), 0).await.unwrap_err().is(codes::NOT_FOUND));
    assert!(harness.look(fan(1), 0).await.unwrap_err().is(codes::NOT_FOUND));
    assert!(harness.leave(fan(1), 0).await.unwrap_err().is(codes::NOT_FOUND));
}

#[tokio::test]
async fn a_fan_without_a_place_is_not_found() {
    let harness = Harness::open().await;
    assert!(harness.look(fan(1), 0).await.unwrap_err().is(codes::NOT_FOUND));
    assert!(harness.leave(fan(1), 0).await.unwrap_err().is(codes::NOT_FOUND));
}

#[tokio::test]
async fn no_fan_is_admitted_before_the_room_opens() {
    let harness = Harness::open().await;
    let place = harness.enter(fan(1), -30_000).await.unwrap();
    assert_eq!(place.expected_wait_secs, Some(30));
    assert_eq!(harness.tick(-1).await, 0);
    assert_eq!(harness.state(fan(1), -1).await, PlaceState::Waiting);
    harness.tick(0).await;
    assert_eq!(harness.state(fan(1), 0).await, PlaceState::Active);
}

#[tokio::test]
async fn fans_are_admitted_in_the_order_of_entering() {
    let admission = Admission { active_max: 1_000, ..ADMISSION };
    let mut harness = Harness::open_with(admission, 1_000).await;
    for n in (0..60).rev() {
        harness.enter(fan(n), 0).await.unwrap();
    }
    harness.emitted().await;
    harness.tick_through(0..5_000).await;
    let expected: Vec<String> = (0..60).rev().map(|n| format!("activated {n}")).collect();
    assert_eq!(harness.names().await, expected);
}

#[tokio::test]
async fn no_second_admits_more_than_the_rate_and_each_is_spread_over_its_ticks() {
    let admission = Admission { active_max: 1_000, per_second: 20, pass_secs: 60 };
    let mut harness = Harness::open_with(admission, 1_000).await;
    for n in 0..100 {
        harness.enter(fan(n), 0).await.unwrap();
    }
    harness.emitted().await;
    for second in 0..5 {
        let mut admitted = 0;
        for tick in 0..10 {
            let millis = second * 1_000 + tick * 100;
            harness.tick(millis).await;
            harness.tick(millis + 1).await;
            let count = harness.emitted().await.len();
            assert!(count <= 2, "{count} at {millis}");
            admitted += count;
        }
        assert_eq!(admitted, 20);
    }
}

#[tokio::test]
async fn a_queue_that_runs_empty_repeatedly_does_not_raise_the_rate() {
    let admission = Admission { active_max: 1_000, per_second: 10, pass_secs: 60 };
    let mut harness = Harness::open_with(admission, 1_000).await;
    for n in 0..50 {
        harness.enter(fan(n), 20 * n as i64).await.unwrap();
        harness.tick(20 * n as i64).await;
    }
    let admitted = harness.names().await.iter().filter(|name| name.starts_with("act")).count();
    assert!(admitted <= 10, "{admitted}");
}

#[tokio::test]
async fn a_rate_of_one_a_second_admits_one_a_second() {
    let admission = Admission { active_max: 10, per_second: 1, pass_secs: 60 };
    let mut harness = Harness::open_with(admission, 10).await;
    for n in 0..3 {
        harness.enter(fan(n), 0).await.unwrap();
    }
    harness.tick_through(0..2_000).await;
    let admitted = harness.names().await.iter().filter(|name| name.starts_with("act")).count();
    assert_eq!(admitted, 2);
}

#[tokio::test]
async fn active_fans_never_exceed_the_cap() {
    let mut harness = Harness::open().await;
    for n in 0..8 {
        harness.enter(fan(n), 0).await.unwrap();
    }
    harness.tick_through(0..3_000).await;
    let admitted = harness.names().await.iter().filter(|name| name.starts_with("act")).count();
    assert_eq!(admitted, 5);
    assert_eq!(harness.look(fan(5), 3_000).await.unwrap().position, Some(0));

    harness.leave(fan(2), 3_000).await.unwrap();
    harness.tick(3_000).await;
    assert_eq!(harness.names().await, ["expired 2 left", "activated 5"]);
}

#[tokio::test]
async fn a_pass_that_runs_out_makes_room_for_the_next() {
    let mut harness = Harness::open().await;
    harness.admit(5).await;
    harness.enter(fan(5), 1_000).await.unwrap();
    harness.emitted().await;
    // Admitted from 0 on, two at each tick; a hold made in the last moment may come a second later.
    assert_eq!(harness.tick(60_999).await, 0);
    harness.tick(61_000).await;
    assert_eq!(harness.names().await, ["expired 0 timeout", "expired 1 timeout", "activated 5"]);
    let place = harness.look(fan(0), 61_000).await.unwrap();
    assert_eq!((place.state, place.reason), (PlaceState::Expired, Some(PlaceEnd::Timeout)));
    assert_eq!((place.pass, place.ticket), (None, None));
}

#[tokio::test]
async fn a_tick_that_comes_twice_does_nothing_twice() {
    let mut harness = Harness::open().await;
    harness.enter(fan(0), 0).await.unwrap();
    let due = crate::due(harness.room.clone(), at(0)).await.unwrap();
    harness.room.perform(&due, at(0)).await.unwrap();
    harness.room.perform(&due, at(0)).await.unwrap();
    assert_eq!(harness.names().await, ["waiting 0", "activated 0"]);
    let due = crate::due(harness.room.clone(), at(61_000)).await.unwrap();
    harness.room.perform(&due, at(61_000)).await.unwrap();
    harness.room.perform(&due, at(61_000)).await.unwrap();
    assert_eq!(harness.names().await, ["expired 0 timeout"]);
}

#[tokio::test]
async fn an_expired_fan_enters_again_at_the_end() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.tick(61_000).await;
    harness.enter(fan(8), 62_000).await.unwrap();
    let place = harness.enter(fan(0), 62_000).await.unwrap();
    assert_eq!((place.state, place.position), (PlaceState::Waiting, Some(1)));
    let emitted = harness.emitted().await;
    assert_eq!(emitted.last().unwrap().data["place_version"], 4);
    assert_eq!(emitted.last().unwrap().data["ticket"], 3);
}

#[tokio::test]
async fn positions_close_up_when_a_fan_leaves() {
    let mut harness = Harness::open().await;
    for n in 0..5 {
        harness.enter(fan(n), -1_000).await.unwrap();
    }
    let left = harness.leave(fan(1), -900).await.unwrap();
    assert_eq!((left.state, left.reason), (PlaceState::Expired, Some(PlaceEnd::Left)));
    assert_eq!(harness.look(fan(4), -900).await.unwrap().position, Some(3));
    harness.emitted().await;
    let again = harness.leave(fan(1), -800).await.unwrap();
    assert_eq!(again.reason, Some(PlaceEnd::Left));
    assert_eq!(harness.emitted().await, []);
}

#[tokio::test]
async fn the_expected_wait_follows_the_measured_pace() {
    let admission = Admission { active_max: 100, per_second: 50, pass_secs: 1_000 };
    let harness = Harness::open_with(admission, 1_000).await;
    for n in 0..400 {
        harness.enter(fan(n), 0).await.unwrap();
    }
    let wait = |place: events::queue::Place| place.expected_wait_secs.unwrap();
    assert_eq!(wait(harness.look(fan(399), 0).await.unwrap()), 8);
    harness.tick_through(0..10_000).await;
    // The room is full since second 2: the estimate falls towards the turnover of passes.
    let stuck = harness.look(fan(399), 10_000).await.unwrap();
    assert!(wait(stuck.clone()) > 60, "{stuck:?}");
    assert!(wait(stuck.clone()) <= 299 * 10, "{stuck:?}");
    assert!(stuck.poll_after_secs.unwrap() > 5);
}

#[tokio::test]
async fn the_pass_of_an_active_place_names_fan_schedule_and_version() {
    let harness = Harness::open().await;
    harness.admit(1).await;
    let place = harness.look(fan(0), 1_000).await.unwrap();
    assert_eq!(place.reserve_until, Some(at(60_000)));
    let pass = place.pass.unwrap();
    assert_eq!(harness.look(fan(0), 2_000).await.unwrap().pass, Some(pass.clone()));

    let keys = harness.room.config().signer.jwks();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    let verifier = mesh::auth::Verifier::new(std::sync::Arc::new(move |_| {
        let keys = keys.clone();
        Box::pin(async move { Ok(keys) })
    }));
    let claims = verifier.verify::<PassClaims>(&pass, at(59_000)).await.unwrap();
    assert_eq!((claims.sub, claims.schedule, claims.place_version), (fan(0), SCHEDULE, 2));
    assert!(verifier.verify::<PassClaims>(&pass, at(63_000)).await.is_err());
}

#[tokio::test]
async fn a_forged_ticket_and_that_of_another_fan_are_refused() {
    let harness = Harness::open().await;
    let ticket = harness.enter(fan(1), 0).await.unwrap().ticket.unwrap();
    let stolen = harness.enter_with(fan(2), Some(ticket.clone()), 0).await;
    assert!(stolen.unwrap_err().is(codes::INVALID));
    let forged = harness.enter_with(fan(2), Some("a.b.c".into()), 0).await;
    assert!(forged.unwrap_err().is(codes::INVALID));
    assert!(harness.look(fan(2), 0).await.unwrap_err().is(codes::NOT_FOUND));
}

#[tokio::test]
async fn an_old_ticket_restores_nothing_for_a_fan_who_left() {
    let harness = Harness::open().await;
    let ticket = harness.enter(fan(1), 0).await.unwrap().ticket;
    harness.enter(fan(2), 0).await.unwrap();
    harness.leave(fan(1), 0).await.unwrap();
    let place = harness.enter_with(fan(1), ticket, 0).await.unwrap();
    assert_eq!(place.position, Some(1));
}

#[tokio::test]
async fn a_hundred_thousand_fans_fit_and_the_last_one_gets_a_position() {
    const FANS: u128 = 100_000;
    let admission = Admission { per_second: 5_000, active_max: 10_000, pass_secs: 60 };
    let harness = Harness::open_with(admission, 100).await;
    let calls: Vec<_> = (0..FANS).map(|n| enter_call(fan(n))).collect();
    let began = std::time::Instant::now();
    for calls in calls.chunks(1_000) {
        harness.room.perform(calls, at(-1)).await.unwrap();
    }
    let took = began.elapsed();
    println!("{FANS} fans entered in {took:?}");
    assert!(took.as_secs() < 120, "{took:?}");
    assert_eq!(harness.look(fan(FANS - 1), -1).await.unwrap().position, Some(99_999));
    let began = std::time::Instant::now();
    harness.tick_through(0..1_000).await;
    println!("5000 fans admitted in {:?}", began.elapsed());
    assert_eq!(harness.look(fan(FANS - 1), 1_000).await.unwrap().position, Some(94_999));
}

/// More waiting and ACTIVE places than one tick ends.
#[tokio::test]
async fn a_room_larger_than_one_tick_is_emptied_to_the_last_fan() {
    const FANS: u128 = 3_501;
    let admission = Admission { per_second: 1_000, active_max: 1_200, pass_secs: 60 };
    for is_cancelled in [true, false] {
        let mut harness = Harness::open_with(admission, 100).await;
        let calls: Vec<_> = (0..FANS).map(|n| enter_call(fan(n))).collect();
        for calls in calls.chunks(1_000) {
            harness.room.perform(calls, at(-1)).await.unwrap();
        }
        harness.tick_through(0..2_000).await;
        harness.emitted().await;
        let from = if is_cancelled {
            harness.handle(super::harness::cancelled_schedule(), 2_000).await;
            2_000
        } else {
            // The show has begun, and the last pass has run out.
            86_400_000
        };
        let mut ticks = 0;
        while harness.tick(from + ticks * 100).await > 0 {
            ticks += 1;
            assert!(ticks < 20, "the ticks do not end");
        }
        let emitted = harness.emitted().await;
        let fans: std::collections::BTreeSet<_> = emitted.iter().map(|event| event.about).collect();
        assert_eq!((emitted.len(), fans.len()), (FANS as usize, FANS as usize));
        assert!(emitted.iter().all(|event| event.event == "queue.expired"));
        assert!(ticks > 3, "a tick ends a thousand at most: {ticks}");
    }
}

fn enter_call(user: UserId) -> mesh::valkey::FunctionCall {
    mesh::valkey::FunctionCall::new("enter").arg(SCHEDULE).arg(user).arg("")
}
