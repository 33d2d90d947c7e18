//! Each decision on its own.

use events::reservation::ReservationState;
use uuid::Uuid;

use super::*;

const HOLD_SECS: i64 = 300;
const GRACE_SECS: u32 = 60;

fn at(secs: i64) -> Timestamp {
    Timestamp(time::OffsetDateTime::UNIX_EPOCH).plus_secs(1_000_000 + secs)
}

fn fan() -> UserId {
    UserId(Uuid::from_u128(1))
}

fn show() -> ScheduleId {
    ScheduleId(Uuid::from_u128(2))
}

fn payment(n: u128) -> PaymentId {
    PaymentId(Uuid::from_u128(n))
}

fn terms() -> Terms {
    Terms {
        opens_at: at(0),
        starts_at: at(10_000),
        refund_until: at(5_000),
        hold_secs: 300,
        seats_per_fan_max: 4,
    }
}

fn seat(name: &str) -> SeatId {
    SeatId(name.into())
}

fn hold() -> Reservation {
    hold_at(at(0))
}

fn hold_at(now: Timestamp) -> Reservation {
    let id = ReservationId(Uuid::from_u128(3));
    let request = HoldRequest { id, schedule_id: show(), user_id: fan(), place_version: 5 };
    let old = Seat { price: 50, owner: None, hold_version: 7 };
    let seats = [(seat("A-1-1"), Seat::new(100)), (seat("A-1-2"), old)];
    Reservation::hold(request, seats.into_iter(), &terms(), GRACE_SECS, now)
}

fn claim(hold: &Reservation) -> Claim {
    Claim { user_id: hold.user_id, hold_version: hold.hold_version, amount: hold.amount }
}

fn pass() -> Pass {
    Pass { user_id: fan(), schedule_id: show(), place_version: 5, reserve_until: at(100) }
}

#[test]
fn a_schedule_is_on_sale_from_its_opening_to_its_start() {
    let open = Schedule::Open(terms());
    let just_before = at(10_000).plus_millis(-1);
    assert!(open.on_sale(at(0).plus_millis(-1)).unwrap_err().is(codes::NOT_OPEN_YET));
    assert!(open.on_sale(at(0)).is_ok());
    assert!(open.on_sale(just_before).is_ok());
    assert!(open.on_sale(at(10_000)).unwrap_err().is(codes::SCHEDULE_CLOSED));
    for cancelled in [Schedule::Cancelling, Schedule::Cancelled] {
        assert!(cancelled.on_sale(at(1)).unwrap_err().is(codes::SCHEDULE_CANCELLED));
    }
}

#[test]
fn a_hold_ends_no_later_than_the_start_of_the_show() {
    let (early, last) = (hold_at(at(9_700)), hold_at(at(9_999)));
    assert_eq!((early.expires_at, early.hard_cap_at), (at(10_000), at(10_060)));
    assert_eq!((last.expires_at, last.hard_cap_at), (at(10_000), at(10_060)));
    assert_eq!(hold_at(at(9_699)).expires_at, at(9_999));
    assert!(last.is_due(at(10_000)) && !last.is_due(at(10_000).plus_millis(-1)));
}

fn ticket() -> Reservation {
    let mut ticket = hold();
    ticket.confirm(payment(1));
    ticket
}

#[test]
fn a_ticket_can_be_given_back_exactly_until_the_refund_deadline() {
    let open = Schedule::Open(terms());
    let just_before = at(5_000).plus_millis(-1);
    assert_eq!(ticket().may_be_given_back(Some(&open), just_before), Ok(()));
    for late in [at(5_000), at(10_000), at(1_000_000)] {
        let refused = ticket().may_be_given_back(Some(&open), late).unwrap_err();
        assert!(refused.is(codes::NOT_CANCELLABLE));
        assert_eq!(refused.extra["reason"], "refund_deadline");
        assert_eq!(refused.extra["refund_until"], at(5_000).to_string());
        for off in [Schedule::Cancelling, Schedule::Cancelled] {
            assert_eq!(ticket().may_be_given_back(Some(&off), late), Ok(()));
        }
    }
}

