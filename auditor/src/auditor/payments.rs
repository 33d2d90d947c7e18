//! A payment, from all events about it: money for seats, or money back.

use events::audit::Rule;
use events::payment::PaymentState;
use uuid::Uuid;

use super::{
    finding::{Finding, Moment, OPEN_SECS, SLACK_SECS},
    shelf::Mark,
};

/// The steps of a payment. Two events that exclude each other share one step, and a flag says
/// which of them came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// `payment.requested`.
    Requested,
    /// `point.debited` or `point.debit_refused`.
    Money,
    /// `reservation.confirmed` or `reservation.confirm_refused`.
    Seats,
    /// `payment.completed` or `payment.failed`.
    Ended,
    /// `reservation.cancelled` of a paid one.
    Cancelled,
    /// `point.refunded`.
    Refunded,
    /// `payment.refunded`.
    Returned,
}

/// `point.debit_refused`.
pub(super) const NO_MONEY: u8 = 1;
/// `reservation.confirm_refused`.
pub(super) const NO_SEATS: u8 = 2;
/// `payment.failed`.
pub(super) const FAILED: u8 = 4;
/// `payment.failed` because the hold was gone.
pub(super) const HOLD_GONE: u8 = 8;
/// `point.refunded` because a confirmed reservation was cancelled.
pub(super) const AFTER_CANCEL: u8 = 16;

/// `reservation.cancelled` of a ticket that was forfeited with the account: nothing is returned.
pub(super) const FORFEITED: u8 = 32;

/// A payment.
#[derive(Debug, Clone, Default)]
pub(super) struct Payment {
    pub(super) id: Uuid,
    pub(super) schedule: Uuid,
    marks: [Mark; 7],
    /// A short hash of the user who paid.
    pub(super) payer: u32,
    flags: u8,
}

type Emitted<'a> = Option<&'a Mark>;

impl Payment {
    pub(super) fn new(id: Uuid, schedule: Uuid) -> Self {
        Self { id, schedule, ..Self::default() }
    }

