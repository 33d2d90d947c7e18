//! The checks that must hold when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use auditor::{Auditor, Observed};
use events::{
    Envelope, PaymentId, ReservationId, UserId,
    payment::{PaymentFailure, PaymentState},
    point::EntryKind,
    reservation::ReservationState,
    user::WithdrawalState,
};
use flows::Flows;
use mesh::message::Message;
use reservation::sim::Refund;
use serde_json::value::RawValue;

use crate::{
    people::{Person, Promise},
    services::Stores,
};

/// The tables of all services, at rest.
pub struct Rest {
    user: user::sim::Tables,
    reservation: reservation::sim::Tables,
    payment: payment::sim::Tables,
    point: point::sim::Tables,
}

/// What is wrong, one line for each thing.
pub type Wrong = Vec<String>;

impl Rest {
    /// A copy of the tables of all services.
    pub fn of(stores: &Stores) -> Self {
        Self {
            user: stores.user.copy(),
            reservation: stores.reservation.copy(),
            payment: stores.payment.copy(),
            point: stores.point.copy(),
        }
    }

    /// Whether every saga has ended.
    pub fn is_over(&self) -> bool {
        let is_open = |row: &reservation::sim::Reservation| {
            row.state == ReservationState::Pending || row.refund == Some(Refund::Due)
        };
        let mut payments = self.payment.payments.values();
        !self.reservation.reservations.values().any(is_open)
            && !payments.any(|payment| payment.standing.state() == PaymentState::Requested)
            && self.user.withdrawals.values().all(|row| row.is_over())
    }

    /// How many sagas there were: payments, holds and withdrawals.
    pub fn sagas(&self) -> u64 {
        let counts = [
            self.payment.payments.len(),
            self.reservation.reservations.len(),
            self.user.withdrawals.len(),
        ];
        counts.iter().sum::<usize>() as u64
    }

    /// How many sagas ended in each way.
    pub fn ends(&self) -> BTreeMap<String, u64> {
        let mut ends = BTreeMap::new();
        let payments = self.payment.payments.values();
        let payments = payments.map(|row| match row.standing.reason() {
            Some(reason) => format!("payment {:?} {reason:?}", row.standing.state()),
            None => format!("payment {:?}", row.standing.state()),
        });
        let holds = self.reservation.reservations.values();
        let holds = holds.map(|row| format!("reservation {:?}", row.state));
        let leaving = self.user.withdrawals.values();
        let leaving = leaving.map(|row| format!("withdrawal {:?} {:?}", row.state, row.reasons));
        for end in payments.chain(holds).chain(leaving) {
            *ends.entry(end).or_default() += 1;
        }
        ends
    }

    /// Checks all invariants of the domain, and the promises made to fans.
    pub fn check(&self, people: &[Person]) -> Wrong {
        let mut wrong = Wrong::new();
        self.seats(&mut wrong);
        self.payments(&mut wrong);
        self.money(&mut wrong);
        self.withdrawals(&mut wrong);
        self.charges(people, &mut wrong);
        for promise in people.iter().flat_map(|person| &person.promises) {
            if !self.is_kept(promise) {
                wrong.push(format!("a promise was not kept: {promise:?}"));
            }
        }
        wrong
    }

    /// A seat has one owner at most, and a reservation has all of its seats or none.
    fn seats(&self, wrong: &mut Wrong) {
        let tables = &self.reservation;
        let mut owned: BTreeMap<ReservationId, usize> = BTreeMap::new();
        for ((_, seat), row) in &tables.seats {
            let Some(owner) = row.owner else { continue };
            *owned.entry(owner).or_default() += 1;
            match tables.reservations.get(&owner) {
                Some(row) if row.owns() && row.seat_ids().any(|of| of == seat) => {}
                other => wrong.push(format!("seat {seat} is owned by {owner}: {other:?}")),
            }
        }
        for row in tables.reservations.values() {
            let has = owned.get(&row.id).copied().unwrap_or_default();
            if row.owns() && has != row.seats.len() {
                wrong.push(format!("{} owns {has} of {} seats", row.id, row.seats.len()));
            }
            if row.state == ReservationState::Pending {
                wrong.push(format!("hold {} never ended", row.id));
            }
            if row.expires_at > row.hard_cap_at {
                wrong.push(format!("hold {} lived past its hard cap", row.id));
            }
        }
    }

