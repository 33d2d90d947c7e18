//! The sequence, and the changes since a position in the map's history.

use std::collections::BTreeSet;

use events::{
    EventId, ScheduleId, SeatId,
    concert::{Epoch, MapState, Seat, SeatState, SectionTaken},
    reservation::ReservationExpired,
};
use mesh::{Outcome, valkey::FunctionCall};
use uuid::Uuid;

use super::harness::{
    Harness, SCHEDULE,
    SeatEvent::{Cancelled, Confirmed, Created, Expired, Off},
    now, owner,
};

/// What the event of a hold, a sale or an end calls.
fn mark(version: &str, stage: &str, seats: &[&str]) -> FunctionCall {
    let call = FunctionCall::new("mark").arg(SCHEDULE).arg(version).arg(stage);
    seats.iter().fold(call, |call, seat| call.arg(seat))
}

fn seat(seat: &str, state: SeatState) -> Seat {
    Seat { seat: SeatId(seat.into()), state }
}

#[tokio::test]
async fn one_event_is_one_change_with_its_seats_and_the_counts_after_it() {
    let harness = Harness::open().await;
    harness.handle(Created(7), &["A-1-1", "A-1-2", "B-1-1"]).await;
    harness.handle(Confirmed(7), &["A-1-1", "A-1-2", "B-1-1"]).await;
    harness.handle(Expired(6), &["A-1-1"]).await;
    let map = harness.snapshot().await;
    assert_eq!((map.sequence, map.seats.len()), (2, 3));
    let changes = harness.since(map.epoch, 0).await;
    assert_eq!((changes.sequence, changes.is_gone, changes.deltas.len()), (2, false, 2));
    let first = &changes.deltas[0];
    let taken = |section: &str, held, sold| SectionTaken { section: section.into(), held, sold };
    assert_eq!(
        (first.sequence, &first.sections[..]),
        (1, &[taken("A", 2, 0), taken("B", 1, 0)][..])
    );
    let held = ["A-1-1", "A-1-2", "B-1-1"].map(|it| seat(it, SeatState::Held));
    assert_eq!(first.seats, held);
    assert_eq!(changes.deltas[1].sections, [taken("A", 0, 2), taken("B", 0, 1)]);
    assert_eq!(harness.since(map.epoch, 1).await.deltas, changes.deltas[1..]);
    assert!(harness.since(map.epoch, 2).await.deltas.is_empty());
}

#[tokio::test]
async fn the_events_of_one_batch_are_one_change_of_what_is_visible_after_it() {
    let harness = Harness::open().await;
    let batch = [
        mark("7", "held", &["A-1-1", "A-1-2"]),
        mark("8", "held", &["B-1-1"]),
        mark("7", "sold", &["A-1-1", "A-1-2"]),
        // A hold that ends in the batch that it began in was never visible.
        mark("9", "held", &["B-1-2"]),
        mark("9", "freed", &["B-1-2"]),
    ];
    harness.map.perform(&batch, now()).await.unwrap();
    let map = harness.snapshot().await;
    let changes = harness.since(map.epoch, 0).await.deltas;
    assert_eq!((map.sequence, changes.len()), (1, 1));
    let seats =
        [("A-1-1", SeatState::Sold), ("A-1-2", SeatState::Sold), ("B-1-1", SeatState::Held)];
    assert_eq!(changes[0].seats, seats.map(|(it, state)| seat(it, state)));
    let taken = |section: &str, held, sold| SectionTaken { section: section.into(), held, sold };
    assert_eq!(changes[0].sections, [taken("A", 0, 2), taken("B", 1, 0)]);
}

#[tokio::test]
async fn an_event_that_fails_leaves_no_trace_in_the_change_of_its_batch() {
    let harness = Harness::open().await;
    let batch = [
        mark("7", "held", &["A-1-1"]),
        // It fails at its second seat.
        mark("no number", "sold", &["A-1-2", "A-1-1"]),
        mark("8", "held", &["B-1-1"]),
    ];
    harness.map.perform(&batch, now()).await.unwrap_err();
    let map = harness.snapshot().await;
    let changes = harness.since(map.epoch, 0).await.deltas;
    let seats = ["A-1-1", "B-1-1"].map(|it| seat(it, SeatState::Held));
    assert_eq!((changes.len(), &changes[0].seats[..]), (1, &seats[..]));
    assert_eq!((map.sections[0].held, map.sections[0].sold), (1, 0));
}