#[test]
fn a_live_hold_can_be_given_back_and_an_ended_reservation_cannot() {
    let open = Schedule::Open(terms());
    let (mut late, last_moment) = (hold_at(at(6_000)), at(6_300).plus_millis(-1));
    assert_eq!(late.may_be_given_back(Some(&open), last_moment), Ok(()));
    let over = late.may_be_given_back(Some(&open), at(6_300)).unwrap_err();
    assert_eq!(over.extra["reason"], "ended");
    for state in [ReservationState::Expired, ReservationState::Cancelled] {
        late.state = state;
        let ended = late.may_be_given_back(Some(&open), at(1)).unwrap_err();
        assert!(ended.is(codes::NOT_CANCELLABLE));
    }
    let closing = Reservation { closing: true, ..ticket() };
    let refused = closing.may_be_given_back(Some(&open), at(1)).unwrap_err();
    assert!(refused.is(codes::ACCOUNT_CLOSING));
}

#[test]
fn a_debit_for_a_hold_of_a_cancelled_show_is_refused_as_show_cancelled() {
    for (reason, refusal) in [
        (CancelReason::ShowCancelled, ConfirmRefusal::ShowCancelled),
        (CancelReason::ByFan, ConfirmRefusal::Cancelled),
        (CancelReason::Withdrawn, ConfirmRefusal::Cancelled),
    ] {
        let state = ReservationState::Cancelled;
        let off = Reservation { state, cancel_reason: Some(reason), ..hold() };
        assert_eq!(off.settle(payment(1), &claim(&off), at(1)), Settled::Refused(refusal));
    }
}

#[test]
fn a_place_is_used_up_after_a_payment_when_no_hold_is_live() {
    let bought = |is_paid, holds_until, place_version| Bought {
        seats: 1,
        holds_until,
        place_version,
        is_paid,
    };
    let (paid, held) = (bought(true, None, 5), bought(false, Some(at(100)), 5));
    let used = |all: &[Bought], version, now| is_used_up(all.iter(), version, now);
    assert!(!used(&[], 5, at(1)) && !used(&[held], 5, at(1)));
    assert!(used(&[paid], 5, at(1)));
    assert!(!used(&[paid, held], 5, at(99)), "the other hold is live");
    assert!(used(&[paid, held], 5, at(100)), "it has run out");
    assert!(!used(&[paid], 6, at(1)), "a place that was admitted later");
    assert!(used(&[bought(true, None, 6)], 5, at(1)), "an old pass");
}

#[test]
fn a_show_is_called_off_once_and_even_before_its_opening_arrives() {
    assert_eq!(
        Schedule::schedule_cancelled(Some(&Schedule::Open(terms()))),
        Some(Schedule::Cancelling)
    );
    assert_eq!(Schedule::schedule_cancelled(None), Some(Schedule::Cancelled));
    assert_eq!(Schedule::schedule_cancelled(Some(&Schedule::Cancelling)), None);
    assert_eq!(Schedule::schedule_cancelled(Some(&Schedule::Cancelled)), None);
}

#[test]
fn a_request_names_1_to_100_well_formed_seats_each_once() {
    assert!(well_formed(&[]).unwrap_err().is(codes::INVALID));
    assert!(well_formed(&[seat("A-1-1"), seat("A-1-1")]).unwrap_err().is(codes::INVALID));
    for odd in ["A-1-1\0", &"A".repeat(SeatId::BYTES_MAX + 1)] {
        assert!(well_formed(&[seat(odd)]).unwrap_err().is(codes::INVALID));
    }
    let many: Vec<SeatId> = (0..=SEATS_PER_REQUEST_MAX).map(|n| seat(&n.to_string())).collect();
    assert!(well_formed(&many).unwrap_err().is(codes::INVALID));
    assert!(well_formed(&many[1..]).is_ok());
}

#[test]
fn a_seat_name_is_normalized_however_it_is_typed() {
    for (typed, stored) in [
        ("R\u{1109}\u{1165}\u{11a8}-A-1", "R석-A-1"),
        ("Ａ－１－１", "A-1-1"),
        (" VIP\u{3000}석-A-1 ", "VIP 석-A-1"),
    ] {
        assert_eq!(normalized(&seat(typed)), seat(stored), "{typed}");
    }
}

#[test]
fn a_pass_admits_its_fan_until_it_runs_out() {
    assert!(pass().is_for(fan(), show()));
    assert!(!pass().is_for(UserId(Uuid::nil()), show()));
    assert!(!pass().is_for(fan(), ScheduleId(Uuid::nil())));
    assert!(pass().admit(&Place::UNKNOWN, at(99)).is_ok());
    assert!(pass().admit(&Place::UNKNOWN, at(100)).unwrap_err().is(codes::NOT_ACTIVE));
}

