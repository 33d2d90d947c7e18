//! What each fact adds to what is known.

use super::*;

/// A step of a payment, with what it speaks of.
struct Taken {
    payment_id: PaymentId,
    schedule_id: ScheduleId,
    step: Step,
    said: u8,
    amount: i64,
    /// The reservation it is about; for a refund, whose points.
    other: Uuid,
}

fn read<E: DeserializeOwned>(heard: &Heard) -> Option<E> {
    heard.read()
}

fn mark(heard: &Heard, amount: i64, other: Uuid) -> Mark {
    let at = u32::try_from(heard.at.unix_millis() / 1_000).unwrap_or_default();
    Mark { event: heard.event_id.0, amount, at, other: short(other) }
}

impl Auditor {
    /// Takes in what a fact says; `None` when it cannot be read.
    pub(super) fn read(&mut self, heard: &Heard, said: &mut Vec<Violation>) -> Option<()> {
        match heard.fact.as_str() {
            ReservationCreated::FACT => self.created(heard, &read(heard)?, said),
            ReservationConfirmed::FACT => self.confirmed(heard, &read(heard)?, said),
            ReservationConfirmRefused::FACT => self.confirm_refused(heard, &read(heard)?, said),
            ReservationExpired::FACT => self.expired(heard, &read(heard)?, said),
            ReservationCancelled::FACT => self.cancelled(heard, &read(heard)?, said),
            PaymentRequested::FACT => self.requested(heard, &read(heard)?, said),
            PaymentCompleted::FACT => self.completed(heard, &read(heard)?, said),
            PaymentFailed::FACT => self.failed(heard, &read(heard)?, said),
            PaymentRefunded::FACT => self.returned(heard, &read(heard)?, said),
            PointCharged::FACT => self.charged(heard, &read(heard)?, said),
            PointDebited::FACT => self.debited(heard, &read(heard)?, said),
            PointDebitRefused::FACT => self.debit_refused(heard, &read(heard)?, said),
            PointRefunded::FACT => self.refunded(heard, &read(heard)?, said),
            PointForfeited::FACT => self.forfeited(heard, &read(heard)?, said),
            _ => {}
        }
        Some(())
    }

    fn step(&mut self, heard: &Heard, taken: &Taken, said: &mut Vec<Violation>) -> u32 {
        let Taken { payment_id, schedule_id, step, said: flags, amount, other } = *taken;
        let at = self.payments.place(&payment_id.0, || Payment::new(payment_id.0, schedule_id.0));
        let mark = mark(heard, amount, other);
        if let Some(conflict) = self.payments.get_mut(at).hear(step, flags, mark) {
            let of = format!("payment {payment_id}");
            self.say(&conflict, of, payment_id.0, schedule_id.0, said);
        }
        self.judge(Item::Payment(at), &Moment::HEARING, said);
        self.due.push(mark.secs() + SLACK_SECS + 1, Item::Payment(at));
        if matches!(step, Step::Money | Step::Seats | Step::Cancelled | Step::Refunded) {
            self.due.push(mark.secs() + OPEN_SECS + 1, Item::Payment(at));
        }
        at
    }

    fn requested(&mut self, heard: &Heard, fact: &PaymentRequested, said: &mut Vec<Violation>) {
        let &PaymentRequested { payment_id, schedule_id, amount, .. } = fact;
        let (step, other) = (Step::Requested, fact.reservation_id.0);
        self.step(heard, &Taken { payment_id, schedule_id, step, said: 0, amount, other }, said);
    }

    fn completed(&mut self, heard: &Heard, fact: &PaymentCompleted, said: &mut Vec<Violation>) {
        self.checked[Rule::PaidIsOwned as usize] += 1;
        let &PaymentCompleted { payment_id, schedule_id, amount, .. } = fact;
        let (step, other) = (Step::Ended, fact.reservation_id.0);
        self.step(heard, &Taken { payment_id, schedule_id, step, said: 0, amount, other }, said);
    }

    fn failed(&mut self, heard: &Heard, fact: &PaymentFailed, said: &mut Vec<Violation>) {
        self.checked[Rule::GivenBack as usize] += 1;
        let &PaymentFailed { payment_id, schedule_id, amount, .. } = fact;
        let (step, other) = (Step::Ended, fact.reservation_id.0);
        let is_gone =
            matches!(fact.reason, PaymentFailure::HoldGone | PaymentFailure::ShowCancelled);
        let flags = payments::FAILED | if is_gone { payments::HOLD_GONE } else { 0 };
        let taken = Taken { payment_id, schedule_id, step, said: flags, amount, other };
        self.step(heard, &taken, said);
    }

