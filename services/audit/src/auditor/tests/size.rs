//! How much memory a payment takes, and how long a fact.

use std::time::Instant;

use super::*;

/// Sold seats, each to a fan of its own; facts in the order in which they were told.
fn sold(payments: usize) -> Sale {
    let mut sale = Sale::new();
    for seat in 0..payments {
        sale.sell(&[&format!("A-{}-{seat}", seat / 100)]);
    }
    sale
}

#[test]
fn a_finished_payment_leaves_nothing_to_be_looked_at() {
    let mut sale = sold(100);
    sale.wait(2 * OPEN_SECS);
    let mut auditor = Auditor::default();
    for fact in &sale.facts {
        assert_eq!(auditor.hear(Flows::shipped(), fact), []);
    }
    assert_eq!(auditor.settled(sale.now()), []);
    assert_eq!(auditor.due.take(i64::MAX - 1).count(), 0);
    assert_eq!(auditor.flow.waiting_len(), 0);
}

/// Not a proof of a figure, which needs a quiet machine and a release build, but of its order.
#[test]
fn a_fact_costs_microseconds() {
    let sale = sold(2_000);
    let mut auditor = Auditor::default();
    let began = Instant::now();
    for fact in &sale.facts {
        auditor.hear(Flows::shipped(), fact);
    }
    let each = began.elapsed().as_nanos() / sale.facts.len() as u128;
    println!("{each} ns a fact, {} facts", sale.facts.len());
    assert!(each < 1_000_000, "{each} ns a fact");
}
