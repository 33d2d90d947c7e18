//! The tables of this service in memory, for the simulation.

use std::collections::BTreeMap;

use events::{AttemptId, PaymentId, ReservationId, UserId};
use mesh::{engine::Failure, memory::InMemory};

use super::{Keys, UnitOfWork, withdrawals::Attempt};
use crate::domain::{Hold, Payment};

/// The tables.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Holds.
    pub holds: BTreeMap<ReservationId, Hold>,
    /// Payments.
    pub payments: BTreeMap<PaymentId, Payment>,
    attempts: BTreeMap<AttemptId, Attempt>,
}

impl Tables {
    /// Whether a withdrawal keeps a fan from beginning a payment.
    pub fn is_closing(&self, user_id: UserId) -> bool {
        self.attempts.values().any(|row| row.user_id == user_id && row.standing.closes())
    }
}

impl InMemory for UnitOfWork {
    type Tables = Tables;

    fn load_from(keys: Keys, tables: &Tables) -> Self {
        let mut unit = Self::default();
        let keep = |unit: &mut Self, payment: &Payment| {
            unit.load_payment(payment.clone());
        };
        for (id, attempt) in &tables.attempts {
            let is_leaving = keys.leaving.contains(&attempt.user_id.0);
            let is_payer = keys.payers.contains(&attempt.user_id.0) && attempt.standing.closes();
            if is_leaving || is_payer {
                unit.attempts.load(*id, *attempt);
            }
        }
        for payment in tables.payments.values().filter(|payment| payment.standing.is_live()) {
            if keys.leaving.contains(&payment.user_id.0) {
                keep(&mut unit, payment);
                if tables.holds.get(&payment.reservation_id).is_some_and(|hold| hold.ended) {
                    unit.given_back.insert(payment.id);
                }
            }
            if keys.live.contains(&payment.reservation_id.0) {
                keep(&mut unit, payment);
            }
        }
        for id in keys.holds.into_iter().map(ReservationId) {
            if let Some(hold) = tables.holds.get(&id) {
                unit.holds.load(id, hold.clone());
            }
        }
        for id in keys.payments.into_iter().map(PaymentId) {
            if let Some(payment) = tables.payments.get(&id) {
                keep(&mut unit, payment);
            }
        }
        unit
    }

    fn save_to(self, tables: &mut Tables) -> Result<(), Failure> {
        for (id, row) in self.holds.dirty() {
            let hold = tables.holds.entry(*id).or_insert_with(|| row.clone());
            if !hold.ended && row.ended {
                (hold.ended, hold.is_off) = (true, row.is_off);
            }
        }
        for (id, payment) in self.payments.dirty() {
            let others = tables.payments.values().filter(|other| other.id != *id);
            let mut same = others.filter(|other| other.reservation_id == payment.reservation_id);
            if payment.standing.is_live() && same.any(|other| other.standing.is_live()) {
                return Err(Failure::Duplicate("payments_live".into()));
            }
            tables.payments.insert(*id, payment.clone());
        }
        let dirty = self.attempts.dirty().into_iter();
        tables.attempts.extend(dirty.map(|(id, attempt)| (*id, *attempt)));
        Ok(())
    }
}