    /// Every payment has ended, and its seats and its money agree with its state.
    fn payments(&self, wrong: &mut Wrong) {
        for payment in self.payment.payments.values() {
            let of = self.reservation.reservations.get(&payment.reservation_id);
            let confirmed = of.filter(|row| row.payment_id == Some(payment.id));
            let state = payment.standing.state();
            let is_right = match (state, confirmed) {
                (PaymentState::Requested, _) => false,
                (PaymentState::Completed, Some(row)) => {
                    row.state == ReservationState::Confirmed
                        || row.refund == Some(Refund::Forfeited)
                }
                (PaymentState::Refunded, Some(row)) => row.state == ReservationState::Cancelled,
                (PaymentState::Completed | PaymentState::Refunded, None) => false,
                (PaymentState::Failed, confirmed) => confirmed.is_none(),
            };
            if !is_right {
                let hold = of.map(|row| (row.state, row.payment_id));
                wrong.push(format!("payment {} is {state:?}, its hold {hold:?}", payment.id));
            }
            self.money_of(payment.id, state, payment.standing.reason(), wrong);
        }
        for row in self.reservation.reservations.values() {
            if let Some(id) = row.payment_id
                && !self.payment.payments.contains_key(&id)
            {
                wrong.push(format!("{} was confirmed by {id}, which does not exist", row.id));
            }
        }
    }

    fn money_of(
        &self,
        id: PaymentId,
        state: PaymentState,
        reason: Option<PaymentFailure>,
        wrong: &mut Wrong,
    ) {
        let of = |kind| {
            let entries =
                self.point.entries.iter().filter(move |entry| entry.payment_id == Some(id));
            entries.filter(move |entry| entry.kind == kind).collect::<Vec<_>>()
        };
        let (debits, refunds) = (of(EntryKind::Debit), of(EntryKind::Refund));
        let expected = match (state, reason) {
            (PaymentState::Completed, _) => (1, 0),
            (PaymentState::Refunded, _)
            | (
                PaymentState::Failed,
                Some(PaymentFailure::HoldGone | PaymentFailure::ShowCancelled),
            ) => (1, 1),
            _ => (0, 0),
        };
        let counts = (debits.len(), refunds.len());
        let sum: i64 = debits.iter().chain(&refunds).map(|entry| entry.amount).sum();
        if counts != expected || (expected == (1, 1) && sum != 0) {
            wrong
                .push(format!("payment {id} is {state:?} with {counts:?} movements, {sum} points"));
        }
    }

    /// The balance of each wallet is the sum of its ledger entries, and not below zero.
    fn money(&self, wrong: &mut Wrong) {
        let mut sums: BTreeMap<UserId, i64> = BTreeMap::new();
        for entry in &self.point.entries {
            *sums.entry(entry.user_id).or_default() += entry.amount;
        }
        for (user_id, wallet) in &self.point.wallets {
            let sum = sums.get(user_id).copied().unwrap_or_default();
            if wallet.balance != sum || wallet.balance < 0 {
                wrong
                    .push(format!("wallet {user_id} has {} and should have {sum}", wallet.balance));
            }
        }
    }

    /// A charge is made at most once, however often the same command was sent.
    fn charges(&self, people: &[Person], wrong: &mut Wrong) {
        for person in people {
            let Some(user_id) = person.user_id else { continue };
            let is_charge = |entry: &&point::sim::Entry| {
                entry.user_id == user_id && entry.kind == EntryKind::Charge
            };
            let charges = self.point.entries.iter().filter(is_charge).count();
            if charges > person.charges_asked {
                let asked = person.charges_asked;
                wrong.push(format!("{user_id} asked for {asked} charges and got {charges}"));
            }
        }
    }

