//! What each event adds to what the auditor knows.

use super::*;

/// A step of a payment, with what its event names.
struct Taken {
    payment_id: PaymentId,
    schedule_id: ScheduleId,
    step: Step,
    flags: u8,
    amount: i64,
    /// The reservation it is about; for a refund, the user who gets the points.
    other: Uuid,
}

fn read<E: DeserializeOwned>(observed: &Observed) -> Option<E> {
    observed.read()
}

fn mark(observed: &Observed, amount: i64) -> Mark {
    let at = u32::try_from(observed.at.unix_millis() / 1_000).unwrap_or_default();
    Mark { event: observed.event_id.0, amount, at }
}

impl Auditor {
    /// Takes in an event's data; `None` when it cannot be decoded.
    pub(super) fn read(&mut self, observed: &Observed, out: &mut Vec<Violation>) -> Option<()> {
        match observed.event.as_str() {
            ReservationCreated::NAME => self.created(observed, &read(observed)?, out),
            ReservationConfirmed::NAME => self.confirmed(observed, &read(observed)?, out),
            ReservationConfirmRefused::NAME => {
                self.confirm_refused(observed, &read(observed)?, out)
            }
            ReservationExpired::NAME => self.expired(observed, &read(observed)?, out),
            ReservationCancelled::NAME => self.cancelled(observed, &read(observed)?, out),
            PaymentRequested::NAME => self.requested(observed, &read(observed)?, out),
            PaymentCompleted::NAME => self.completed(observed, &read(observed)?, out),
            PaymentFailed::NAME => self.failed(observed, &read(observed)?, out),
            PaymentRefunded::NAME => self.returned(observed, &read(observed)?, out),
            PointCharged::NAME => self.charged(observed, &read(observed)?, out),
            PointDebited::NAME => self.debited(observed, &read(observed)?, out),
            PointDebitRefused::NAME => self.debit_refused(observed, &read(observed)?, out),
            PointRefunded::NAME => self.refunded(observed, &read(observed)?, out),
            PointForfeited::NAME => self.forfeited(observed, &read(observed)?, out),
            _ => {}
        }
        Some(())
    }

    fn step(&mut self, observed: &Observed, taken: &Taken, out: &mut Vec<Violation>) -> u32 {
        let Taken { payment_id, schedule_id, step, flags, amount, other } = *taken;
        let at = self.payment(payment_id, schedule_id);
        let mark = mark(observed, amount);
        if let Some(conflict) = self.payments.get_mut(at).handle(step, flags, mark, other) {
            let of = format!("payment {payment_id}");
            self.report(&conflict, of, payment_id.0, schedule_id.0, out);
        }
        self.judge(Item::Payment(at), &Moment::CONSUMED, out);
        self.due.push(mark.secs() + SLACK_SECS + 1, Item::Payment(at));
        if matches!(step, Step::Money | Step::Seats | Step::Cancelled | Step::Refunded) {
            self.due.push(mark.secs() + OPEN_SECS + 1, Item::Payment(at));
        }
        at
    }

    fn requested(
        &mut self,
        observed: &Observed,
        event: &PaymentRequested,
        out: &mut Vec<Violation>,
    ) {
        let &PaymentRequested { payment_id, schedule_id, amount, .. } = event;
        let (step, other) = (Step::Requested, event.reservation_id.0);
        self.step(observed, &Taken { payment_id, schedule_id, step, flags: 0, amount, other }, out);
    }

    fn completed(
        &mut self,
        observed: &Observed,
        event: &PaymentCompleted,
        out: &mut Vec<Violation>,
    ) {
        self.checked[Rule::PaidIsOwned as usize] += 1;
        let &PaymentCompleted { payment_id, schedule_id, amount, .. } = event;
        let (step, other) = (Step::Ended, event.reservation_id.0);
        self.step(observed, &Taken { payment_id, schedule_id, step, flags: 0, amount, other }, out);
    }

    fn failed(&mut self, observed: &Observed, event: &PaymentFailed, out: &mut Vec<Violation>) {
        self.checked[Rule::GivenBack as usize] += 1;
        let &PaymentFailed { payment_id, schedule_id, amount, .. } = event;
        let (step, other) = (Step::Ended, event.reservation_id.0);
        let is_gone =
            matches!(event.reason, PaymentFailure::HoldGone | PaymentFailure::ShowCancelled);
        let flags = payments::FAILED | if is_gone { payments::HOLD_GONE } else { 0 };
        let taken = Taken { payment_id, schedule_id, step, flags, amount, other };
        self.step(observed, &taken, out);
    }

    fn returned(&mut self, observed: &Observed, event: &PaymentRefunded, out: &mut Vec<Violation>) {
        self.checked[Rule::GivenBack as usize] += 1;
        let &PaymentRefunded { payment_id, schedule_id, amount, .. } = event;
        let (step, other) = (Step::Returned, event.reservation_id.0);
        self.step(observed, &Taken { payment_id, schedule_id, step, flags: 0, amount, other }, out);
    }

