//! When a hold may be paid, and how a payment ends.

use events::{
    PaymentId, Problem, ReservationId, ScheduleId, Timestamp, UserId, codes,
    payment::{self, PaymentFailure, PaymentState},
    point::{DebitRefusal, RefundReason},
    withdrawal::WithdrawalReason,
};
use mesh::HandleError;

/// A payment asks for more time when its hold has less than this left.
const LAST_MINUTE_SECS: i64 = 60;

/// A fan's claim on seats, as far as this service knows it from events.
#[derive(Debug, Clone, PartialEq)]
pub struct Hold {
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who holds them.
    pub user_id: UserId,
    /// The price in points; 0 when the end arrived before the creation.
    pub amount: i64,
    /// How many seats; 0 when the end arrived before the creation.
    pub seats: u32,
    /// The fence that every later step must present.
    pub hold_version: i64,
    /// The original end of the hold; it may have been extended since.
    pub expires_at: Timestamp,
    /// It was given up or lost, confirmed or not; for good.
    pub ended: bool,
    /// It ended because the show was called off.
    pub is_off: bool,
    /// The span that this service learned of it in, for the traces of its payments.
    pub traceparent: Option<String>,
}

impl Hold {
    /// A hold whose end arrived, at `now`, before its creation. It cannot be paid, so its
    /// price does not matter.
    pub fn ended(
        schedule_id: ScheduleId,
        user_id: UserId,
        hold_version: i64,
        is_off: bool,
        now: Timestamp,
    ) -> Self {
        Self {
            schedule_id,
            user_id,
            amount: 0,
            seats: 0,
            hold_version,
            expires_at: now,
            ended: true,
            is_off,
            traceparent: None,
        }
    }

    /// Applies another event about this hold. An end wins in whichever order the events come,
    /// but only an end of this owner and version. Returns whether the hold has changed.
    pub fn apply(&mut self, update: &Self) -> bool {
        let is_same = update.user_id == self.user_id && update.hold_version == self.hold_version;
        let is_changed = is_same && update.ended && self.end();
        self.is_off |= is_changed && update.is_off;
        is_changed
    }

    /// Ends the hold. Returns whether it was still alive.
    pub fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.ended, true)
    }

    /// Whether so little time is left at `now` that a payment may take longer.
    pub fn is_in_its_last_minute(&self, now: Timestamp) -> bool {
        self.expires_at < now.plus_secs(LAST_MINUTE_SECS)
    }
}

/// Where a payment stands, with all that its next step depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Money and seats are requested.
    Requested,
    /// The seats are lost and the refund is on its way. Other services still see REQUESTED.
    Unwinding,
    /// Money taken, seats confirmed.
    Completed,
    /// Nothing was taken, or everything was given back.
    Failed(PaymentFailure),
    /// Completed once; the money has been given back since.
    Refunded,
}

/// What another service did about a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The seats are confirmed.
    Confirmed,
    /// The hold was gone.
    ConfirmRefused,
    /// Nothing was taken.
    DebitRefused(DebitRefusal),
    /// The money is back.
    Refunded(RefundReason),
    /// The money is back, because the show was called off before the seats were confirmed.
    ShowCancelled,
}

impl Standing {
    /// The standing after this outcome; `None` when the outcome had been applied before.
    ///
    /// # Errors
    /// `NotYet` when another event must come first. `Never` when the outcome contradicts
    /// earlier events: a payment is never moved to a wrong end.
    pub fn after(self, outcome: Outcome) -> Result<Option<Self>, HandleError> {
        use {Outcome as O, Standing as S};
        const HOLD_GONE: Standing = Standing::Failed(PaymentFailure::HoldGone);
        const OFF: Standing = Standing::Failed(PaymentFailure::ShowCancelled);
        match (self, outcome) {
            (S::Requested, O::Confirmed) => Ok(Some(S::Completed)),
            (S::Requested, O::ConfirmRefused) => Ok(Some(S::Unwinding)),
            (S::Requested, O::DebitRefused(refusal)) => Ok(Some(S::Failed(failure(refusal)))),
            (S::Requested | S::Unwinding, O::Refunded(RefundReason::HoldGone)) => {
                Ok(Some(HOLD_GONE))
            }
            (S::Requested | S::Unwinding, O::ShowCancelled) => Ok(Some(OFF)),
            (S::Completed, O::Refunded(RefundReason::Cancelled)) => Ok(Some(S::Refunded)),
            // Only a confirmed reservation is cancelled with a refund: the confirmation is late.
            (S::Requested, O::Refunded(RefundReason::Cancelled)) => {
                Err(HandleError::NotYet("reservation.confirmed of this payment"))
            }
            (S::Completed | S::Refunded, O::Confirmed)
            | (S::Unwinding | HOLD_GONE | OFF, O::ConfirmRefused)
            | (HOLD_GONE, O::Refunded(RefundReason::HoldGone))
            | (OFF, O::ShowCancelled)
            | (S::Refunded, O::Refunded(RefundReason::Cancelled)) => Ok(None),
            (S::Failed(reason), O::DebitRefused(refusal)) if reason == failure(refusal) => Ok(None),
            _ => Err(HandleError::Never(format!(
                "{outcome:?} contradicts a payment that is {self:?}"
            ))),
        }
    }

