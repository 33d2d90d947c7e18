//! Mistakes in decisions: what is changed around the handlers of a service, before and after they
//! run. The handlers themselves stay as they are.

use std::collections::BTreeSet;

use events::{
    PaymentId, ReservationId, Timestamp, event_of_subject, point::EntryKind,
    reservation::ReservationState,
};
use mesh::memory::Incoming;
use point::sim::Entry;
use serde_json::{Value, json};

use crate::{host::EndpointSpec, mutations::Mutation, people::Wish, services::Stores};

/// How far an extension without a cap goes, in seconds.
const UNCAPPED_SECS: i64 = 600;

/// What was changed before the handlers ran, and must be put right afterwards.
#[derive(Default)]
pub struct Planted {
    hidden: Vec<Entry>,
    extended: BTreeSet<ReservationId>,
}

/// Changes what the handlers of a service find.
pub fn before(
    mutation: Option<Mutation>,
    service: &str,
    stores: &Stores,
    incoming: &mut [Incoming],
    asked: &[EndpointSpec],
) -> Planted {
    let mut planted = Planted::default();
    match (mutation, service) {
        (Some(Mutation::OwnerFenceOff), reservation::NAME) => fence_off(stores, incoming),
        (Some(Mutation::LateDebitConfirms), reservation::NAME) => revive(stores, incoming),
        (Some(Mutation::TimerUnchecked), reservation::NAME) => look_earlier(stores, asked),
        (Some(Mutation::ExtensionUncapped), reservation::NAME) => {
            planted.extended = extended(stores);
        }
        (Some(Mutation::RefundUnchecked), point::NAME) => {
            let events = ["reservation.confirm_refused", "reservation.cancelled"];
            planted.hidden = hide(stores, incoming, &events, EntryKind::Refund);
        }
        (Some(Mutation::DebitUnchecked), point::NAME) => {
            planted.hidden = hide(stores, incoming, &["payment.requested"], EntryKind::Debit);
        }
        _ => {}
    }
    planted
}

/// Puts right what must be, after the handlers ran.
pub fn after(mutation: Option<Mutation>, stores: &Stores, planted: Planted) {
    if !planted.hidden.is_empty() {
        stores.point.change(|tables| tables.entries.extend(planted.hidden));
    }
    if mutation == Some(Mutation::ExtensionUncapped) {
        stores.reservation.change(|tables| {
            for row in tables.reservations.values_mut() {
                if row.extended && !planted.extended.contains(&row.id) {
                    row.expires_at = row.expires_at.plus_secs(UNCAPPED_SECS);
                }
            }
        });
    }
}

fn extended(stores: &Stores) -> BTreeSet<ReservationId> {
    let extended = |tables: &mut reservation::sim::Tables| {
        let rows = tables.reservations.values().filter(|row| row.extended);
        rows.map(|row| row.id).collect()
    };
    stores.reservation.change(extended).unwrap_or_default()
}

/// A debit names the fan who has the seat by now.
fn fence_off(stores: &Stores, incoming: &mut [Incoming]) {
    each_data(incoming, "point.debited", |data| {
        let id = id_in(data, "reservation_id").map(ReservationId);
        stores.reservation.change(|tables| {
            let row = tables.reservations.get(&id?)?;
            let seat = (row.schedule_id, row.seat_ids().next()?.clone());
            let owner = tables.reservations.get(&tables.seats.get(&seat)?.owner?)?;
            data["reservation_id"] = json!(owner.id);
            data["user_id"] = json!(owner.user_id);
            data["hold_version"] = json!(owner.hold_version);
            data["amount"] = json!(owner.amount);
            Some(())
        });
    });
}

/// An expired hold is pending again when its debit arrives.
fn revive(stores: &Stores, incoming: &mut [Incoming]) {
    let now = mesh::clock::now();
    each_data(incoming, "point.debited", |data| {
        let id = id_in(data, "reservation_id").map(ReservationId);
        stores.reservation.change(|tables| {
            let row = tables.reservations.get_mut(&id?)?;
            if row.state == ReservationState::Expired {
                (row.state, row.expires_at) = (ReservationState::Pending, now.plus_secs(5));
            }
            Some(())
        });
    });
}

/// The holds that a timer finds due when it does not look at what has become of them.
pub fn stale_due(mutation: Option<Mutation>, service: &str, stores: &Stores) -> Vec<Wish> {
    if (mutation, service) != (Some(Mutation::TimerUnchecked), reservation::NAME) {
        return Vec::new();
    }
    let now = mesh::clock::now();
    let due = |tables: &mut reservation::sim::Tables| {
        let rows = tables.reservations.values();
        let is_due = |row: &&reservation::sim::Reservation| {
            row.state == ReservationState::Confirmed && row.expires_at <= now
        };
        rows.filter(is_due).map(|row| Wish::Expire(row.id)).collect()
    };
    stores.reservation.change(due).unwrap_or_default()
}

/// A hold that the timer has found due is due, whatever has become of it.
fn look_earlier(stores: &Stores, asked: &[EndpointSpec]) {
    let now: Timestamp = mesh::clock::now();
    for asked in asked {
        if let Wish::Expire(id) = asked.wish {
            stores.reservation.change(|tables| {
                let row = tables.reservations.get_mut(&id)?;
                if row.state == ReservationState::Confirmed {
                    (row.state, row.expires_at) = (ReservationState::Pending, now.plus_secs(-1));
                }
                Some(())
            });
        }
    }
}

/// Takes the movements of the payments that these events are about out of the ledger.
fn hide(
    stores: &Stores,
    incoming: &mut [Incoming],
    events: &[&str],
    kind: EntryKind,
) -> Vec<Entry> {
    let mut payments = BTreeSet::new();
    for event in events {
        each_data(incoming, event, |data| payments.extend(id_in(data, "payment_id")));
    }
    let hide = |tables: &mut point::sim::Tables| {
        let is_hidden = |entry: &Entry| {
            let PaymentId(id) = entry.payment_id.unwrap_or(PaymentId(uuid::Uuid::nil()));
            entry.kind == kind && payments.contains(&id)
        };
        let all = std::mem::take(&mut tables.entries);
        let (hidden, seen) = all.into_iter().partition(is_hidden);
        tables.entries = seen;
        hidden
    };
    stores.point.change(hide).unwrap_or_default()
}

/// Changes the data of each event with this name.
fn each_data(incoming: &mut [Incoming], event: &str, mut change: impl FnMut(&mut Value)) {
    for Incoming { message, .. } in incoming {
        if event_of_subject(&message.subject) != Some(event) {
            continue;
        }
        let Ok(mut events) = serde_json::from_slice::<Vec<Value>>(&message.body) else { continue };
        events.iter_mut().for_each(|event| change(&mut event["data"]));
        message.body = Value::Array(events).to_string().into();
    }
}

fn id_in(data: &Value, field: &str) -> Option<uuid::Uuid> {
    data[field].as_str()?.parse().ok()
}
