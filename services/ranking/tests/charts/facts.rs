//! Sales and returns: once, twice, under another id, late, out of order.

use events::{EventId, codes, ranking::Window};
use mesh::Outcome;
use uuid::Uuid;

use crate::stage::{Stage, concert, opened, returned, schedule, sold};

const AT: i64 = 1_000;

#[tokio::test]
async fn what_sold_most_comes_first() {
    let stage = Stage::open().await;
    stage.hear(opened(2, concert(2), 10), 0).await;
    stage.hear(opened(3, concert(2), 10), 0).await;
    stage.hear(sold(1, schedule(1), 3, 500), AT).await;
    stage.hear(sold(2, schedule(2), 2, 500), AT).await;
    stage.hear(sold(3, schedule(3), 2, 600), AT).await;
    for window in [Window::Hour, Window::Day, Window::Week] {
        let both = [(concert(2), 4), (concert(1), 3)];
        assert_eq!(stage.sold(window, AT).await, both, "both schedules of the concert");
    }
}

#[tokio::test]
async fn a_sale_that_comes_twice_counts_once() {
    let stage = Stage::open().await;
    let id = EventId(Uuid::now_v7());
    let first = stage.hear_as(sold(1, schedule(1), 2, 500), id, AT).await;
    assert!(matches!(first, Outcome::Done(_)), "{first:?}");
    let second = stage.hear_as(sold(1, schedule(1), 2, 500), id, AT).await;
    assert!(matches!(second, Outcome::Repeat), "{second:?}");
    assert_eq!(stage.sold(Window::Hour, AT).await, [(concert(1), 2)]);
}

#[tokio::test]
async fn a_payment_counts_once_under_however_many_event_ids() {
    let stage = Stage::open().await;
    for _ in 0..3 {
        stage.hear(sold(1, schedule(1), 2, 500), AT).await;
    }
    assert_eq!(stage.sold(Window::Hour, AT).await, [(concert(1), 2)]);
    for _ in 0..3 {
        stage.hear(returned(1, schedule(1), 700), AT).await;
    }
    assert_eq!(stage.sold(Window::Hour, AT).await, []);
    stage.hear(sold(1, schedule(1), 2, 500), AT).await;
    assert_eq!(stage.sold(Window::Hour, AT).await, []);
}

#[tokio::test]
async fn a_return_takes_as_many_seats_out_as_the_sale_put_in() {
    let stage = Stage::open().await;
    stage.hear(sold(1, schedule(1), 4, 500), AT).await;
    stage.hear(sold(2, schedule(1), 1, 500), AT).await;
    stage.hear(returned(1, schedule(1), 700), AT).await;
    assert_eq!(stage.sold(Window::Week, AT).await, [(concert(1), 1)]);
}

#[tokio::test]
async fn a_return_that_is_heard_before_its_sale_waits_for_it() {
    let stage = Stage::open().await;
    stage.hear(returned(1, schedule(1), 700), AT).await;
    stage.hear(sold(1, schedule(1), 4, 500), AT).await;
    assert_eq!(stage.sold(Window::Hour, AT).await, []);
    stage.hear(sold(2, schedule(1), 1, 500), AT).await;
    assert_eq!(stage.sold(Window::Hour, AT).await, [(concert(1), 1)]);
}

#[tokio::test]
async fn a_sale_of_a_schedule_that_is_not_heard_of_comes_again() {
    let stage = Stage::empty().await;
    let id = EventId(Uuid::now_v7());
    let early = stage.hear_as(sold(1, schedule(1), 4, 500), id, AT).await;
    let Outcome::NotYet(problem) = early else { panic!("{early:?}") };
    assert!(problem.is(codes::NOT_FOUND));
    stage.hear(opened(1, concert(1), 10), AT).await;
    let again = stage.hear_as(sold(1, schedule(1), 4, 500), id, AT).await;
    assert!(matches!(again, Outcome::Done(_)), "{again:?}");
    assert_eq!(stage.sold(Window::Hour, AT).await, [(concert(1), 4)]);
}

#[tokio::test]
async fn a_payment_that_was_told_without_its_seats_counts_as_one() {
    let stage = Stage::open().await;
    stage.hear(sold(1, schedule(1), 0, 500), AT).await;
    assert_eq!(stage.sold(Window::Hour, AT).await, [(concert(1), 1)]);
}

#[tokio::test]
async fn a_schedule_that_is_opened_twice_is_one() {
    let stage = Stage::open().await;
    stage.hear(sold(1, schedule(1), 4, 500), AT).await;
    stage.hear(opened(1, concert(1), 10), AT).await;
    assert_eq!(stage.sold(Window::Hour, AT).await, [(concert(1), 4)]);
}
