//! The map built anew next to the one that is shown.

use events::concert::{MapState, SeatState};

use crate::stage::{
    Said::{Confirmed, Created, Expired, Off},
    Stage, now,
};

#[tokio::test]
async fn a_map_built_anew_is_the_same_map_under_another_epoch() {
    let stage = Stage::open().await;
    stage.hear(Created(7), &["A-1-1"]).await;
    let before = stage.snapshot().await;
    let replay = stage.begin().await;
    replay.feed(&[stage.stored(Created(7), "A-1-1")], now()).await.unwrap();
    // Live traffic goes into both.
    stage.hear(Confirmed(7), &["A-1-1"]).await;
    stage.hear(Created(8), &["A-1-2"]).await;
    assert!(replay.compare(now()).await.unwrap().is_none());
    let live = stage.snapshot().await;
    assert_eq!((live.epoch, live.sequence), (before.epoch, 3), "nobody has noticed");
    replay.swap().await.unwrap();
    let after = stage.snapshot().await;
    assert_ne!(after.epoch, live.epoch);
    assert_eq!((after.seats, after.sections), (live.seats, live.sections));
    assert!(stage.since(live.epoch, live.sequence).await.is_gone, "watchers read the map anew");
    assert!(!stage.since(after.epoch, 0).await.is_gone);
}

#[tokio::test]
async fn a_show_that_is_off_stays_off_in_a_map_built_anew_however_long_ago_it_was_said() {
    let stage = Stage::open().await;
    stage.hear(Off, &[]).await;
    let replay = stage.begin().await;
    assert_eq!(replay.carry_over(&[now().plus_secs(-9_999)], now()).await.unwrap(), 1);
    assert!(replay.compare(now()).await.unwrap().is_none());
    replay.swap().await.unwrap();
    assert_eq!(stage.snapshot().await.state, MapState::Cancelled);
}

#[tokio::test]
async fn what_the_stream_has_forgotten_is_carried_over_and_what_it_has_is_not() {
    let stage = Stage::open().await;
    for version in 1..=3 {
        stage
            .hear(Confirmed(version), &[&format!("A-1-{version}"), &format!("A-2-{version}")])
            .await;
    }
    stage.hear(Created(4), &["B-1-1"]).await;
    stage.hear(Expired(4), &["B-1-1"]).await;
    let replay = stage.begin().await;
    // The reservations were made an hour ago.
    let carried = replay.carry_over(&[now().plus_secs(-3_601)], now()).await.unwrap();
    assert_eq!(carried, 0, "the stream has all that was said of them");
    assert_eq!(replay.compare(now()).await.unwrap().only_live.len(), 7);
    let carried = replay.carry_over(&[now().plus_secs(-3_599)], now()).await.unwrap();
    assert_eq!(carried, 4, "one for each last word");
    assert!(replay.compare(now()).await.unwrap().is_none());
    replay.swap().await.unwrap();
    let map = stage.snapshot().await;
    assert_eq!((map.seats.len(), map.sections[0].sold, map.sections[1].free), (6, 6, 10));
    // The fence has come along.
    stage.hear(Created(4), &["B-1-1"]).await;
    assert!(stage.shown().await.iter().all(|(_, state)| *state == SeatState::Sold));
}