#[test]
fn a_pass_of_an_ended_place_is_void_but_an_older_end_does_not_void_it() {
    let ended = |ended_version| Place { ended_version };
    assert!(pass().admit(&ended(4), at(0)).is_ok());
    assert!(pass().admit(&ended(5), at(0)).unwrap_err().is(codes::NOT_ACTIVE));
    assert!(pass().admit(&ended(6), at(0)).unwrap_err().is(codes::NOT_ACTIVE));
}

#[test]
fn a_place_is_changed_only_by_a_later_end() {
    let known = Place { ended_version: 3 };
    let ended = |ended_version| Place { ended_version };
    assert!(ended(4).is_newer_than(&known));
    assert!(!ended(3).is_newer_than(&known));
    assert!(!ended(2).is_newer_than(&known));
}

#[test]
fn seats_are_granted_all_or_none_and_a_refusal_names_those_in_the_way() {
    let free = Seat::new(10);
    let taken = Seat { owner: Some(ReservationId(Uuid::nil())), ..free };
    let plan = |name: &SeatId| match name.0.as_str() {
        "free" | "free too" => Some(&free),
        "taken" => Some(&taken),
        _ => None,
    };
    assert_eq!(free_seats(&[seat("free"), seat("free too")], plan).unwrap().len(), 2);
    let refusal = free_seats(&[seat("free"), seat("taken")], plan).unwrap_err();
    assert!(refusal.is(codes::SEAT_TAKEN));
    assert_eq!(refusal.extra["seats"], serde_json::json!(["taken"]));
    let refusal = free_seats(&[seat("no"), seat("taken"), seat("never")], plan).unwrap_err();
    assert!(refusal.is(codes::UNKNOWN_SEAT));
    assert_eq!(refusal.extra["seats"], serde_json::json!(["no", "never"]));
}

#[test]
fn a_fan_has_no_more_seats_than_allowed() {
    assert!(within_limit(0, 4, &terms()).is_ok());
    assert!(within_limit(3, 1, &terms()).is_ok());
    assert!(within_limit(3, 2, &terms()).unwrap_err().is(codes::LIMIT_EXCEEDED));
}

#[test]
fn a_hold_has_a_higher_version_than_every_former_owner_of_its_seats() {
    let hold = hold();
    assert_eq!(hold.state, ReservationState::Pending);
    assert_eq!(hold.hold_version, 8);
    assert_eq!(hold.amount, 150);
    assert_eq!(hold.expires_at, at(HOLD_SECS));
    assert_eq!(hold.hard_cap_at, at(HOLD_SECS + i64::from(GRACE_SECS)));
}

#[test]
fn a_seat_belongs_to_one_owner_and_one_version_of_it() {
    let hold = hold();
    let own = Seat { price: 1, owner: Some(hold.id), hold_version: hold.hold_version };
    assert!(own.belongs_to(&hold));
    assert!(!Seat { hold_version: hold.hold_version + 1, ..own }.belongs_to(&hold));
    assert!(!Seat { owner: None, ..own }.belongs_to(&hold));
}

#[test]
fn a_payment_extends_its_hold_once_and_not_beyond_the_hard_cap() {
    let mut hold = hold();
    let extension = |hold: &Reservation, grace_secs, now| {
        hold.extension(fan(), hold.hold_version, grace_secs, now)
    };
    assert_eq!(extension(&hold, GRACE_SECS, at(10)), None, "far enough away");
    let end = extension(&hold, GRACE_SECS, at(290)).unwrap();
    assert_eq!(end, at(350));
    hold.extend(end);
    assert_eq!(extension(&hold, GRACE_SECS, at(299)), None, "only once");
    let fresh = self::hold();
    assert_eq!(extension(&fresh, 10_000, at(299)), Some(fresh.hard_cap_at));
}

#[test]
fn only_the_owner_of_a_live_hold_extends_it() {
    let hold = hold();
    let version = hold.hold_version;
    let stranger = UserId(Uuid::nil());
    assert_eq!(hold.extension(fan(), version, GRACE_SECS, at(HOLD_SECS)), None, "its time is up");
    assert_eq!(hold.extension(fan(), version - 1, GRACE_SECS, at(299)), None);
    assert_eq!(hold.extension(stranger, version, GRACE_SECS, at(299)), None);
    for state in
        [ReservationState::Cancelled, ReservationState::Expired, ReservationState::Confirmed]
    {
        let ended = Reservation { state, ..hold.clone() };
        assert_eq!(ended.extension(fan(), version, GRACE_SECS, at(299)), None, "{state:?}");
    }
}

