//! How much memory a payment takes, and how long an event takes.

use std::time::Instant;

use super::*;

/// Sold seats, each to a fan of its own; events in the order in which they were emitted.
fn sold(payments: usize) -> Sale {
    let mut sale = Sale::new();
    for seat in 0..payments {
        sale.sell(&[&format!("A-{}-{seat}", seat / 100)]);
    }
    sale
}

#[test]
fn a_finished_payment_leaves_nothing_to_check() {
    let mut sale = sold(100);
    sale.wait(2 * OPEN_SECS);
    let mut auditor = Auditor::default();
    for event in &sale.events {
        assert_eq!(auditor.handle(Flows::shipped(), event), []);
    }
    assert_eq!(auditor.settled(sale.now()), []);
    assert_eq!(auditor.due.take(i64::MAX - 1).count(), 0);
    assert_eq!(auditor.flow.waiting_len(), 0);
}

/// Not a proof of a figure, which needs a quiet machine and a release build, but of its order.
#[test]
fn an_event_costs_microseconds() {
    let sale = sold(2_000);
    let mut auditor = Auditor::default();
    let began = Instant::now();
    for event in &sale.events {
        auditor.handle(Flows::shipped(), event);
    }
    let each = began.elapsed().as_nanos() / sale.events.len() as u128;
    println!("{each} ns an event, {} events", sale.events.len());
    assert!(each < 1_000_000, "{each} ns an event");
}
