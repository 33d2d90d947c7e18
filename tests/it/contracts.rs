//! Contracts: recorded events and sampled commands stay readable.

use std::collections::BTreeSet;

use events::{Command, event_of_subject, producer_of};
use harness::{event_types, project};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

pub mod cloudevent;
mod samples;

#[test]
fn every_declared_event_is_known_here() {
    let known: BTreeSet<_> = event_types::ALL.iter().map(|event| event.name).collect();
    let declared: BTreeSet<_> =
        event_types::DECLARED.iter().flat_map(|(_, names)| *names).copied().collect();
    assert_eq!(known, declared);
    assert_eq!(event_types::ALL.len(), known.len(), "an event is listed once");
    for (producer, names) in event_types::DECLARED {
        assert!(names.iter().all(|name| producer_of(name) == producer), "{producer}: {names:?}");
    }
}

#[test]
fn every_file_of_events_is_known_here() {
    let emitting = |name: &String| {
        let text = project::read(format!("events/src/{name}.rs"));
        text.contains("crate::events! {") && name != "lib"
    };
    let files: BTreeSet<_> =
        project::names("events/src", "rs").into_iter().filter(emitting).collect();
    let known: BTreeSet<_> =
        event_types::DECLARED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, known);
}

#[test]
fn every_event_has_its_fixture_and_every_fixture_its_event() {
    let recorded = project::names("events/fixtures", "json");
    let mut emitted: Vec<_> =
        event_types::ALL.iter().map(|event| format!("{}.v{}", event.name, event.version)).collect();
    emitted.sort();
    assert_eq!(recorded, emitted);
}

#[test]
fn a_recorded_event_is_read_and_written_as_it_was() {
    for event in event_types::ALL {
        let recorded = event.data();
        let understood = (event.read)(recorded.to_string().as_bytes())
            .unwrap_or_else(|error| panic!("{}: {error}", event.fixture()));
        assert_eq!(understood.written, recorded, "{}", event.name);
    }
}

#[test]
fn a_field_of_a_later_version_is_ignored() {
    for event in event_types::ALL {
        let recorded = event.data();
        let mut later = recorded.clone();
        add_unknown_fields(&mut later);
        assert_ne!(later, recorded);
        let understood = (event.read)(later.to_string().as_bytes())
            .unwrap_or_else(|error| panic!("{}: {error}", event.name));
        assert_eq!(understood.written, recorded, "{}", event.name);
    }
}

#[test]
fn an_event_without_one_of_its_required_fields_is_refused() {
    // Fields that may be missing: they are absent from holds and from what belongs to no sale,
    // or earlier versions did not emit them.
    const OPTIONAL: [&str; 10] = [
        "by of concert.organizer_removed",
        "by of concert.schedule_cancelled",
        "by of concert.schedule_opened",
        "by of user.role_granted",
        "refund_until of concert.schedule_opened",
        "payment_id of reservation.cancelled",
        "schedule_id of audit.saga_stalled",
        "schedule_id of audit.violation",
        "seats of payment.completed",
        "seats of payment.refunded",
    ];
    for event in event_types::ALL {
        let recorded = event.data();
        for field in recorded.as_object().expect("an event is an object").keys() {
            let mut less = recorded.clone();
            less.as_object_mut().expect("it was one above").remove(field);
            let read = (event.read)(less.to_string().as_bytes());
            let optional = OPTIONAL.contains(&format!("{field} of {}", event.name).as_str());
            assert_eq!(read.is_ok(), optional, "{} without {field}", event.name);
        }
    }
}

#[test]
fn a_subject_names_event_and_schedule() {
    for event in event_types::ALL {
        let recorded = event.data();
        let understood = (event.read)(recorded.to_string().as_bytes()).expect("proved above");
        assert_eq!(event_of_subject(&understood.subject), Some(event.name));
        let schedule = recorded.get("schedule_id").and_then(Value::as_str);
        assert_eq!(understood.schedule.map(|id| id.to_string()).as_deref(), schedule);
        assert!(understood.subject.ends_with(&format!(
            ".v{}.{}",
            event.version,
            schedule.unwrap_or("-")
        )));
        let about = understood.about.to_string();
        assert!(recorded.as_object().is_some_and(|fields| fields.values().any(|id| *id == about)));
    }
    for stranger in
        ["", "onsale", "onsale.payment", "live.onsale.payment.requested.v1.-", "cmd.payment.pay"]
    {
        assert_eq!(event_of_subject(stranger), None, "{stranger}");
    }
}

#[test]
fn the_spelling_of_every_state_and_end_of_a_place_is_fixed() {
    use events::queue::{PlaceEnd, PlaceState};
    spelt(
        &[PlaceState::Waiting, PlaceState::Active, PlaceState::Completed, PlaceState::Expired],
        "WAITING ACTIVE COMPLETED EXPIRED",
    );
    spelt(
        &[
            PlaceEnd::Timeout,
            PlaceEnd::Left,
            PlaceEnd::SoldOut,
            PlaceEnd::Closed,
            PlaceEnd::Cancelled,
            PlaceEnd::Withdrawn,
        ],
        "timeout left sold_out closed cancelled withdrawn",
    );
}

