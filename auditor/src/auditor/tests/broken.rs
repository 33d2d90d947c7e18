//! Each rule, broken by one false event: the violation is found, and its events are named.

use Rule::{DeclaredFlow, GivenBack, HardCap, LedgerSums, OneOwner, PaidIsOwned, TakenOnce};
use events::reservation::CancelReason;

use super::*;

/// The id of the last event of this name.
fn last(sale: &Sale, event: &str) -> Uuid {
    let found = sale.events.iter().rev().find(|one| one.event == event);
    found.unwrap_or_else(|| panic!("no {event}")).event_id.0
}

#[test]
fn a_seat_that_is_held_twice_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    sale.wait(100);
    let (thief, _) = sale.fan(0);
    let stolen = sale.hold(thief, &["A-1-1"]);
    sale.expire(&stolen);
    finds(&sale, &[(OneOwner, &[sold.hold.created, stolen.created])]);
}

#[test]
fn a_seat_that_is_confirmed_for_two_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let other = sale.sell(&["A-1-2"]);
    sale.wait(100);
    // The other fan's reservation was never for this seat, and the seat was never held by it.
    let mut forged = other.clone();
    forged.hold = sold.hold.clone();
    forged.id = PaymentId(sale.id());
    forged.hold.id = ReservationId(sale.id());
    let cause = last(&sale, "point.debited");
    let confirmed = sale.confirm(cause, &forged);
    finds(
        &sale,
        &[
            (OneOwner, &[sold.hold.created, confirmed]),
            (OneOwner, &[confirmed]),
            (PaidIsOwned, &[confirmed]),
        ],
    );
}

#[test]
fn an_owner_who_lets_go_only_after_the_next_one_claimed_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    sale.wait(100);
    let next = sale.sell(&["A-1-1"]);
    sale.wait(100);
    sale.give_up(&sold, CancelReason::ByFan);
    finds(&sale, &[(OneOwner, &[sold.hold.created, next.hold.created])]);
}

#[test]
fn a_version_that_goes_back_is_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(0);
    let first = sale.hold_as(fan, &["A-1-1"], 5);
    sale.expire(&first);
    sale.wait(100);
    let second = sale.hold_as(fan, &["A-1-1"], 4);
    sale.expire(&second);
    finds(&sale, &[(OneOwner, &[first.created, second.created])]);
}

#[test]
fn a_version_that_two_owners_had_is_found_though_the_first_let_go() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(0);
    let first = sale.hold_as(fan, &["A-1-1"], 5);
    sale.expire(&first);
    sale.wait(100);
    let second = sale.hold_as(fan, &["A-1-1"], 5);
    sale.expire(&second);
    finds(&sale, &[(OneOwner, &[first.created, second.created])]);
}

#[test]
fn other_seats_than_were_held_are_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(100);
    let hold = sale.hold(fan, &["A-1-1"]);
    let mut paying = sale.request(&hold);
    let debited = sale.debit(paying.requested, &paying);
    paying.hold.seats[0].0 = "A-1-9".into();
    let confirmed = sale.confirm(debited, &paying);
    sale.complete(confirmed, &paying);
    finds(&sale, &[(OneOwner, &[hold.created, confirmed])]);
}

#[test]
fn money_that_is_taken_twice_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let first = last(&sale, "point.debited");
    sale.wait(100);
    let second = sale.debit(sold.requested, &sold);
    finds(&sale, &[(TakenOnce, &[first, second])]);
}

#[test]
fn money_that_is_given_back_twice_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    sale.give_up(&sold, CancelReason::ByFan);
    let first = last(&sale, "point.refunded");
    sale.wait(100);
    let cause = last(&sale, "reservation.cancelled");
    let second = sale.refund(cause, &sold, RefundReason::Cancelled);
    finds(&sale, &[(TakenOnce, &[first, second])]);
}

#[test]
fn a_refund_of_another_amount_than_was_taken_is_found() {
    let mut sale = Sale::new();
    let mut sold = sale.sell(&["A-1-1"]);
    let debited = last(&sale, "point.debited");
    let cancelled = sale.cancel(&sold.hold, Some(&sold), CancelReason::ByFan);
    sold.hold.amount += 1;
    let refunded = sale.refund(cancelled, &sold, RefundReason::Cancelled);
    sale.return_payment(refunded, &sold);
    finds(&sale, &[(TakenOnce, &[debited, refunded])]);
}