    fn returned(&mut self, heard: &Heard, fact: &PaymentRefunded, said: &mut Vec<Violation>) {
        self.checked[Rule::GivenBack as usize] += 1;
        let &PaymentRefunded { payment_id, schedule_id, amount, .. } = fact;
        let (step, other) = (Step::Returned, fact.reservation_id.0);
        self.step(heard, &Taken { payment_id, schedule_id, step, said: 0, amount, other }, said);
    }

    fn charged(&mut self, heard: &Heard, fact: &PointCharged, said: &mut Vec<Violation>) {
        self.movement(heard, fact.user_id, fact.amount, fact.amount, fact.balance, said);
    }

    fn debited(&mut self, heard: &Heard, fact: &PointDebited, said: &mut Vec<Violation>) {
        self.checked[Rule::TakenOnce as usize] += 1;
        let &PointDebited { payment_id, schedule_id, amount, user_id, .. } = fact;
        let (step, other) = (Step::Money, fact.reservation_id.0);
        let taken = Taken { payment_id, schedule_id, step, said: 0, amount, other };
        let at = self.payments.place(&payment_id.0, || Payment::new(payment_id.0, schedule_id.0));
        let payment = self.payments.get_mut(at);
        if payment.payer == 0 {
            payment.payer = short(user_id.0);
        }
        self.step(heard, &taken, said);
        self.movement(heard, user_id, amount, amount.saturating_neg(), fact.balance, said);
    }

    fn debit_refused(
        &mut self,
        heard: &Heard,
        fact: &PointDebitRefused,
        said: &mut Vec<Violation>,
    ) {
        self.checked[Rule::TakenOnce as usize] += 1;
        let &PointDebitRefused { payment_id, schedule_id, amount, .. } = fact;
        let (step, other) = (Step::Money, fact.reservation_id.0);
        let flags = payments::NO_MONEY;
        let taken = Taken { payment_id, schedule_id, step, said: flags, amount, other };
        self.step(heard, &taken, said);
        self.movement(heard, fact.user_id, 0, 0, fact.balance, said);
    }

    fn refunded(&mut self, heard: &Heard, fact: &PointRefunded, said: &mut Vec<Violation>) {
        self.checked[Rule::TakenOnce as usize] += 1;
        let &PointRefunded { payment_id, schedule_id, amount, user_id, .. } = fact;
        let is_late = fact.reason == RefundReason::Cancelled;
        let flags = if is_late { payments::AFTER_CANCEL } else { 0 };
        let step = Step::Refunded;
        let taken = Taken { payment_id, schedule_id, step, said: flags, amount, other: user_id.0 };
        self.step(heard, &taken, said);
        self.movement(heard, user_id, amount, amount, fact.balance, said);
    }

    /// What was in a wallet is the house's; nothing is owed for it.
    fn forfeited(&mut self, heard: &Heard, fact: &PointForfeited, said: &mut Vec<Violation>) {
        let by = fact.amount.saturating_neg();
        self.movement(heard, fact.user_id, fact.amount, by, fact.balance, said);
    }

    fn movement(
        &mut self,
        heard: &Heard,
        user: UserId,
        amount: i64,
        by: i64,
        after: i64,
        said: &mut Vec<Violation>,
    ) {
        self.checked[Rule::LedgerSums as usize] += 1;
        let mark = mark(heard, amount, user.0);
        let saga = heard.saga_id.0;
        let before = after.checked_sub(by).filter(|before| *before >= 0 && after >= 0);
        let Some(before) = before.filter(|_| amount >= 0) else {
            let what = "a balance is below zero, or the amount is";
            let finding = Finding::of(Rule::LedgerSums, what, &mark);
            return self.say(&finding, format!("wallet {user}"), saga, Uuid::nil(), said);
        };
        // With all that was ever told at hand, a wallet begins empty.
        let opened = self.flow.knows_all_points().then_some(0);
        let at = self.wallets.place(&user.0, || Wallet::new(user.0, opened));
        let step = Move { event: mark.event, saga, before, after, at: mark.at };
        self.wallets.get_mut(at).hear(step);
        self.due.push(mark.secs() + SLACK_SECS + 1, Item::Wallet(at));
    }

    fn reservation(&mut self, id: ReservationId, schedule: ScheduleId) -> u32 {
        self.reservations.place(&id.0, || Reservation::new(id.0, schedule.0))
    }

