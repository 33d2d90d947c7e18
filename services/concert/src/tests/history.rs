//! The sequence, and the changes since a position in the map's history.

use events::{
    EventId, ScheduleId, SeatId,
    concert::{Epoch, MapState, Seat, SeatState, SectionTaken},
    reservation::ReservationExpired,
};
use mesh::Outcome;
use uuid::Uuid;

use super::harness::{
    Harness, SCHEDULE,
    SeatEvent::{Cancelled, Confirmed, Created, Expired, Off},
    owner,
};

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