#[test]
fn money_that_is_given_back_to_another_fan_is_found() {
    let mut sale = Sale::new();
    let mut sold = sale.sell(&["A-1-1"]);
    let debited = last(&sale, "point.debited");
    let cancelled = sale.cancel(&sold.hold, Some(&sold), CancelReason::ByFan);
    (sold.hold.fan, _) = sale.fan(5);
    let refunded = sale.refund(cancelled, &sold, RefundReason::Cancelled);
    sale.return_payment(refunded, &sold);
    finds(&sale, &[(TakenOnce, &[debited, refunded])]);
}

#[test]
fn a_forfeited_ticket_that_is_paid_back_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let forfeited = sale.cancel(&sold.hold, Some(&sold), CancelReason::Withdrawn);
    let refunded = sale.refund(forfeited, &sold, RefundReason::Cancelled);
    sale.return_payment(refunded, &sold);
    finds(&sale, &[(GivenBack, &[forfeited, refunded])]);
}

#[test]
fn a_forfeit_of_another_sum_than_was_in_the_wallet_is_found() {
    let mut sale = Sale::new();
    let (fan, charged) = sale.fan(100);
    sale.balances.insert(fan, 90);
    let forfeited = sale.forfeit(fan, 90);
    finds(&sale, &[(LedgerSums, &[charged, forfeited])]);
}

#[test]
fn money_that_is_given_back_and_was_never_taken_is_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(0);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    sale.expire(&hold);
    let refused = sale.refuse_confirm(paying.requested, &paying);
    let refunded = sale.refund(refused, &paying, RefundReason::HoldGone);
    sale.fail(refunded, &paying, PaymentFailure::HoldGone);
    finds(&sale, &[(TakenOnce, &[refunded]), (DeclaredFlow, &[paying.requested, refused])]);
}

#[test]
fn a_payment_that_completes_without_seats_is_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(100);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    let debited = sale.debit(paying.requested, &paying);
    let completed = sale.complete(debited, &paying);
    finds(
        &sale,
        &[
            (PaidIsOwned, &[completed]),
            (GivenBack, &[debited]),
            (DeclaredFlow, &[debited, completed]),
        ],
    );
}

#[test]
fn seats_that_are_confirmed_without_money_are_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(0);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    let refused = sale.refuse_debit(paying.requested, &paying);
    sale.fail(refused, &paying, PaymentFailure::InsufficientBalance);
    let failed = last(&sale, "payment.failed");
    let cause = sale.id();
    let confirmed = sale.confirm(cause, &paying);
    finds(
        &sale,
        &[
            (PaidIsOwned, &[refused, confirmed]),
            (PaidIsOwned, &[failed, confirmed]),
            (PaidIsOwned, &[confirmed]),
            (DeclaredFlow, &[confirmed]),
        ],
    );
}

#[test]
fn seats_that_are_confirmed_by_two_payments_are_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let first = last(&sale, "reservation.confirmed");
    sale.charge(sold.hold.fan, 100);
    let (second, confirmed) = sale.pay(&sold.hold);
    sale.complete(confirmed, &second);
    finds(&sale, &[(PaidIsOwned, &[first, confirmed])]);
}

#[test]
fn a_payment_that_completes_another_reservation_is_found() {
    let mut sale = Sale::new();
    let other = sale.sell(&["A-1-2"]);
    let (fan, _) = sale.fan(100);
    let hold = sale.hold(fan, &["A-1-1"]);
    let (mut paying, confirmed) = sale.pay(&hold);
    paying.hold.id = other.hold.id;
    let completed = sale.complete(confirmed, &paying);
    finds(&sale, &[(PaidIsOwned, &[confirmed, completed])]);
}

#[test]
fn a_second_end_of_a_payment_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let (confirmed, completed) =
        (last(&sale, "reservation.confirmed"), last(&sale, "payment.completed"));
    sale.wait(100);
    let again = sale.complete(confirmed, &sold);
    finds(&sale, &[(PaidIsOwned, &[completed, again])]);
}