    fn claimed<'a>(
        &mut self,
        schedule: ScheduleId,
        names: impl Iterator<Item = &'a str>,
        hold_version: i64,
    ) -> Claimed {
        let mut seats: Vec<u32> = names
            .map(|name| self.seats.place(&(schedule.0, name), || Seat::new(schedule.0, name)))
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

    /// After a reservation has changed: its own judgement, and that of its seats.
    fn changed(&mut self, at: u32, mark: &Mark, said: &mut Vec<Violation>) {
        self.judge(Item::Reservation(at), &Moment::HEARING, said);
        self.due.push(mark.secs() + SLACK_SECS + 1, Item::Reservation(at));
        for index in 0..self.reservations.get(at).seats().len() {
            let seat = self.reservations.get(at).seats()[index];
            if self.seats.get(seat).claims() > 1 {
                self.judge(Item::Seat(seat), &Moment::HEARING, said);
            }
        }
    }

    fn created(&mut self, heard: &Heard, fact: &ReservationCreated, said: &mut Vec<Violation>) {
        self.checked[Rule::HardCap as usize] += 1;
        let at = self.reservation(fact.reservation_id, fact.schedule_id);
        let names = fact.seats.iter().map(|priced| priced.seat.0.as_str());
        let claimed = self.claimed(fact.schedule_id, names, fact.hold_version);
        let mark = mark(heard, fact.amount, Uuid::nil());
        let cap_ms = fact.hard_cap_at.unix_millis();
        // Its seats were claimed by a confirmation that came first: they are now, too.
        let is_claimed = !self.reservations.get(at).seats().is_empty();
        match self.reservations.get_mut(at).create(mark, claimed, cap_ms) {
            Ok(()) if !is_claimed => self.claim(at, &mark, fact.hold_version),
            Ok(()) => {}
            Err(conflict) => self.conflict(at, &conflict, said),
        }
        let cap_secs = self.reservations.get(at).cap_secs();
        self.due.push(cap_secs + 1, Item::Reservation(at));
        self.changed(at, &mark, said);
    }

    fn confirmed(&mut self, heard: &Heard, fact: &ReservationConfirmed, said: &mut Vec<Violation>) {
        self.checked[Rule::PaidIsOwned as usize] += 1;
        let &ReservationConfirmed { payment_id, schedule_id, amount, .. } = fact;
        let at = self.reservation(fact.reservation_id, schedule_id);
        let names = fact.seats.iter().map(|seat| seat.0.as_str());
        let claimed = self.claimed(schedule_id, names, fact.hold_version);
        let mark = mark(heard, amount, payment_id.0);
        let at_ms = heard.at.unix_millis();
        match self.reservations.get_mut(at).confirm(mark, claimed, payment_id.0, at_ms) {
            Ok(true) => self.claim(at, &mark, fact.hold_version),
            Ok(false) => {}
            Err(conflict) => self.conflict(at, &conflict, said),
        }
        self.changed(at, &mark, said);
        let (step, other) = (Step::Seats, fact.reservation_id.0);
        self.step(heard, &Taken { payment_id, schedule_id, step, said: 0, amount, other }, said);
    }

    fn confirm_refused(
        &mut self,
        heard: &Heard,
        fact: &ReservationConfirmRefused,
        said: &mut Vec<Violation>,
    ) {
        let &ReservationConfirmRefused { payment_id, schedule_id, amount, .. } = fact;
        let (step, other) = (Step::Seats, fact.reservation_id.0);
        let flags = payments::NO_SEATS;
        let taken = Taken { payment_id, schedule_id, step, said: flags, amount, other };
        self.step(heard, &taken, said);
    }

    fn expired(&mut self, heard: &Heard, fact: &ReservationExpired, said: &mut Vec<Violation>) {
        let at = self.reservation(fact.reservation_id, fact.schedule_id);
        let mark = mark(heard, 0, Uuid::nil());
        if let Err(conflict) = self.reservations.get_mut(at).end(seats::EXPIRED, mark) {
            self.conflict(at, &conflict, said);
        }
        self.changed(at, &mark, said);
    }

    fn cancelled(&mut self, heard: &Heard, fact: &ReservationCancelled, said: &mut Vec<Violation>) {
        let schedule_id = fact.schedule_id;
        let at = self.reservation(fact.reservation_id, schedule_id);
        let mark = mark(heard, fact.refund, Uuid::nil());
        let flags = if fact.payment_id.is_some() { seats::PAID } else { 0 };
        if let Err(conflict) = self.reservations.get_mut(at).end(flags, mark) {
            self.conflict(at, &conflict, said);
        }
        self.changed(at, &mark, said);
        if let Some(payment_id) = fact.payment_id {
            self.checked[Rule::GivenBack as usize] += 1;
            let (step, other, amount) = (Step::Cancelled, fact.reservation_id.0, fact.refund);
            let flags = if fact.to_return().is_some() { 0 } else { payments::FORFEITED };
            let taken = Taken { payment_id, schedule_id, step, said: flags, amount, other };
            self.step(heard, &taken, said);
        }
    }

    fn conflict(&mut self, at: u32, conflict: &Finding, said: &mut Vec<Violation>) {
        let reservation = self.reservations.get(at);
        let (id, saga, schedule) = (reservation.id, reservation.saga(), reservation.schedule);
        self.say(conflict, format!("reservation {id}"), saga, schedule, said);
    }
}
