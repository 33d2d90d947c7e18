//! Nothing is found where nothing is wrong.

use events::reservation::CancelReason;

use super::*;

/// Every flow once, some of them on the same seats one after the other.
fn every_flow() -> Sale {
    let mut sale = Sale::new();
    success_and_resale(&mut sale);
    sale.wait(45);
    too_few_points(&mut sale);
    hold_gone(&mut sale);
    sale.wait(400);
    unpaid_ends(&mut sale);
    sale.wait(8_000);
    show_cancelled(&mut sale);
    forfeited(&mut sale);
    two_rows_in_one_wallet(&mut sale);
    sale.wait(2);
    sale
}

fn success_and_resale(sale: &mut Sale) {
    let first = sale.sell(&["A-1-1", "A-1-2"]);
    sale.give_up(&first, CancelReason::ByFan);
    // Sold again: to the next fan, and one seat of it together with a fresh one.
    sale.sell(&["A-1-1"]);
    sale.sell(&["A-1-2", "A-1-3"]);
}

fn too_few_points(sale: &mut Sale) {
    let (fan, _) = sale.fan(50);
    let hold = sale.hold(fan, &["B-1-1"]);
    let paying = sale.request(&hold);
    let refused = sale.refuse_debit(paying.requested, &paying);
    sale.fail(refused, &paying, PaymentFailure::InsufficientBalance);
    sale.charge(fan, 50);
    let (paying, confirmed) = sale.pay(&hold);
    sale.complete(confirmed, &paying);
}

fn hold_gone(sale: &mut Sale) {
    let (fan, _) = sale.fan(200);
    let hold = sale.hold(fan, &["C-1-1"]);
    let paying = sale.request(&hold);
    sale.wait(301);
    sale.expire(&hold);
    sale.sell(&["C-1-1"]);
    let debited = sale.debit(paying.requested, &paying);
    let refused = sale.refuse_confirm(debited, &paying);
    let refunded = sale.refund(refused, &paying, RefundReason::HoldGone);
    sale.fail(refunded, &paying, PaymentFailure::HoldGone);
}

fn unpaid_ends(sale: &mut Sale) {
    let (fan, _) = sale.fan(100);
    for reason in [CancelReason::ByFan, CancelReason::Withdrawn] {
        let hold = sale.hold(fan, &["D-1-1", "D-1-2"]);
        sale.cancel(&hold, None, reason);
    }
    let hold = sale.hold(fan, &["D-1-2"]);
    sale.wait(300);
    sale.expire(&hold);
    let hold = sale.hold(fan, &["D-1-1"]);
    sale.wait(300);
    sale.expire(&hold);
}

/// A fan gives up points and a ticket; the seat is sold again.
fn forfeited(sale: &mut Sale) {
    let sold = sale.sell(&["F-1-1"]);
    let left = sale.balances[&sold.hold.fan];
    sale.forfeit(sold.hold.fan, left);
    sale.cancel(&sold.hold, Some(&sold), CancelReason::Withdrawn);
    sale.wait(1);
    sale.sell(&["F-1-1"]);
}

fn show_cancelled(sale: &mut Sale) {
    let paid: Vec<_> = ["E-1-1", "E-1-2", "E-1-3"].map(|seat| sale.sell(&[seat])).into();
    let (fan, _) = sale.fan(100);
    let hold = sale.hold(fan, &["E-1-4"]);
    sale.cancel(&hold, None, CancelReason::ShowCancelled);
    for paying in &paid {
        sale.give_up(paying, CancelReason::ShowCancelled);
    }
}

/// Two transactions that waited for the same row of `point`: the later one is published first.
fn two_rows_in_one_wallet(sale: &mut Sale) {
    let (fan, _) = sale.fan(10);
    sale.charge(fan, 20);
    sale.charge(fan, 30);
    let last = sale.events.len() - 1;
    let (at, seq) = (sale.events[last].at, sale.events[last].stream_seq);
    sale.events.swap(last - 1, last);
    (sale.events[last - 1].at, sale.events[last - 1].stream_seq) = (sale.events[last].at, seq - 1);
    (sale.events[last].at, sale.events[last].stream_seq) = (at, seq);
}