#[test]
fn seats_whose_payment_never_completes_are_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(100);
    let hold = sale.hold(fan, &["A-1-1"]);
    let (_, confirmed) = sale.pay(&hold);
    sale.wait(OPEN_SECS + 60);
    finds(&sale, &[(PaidIsOwned, &[confirmed])]);
}

#[test]
fn money_without_seats_is_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(100);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    sale.expire(&hold);
    let debited = sale.debit(paying.requested, &paying);
    sale.refuse_confirm(debited, &paying);
    sale.wait(OPEN_SECS + 60);
    finds(&sale, &[(GivenBack, &[debited])]);
}

#[test]
fn money_that_came_back_only_after_the_payment_failed_is_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(100);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    sale.expire(&hold);
    let debited = sale.debit(paying.requested, &paying);
    let refused = sale.refuse_confirm(debited, &paying);
    let failed = sale.fail(refused, &paying, PaymentFailure::HoldGone);
    sale.wait(100);
    sale.refund(refused, &paying, RefundReason::HoldGone);
    finds(&sale, &[(GivenBack, &[debited, failed]), (DeclaredFlow, &[refused, failed])]);
}

#[test]
fn a_refund_without_a_cancellation_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let confirmed = last(&sale, "reservation.confirmed");
    let refunded = sale.refund(confirmed, &sold, RefundReason::Cancelled);
    sale.return_payment(refunded, &sold);
    finds(&sale, &[(GivenBack, &[refunded]), (DeclaredFlow, &[confirmed, refunded])]);
}

#[test]
fn a_cancelled_payment_that_is_never_paid_back_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let cancelled = sale.cancel(&sold.hold, Some(&sold), CancelReason::ByFan);
    sale.wait(OPEN_SECS + 60);
    finds(&sale, &[(GivenBack, &[cancelled])]);
}

#[test]
fn points_from_nowhere_are_found() {
    let mut sale = Sale::new();
    let (fan, charged) = sale.fan(100);
    *sale.balances.get_mut(&fan).unwrap() += 900;
    let forged = sale.charge(fan, 10);
    sale.charge(fan, 10);
    finds(&sale, &[(LedgerSums, &[charged, forged])]);
}

#[test]
fn a_wallet_that_does_not_begin_empty_is_found() {
    let mut sale = Sale::new();
    let fan = UserId(sale.id());
    sale.balances.insert(fan, 5);
    let charged = sale.charge(fan, 100);
    finds(&sale, &[(LedgerSums, &[charged])]);
}

#[test]
fn a_balance_below_zero_is_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(50);
    let hold = sale.hold(fan, &["A-1-1"]);
    let (paying, confirmed) = sale.pay(&hold);
    sale.complete(confirmed, &paying);
    let debited = last(&sale, "point.debited");
    finds(&sale, &[(LedgerSums, &[debited])]);
}

#[test]
fn a_hold_that_is_confirmed_past_its_cap_is_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(100);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    let debited = sale.debit(paying.requested, &paying);
    sale.wait(331);
    let confirmed = sale.confirm(debited, &paying);
    sale.complete(confirmed, &paying);
    finds(&sale, &[(HardCap, &[hold.created, confirmed])]);
}

#[test]
fn a_hold_that_outlives_its_cap_is_found_whether_it_ends_or_not() {
    for ends in [false, true] {
        let mut sale = Sale::new();
        let (fan, _) = sale.fan(100);
        let hold = sale.hold(fan, &["A-1-1"]);
        sale.wait(330 + OVERDUE_SECS + 10);
        if ends {
            sale.expire(&hold);
        }
        sale.fan(1);
        finds(&sale, &[(HardCap, &[hold.created])]);
    }
}

#[test]
fn an_event_that_follows_from_nothing_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let cancelled = sale.cancel(&sold.hold, Some(&sold), CancelReason::ByFan);
    let refunded = sale.refund(cancelled, &sold, RefundReason::Cancelled);
    let nothing = sale.id();
    let returned = sale.return_payment(nothing, &sold);
    assert_ne!(refunded, returned);
    finds(&sale, &[(DeclaredFlow, &[returned])]);
}