#[test]
fn a_debit_in_time_confirms_and_its_repeat_changes_nothing() {
    let mut hold = hold();
    let claim = claim(&hold);
    assert_eq!(hold.settle(payment(1), &claim, at(299)), Settled::Confirmed);
    hold.confirm(payment(1));
    assert_eq!(hold.returns(CancelReason::ByFan), 150);
    assert_eq!(hold.settle(payment(1), &claim, at(900)), Settled::Before);
    hold.state = ReservationState::Cancelled;
    assert_eq!(hold.settle(payment(1), &claim, at(900)), Settled::Before, "returned already");
}

#[test]
fn a_late_debit_never_confirms_an_expired_hold() {
    let hold = hold();
    let claim = claim(&hold);
    assert_eq!(hold.settle(payment(1), &claim, at(HOLD_SECS)), Settled::Lapsed);
    let expired = Reservation { state: ReservationState::Expired, ..hold };
    let refusal = Settled::Refused(ConfirmRefusal::Expired);
    assert_eq!(expired.settle(payment(1), &claim, at(1)), refusal);
}

#[test]
fn a_debit_for_a_cancelled_sold_or_foreign_hold_is_refused() {
    let hold = hold();
    let good = claim(&hold);
    let refusal = Settled::Refused(ConfirmRefusal::Cancelled);
    for bad in [
        Claim { user_id: UserId(Uuid::nil()), ..good },
        Claim { hold_version: 7, ..good },
        Claim { amount: 1, ..good },
    ] {
        assert_eq!(hold.settle(payment(1), &bad, at(1)), refusal);
    }
    let cancelled = Reservation { state: ReservationState::Cancelled, ..hold.clone() };
    assert_eq!(cancelled.settle(payment(1), &good, at(1)), refusal);
    let mut sold = hold;
    sold.confirm(payment(2));
    assert_eq!(sold.settle(payment(1), &good, at(1)), refusal);
}

#[test]
fn a_hold_is_due_at_its_end_and_a_confirmed_reservation_never() {
    let mut hold = hold();
    assert!(!hold.is_due(at(HOLD_SECS - 1)));
    assert!(hold.is_due(at(HOLD_SECS)));
    assert_eq!(hold.returns(CancelReason::ByFan), 0);
    hold.confirm(payment(1));
    assert!(hold.owns() && !hold.is_due(at(HOLD_SECS)));
}

#[test]
fn a_claim_waits_while_a_withdrawal_is_cleared_unless_the_hold_has_ended() {
    let mut hold = Reservation { closing: true, ..hold() };
    let claim = claim(&hold);
    assert_eq!(hold.settle(payment(1), &claim, at(10)), Settled::Undecided);
    assert_eq!(hold.settle(payment(1), &claim, at(HOLD_SECS)), Settled::Lapsed);
    hold.confirm(payment(1));
    assert_eq!(hold.settle(payment(1), &claim, at(10)), Settled::Before);
}

#[test]
fn a_ticket_forfeited_with_the_account_is_not_refunded() {
    let mut hold = hold();
    assert_eq!(hold.refund_after(CancelReason::Withdrawn), None);
    hold.confirm(payment(1));
    assert_eq!(hold.returns(CancelReason::Withdrawn), 0);
    assert_eq!(hold.refund_after(CancelReason::Withdrawn), Some(Refund::Forfeited));
    for reason in [CancelReason::ByFan, CancelReason::ShowCancelled] {
        assert_eq!((hold.returns(reason), hold.refund_after(reason)), (150, Some(Refund::Due)));
    }
}

#[test]
fn tickets_for_shows_to_come_and_refunds_due_block_a_withdrawal() {
    use WithdrawalReason::{RefundDue, Tickets};
    let open = Schedule::Open(terms());
    let mut hold = hold();
    assert_eq!(hold.at_stake(Some(&open), false, at(1)), None, "a hold is just cancelled");
    hold.confirm(payment(1));
    assert_eq!(hold.at_stake(Some(&open), false, at(9_999)), Some(Tickets));
    assert_eq!(hold.at_stake(Some(&open), true, at(9_999)), None);
    assert_eq!(hold.at_stake(Some(&open), false, at(10_000)), None, "the show has begun");
    assert_eq!(hold.at_stake(Some(&Schedule::Cancelling), true, at(1)), Some(RefundDue));
    (hold.state, hold.refund) = (Cancelled, Some(Refund::Due));
    assert_eq!(hold.at_stake(Some(&Schedule::Cancelled), true, at(1)), Some(RefundDue));
    hold.refund = Some(Refund::Made);
    assert_eq!(hold.at_stake(Some(&open), false, at(1)), None);
}