#[test]
fn every_flow_is_clean_in_whatever_order_the_streams_are_read() {
    let sale = every_flow();
    let mut ends = BTreeSet::new();
    for seed in 0..400 {
        let (auditor, violations) = audit(&sale, seed);
        assert_eq!(violations, [], "seed {seed}");
        assert_eq!(auditor.unread(), 0);
        assert_eq!(auditor.events(), sale.events.len());
        for rule in Rule::ALL {
            assert!(auditor.checked(rule) > 0, "{rule:?} was never checked");
        }
        for (user, balance) in &sale.balances {
            assert!(auditor.wallets().any(|seen| seen == (*user, *balance)), "seed {seed}");
        }
        let mut payments: Vec<_> = auditor.payments().collect();
        payments.sort_unstable_by_key(|(id, _)| *id);
        let mut seats: Vec<String> = auditor.seats().map(|seat| format!("{seat:?}")).collect();
        seats.sort_unstable();
        ends.insert(format!("{payments:?} {seats:?}"));
    }
    assert_eq!(ends.len(), 1, "the end depends on the order");
}

/// What was emitted before the kept events is unknown, and is no violation.
#[test]
fn what_began_before_the_kept_events_is_taken_as_it_is() {
    let whole = every_flow();
    for cut in (1..whole.events.len()).step_by(3) {
        let mut sale = every_flow();
        sale.events.drain(..cut);
        for seed in 0..12 {
            let (_, violations) = audit(&sale, seed);
            assert_eq!(violations, [], "cut {cut}, seed {seed}");
        }
    }
}

#[test]
fn a_stream_that_lost_more_than_the_others_is_no_violation_either() {
    for service in ["reservation", "payment", "point"] {
        for kept in [1, 5, 9, 20] {
            let mut sale = every_flow();
            let last = sale.events.iter().filter(|event| event.service() == service).count();
            let lost = (last - kept) as u64;
            sale.events.retain(|event| event.service() != service || event.stream_seq > lost);
            for seed in 0..12 {
                let (_, violations) = audit(&sale, seed);
                assert_eq!(violations, [], "{service} keeps {kept}, seed {seed}");
            }
        }
    }
}

#[test]
fn a_service_that_is_down_for_half_an_hour_breaks_nothing() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(100);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    let debited = sale.debit(paying.requested, &paying);
    let confirmed = sale.confirm(debited, &paying);
    sale.wait(1_800);
    sale.sell(&["B-1-1"]);
    sale.wait(60);
    sale.complete(confirmed, &paying);
    finds(&sale, &[]);
}

#[test]
fn the_end_state_is_what_the_events_say() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let (fan, _) = sale.fan(70);
    let held = sale.hold(fan, &["A-1-2"]);
    let freed = sale.hold(fan, &["A-1-3"]);
    sale.cancel(&freed, None, CancelReason::ByFan);
    let (auditor, _) = audit(&sale, 7);
    assert_eq!(auditor.payments().collect::<Vec<_>>(), [(sold.id, PaymentState::Completed)]);
    let mut seats: Vec<_> = auditor.seats().map(|seat| (seat.seat, seat.owner)).collect();
    seats.sort_unstable();
    let owners = [Some(sold.hold.id), Some(held.id), None];
    assert_eq!(seats, ["A-1-1", "A-1-2", "A-1-3"].into_iter().zip(owners).collect::<Vec<_>>());
    let states: BTreeMap<_, _> =
        auditor.reservations().map(|(id, state)| (id, format!("{state:?}"))).collect();
    assert_eq!(states[&sold.hold.id], "Confirmed");
    assert_eq!(states[&held.id], "Pending");
    assert_eq!(states[&freed.id], "Cancelled");
    assert!(auditor.since().is_none());
}
