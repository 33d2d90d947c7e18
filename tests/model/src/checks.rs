//! What must hold in every state and at the end of every path, and what must be possible.

use events::{
    payment::{PaymentFailure, PaymentState},
    point::EntryKind,
    reservation::{CancelReason, ReservationState},
};
use stateright::{Model, Property};

use crate::{
    sale::Sale,
    scenario::{self, Scenario},
};

/// The properties of a scenario.
pub fn properties<M: Model<State = Sale>>(scenario: &Scenario) -> Vec<Property<M>> {
    let always = [
        Property::<M>::always("a seat has at most one owner", |_, sale| has_one_owner(sale)),
        Property::<M>::always("no hold lives past its hard cap", |_, sale| is_capped(sale)),
        Property::<M>::always("money is taken once and given back once", |_, sale| {
            is_money_moved_once(sale)
        }),
        Property::<M>::always("the ledger adds up, and no balance is below zero", |_, sale| {
            does_ledger_add_up(sale)
        }),
        Property::<M>::always("no event is a dead letter", |_, sale| sale.dead.is_none()),
        Property::<M>::always("in the end there is no money without a seat", |_, sale| {
            !sale.is_over() || is_paid_owned(sale)
        }),
        Property::<M>::eventually("every payment and every hold ends", |_, sale| {
            sale.is_over() && has_everything_ended(sale)
        }),
    ];
    let possible = scenario.outcomes.iter().map(|name| Property::<M> {
        expectation: stateright::Expectation::Sometimes,
        name,
        condition: outcome(name),
    });
    always.into_iter().chain(possible).collect()
}

fn has_one_owner(sale: &Sale) -> bool {
    let tables = sale.reservation.get();
    let mut owning = tables.reservations.values().filter(|row| row.owns());
    let first = owning.next().map(|row| row.id);
    let owners: Vec<_> = tables.seats.values().map(|seat| seat.owner).collect();
    owning.next().is_none() && owners == [first]
}

fn is_capped(sale: &Sale) -> bool {
    sale.reservation.get().reservations.values().all(|row| row.expires_at <= row.hard_cap_at)
}

/// How often money was taken and given back for a payment.
fn moved(sale: &Sale, payment: &events::PaymentId) -> (usize, usize) {
    let of = |kind| {
        let entries = sale.point.get().entries.iter();
        entries.filter(|it| it.payment_id == Some(*payment) && it.kind == kind).count()
    };
    (of(EntryKind::Debit), of(EntryKind::Refund))
}

fn is_money_moved_once(sale: &Sale) -> bool {
    let is_once = |id| matches!(moved(sale, id), (0, 0) | (1, 0 | 1));
    sale.payment.get().payments.keys().all(is_once)
}

fn does_ledger_add_up(sale: &Sale) -> bool {
    let tables = sale.point.get();
    tables.wallets.iter().all(|(user_id, wallet)| {
        let theirs = tables.entries.iter().filter(|entry| entry.user_id == *user_id);
        wallet.balance >= 0 && theirs.map(|entry| entry.amount).sum::<i64>() == wallet.balance
    })
}

/// Completed payments and confirmed reservations match one to one, and the money with them.
fn is_paid_owned(sale: &Sale) -> bool {
    let reservations = &sale.reservation.get().reservations;
    let payments = &sale.payment.get().payments;
    let is_right = payments.values().all(|payment| {
        let row = reservations.get(&payment.reservation_id);
        let state = row.filter(|row| row.payment_id == Some(payment.id)).map(|row| row.state);
        match (payment.standing.state(), payment.standing.reason()) {
            (PaymentState::Completed, _) => {
                state == Some(ReservationState::Confirmed) && moved(sale, &payment.id) == (1, 0)
            }
            (PaymentState::Refunded, _) => {
                state == Some(ReservationState::Cancelled) && moved(sale, &payment.id) == (1, 1)
            }
            (
                PaymentState::Failed,
                Some(PaymentFailure::HoldGone | PaymentFailure::ShowCancelled),
            ) => state.is_none() && moved(sale, &payment.id) == (1, 1),
            (PaymentState::Failed, _) => state.is_none() && moved(sale, &payment.id) == (0, 0),
            // That it ends is another property.
            (PaymentState::Requested, _) => true,
        }
    });
    let mut confirmed =
        reservations.values().filter(|row| row.state == ReservationState::Confirmed);
    let is_paid = |id| payments.get(&id).map(|row| row.standing.state());
    is_right
        && confirmed.all(|row| {
            row.payment_id.and_then(is_paid).is_some_and(|state| {
                matches!(state, PaymentState::Completed | PaymentState::Requested)
            })
        })
}

fn has_everything_ended(sale: &Sale) -> bool {
    let payments = &sale.payment.get().payments;
    let reservations = &sale.reservation.get().reservations;
    !payments.values().any(|row| row.standing.state() == PaymentState::Requested)
        && !reservations.values().any(|row| row.state == ReservationState::Pending)
}

/// Whether an outcome has come about.
fn outcome<M>(name: &str) -> fn(&M, &Sale) -> bool {
    match name {
        scenario::COMPLETED => |_, sale| is_any(sale, PaymentState::Completed, None),
        scenario::REFUNDED => |_, sale| is_any(sale, PaymentState::Refunded, None),
        scenario::HOLD_GONE => |_, sale| failed(sale, PaymentFailure::HoldGone),
        scenario::OFF => |_, sale| failed(sale, PaymentFailure::ShowCancelled),
        scenario::POOR => |_, sale| failed(sale, PaymentFailure::InsufficientBalance),
        scenario::EXTENDED => {
            |_, sale| sale.reservation.get().reservations.values().any(|row| row.extended)
        }
        scenario::EXPIRED => |_, sale| {
            let mut rows = sale.reservation.get().reservations.values();
            rows.any(|row| row.state == ReservationState::Expired)
        },
        scenario::CANCELLED => |_, sale| {
            let mut rows = sale.reservation.get().reservations.values();
            rows.any(|row| row.cancel_reason == Some(CancelReason::ByFan))
        },
        scenario::BOTH_PAID => |_, sale| {
            let entries = &sale.point.get().entries;
            let count = |kind| entries.iter().filter(|entry| entry.kind == kind).count();
            (count(EntryKind::Debit), count(EntryKind::Refund)) == (2, 1)
                && is_any(sale, PaymentState::Completed, None)
        },
        other => unreachable!("no outcome is called `{other}`"),
    }
}

fn is_any(sale: &Sale, state: PaymentState, reason: Option<PaymentFailure>) -> bool {
    let mut payments = sale.payment.get().payments.values();
    payments.any(|row| (row.standing.state(), row.standing.reason()) == (state, reason))
}

fn failed(sale: &Sale, reason: PaymentFailure) -> bool {
    is_any(sale, PaymentState::Failed, Some(reason))
}