    fn charged(&mut self, observed: &Observed, event: &PointCharged, out: &mut Vec<Violation>) {
        self.movement(observed, event.user_id, event.amount, event.amount, event.balance, out);
    }

    fn debited(&mut self, observed: &Observed, event: &PointDebited, out: &mut Vec<Violation>) {
        self.checked[Rule::TakenOnce as usize] += 1;
        let &PointDebited { payment_id, schedule_id, amount, user_id, .. } = event;
        let (step, other) = (Step::Money, event.reservation_id.0);
        let taken = Taken { payment_id, schedule_id, step, flags: 0, amount, other };
        let at = self.payment(payment_id, schedule_id);
        let payment = self.payments.get_mut(at);
        if payment.payer.is_nil() {
            payment.payer = user_id.0;
        }
        self.step(observed, &taken, out);
        self.movement(observed, user_id, amount, amount.saturating_neg(), event.balance, out);
    }

    fn debit_refused(
        &mut self,
        observed: &Observed,
        event: &PointDebitRefused,
        out: &mut Vec<Violation>,
    ) {
        self.checked[Rule::TakenOnce as usize] += 1;
        let &PointDebitRefused { payment_id, schedule_id, amount, .. } = event;
        let (step, other) = (Step::Money, event.reservation_id.0);
        let flags = payments::NO_MONEY;
        let taken = Taken { payment_id, schedule_id, step, flags, amount, other };
        self.step(observed, &taken, out);
        self.movement(observed, event.user_id, 0, 0, event.balance, out);
    }

    fn refunded(&mut self, observed: &Observed, event: &PointRefunded, out: &mut Vec<Violation>) {
        self.checked[Rule::TakenOnce as usize] += 1;
        let &PointRefunded { payment_id, schedule_id, amount, user_id, .. } = event;
        let is_late = event.reason == RefundReason::Cancelled;
        let flags = if is_late { payments::AFTER_CANCEL } else { 0 };
        let step = Step::Refunded;
        let taken = Taken { payment_id, schedule_id, step, flags, amount, other: user_id.0 };
        self.step(observed, &taken, out);
        self.movement(observed, user_id, amount, amount, event.balance, out);
    }

    /// The points of the wallet are forfeited; nothing is owed for them.
    fn forfeited(&mut self, observed: &Observed, event: &PointForfeited, out: &mut Vec<Violation>) {
        let by = event.amount.saturating_neg();
        self.movement(observed, event.user_id, event.amount, by, event.balance, out);
    }

    fn movement(
        &mut self,
        observed: &Observed,
        user: UserId,
        amount: i64,
        by: i64,
        after: i64,
        out: &mut Vec<Violation>,
    ) {
        self.checked[Rule::LedgerSums as usize] += 1;
        let mark = mark(observed, amount);
        let saga = observed.saga_id.0;
        let before = after.checked_sub(by).filter(|before| *before >= 0 && after >= 0);
        let Some(before) = before.filter(|_| amount >= 0) else {
            let what = "a balance is below zero, or the amount is";
            let finding = Finding::of(Rule::LedgerSums, what, &mark);
            return self.report(&finding, format!("wallet {user}"), saga, Uuid::nil(), out);
        };
        // When every movement ever emitted was observed, a wallet begins empty.
        let opened = self.flow.knows_all_points().then_some(0);
        let at = self.wallets.place((user.0, ""), || Wallet::new(user.0, opened));
        let step = Move { event: mark.event, saga, before, after, at: mark.at };
        self.wallets.get_mut(at).handle(step);
        self.due.push(mark.secs() + SLACK_SECS + 1, Item::Wallet(at));
    }

    fn payment(&mut self, id: PaymentId, schedule: ScheduleId) -> u32 {
        self.payments.place((id.0, ""), || Payment::new(id.0, schedule.0))
    }

    fn reservation(&mut self, id: ReservationId, schedule: ScheduleId) -> u32 {
        self.reservations.place((id.0, ""), || Reservation::new(id.0, schedule.0))
    }