#[test]
fn the_spelling_of_every_state_and_reason_is_fixed() {
    use events::{
        audit::*, concert::*, notification::*, payment::*, point::*, reservation::*, user::*,
    };
    spelt(&[Role::Fan, Role::Organizer, Role::Operator], "fan organizer operator");
    spelt(
        &[
            ReservationState::Pending,
            ReservationState::Confirmed,
            ReservationState::Expired,
            ReservationState::Cancelled,
        ],
        "PENDING CONFIRMED EXPIRED CANCELLED",
    );
    spelt(
        &[CancelReason::ByFan, CancelReason::ShowCancelled, CancelReason::Withdrawn],
        "by_fan show_cancelled withdrawn",
    );
    spelt(&[ConfirmRefusal::Expired, ConfirmRefusal::Cancelled], "expired cancelled");
    spelt(
        &[
            PaymentState::Requested,
            PaymentState::Completed,
            PaymentState::Failed,
            PaymentState::Refunded,
        ],
        "REQUESTED COMPLETED FAILED REFUNDED",
    );
    spelt(
        &[PaymentFailure::InsufficientBalance, PaymentFailure::NoWallet, PaymentFailure::HoldGone],
        "insufficient_balance no_wallet hold_gone",
    );
    spelt(
        &[DebitRefusal::InsufficientBalance, DebitRefusal::NoWallet],
        "insufficient_balance no_wallet",
    );
    spelt(&[RefundReason::HoldGone, RefundReason::Cancelled], "hold_gone cancelled");
    spelt(&[ScheduleState::Open, ScheduleState::Cancelled], "open cancelled");
    spelt(&MessageKind::ALL, &MessageKind::ALL.map(MessageKind::as_str).join(" "));
    spelt(
        &[Channel::Alimtalk, Channel::Sms, Channel::Webhook, Channel::Folder],
        "alimtalk sms webhook folder",
    );
    spelt(&Rule::ALL, &Rule::ALL.map(Rule::as_str).join(" "));
    spelt(
        &[
            SagaState::Running,
            SagaState::Stalled,
            SagaState::Compensated,
            SagaState::Failed,
            SagaState::Completed,
        ],
        "running stalled compensated failed completed",
    );
    spelt(&[SeatState::Free, SeatState::Held, SeatState::Sold], "free held sold");
}

#[test]
fn the_spelling_of_every_outcome_of_a_withdrawal_is_fixed() {
    use events::{point::EntryKind, user::WithdrawalState, withdrawal::WithdrawalReason};
    spelt(
        &[EntryKind::Charge, EntryKind::Debit, EntryKind::Refund, EntryKind::Forfeit],
        "charge debit refund forfeit",
    );
    spelt(
        &[WithdrawalState::Requested, WithdrawalState::Completed, WithdrawalState::Refused],
        "REQUESTED COMPLETED REFUSED",
    );
    spelt(&WithdrawalReason::ALL, "payment_running refund_due tickets points no_answer too_late");
}

#[test]
fn every_command_and_every_reply_round_trips() {
    let sampled: BTreeSet<_> = samples::round_trip_all().into_iter().collect();
    let endpoints = events::CONTRACTS.iter().flat_map(|service| service.endpoints);
    let declared: BTreeSet<_> = endpoints.chain(events::state::ENDPOINTS).copied().collect();
    assert_eq!(sampled, declared);
}

#[test]
fn every_problem_has_a_code_of_its_own_and_round_trips() {
    let mut codes = BTreeSet::new();
    for kind in events::codes::ALL {
        assert!(codes.insert(kind.code), "{} is there twice", kind.code);
        assert!((400..600).contains(&kind.status) && kind.title.ends_with('.'), "{}", kind.code);
        let problem = events::Problem::new(*kind, "this time").with("seats", json!(["A-1-2"]));
        let written = serde_json::to_value(&problem).expect("a problem is plain data");
        assert_eq!(written["type"], format!("urn:onsale:problem:{}", kind.code));
        assert_eq!(serde_json::from_value::<events::Problem>(written).expect("its own"), problem);
    }
}

/// Reads and writes the command and its reply, and returns the endpoint.
fn round_trip<C: Command>(command: Value, reply: Value) -> &'static str {
    let endpoint = C::ENDPOINT;
    assert_eq!(again::<C>(endpoint, &command), command, "{endpoint}");
    assert_eq!(again::<C::Reply>(endpoint, &reply), reply, "reply of {endpoint}");
    endpoint
}

fn again<T: Serialize + DeserializeOwned>(what: &str, value: &Value) -> Value {
    let mut later = value.clone();
    if !value.is_null() && what != "user.jwks" && what != "queue.jwks" {
        add_unknown_fields(&mut later);
    }
    let read: T = serde_json::from_value(later).unwrap_or_else(|error| panic!("{what}: {error}"));
    serde_json::to_value(&read).expect("plain data")
}

fn add_unknown_fields(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(add_unknown_fields);
            fields.insert("of_a_later_version".to_owned(), json!({"deep": [1, "two", null]}));
        }
        Value::Array(items) => items.iter_mut().for_each(add_unknown_fields),
        _ => {}
    }
}

fn spelt<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(all: &[T], words: &str) {
    let words: Vec<_> = words.split(' ').collect();
    assert_eq!(all.len(), words.len());
    for (value, word) in all.iter().zip(words) {
        assert_eq!(serde_json::to_value(value).expect("plain data"), json!(word));
        assert_eq!(serde_json::from_value::<T>(json!(word)).expect("a known word"), *value);
    }
}
