//! Sales and refunds: once, twice, under another id, late, out of order.

use events::{EventId, codes, ranking::Window};
use mesh::Outcome;
use uuid::Uuid;

use super::harness::{Harness, concert, opened, refunded, schedule, sold};

const AT: i64 = 1_000;

#[tokio::test]
async fn the_concert_that_sold_most_comes_first() {
    let harness = Harness::open().await;
    harness.handle(opened(2, concert(2), 10), 0).await;
    harness.handle(opened(3, concert(2), 10), 0).await;
    harness.handle(sold(1, schedule(1), 3, 500), AT).await;
    harness.handle(sold(2, schedule(2), 2, 500), AT).await;
    harness.handle(sold(3, schedule(3), 2, 600), AT).await;
    for window in [Window::Hour, Window::Day, Window::Week] {
        let both = [(concert(2), 4), (concert(1), 3)];
        assert_eq!(harness.sold(window, AT).await, both, "both schedules of the concert");
    }
}

#[tokio::test]
async fn a_sale_that_comes_twice_counts_once() {
    let harness = Harness::open().await;
    let id = EventId(Uuid::now_v7());
    let first = harness.handle_as(sold(1, schedule(1), 2, 500), id, AT).await;
    assert!(matches!(first, Outcome::Done(_)), "{first:?}");
    let second = harness.handle_as(sold(1, schedule(1), 2, 500), id, AT).await;
    assert!(matches!(second, Outcome::Repeat), "{second:?}");
    assert_eq!(harness.sold(Window::Hour, AT).await, [(concert(1), 2)]);
}

#[tokio::test]
async fn a_payment_counts_once_under_several_event_ids() {
    let harness = Harness::open().await;
    for _ in 0..3 {
        harness.handle(sold(1, schedule(1), 2, 500), AT).await;
    }
    assert_eq!(harness.sold(Window::Hour, AT).await, [(concert(1), 2)]);
    for _ in 0..3 {
        harness.handle(refunded(1, schedule(1), 700), AT).await;
    }
    assert_eq!(harness.sold(Window::Hour, AT).await, []);
    harness.handle(sold(1, schedule(1), 2, 500), AT).await;
    assert_eq!(harness.sold(Window::Hour, AT).await, []);
}

#[tokio::test]
async fn a_refund_subtracts_as_many_seats_as_the_sale_added() {
    let harness = Harness::open().await;
    harness.handle(sold(1, schedule(1), 4, 500), AT).await;
    harness.handle(sold(2, schedule(1), 1, 500), AT).await;
    harness.handle(refunded(1, schedule(1), 700), AT).await;
    assert_eq!(harness.sold(Window::Week, AT).await, [(concert(1), 1)]);
}

#[tokio::test]
async fn a_refund_that_comes_before_its_sale_waits_for_it() {
    let harness = Harness::open().await;
    harness.handle(refunded(1, schedule(1), 700), AT).await;
    harness.handle(sold(1, schedule(1), 4, 500), AT).await;
    assert_eq!(harness.sold(Window::Hour, AT).await, []);
    harness.handle(sold(2, schedule(1), 1, 500), AT).await;
    assert_eq!(harness.sold(Window::Hour, AT).await, [(concert(1), 1)]);
}

#[tokio::test]
async fn a_sale_of_an_unknown_schedule_is_retried() {
    let harness = Harness::empty().await;
    let id = EventId(Uuid::now_v7());
    let early = harness.handle_as(sold(1, schedule(1), 4, 500), id, AT).await;
    let Outcome::NotYet(problem) = early else { panic!("{early:?}") };
    assert!(problem.is(codes::NOT_FOUND));
    harness.handle(opened(1, concert(1), 10), AT).await;
    let again = harness.handle_as(sold(1, schedule(1), 4, 500), id, AT).await;
    assert!(matches!(again, Outcome::Done(_)), "{again:?}");
    assert_eq!(harness.sold(Window::Hour, AT).await, [(concert(1), 4)]);
}

#[tokio::test]
async fn a_payment_event_without_seats_counts_as_one_seat() {
    let harness = Harness::open().await;
    harness.handle(sold(1, schedule(1), 0, 500), AT).await;
    assert_eq!(harness.sold(Window::Hour, AT).await, [(concert(1), 1)]);
}

#[tokio::test]
async fn a_schedule_that_is_opened_twice_is_counted_once() {
    let harness = Harness::open().await;
    harness.handle(sold(1, schedule(1), 4, 500), AT).await;
    harness.handle(opened(1, concert(1), 10), AT).await;
    assert_eq!(harness.sold(Window::Hour, AT).await, [(concert(1), 4)]);
}
