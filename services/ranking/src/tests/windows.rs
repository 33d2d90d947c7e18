//! Windows: which ones a sale counts in, and until when.

use events::ranking::Window::{self, Day, Hour, Week};

use super::harness::{HOUR, Harness, concert, opened, refunded, schedule, sold};

const MINUTE: i64 = 60_000;

#[tokio::test]
async fn a_sale_counts_until_its_step_is_older_than_the_window() {
    let cases: [(Window, i64, i64); 3] =
        [(Hour, HOUR, MINUTE), (Day, 24 * HOUR, 10 * MINUTE), (Week, 7 * 24 * HOUR, HOUR)];
    for (window, span, step) in cases {
        // At the beginning of a step, in it, and at its very end.
        for sold_at in [0, 1, step - 1] {
            let harness = Harness::open().await;
            harness.handle(sold(1, schedule(1), 2, sold_at), sold_at).await;
            let one = [(concert(1), 2)];
            assert_eq!(harness.sold(window, sold_at).await, one, "at once");
            assert_eq!(harness.sold(window, sold_at + span).await, one, "{window:?} at {sold_at}");
            assert_eq!(harness.sold(window, step - 1 + span).await, one, "{window:?} at {sold_at}");
            assert_eq!(harness.sold(window, step + span).await, [], "{window:?} at {sold_at}");
        }
    }
}

#[tokio::test]
async fn a_sale_counts_at_its_own_time_and_not_when_its_event_comes() {
    let harness = Harness::open().await;
    harness.handle(sold(1, schedule(1), 2, 0), 3 * HOUR).await;
    assert_eq!(harness.sold(Hour, 3 * HOUR).await, []);
    assert_eq!(harness.sold(Day, 3 * HOUR).await, [(concert(1), 2)]);
    // A sale that no window reaches is not kept.
    let harness = Harness::open().await;
    harness.handle(sold(1, schedule(1), 2, 0), 8 * 24 * HOUR).await;
    let keys: Vec<String> = harness.kit.store.redis(&["KEYS", "*:sold:*"]).await;
    assert_eq!(keys, [""; 0]);
}

#[tokio::test]
async fn a_late_refund_subtracts_nothing_from_later_steps() {
    let harness = Harness::open().await;
    harness.handle(sold(1, schedule(1), 4, 0), 0).await;
    harness.handle(sold(2, schedule(1), 1, 2 * HOUR), 2 * HOUR).await;
    harness.handle(refunded(1, schedule(1), 2 * HOUR + 1), 2 * HOUR + 1).await;
    for window in [Hour, Day, Week] {
        assert_eq!(harness.sold(window, 2 * HOUR + 2).await, [(concert(1), 1)]);
    }
}

#[tokio::test]
async fn every_bucket_expires_with_the_last_window_that_reaches_it() {
    let harness = Harness::open().await;
    harness.handle(sold(1, schedule(1), 4, 0), 30 * MINUTE).await;
    let keys: Vec<String> = harness.kit.store.redis(&["KEYS", "*:sold:*"]).await;
    assert_eq!(keys.len(), 3);
    for key in keys {
        let left: i64 = harness.kit.store.redis(&["PTTL", &key]).await;
        let whole = match key.split(':').nth(3).unwrap() {
            "1h" => HOUR + MINUTE,
            "24h" => 24 * HOUR + 10 * MINUTE,
            _ => 7 * 24 * HOUR + HOUR,
        };
        let expected = whole - 30 * MINUTE;
        assert!((expected - 10_000..=expected).contains(&left), "{key}: {left} of {expected}");
    }
}

#[tokio::test]
async fn the_best_hundred_places_are_shown() {
    let harness = Harness::empty().await;
    for n in 0..120 {
        harness.handle(opened(n, concert(n), 1_000), 0).await;
        harness.handle(sold(n, schedule(n), n as u32 + 1, 10), 10).await;
    }
    let ranked = harness.sold(Week, 10).await;
    assert_eq!(ranked.len(), 100);
    assert_eq!((ranked[0], ranked[99]), ((concert(119), 120), (concert(20), 21)));
}
