//! A map rebuilt by replay next to the live one.

use events::{
    SeatId,
    concert::{MapState, SeatState},
    state::{SeatOwner, SeatStated},
};

use super::harness::{
    Harness, SCHEDULE,
    SeatEvent::{Confirmed, Created, Expired, Off},
    now, owner,
};
use crate::seats::handle;

#[tokio::test]
async fn a_rebuilt_map_is_the_same_map_under_another_epoch() {
    let harness = Harness::open().await;
    harness.handle(Created(7), &["A-1-1"]).await;
    let before = harness.snapshot().await;
    let replay = harness.begin().await;
    replay.feed(&[harness.stored(Created(7), "A-1-1")], now()).await.unwrap();
    // Live traffic goes into both.
    harness.handle(Confirmed(7), &["A-1-1"]).await;
    harness.handle(Created(8), &["A-1-2"]).await;
    assert!(replay.compare(now()).await.unwrap().is_none());
    let live = harness.snapshot().await;
    assert_eq!((live.epoch, live.sequence), (before.epoch, 3), "the replay does not show");
    replay.swap().await.unwrap();
    let after = harness.snapshot().await;
    assert_ne!(after.epoch, live.epoch);
    assert_eq!((after.seats, after.sections), (live.seats, live.sections));
    assert!(harness.since(live.epoch, live.sequence).await.is_gone, "watchers read the map again");
    assert!(!harness.since(after.epoch, 0).await.is_gone);
}

#[tokio::test]
async fn a_cancelled_show_stays_cancelled_in_a_rebuilt_map_however_old_the_event_is() {
    let harness = Harness::open().await;
    harness.handle(Off, &[]).await;
    let replay = harness.begin().await;
    replay.state(&[handle::schedule_cancelled(SCHEDULE)], now()).await.unwrap();
    assert!(replay.compare(now()).await.unwrap().is_none());
    replay.swap().await.unwrap();
    assert_eq!(harness.snapshot().await.state, MapState::Cancelled);
}

#[tokio::test]
async fn the_reservation_service_states_seats_whose_events_have_left_the_stream() {
    let harness = Harness::open().await;
    for version in 1..=3 {
        harness
            .handle(Confirmed(version), &[&format!("A-1-{version}"), &format!("A-2-{version}")])
            .await;
    }
    harness.handle(Created(4), &["B-1-1"]).await;
    harness.handle(Expired(4), &["B-1-1"]).await;
    harness.handle(Created(5), &["B-1-2"]).await;
    let before = harness.snapshot().await;
    let mut stated: Vec<_> = (1..=3)
        .flat_map(|version| ["A-1", "A-2"].map(|row| (format!("{row}-{version}"), version)))
        .map(|(seat, version)| owned(&seat, version, Some(true)))
        .collect();
    stated.push(owned("B-1-1", 4, None));
    stated.push(owned("B-1-2", 5, Some(false)));
    let replay = harness.begin().await;
    replay.state(&handle::stated(SCHEDULE, &stated), now()).await.unwrap();
    assert!(replay.compare(now()).await.unwrap().is_none());
    // A statement that is repeated, late, or older than an event changes nothing.
    harness.handle(Confirmed(5), &["B-1-2"]).await;
    replay.state(&handle::stated(SCHEDULE, &stated), now()).await.unwrap();
    assert!(replay.compare(now()).await.unwrap().is_none());
    replay.swap().await.unwrap();
    let map = harness.snapshot().await;
    assert_eq!((map.seats.len(), map.sections[0].sold, map.sections[1].sold), (7, 6, 1));
    assert_eq!(before.seats.len(), 7);
    // The fence was rebuilt too.
    harness.handle(Created(4), &["B-1-1"]).await;
    assert!(harness.shown().await.iter().all(|(_, state)| *state == SeatState::Sold));
}

fn owned(seat: &str, hold_version: i64, is_sold: Option<bool>) -> SeatStated {
    let owner = is_sold.map(|is_sold| SeatOwner {
        reservation_id: owner(hold_version),
        user_id: uuid::Uuid::nil().into(),
        is_sold,
        seats: 2,
        hard_cap_at: now(),
    });
    SeatStated { seat: SeatId(seat.into()), hold_version, owner }
}