    /// The state that fans and other services see.
    pub fn state(self) -> PaymentState {
        match self {
            Self::Requested | Self::Unwinding => PaymentState::Requested,
            Self::Completed => PaymentState::Completed,
            Self::Failed(_) => PaymentState::Failed,
            Self::Refunded => PaymentState::Refunded,
        }
    }

    /// Why it failed, or is about to.
    pub fn reason(self) -> Option<PaymentFailure> {
        match self {
            Self::Unwinding => Some(PaymentFailure::HoldGone),
            Self::Failed(reason) => Some(reason),
            Self::Requested | Self::Completed | Self::Refunded => None,
        }
    }

    /// The standing with this state and reason; `None` when there is no such standing.
    pub fn from_parts(state: PaymentState, reason: Option<PaymentFailure>) -> Option<Self> {
        Some(match (state, reason) {
            (PaymentState::Requested, None) => Self::Requested,
            (PaymentState::Requested, Some(PaymentFailure::HoldGone)) => Self::Unwinding,
            (PaymentState::Completed, None) => Self::Completed,
            (PaymentState::Failed, Some(reason)) => Self::Failed(reason),
            (PaymentState::Refunded, None) => Self::Refunded,
            _ => return None,
        })
    }

    /// Whether it excludes other payments of the same reservation.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Requested | Self::Unwinding | Self::Completed)
    }
}

fn failure(refusal: DebitRefusal) -> PaymentFailure {
    match refusal {
        DebitRefusal::InsufficientBalance => PaymentFailure::InsufficientBalance,
        DebitRefusal::NoWallet => PaymentFailure::NoWallet,
    }
}

/// A payment.
#[derive(Debug, Clone, PartialEq)]
pub struct Payment {
    /// Its id, and the id of its saga.
    pub id: PaymentId,
    /// The reservation that is paid.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who pays.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// How many seats.
    pub seats: u32,
    /// The fence of the hold.
    pub hold_version: i64,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// Where it stands.
    pub standing: Standing,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

impl Payment {
    /// A payment of this hold, requested at `now`.
    pub fn of(hold: &Hold, reservation_id: ReservationId, id: PaymentId, now: Timestamp) -> Self {
        Self {
            id,
            reservation_id,
            schedule_id: hold.schedule_id,
            user_id: hold.user_id,
            amount: hold.amount,
            seats: hold.seats,
            hold_version: hold.hold_version,
            requested_at: now,
            standing: Standing::Requested,
            ended_at: None,
        }
    }

    /// Applies an outcome. Returns whether the payment has come to a new end.
    ///
    /// # Errors
    /// As [`Standing::after`]; nothing is changed then.
    pub fn apply(&mut self, outcome: Outcome, now: Timestamp) -> Result<bool, HandleError> {
        let Some(standing) = self.standing.after(outcome)? else {
            return Ok(false);
        };
        self.standing = standing;
        let is_end = standing != Standing::Unwinding;
        self.ended_at = is_end.then_some(now);
        Ok(is_end)
    }

