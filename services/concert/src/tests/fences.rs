//! The latest update of each seat wins, in whatever order the events come.

use events::concert::SeatState::{self, Held, Sold};

use super::harness::{
    Harness,
    SeatEvent::{self, Cancelled, Confirmed, Created, Expired},
};

const SEAT: &[&str] = &["A-1-1"];

/// What the map shows of the one seat after these events.
async fn state_after(harness: &Harness, seat_events: &[SeatEvent]) -> Option<SeatState> {
    for event in seat_events {
        harness.handle(*event, SEAT).await;
    }
    harness.shown().await.first().map(|(_, state)| *state)
}

#[tokio::test]
async fn each_event_of_a_reservation_updates_its_seats() {
    let harness = Harness::open().await;
    assert_eq!(state_after(&harness, &[Created(7)]).await, Some(Held));
    assert_eq!(state_after(&harness, &[Confirmed(7)]).await, Some(Sold));
    assert_eq!(state_after(&harness, &[Cancelled(7)]).await, None);
    assert_eq!(state_after(&harness, &[Created(8)]).await, Some(Held));
    assert_eq!(state_after(&harness, &[Expired(8)]).await, None);
    assert_eq!(harness.sequence().await, 5);
}

#[tokio::test]
async fn a_late_event_of_a_former_owner_leaves_the_next_owner_untouched() {
    for late in [Created(7), Confirmed(7), Expired(7), Cancelled(7)] {
        let harness = Harness::open().await;
        assert_eq!(state_after(&harness, &[Created(8), late]).await, Some(Held), "{late:?}");
        assert_eq!(state_after(&harness, &[Confirmed(8), late]).await, Some(Sold), "{late:?}");
        assert_eq!(state_after(&harness, &[Cancelled(8), late]).await, None, "{late:?}");
        assert_eq!(harness.sequence().await, 3, "{late:?} changes nothing");
    }
}

#[tokio::test]
async fn a_hold_whose_end_comes_before_its_start_stays_ended() {
    let harness = Harness::open().await;
    assert_eq!(state_after(&harness, &[Expired(7), Created(7), Confirmed(7)]).await, None);
    assert_eq!(harness.sequence().await, 0, "nothing of it was visible");
    assert_eq!(state_after(&harness, &[Confirmed(9), Created(9), Created(9)]).await, Some(Sold));
}

#[tokio::test]
async fn a_new_owner_that_comes_before_the_old_ones_end_changes_only_the_fence() {
    let harness = Harness::open().await;
    assert_eq!(state_after(&harness, &[Created(7), Created(8), Expired(7)]).await, Some(Held));
    assert_eq!(harness.sequence().await, 1);
    assert_eq!(state_after(&harness, &[Expired(8)]).await, None);
}

#[tokio::test]
async fn two_owners_events_in_any_order_and_twice_leave_the_same_map() {
    let first: [&[SeatEvent]; 2] =
        [&[Created(7), Expired(7)], &[Created(7), Confirmed(7), Cancelled(7)]];
    let second: [(&[SeatEvent], Option<SeatState>); 4] = [
        (&[Created(8)], Some(Held)),
        (&[Created(8), Confirmed(8)], Some(Sold)),
        (&[Created(8), Expired(8)], None),
        (&[Created(8), Confirmed(8), Cancelled(8)], None),
    ];
    let harness = Harness::open().await;
    let mut seats = 0;
    for first in first {
        for (second, end) in second {
            // Every order of at most five events, each on a seat of its own.
            for order in orders(&[first, second].concat()) {
                seats += 1;
                let seat = format!("A-1-{seats}");
                // The second round repeats every event, late.
                for event in order.iter().chain(&order) {
                    harness.handle(*event, &[&seat]).await;
                }
                let shown = harness.shown().await;
                let state = shown.iter().find(|(shown, _)| *shown == seat).map(|(_, it)| *it);
                assert_eq!(state, end, "{order:?}");
                harness.handle(Cancelled(9), &[&seat]).await;
            }
        }
    }
    assert_eq!(harness.snapshot().await.sections[0].free, 10, "counts come back to their start");
}

/// Every order of `items`.
fn orders<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for index in 0..items.len() {
        let mut rest = items.to_vec();
        let first = rest.remove(index);
        for mut order in orders(&rest) {
            order.insert(0, first);
            all.push(order);
        }
    }
    all
}