    /// Every attempt to withdraw has ended, and accounts and wallets agree with the outcome.
    fn withdrawals(&self, wrong: &mut Wrong) {
        for row in self.user.withdrawals.values() {
            if !row.is_over() {
                wrong.push(format!("withdrawal attempt {} never ended", row.attempt));
            }
        }
        let left = self.user.withdrawals.values();
        let left: BTreeSet<UserId> = left
            .filter(|row| row.state == WithdrawalState::Completed)
            .map(|row| row.user_id)
            .collect();
        for (user_id, account) in &self.user.accounts {
            if account.is_active() == left.contains(user_id) {
                wrong.push(format!("account {user_id} and its withdrawal disagree"));
            }
            let wallet = self.point.wallets.get(user_id).map(|wallet| wallet.state);
            let expected = match left.contains(user_id) {
                true => point::sim::WalletState::Closed,
                false => point::sim::WalletState::Open,
            };
            if wallet != Some(expected) {
                wrong.push(format!("the wallet of {user_id} is {wallet:?}, not {expected:?}"));
            }
            if !left.contains(user_id) && self.payment.is_closing(*user_id) {
                wrong.push(format!("{user_id} is active, but cannot pay"));
            }
        }
    }

    fn is_kept(&self, promise: &Promise) -> bool {
        match promise {
            Promise::Account(id) => self.user.accounts.contains_key(id),
            Promise::Charged(id, amount) => {
                let mut of = self.point.entries.iter().filter(|entry| entry.id == *id);
                of.next().is_some_and(|entry| entry.amount == *amount) && of.next().is_none()
            }
            Promise::Held(id) => self.reservation.reservations.contains_key(id),
            Promise::Paying(id) => self.payment.payments.contains_key(id),
            Promise::GivenBack(id) => {
                let row = self.reservation.reservations.get(id);
                row.is_some_and(|row| row.state == ReservationState::Cancelled)
            }
            Promise::Leaving(id) => self.user.withdrawals.contains_key(id),
        }
    }
}

/// How a complaint begins that something follows twice from one event or command.
pub const TWICE: &str = "it follows twice from";

/// The violations that the auditor finds in all emitted messages, and events that follow twice
/// from the same cause.
pub fn audit<'a>(messages: impl Iterator<Item = &'a Message>) -> Wrong {
    let flows = Flows::shipped();
    let mut auditor = Auditor::default();
    let mut found = Vec::new();
    let (mut consequences, mut twice) = (BTreeSet::new(), Wrong::new());
    for (sequence, message) in (1..).zip(messages) {
        let Ok(events) = serde_json::from_slice::<Vec<&RawValue>>(&message.body) else {
            return vec![format!("{} is no batch", message.subject)];
        };
        let envelopes = events.iter().filter_map(|raw| Envelope::decode(raw.get().as_bytes()).ok());
        for envelope in envelopes {
            let kind = envelope.kind.to_string();
            let about = envelope.subject.to_string();
            if let Some(cause) = envelope.causationid
                && !consequences.insert((cause, kind, about))
            {
                let Envelope { kind, subject, .. } = &envelope;
                twice.push(format!("{TWICE} {cause}: {kind} of {subject}"));
            }
            found.extend(auditor.handle(flows, &observed(&envelope, sequence)));
        }
    }
    found.extend(auditor.at_rest(mesh::clock::now()));
    let said = found.iter().map(|violation| format!("the auditor says: {violation:?}"));
    twice.into_iter().chain(said).collect()
}

fn observed(envelope: &Envelope<'_>, stream_seq: u64) -> Observed {
    let kind = &envelope.kind;
    let event = kind.strip_prefix("onsale.").and_then(|rest| rest.rsplit_once(".v"));
    Observed {
        event_id: envelope.id,
        event: event.map_or_else(|| kind.to_string(), |(event, _)| event.to_owned()),
        stream_seq,
        saga_id: envelope.sagaid,
        cause_id: envelope.causationid,
        about: envelope.subject.parse().unwrap_or_default(),
        at: envelope.time,
        deliveries: envelope.attempt.map_or(1, |attempt| attempt as u32),
        trace_id: None,
        payload: envelope.data.get().to_owned().into(),
    }
}