#[test]
fn a_payment_that_completes_without_money_is_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(0);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    let refused = sale.refuse_debit(paying.requested, &paying);
    let completed = sale.complete(refused, &paying);
    finds(
        &sale,
        &[
            (PaidIsOwned, &[refused, completed]),
            (PaidIsOwned, &[completed]),
            (DeclaredFlow, &[refused, completed]),
        ],
    );
}

#[test]
fn seats_that_are_sold_without_a_debit_are_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(0);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    let confirmed = sale.confirm(paying.requested, &paying);
    sale.complete(confirmed, &paying);
    let wrong: [Uuid; 2] = [paying.requested, confirmed];
    finds(&sale, &[(PaidIsOwned, &[confirmed]), (DeclaredFlow, &wrong)]);
}

#[test]
fn seats_that_stay_sold_though_the_money_went_back_are_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let confirmed = last(&sale, "reservation.confirmed");
    let refunded = sale.refund(confirmed, &sold, RefundReason::HoldGone);
    let both: [Uuid; 2] = [confirmed, refunded];
    finds(&sale, &[(PaidIsOwned, &both), (DeclaredFlow, &both)]);
}

#[test]
fn a_failed_payment_that_is_given_up_or_refunded_is_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(0);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    let refused = sale.refuse_debit(paying.requested, &paying);
    let failed = sale.fail(refused, &paying, PaymentFailure::InsufficientBalance);
    let cancelled = sale.cancel(&hold, Some(&paying), CancelReason::ByFan);
    let returned = sale.return_payment(cancelled, &paying);
    finds(
        &sale,
        &[
            (GivenBack, &[failed, cancelled]),
            (GivenBack, &[failed, returned]),
            (GivenBack, &[returned]),
            (GivenBack, &[cancelled]),
            (PaidIsOwned, &[cancelled]),
            (DeclaredFlow, &[cancelled, returned]),
        ],
    );
}

#[test]
fn a_debit_for_another_reservation_than_was_requested_is_found() {
    let mut sale = Sale::new();
    let (fan, _) = sale.fan(100);
    let hold = sale.hold(fan, &["A-1-1"]);
    let paying = sale.request(&hold);
    let mut other = paying.clone();
    other.hold.id = ReservationId(sale.id());
    let debited = sale.debit(paying.requested, &other);
    let confirmed = sale.confirm(debited, &paying);
    sale.complete(confirmed, &paying);
    let wrong: [Uuid; 2] = [paying.requested, debited];
    finds(&sale, &[(PaidIsOwned, &wrong), (PaidIsOwned, &[debited, confirmed])]);
}

#[test]
fn a_cancellation_of_more_than_was_paid_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let confirmed = last(&sale, "reservation.confirmed");
    let mut more = sold.hold.clone();
    more.amount += 1;
    let cancelled = sale.cancel(&more, Some(&sold), CancelReason::ByFan);
    let refunded = sale.refund(cancelled, &sold, RefundReason::Cancelled);
    sale.return_payment(refunded, &sold);
    finds(&sale, &[(PaidIsOwned, &[confirmed, cancelled])]);
}

#[test]
fn money_that_went_back_while_its_payment_stays_completed_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let cancelled = sale.cancel(&sold.hold, Some(&sold), CancelReason::ByFan);
    let refunded = sale.refund(cancelled, &sold, RefundReason::Cancelled);
    finds(&sale, &[(GivenBack, &[refunded])]);
}

#[test]
fn seats_that_are_freed_and_were_never_held_are_found() {
    let mut sale = Sale::new();
    let mut unknown = sale.sell(&["A-1-1"]).hold;
    unknown.id = ReservationId(sale.id());
    let expired = sale.expire(&unknown);
    finds(&sale, &[(OneOwner, &[expired])]);
}

#[test]
fn a_paid_reservation_that_ends_as_if_it_were_unpaid_is_found() {
    let mut sale = Sale::new();
    let sold = sale.sell(&["A-1-1"]);
    let first = last(&sale, "reservation.confirmed");
    let expired = sale.expire(&sold.hold);
    let other = sale.sell(&["A-1-2"]);
    let second = last(&sale, "reservation.confirmed");
    let cancelled = sale.cancel(&other.hold, None, CancelReason::ByFan);
    finds(&sale, &[(PaidIsOwned, &[first, expired]), (PaidIsOwned, &[second, cancelled])]);
}