#[tokio::test]
async fn a_show_that_is_cancelled_in_a_batch_with_sales_is_cancelled_after_them() {
    let harness = Harness::open().await;
    let off = FunctionCall::new("off").arg(SCHEDULE);
    let batch = [mark("7", "sold", &["A-1-1"]), off.clone(), off];
    harness.map.perform(&batch, now()).await.unwrap();
    let map = harness.snapshot().await;
    let changes = harness.since(map.epoch, 0).await.deltas;
    let states: Vec<_> = changes.iter().map(|change| (change.seats.len(), change.state)).collect();
    assert_eq!(states, [(1, None), (0, Some(MapState::Cancelled))]);
}

#[tokio::test]
async fn a_large_change_comes_in_pieces() {
    let harness = Harness::open().await;
    let names: BTreeSet<String> = (1..=101).map(|number| format!("A-1-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (stage, from) in [("held", 0), ("freed", 3)] {
        harness.map.perform(&[mark("7", stage, &names)], now()).await.unwrap();
        let changes = harness.since(harness.snapshot().await.epoch, from).await.deltas;
        let sizes: Vec<_> = changes.iter().map(|change| change.seats.len()).collect();
        assert_eq!(sizes, [50, 50, 1]);
        let seen: Vec<&str> =
            changes.iter().flat_map(|change| &change.seats).map(|it| &it.seat.0[..]).collect();
        assert_eq!(seen, names);
    }
}

#[tokio::test]
async fn a_cancelled_show_is_one_change_and_no_seat_is_free_from_then_on() {
    let harness = Harness::open().await;
    harness.handle(Confirmed(7), &["A-1-1"]).await;
    let before = harness.snapshot().await;
    harness.handle(Off, &[]).await;
    harness.handle(Off, &[]).await;
    let off = harness.snapshot().await;
    assert_eq!((off.sequence, off.state), (before.sequence + 1, MapState::Cancelled));
    assert!(off.sections.iter().all(|count| count.free == 0), "{off:?}");
    let changes = harness.since(before.epoch, before.sequence).await.deltas;
    assert_eq!((changes.len(), changes[0].state), (1, Some(MapState::Cancelled)));
    // A sold seat whose reservation is cancelled does not become free.
    harness.handle(Cancelled(7), &["A-1-1"]).await;
    let emptied = harness.snapshot().await;
    assert_eq!((emptied.seats.len(), emptied.sections[0].free), (0, 0));
    assert_eq!(emptied.state_of(&SeatId("A-1-1".into())), None);
}

#[tokio::test]
async fn an_event_delivered_again_changes_nothing() {
    let harness = Harness::open().await;
    harness.handle(Created(7), &["A-1-1"]).await;
    let event = ReservationExpired {
        reservation_id: owner(7),
        schedule_id: SCHEDULE,
        user_id: events::UserId(Uuid::nil()),
        seats: vec![SeatId("A-1-1".into())],
        hold_version: 7,
    };
    let id = EventId(Uuid::now_v7());
    assert!(matches!(harness.take_as(event.clone(), id).await, Outcome::Done(_)));
    assert!(matches!(harness.take_as(event, id).await, Outcome::Repeat));
    assert_eq!(harness.sequence().await, 2);
}

#[tokio::test]
async fn an_unknown_position_is_gone() {
    let harness = Harness::open().await;
    let epoch = harness.snapshot().await.epoch;
    assert!(!harness.since(epoch, 0).await.is_gone, "nothing has happened, so nothing is missing");
    harness.handle(Created(7), &["A-1-1"]).await;
    for (epoch, sequence) in [(Epoch(epoch.0 ^ 1), 0), (Epoch(epoch.0 ^ 1), 1), (epoch, 2)] {
        let changes = harness.since(epoch, sequence).await;
        assert!(changes.is_gone && changes.deltas.is_empty(), "{epoch} {sequence}");
        assert_eq!(changes.sequence, 1);
    }
}

#[tokio::test]
async fn a_long_history_is_read_in_pieces_without_a_gap() {
    let harness = Harness::open().await;
    for version in 1..=600 {
        harness.handle(Created(2 * version), &["A-1-1"]).await;
        harness.handle(Expired(2 * version), &["A-1-1"]).await;
    }
    let epoch = harness.snapshot().await.epoch;
    let mut seen = Vec::new();
    loop {
        let changes = harness.since(epoch, seen.len() as u64).await;
        assert!(!changes.is_gone);
        if changes.deltas.is_empty() {
            break;
        }
        seen.extend(changes.deltas.iter().map(|delta| delta.sequence));
    }
    assert_eq!(seen, (1..=1_200).collect::<Vec<u64>>());
}

#[tokio::test]
async fn schedules_do_not_touch_each_other() {
    let harness = Harness::open().await;
    harness.handle_on(ScheduleId(Uuid::from_u128(2)), Created(7), &["A-1-1"]).await;
    assert_eq!(harness.sequence().await, 0);
    assert!(harness.shown().await.is_empty());
}
