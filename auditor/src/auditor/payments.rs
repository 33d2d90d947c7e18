//! A payment, from all events about it: money for seats, or money back.

use events::audit::Rule;
use events::payment::PaymentState;
use uuid::Uuid;

use super::{
    finding::{Finding, Moment, OPEN_SECS, SLACK_SECS},
    shelf::{Key, Keyed, Mark},
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
    /// The user who paid; nil before.
    pub(super) payer: Uuid,
    /// The reservation, as the first event names it.
    reservation: Uuid,
    /// What a step names instead: another reservation, or the user who got a refund.
    others: Vec<(Step, Uuid)>,
    flags: u8,
}

impl Keyed for Payment {
    fn key(&self) -> Key<'_> {
        (self.id, "")
    }
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

    /// Notes what an event names beside the payment. Almost always it is the one reservation.
    fn note(&mut self, step: Step, other: Uuid) {
        let is_user = step == Step::Refunded;
        if self.reservation.is_nil() && !is_user {
            self.reservation = other;
        }
        if is_user || self.reservation != other {
            self.others.push((step, other));
        }
    }

    /// What the event of a step names beside the payment.
    fn named(&self, step: Step) -> Uuid {
        let other = self.others.iter().find(|(of, _)| *of == step);
        other.map_or(self.reservation, |(_, other)| *other)
    }

    /// Takes in an event, with what it names beside the payment. Returns a finding when it
    /// contradicts the event that the same service emitted before for this step.
    pub(super) fn handle(
        &mut self,
        step: Step,
        flags: u8,
        mark: Mark,
        other: Uuid,
    ) -> Option<Finding> {
        // Refused again, because it was requested again.
        let is_same = self.flags & (NO_MONEY | NO_SEATS) & flags != 0;
        let Some(first) = self.marks[step as usize].set(mark) else {
            self.flags |= flags;
            self.note(step, other);
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
        use Rule::{GivenBack, PaidIsOwned};
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
        self.differences(found);
    }

    /// Finds events that do not repeat what the one before them names.
    fn differences(&self, found: &mut Vec<Finding>) {
        use Rule::{PaidIsOwned, TakenOnce};
        use Step::{Cancelled, Ended, Money, Refunded, Requested, Seats};
        let confirmed = (Seats, self.confirmed());
        let pairs = [
            (
                (Requested, self.mark(Requested)),
                (Money, self.mark(Money)),
                "a different reservation or amount is debited than was requested",
            ),
            (
                (Money, self.debited()),
                (Seats, self.mark(Seats)),
                "a different reservation or amount is confirmed than was debited",
            ),
            (
                confirmed,
                (Ended, self.completed()),
                "a different reservation or amount completes than was confirmed",
            ),
            (
                confirmed,
                (Cancelled, self.returning()),
                "a different reservation or amount is cancelled than was confirmed",
            ),
        ];
        for ((one, first), (two, second), what) in pairs {
            if let Some((first, second)) = first.zip(second)
                && (first.amount, self.named(one)) != (second.amount, self.named(two))
            {
                found.push(Finding::between(PaidIsOwned, what, first, second));
            }
        }
        if let Some((confirmed, forfeited)) = self.confirmed().zip(self.forfeited())
            && (forfeited.amount, self.named(Cancelled)) != (0, self.named(Seats))
        {
            let what =
                "a different reservation is forfeited than was confirmed, or it is paid back";
            found.push(Finding::between(PaidIsOwned, what, confirmed, forfeited));
        }
        if let Some((debited, refunded)) = self.debited().zip(self.mark(Refunded))
            && (debited.amount, self.payer) != (refunded.amount, self.named(Refunded))
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