    fn mark(&self, step: Step) -> Emitted<'_> {
        self.marks[step as usize].observed()
    }

    fn with(&self, step: Step, flag: u8, is_set: bool) -> Emitted<'_> {
        self.mark(step).filter(|_| (self.flags & flag != 0) == is_set)
    }

    fn debited(&self) -> Emitted<'_> {
        self.with(Step::Money, NO_MONEY, false)
    }

    fn confirmed(&self) -> Emitted<'_> {
        self.with(Step::Seats, NO_SEATS, false)
    }

    fn completed(&self) -> Emitted<'_> {
        self.with(Step::Ended, FAILED, false)
    }

    fn failed(&self) -> Emitted<'_> {
        self.with(Step::Ended, FAILED, true)
    }

    fn forfeited(&self) -> Emitted<'_> {
        self.with(Step::Cancelled, FORFEITED, true)
    }

    /// Cancelled, and to be paid back.
    fn returning(&self) -> Emitted<'_> {
        self.with(Step::Cancelled, FORFEITED, false)
    }

    /// Its state by the events of its own service.
    pub(super) fn state(&self) -> Option<PaymentState> {
        if self.mark(Step::Returned).is_some() {
            Some(PaymentState::Refunded)
        } else if self.completed().is_some() {
            Some(PaymentState::Completed)
        } else if self.failed().is_some() {
            Some(PaymentState::Failed)
        } else {
            self.mark(Step::Requested).map(|_| PaymentState::Requested)
        }
    }

    /// Whether it still awaits an event.
    pub(super) fn is_unfinished(&self) -> bool {
        self.state() == Some(PaymentState::Requested) || {
            let now = Moment { until: i64::MAX, at_rest: true, since: i64::MIN, now: 0 };
            let mut missing = Vec::new();
            self.missing_after(&now, &mut missing);
            !missing.is_empty()
        }
    }

    /// Takes in an event. Returns a finding when it contradicts the event that the same service
    /// emitted before for this step.
    pub(super) fn handle(&mut self, step: Step, flags: u8, mark: Mark) -> Option<Finding> {
        // Refused again, because it was requested again.
        let is_same = self.flags & (NO_MONEY | NO_SEATS) & flags != 0;
        let Some(first) = self.marks[step as usize].set(mark) else {
            self.flags |= flags;
            return None;
        };
        let (rule, what) = match step {
            Step::Requested => (Rule::DeclaredFlow, "a payment is requested twice"),
            Step::Money => (Rule::TakenOnce, "money is taken twice, or taken and refused"),
            Step::Seats => (Rule::PaidIsOwned, "a payment confirms seats twice, or is refused too"),
            Step::Ended => (Rule::PaidIsOwned, "a payment ends twice"),
            Step::Cancelled => (Rule::GivenBack, "a paid reservation is cancelled twice"),
            Step::Refunded => (Rule::TakenOnce, "money is refunded twice"),
            Step::Returned => (Rule::GivenBack, "a payment is refunded twice"),
        };
        (!is_same).then(|| Finding::between(rule, what, &first, &mark))
    }

    /// Finds what is wrong with it.
    pub(super) fn judge(&self, moment: &Moment, found: &mut Vec<Finding>) {
        self.contradictions(found);
        self.missing_before(moment, found);
        self.missing_after(moment, found);
    }

    /// Finds events that are both there and cannot both be true.
    fn contradictions(&self, found: &mut Vec<Finding>) {
        use Rule::{GivenBack, PaidIsOwned, TakenOnce};
        let no_money = self.with(Step::Money, NO_MONEY, true);
        let hold_gone = self.with(Step::Refunded, AFTER_CANCEL, false);
        let excluded = [
            (self.confirmed(), self.failed(), PaidIsOwned, "seats are confirmed, payment failed"),
            (no_money, self.confirmed(), PaidIsOwned, "seats are confirmed, no money was taken"),
            (no_money, self.completed(), PaidIsOwned, "a payment completes without money"),
            (self.confirmed(), hold_gone, PaidIsOwned, "seats are confirmed, money went back"),
            (self.failed(), self.mark(Step::Returned), GivenBack, "a failed payment is refunded"),
            (self.failed(), self.mark(Step::Cancelled), GivenBack, "a failed payment is cancelled"),
            (
                self.forfeited(),
                self.mark(Step::Refunded),
                GivenBack,
                "a forfeited reservation is refunded",
            ),
        ];
        for (first, second, rule, what) in excluded {
            if let (Some(first), Some(second)) = (first, second) {
                found.push(Finding::between(rule, what, first, second));
            }
        }
        let pairs = [
            (
                self.mark(Step::Requested),
                self.mark(Step::Money),
                "a different reservation or amount is debited than was requested",
            ),
            (
                self.debited(),
                self.mark(Step::Seats),
                "a different reservation or amount is confirmed than was debited",
            ),
            (
                self.confirmed(),
                self.completed(),
                "a different reservation or amount completes than was confirmed",
            ),
            (
                self.confirmed(),
                self.returning(),
                "a different reservation or amount is cancelled than was confirmed",
            ),
        ];
        for (first, second, what) in pairs {
            if let Some((first, second)) = first.zip(second)
                && (first.amount, first.other) != (second.amount, second.other)
            {
                found.push(Finding::between(PaidIsOwned, what, first, second));
            }
        }
        if let Some((confirmed, forfeited)) = self.confirmed().zip(self.forfeited())
            && (forfeited.amount, forfeited.other) != (0, confirmed.other)
        {
            let what =
                "a different reservation is forfeited than was confirmed, or it is paid back";
            found.push(Finding::between(PaidIsOwned, what, confirmed, forfeited));
        }
        if let Some((debited, refunded)) = self.debited().zip(self.mark(Step::Refunded))
            && (debited.amount, self.payer) != (refunded.amount, refunded.other)
        {
            let what = "a refund differs from the debit in amount or wallet";
            found.push(Finding::between(TakenOnce, what, debited, refunded));
        }
    }

    /// Finds events without the event that has to come before them.
    fn missing_before(&self, moment: &Moment, found: &mut Vec<Finding>) {
        if !moment.covers_all_of(self.id) {
            return;
        }
        let after_cancel = self.with(Step::Refunded, AFTER_CANCEL, true);
        let refunded = self.mark(Step::Refunded);
        let needs = [
            (self.completed(), self.confirmed(), Rule::PaidIsOwned, "completed without seats"),
            (self.confirmed(), self.debited(), Rule::PaidIsOwned, "confirmed without money"),
            (refunded, self.debited(), Rule::TakenOnce, "given back, but never taken"),
            (
                after_cancel,
                self.mark(Step::Cancelled),
                Rule::GivenBack,
                "refunded, but nothing is cancelled",
            ),
            (self.mark(Step::Returned), refunded, Rule::GivenBack, "refunded without money"),
        ];
        for (emitted, needed, rule, what) in needs {
            if let Some(emitted) = emitted
                && needed.is_none()
                && moment.is_past(emitted, SLACK_SECS)
            {
                found.push(Finding::of(rule, what, emitted));
            }
        }
        // Not before the money is back.
        if let Some(failed) = self.failed()
            && (self.flags & HOLD_GONE != 0 || self.debited().is_some())
            && match refunded {
                Some(refunded) => failed.secs() + SLACK_SECS < refunded.secs(),
                None => moment.is_past(failed, SLACK_SECS),
            }
        {
            let what = "a payment failed, and its money is not back";
            found.push(match self.debited() {
                Some(debited) => Finding::between(Rule::GivenBack, what, debited, failed),
                None => Finding::of(Rule::GivenBack, what, failed),
            });
        }
    }

    /// Finds events without the event that has to follow them, within a long while.
    fn missing_after(&self, moment: &Moment, found: &mut Vec<Finding>) {
        let refunded = self.mark(Step::Refunded);
        // A failed payment is judged by its failure.
        let debited = self.debited().filter(|_| self.failed().is_none());
        let after_cancel = self.with(Step::Refunded, AFTER_CANCEL, true);
        let needs = [
            (debited, self.confirmed().or(refunded), Rule::GivenBack, "money without seats"),
            (self.confirmed(), self.completed(), Rule::PaidIsOwned, "seats without a payment"),
            (self.returning(), refunded, Rule::GivenBack, "cancelled, money not back"),
            (after_cancel, self.mark(Step::Returned), Rule::GivenBack, "money back, not refunded"),
        ];
        for (emitted, needed, rule, what) in needs {
            let Some(emitted) = emitted.filter(|emitted| moment.covers(emitted)) else { continue };
            let is_wrong = match needed {
                Some(needed) => emitted.secs() + OPEN_SECS < needed.secs(),
                None => moment.is_past(emitted, OPEN_SECS),
            };
            if is_wrong {
                found.push(Finding::of(rule, what, emitted));
            }
        }
    }
}