    fn claimed<'a>(
        &mut self,
        schedule: ScheduleId,
        names: impl Iterator<Item = &'a str>,
        hold_version: i64,
    ) -> Claimed {
        let mut seats: Vec<u32> = names
            .map(|name| self.seats.place((schedule.0, name), || Seat::new(schedule.0, name)))
            .collect();
        seats.sort_unstable();
        seats.dedup();
        Claimed { seats: seats.into(), hold_version }
    }

    fn claim(&mut self, at: u32, mark: &Mark, hold_version: i64) {
        let seats: Vec<u32> = self.reservations.get(at).seats().to_vec();
        for seat in seats {
            self.checked[Rule::OneOwner as usize] += 1;
            self.seats.get_mut(seat).claim(hold_version, at);
            self.due.push(mark.secs() + SLACK_SECS + 1, Item::Seat(seat));
        }
    }

    /// Judges a reservation that has changed, and its seats.
    fn changed(&mut self, at: u32, mark: &Mark, out: &mut Vec<Violation>) {
        self.judge(Item::Reservation(at), &Moment::CONSUMED, out);
        self.due.push(mark.secs() + SLACK_SECS + 1, Item::Reservation(at));
        for index in 0..self.reservations.get(at).seats().len() {
            let seat = self.reservations.get(at).seats()[index];
            if self.seats.get(seat).claims() > 1 {
                self.judge(Item::Seat(seat), &Moment::CONSUMED, out);
            }
        }
    }

    fn created(
        &mut self,
        observed: &Observed,
        event: &ReservationCreated,
        out: &mut Vec<Violation>,
    ) {
        self.checked[Rule::HardCap as usize] += 1;
        let at = self.reservation(event.reservation_id, event.schedule_id);
        let names = event.seats.iter().map(|priced| priced.seat.0.as_str());
        let claimed = self.claimed(event.schedule_id, names, event.hold_version);
        let mark = mark(observed, event.amount);
        let cap_ms = event.hard_cap_at.unix_millis();
        // A confirmation that came first has claimed its seats already.
        let is_claimed = !self.reservations.get(at).seats().is_empty();
        match self.reservations.get_mut(at).create(mark, claimed, cap_ms) {
            Ok(()) if !is_claimed => self.claim(at, &mark, event.hold_version),
            Ok(()) => {}
            Err(conflict) => self.conflict(at, &conflict, out),
        }
        let cap_secs = self.reservations.get(at).cap_secs();
        self.due.push(cap_secs + 1, Item::Reservation(at));
        self.changed(at, &mark, out);
    }

    fn confirmed(
        &mut self,
        observed: &Observed,
        event: &ReservationConfirmed,
        out: &mut Vec<Violation>,
    ) {
        self.checked[Rule::PaidIsOwned as usize] += 1;
        let &ReservationConfirmed { payment_id, schedule_id, amount, .. } = event;
        let at = self.reservation(event.reservation_id, schedule_id);
        let names = event.seats.iter().map(|seat| seat.0.as_str());
        let claimed = self.claimed(schedule_id, names, event.hold_version);
        let mark = mark(observed, amount);
        let at_ms = observed.at.unix_millis();
        match self.reservations.get_mut(at).confirm(mark, claimed, payment_id.0, at_ms) {
            Ok(true) => self.claim(at, &mark, event.hold_version),
            Ok(false) => {}
            Err(conflict) => self.conflict(at, &conflict, out),
        }
        self.changed(at, &mark, out);
        let (step, other) = (Step::Seats, event.reservation_id.0);
        self.step(observed, &Taken { payment_id, schedule_id, step, flags: 0, amount, other }, out);
    }

    fn confirm_refused(
        &mut self,
        observed: &Observed,
        event: &ReservationConfirmRefused,
        out: &mut Vec<Violation>,
    ) {
        let &ReservationConfirmRefused { payment_id, schedule_id, amount, .. } = event;
        let (step, other) = (Step::Seats, event.reservation_id.0);
        let flags = payments::NO_SEATS;
        let taken = Taken { payment_id, schedule_id, step, flags, amount, other };
        self.step(observed, &taken, out);
    }

    fn expired(
        &mut self,
        observed: &Observed,
        event: &ReservationExpired,
        out: &mut Vec<Violation>,
    ) {
        let at = self.reservation(event.reservation_id, event.schedule_id);
        let mark = mark(observed, 0);
        if let Err(conflict) = self.reservations.get_mut(at).end(seats::EXPIRED, mark) {
            self.conflict(at, &conflict, out);
        }
        self.changed(at, &mark, out);
    }

    fn cancelled(
        &mut self,
        observed: &Observed,
        event: &ReservationCancelled,
        out: &mut Vec<Violation>,
    ) {
        let schedule_id = event.schedule_id;
        let at = self.reservation(event.reservation_id, schedule_id);
        let mark = mark(observed, event.refund);
        let flags = if event.payment_id.is_some() { seats::PAID } else { 0 };
        if let Err(conflict) = self.reservations.get_mut(at).end(flags, mark) {
            self.conflict(at, &conflict, out);
        }
        self.changed(at, &mark, out);
        if let Some(payment_id) = event.payment_id {
            self.checked[Rule::GivenBack as usize] += 1;
            let (step, other, amount) = (Step::Cancelled, event.reservation_id.0, event.refund);
            let flags = if event.to_return().is_some() { 0 } else { payments::FORFEITED };
            let taken = Taken { payment_id, schedule_id, step, flags, amount, other };
            self.step(observed, &taken, out);
        }
    }

    fn conflict(&mut self, at: u32, conflict: &Finding, out: &mut Vec<Violation>) {
        let reservation = self.reservations.get(at);
        let (id, saga, schedule) = (reservation.id, reservation.saga(), reservation.schedule);
        self.report(conflict, format!("reservation {id}"), saga, schedule, out);
    }
}