    /// What its owner sees. The reason of a failure is shown only once it has failed.
    pub fn to_view(&self) -> payment::Payment {
        let state = self.standing.state();
        payment::Payment {
            payment_id: self.id,
            reservation_id: self.reservation_id,
            schedule_id: self.schedule_id,
            user_id: self.user_id,
            amount: self.amount,
            state,
            reason: self.standing.reason().filter(|_| state == PaymentState::Failed),
            requested_at: self.requested_at,
            ended_at: self.ended_at,
        }
    }
}

/// What blocks a fan's withdrawal, given the standing of each of their payments and whether
/// its seats were given back.
pub fn at_stake(payments: impl Iterator<Item = (Standing, bool)>) -> Option<WithdrawalReason> {
    let reason = |(standing, is_given_back)| match standing {
        Standing::Requested | Standing::Unwinding => Some(WithdrawalReason::PaymentRunning),
        Standing::Completed if is_given_back => Some(WithdrawalReason::RefundDue),
        Standing::Completed | Standing::Failed(_) | Standing::Refunded => None,
    };
    payments.filter_map(reason).min()
}

/// Whether `fan` may pay this hold now: a live hold can be paid. No payment begins after the
/// hold's original end, even when the hold was extended since.
///
/// # Errors
/// `not_found`, `schedule_cancelled`, `hold_gone`, `already_paid` or `payment_running`.
pub fn may_pay(
    hold: &Hold,
    fan: UserId,
    live: Option<&Payment>,
    now: Timestamp,
) -> Result<(), Problem> {
    if hold.user_id != fan {
        return Err(codes::NOT_FOUND.into());
    }
    match live {
        _ if hold.is_off => Err(codes::SCHEDULE_CANCELLED.into()),
        _ if hold.ended => Err(codes::HOLD_GONE.into()),
        Some(payment) if payment.standing == Standing::Completed => Err(codes::ALREADY_PAID.into()),
        Some(payment) => {
            Err(Problem::from(codes::PAYMENT_RUNNING).with("payment_id", payment.id.to_string()))
        }
        None if now >= hold.expires_at => Err(codes::HOLD_GONE.into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp(time::OffsetDateTime::UNIX_EPOCH);
    const FAN: UserId = UserId(Uuid::from_u128(1));
    const HOLD_GONE: Standing = Standing::Failed(PaymentFailure::HoldGone);
    const OFF: Standing = Standing::Failed(PaymentFailure::ShowCancelled);
    const POOR: Standing = Standing::Failed(PaymentFailure::InsufficientBalance);

    fn hold(ended: bool) -> Hold {
        Hold {
            schedule_id: ScheduleId(Uuid::from_u128(2)),
            user_id: FAN,
            amount: 100,
            seats: 2,
            hold_version: 7,
            expires_at: NOW.plus_secs(300),
            ended,
            is_off: false,
            traceparent: None,
        }
    }

    fn payment(standing: Standing) -> Payment {
        let id = PaymentId(Uuid::from_u128(4));
        let reservation_id = ReservationId(Uuid::from_u128(3));
        Payment { standing, ..Payment::of(&hold(false), reservation_id, id, NOW) }
    }

    fn refusal(hold: &Hold, live: Option<&Payment>, secs: i64) -> String {
        may_pay(hold, FAN, live, NOW.plus_secs(secs)).unwrap_err().code
    }

    #[test]
    fn a_hold_that_ended_stays_ended() {
        let mut known = hold(false);
        assert!(!known.apply(&hold(false)));
        assert!(known.apply(&hold(true)));
        assert!(!known.apply(&hold(true)));
        assert!(!known.apply(&hold(false)));
        assert!(known.ended);
    }

    #[test]
    fn the_end_of_another_owner_or_version_leaves_a_hold_alone() {
        let mut known = hold(false);
        assert!(!known.apply(&Hold { hold_version: 6, ..hold(true) }));
        assert!(!known.apply(&Hold { user_id: UserId(Uuid::from_u128(9)), ..hold(true) }));
        assert_eq!(known, hold(false));
    }

    #[test]
    fn a_hold_may_be_paid_until_its_original_end() {
        let open = hold(false);
        assert_eq!(may_pay(&open, FAN, None, NOW), Ok(()));
        assert_eq!(may_pay(&open, FAN, None, NOW.plus_secs(299)), Ok(()));
        assert_eq!(refusal(&open, None, 300), "hold_gone");
    }

    #[test]
    fn less_than_a_minute_is_the_last_minute() {
        let open = hold(false);
        assert!(!open.is_in_its_last_minute(NOW.plus_secs(240)), "a minute is left");
        assert!(open.is_in_its_last_minute(NOW.plus_millis(240_001)));
    }

    #[test]
    fn the_hold_of_another_fan_is_not_found_whatever_its_state() {
        for ended in [false, true] {
            let problem = may_pay(&hold(ended), UserId(Uuid::from_u128(9)), None, NOW).unwrap_err();
            assert!(problem.is(codes::NOT_FOUND));
        }
    }

    #[test]
    fn only_a_running_payment_or_a_refund_due_blocks_a_withdrawal() {
        let block = |payments: &[(Standing, bool)]| at_stake(payments.iter().copied());
        let over = [(Standing::Completed, false), (POOR, true), (Standing::Refunded, true)];
        assert_eq!(block(&over), None);
        let due = (Standing::Completed, true);
        assert_eq!(block(&[over[0], due]), Some(WithdrawalReason::RefundDue));
        for standing in [Standing::Requested, Standing::Unwinding] {
            let running = Some(WithdrawalReason::PaymentRunning);
            assert_eq!(block(&[due, (standing, false)]), running);
        }
    }

    #[test]
    fn a_hold_is_paid_once_and_only_while_it_lives() {
        let open = hold(false);
        assert_eq!(refusal(&hold(true), None, 0), "hold_gone");
        let off = Hold { is_off: true, ..hold(true) };
        assert_eq!(refusal(&off, None, 0), "schedule_cancelled", "the reason it ended");
        let completed = payment(Standing::Completed);
        assert_eq!(refusal(&open, Some(&completed), 0), "already_paid");
        assert_eq!(refusal(&open, Some(&completed), 900), "already_paid", "before hold_gone");
        for standing in [Standing::Requested, Standing::Unwinding] {
            let running = payment(standing);
            let problem = may_pay(&open, FAN, Some(&running), NOW).unwrap_err();
            assert!(problem.is(codes::PAYMENT_RUNNING));
            assert_eq!(problem.extra["payment_id"], running.id.to_string());
        }
    }

    /// Every outcome on every standing: the next standing, or the error.
    #[test]
    fn a_payment_never_comes_to_a_wrong_end() {
        use DebitRefusal::{InsufficientBalance, NoWallet};
        let standings = [
            Standing::Requested,
            Standing::Unwinding,
            Standing::Completed,
            POOR,
            HOLD_GONE,
            Standing::Refunded,
            OFF,
        ];
        let outcomes = [
            Outcome::Confirmed,
            Outcome::ConfirmRefused,
            Outcome::DebitRefused(InsufficientBalance),
            Outcome::DebitRefused(NoWallet),
            Outcome::Refunded(RefundReason::HoldGone),
            Outcome::Refunded(RefundReason::Cancelled),
            Outcome::ShowCancelled,
        ];
        // `.` applied before, `w` waits for another event, `!` a contradiction.
        let table = [
            ["C", "U", "P", "N", "H", "w", "O"],
            ["!", ".", "!", "!", "H", "!", "O"],
            [".", "!", "!", "!", "!", "R", "!"],
            ["!", "!", ".", "!", "!", "!", "!"],
            ["!", ".", "!", "!", ".", "!", "!"],
            [".", "!", "!", "!", "!", ".", "!"],
            ["!", ".", "!", "!", "!", "!", "."],
        ];
        for (standing, row) in standings.into_iter().zip(table) {
            for (outcome, expected) in outcomes.into_iter().zip(row) {
                let got = match standing.after(outcome) {
                    Ok(None) => ".",
                    Err(HandleError::NotYet(_)) => "w",
                    Err(HandleError::Never(_)) => "!",
                    Ok(Some(Standing::Completed)) => "C",
                    Ok(Some(Standing::Unwinding)) => "U",
                    Ok(Some(Standing::Refunded)) => "R",
                    Ok(Some(POOR)) => "P",
                    Ok(Some(HOLD_GONE)) => "H",
                    Ok(Some(OFF)) => "O",
                    Ok(Some(Standing::Failed(PaymentFailure::NoWallet))) => "N",
                    Ok(Some(Standing::Requested)) => "back to the beginning",
                };
                assert_eq!(got, expected, "{outcome:?} on {standing:?}");
            }
        }
    }

    #[test]
    fn an_unwinding_payment_is_shown_as_running_without_a_reason() {
        let mut unwinding = payment(Standing::Requested);
        assert_eq!(unwinding.apply(Outcome::ConfirmRefused, NOW), Ok(false));
        let view = unwinding.to_view();
        assert_eq!((view.state, view.reason, view.ended_at), (PaymentState::Requested, None, None));
        assert_eq!(unwinding.apply(Outcome::Refunded(RefundReason::HoldGone), NOW), Ok(true));
        let view = unwinding.to_view();
        assert_eq!(view.reason, Some(PaymentFailure::HoldGone));
        assert_eq!((view.state, view.ended_at), (PaymentState::Failed, Some(NOW)));
    }

    #[test]
    fn a_stored_standing_is_read_back_unchanged() {
        for standing in [
            Standing::Requested,
            Standing::Unwinding,
            Standing::Completed,
            POOR,
            HOLD_GONE,
            OFF,
            Standing::Refunded,
        ] {
            assert_eq!(Standing::from_parts(standing.state(), standing.reason()), Some(standing));
            let is_live =
                matches!(standing.state(), PaymentState::Requested | PaymentState::Completed);
            assert_eq!(standing.is_live(), is_live);
        }
        assert_eq!(Standing::from_parts(PaymentState::Failed, None), None);
    }
}
