//! Sell-outs: when the last seat was sold, in any order of events.

use mesh::valkey::FunctionCall;

use super::harness::{Harness, at, cancelled, concert, opened, payment, refunded, schedule, sold};

#[tokio::test]
async fn a_show_is_sold_out_by_the_sale_that_reaches_its_seats() {
    let harness = Harness::open().await;
    harness.handle(sold(1, schedule(1), 6, 5_000), 6_000).await;
    assert_eq!(harness.fastest().await, []);
    harness.handle(sold(2, schedule(1), 4, 9_000), 20_000).await;
    assert_eq!(harness.fastest().await, [(concert(1), schedule(1), 9_000)]);
}

#[tokio::test]
async fn an_event_that_fails_leaves_nothing_to_the_others_of_its_batch() {
    let harness = Harness::open().await;
    let call = |name, of| FunctionCall::new(name).arg(schedule(1)).arg(payment(of));
    let batch = [
        call("sell", 1).arg(6).arg(at(5_000).unix_millis()),
        // It fails after it has subtracted the seats.
        call("refund", 1).arg("no time"),
        call("sell", 2).arg(4).arg(at(9_000).unix_millis()),
    ];
    harness.charts.perform(&batch, at(20_000)).await.unwrap_err();
    assert_eq!(harness.fastest().await, [(concert(1), schedule(1), 9_000)]);
}

#[tokio::test]
async fn a_concert_is_as_fast_as_the_fastest_of_its_schedules() {
    let harness = Harness::open().await;
    harness.handle(opened(2, concert(1), 2), 0).await;
    harness.handle(opened(3, concert(2), 2), 0).await;
    harness.handle(sold(1, schedule(1), 10, 9_000), 9_000).await;
    harness.handle(sold(3, schedule(3), 2, 8_000), 9_000).await;
    let before = [(concert(2), schedule(3), 8_000), (concert(1), schedule(1), 9_000)];
    assert_eq!(harness.fastest().await, before);
    harness.handle(sold(2, schedule(2), 2, 7_000), 9_000).await;
    let after = [(concert(1), schedule(2), 7_000), (concert(2), schedule(3), 8_000)];
    assert_eq!(harness.fastest().await, after);
    // A cancelled show is not ranked any more.
    harness.handle(cancelled(2, concert(1)), 9_000).await;
    assert_eq!(harness.fastest().await, before);
    harness.handle(cancelled(1, concert(1)), 9_000).await;
    assert_eq!(harness.fastest().await, [(concert(2), schedule(3), 8_000)]);
}

#[tokio::test]
async fn a_show_whose_cancellation_comes_first_never_sells_out() {
    let harness = Harness::empty().await;
    harness.handle(cancelled(1, concert(1)), 0).await;
    harness.handle(opened(1, concert(1), 2), 0).await;
    harness.handle(sold(1, schedule(1), 2, 5_000), 5_000).await;
    assert_eq!(harness.fastest().await, []);
}

#[tokio::test]
async fn a_refund_after_the_last_seat_changes_nothing_and_one_before_it_does() {
    let harness = Harness::open().await;
    harness.handle(sold(1, schedule(1), 6, 5_000), 5_000).await;
    harness.handle(refunded(1, schedule(1), 6_000), 6_000).await;
    harness.handle(sold(2, schedule(1), 4, 7_000), 7_000).await;
    assert_eq!(harness.fastest().await, [], "six seats are free again");
    harness.handle(sold(3, schedule(1), 6, 8_000), 8_000).await;
    assert_eq!(harness.fastest().await, [(concert(1), schedule(1), 8_000)]);
    harness.handle(refunded(2, schedule(1), 9_000), 9_000).await;
    harness.handle(sold(4, schedule(1), 4, 10_000), 10_000).await;
    assert_eq!(
        harness.fastest().await,
        [(concert(1), schedule(1), 8_000)],
        "the first sell-out counts"
    );
}

#[tokio::test]
async fn the_time_of_the_sell_out_is_the_same_in_any_order_of_events() {
    // Six and four seats sold, the six refunded and sold again: the last seat is sold at 9,000.
    for order in orders(&[0, 1, 2, 3]) {
        let harness = Harness::open().await;
        for step in &order {
            match step {
                0 => harness.handle(sold(1, schedule(1), 6, 5_000), 20_000).await,
                1 => harness.handle(refunded(1, schedule(1), 6_000), 20_000).await,
                2 => harness.handle(sold(2, schedule(1), 4, 7_000), 20_000).await,
                _ => harness.handle(sold(3, schedule(1), 6, 9_000), 20_000).await,
            }
        }
        assert_eq!(harness.fastest().await, [(concert(1), schedule(1), 9_000)], "{order:?}");
    }
}

fn orders(of: &[usize]) -> Vec<Vec<usize>> {
    let [_, _, ..] = of else { return vec![of.to_vec()] };
    let first = |at: usize| {
        let rest: Vec<usize> = of.iter().copied().filter(|step| *step != of[at]).collect();
        orders(&rest).into_iter().map(move |rest| [&[of[at]], rest.as_slice()].concat())
    };
    (0..of.len()).flat_map(first).collect()
}
