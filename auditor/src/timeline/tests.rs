use std::collections::BTreeSet;

use events::{
    EventId, SagaId, Timestamp,
    audit::{Saga, SagaState},
};
use flows::Flows;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Progress, saga};
use crate::Observed;

/// The saga, and the payment in it.
const PAYMENT: Uuid = Uuid::from_u128(0x0900);
const RESERVATION: Uuid = Uuid::from_u128(0x0800);
const FAN: Uuid = Uuid::from_u128(0x0700);
const SHOW: Uuid = Uuid::from_u128(0x0600);
/// The command that began it; no event has its id.
const COMMAND: u128 = 0x0fff;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(1_800_000_000_000 + millis).expect("in range")
}

/// An event with the number `id`, caused by `cause`, so many milliseconds after the beginning.
fn event(id: u128, name: &str, cause: u128, millis: i64, more: Value) -> Observed {
    let mut payload = json!({ "user_id": FAN, "schedule_id": SHOW });
    let fields = payload.as_object_mut().expect("an object");
    fields.extend(more.as_object().cloned().unwrap_or_default());
    let is_of_hold = name.starts_with("reservation.");
    Observed {
        event_id: EventId(Uuid::from_u128(id)),
        event: name.to_owned(),
        stream_seq: 1,
        saga_id: SagaId(PAYMENT),
        cause_id: Some(Uuid::from_u128(cause)),
        about: if is_of_hold { RESERVATION } else { PAYMENT },
        at: at(millis),
        deliveries: 1,
        trace_id: Some(format!("{millis:032x}")),
        payload: payload.to_string().into(),
    }
}

fn bought() -> Vec<Observed> {
    vec![
        event(1, "payment.requested", COMMAND, 0, json!({})),
        event(2, "point.debited", 1, 4, json!({})),
        event(3, "reservation.confirmed", 2, 9, json!({})),
        event(4, "payment.completed", 3, 12, json!({})),
        event(5, "queue.completed", 4, 15, json!({})),
        event(6, "notification.sent", 4, 40, json!({})),
    ]
}

fn too_few_points() -> Vec<Observed> {
    vec![
        event(1, "payment.requested", COMMAND, 0, json!({})),
        event(2, "point.debit_refused", 1, 4, json!({ "reason": "insufficient_balance" })),
        event(3, "payment.failed", 2, 9, json!({ "reason": "insufficient_balance" })),
    ]
}

fn hold_gone() -> Vec<Observed> {
    vec![
        event(1, "payment.requested", COMMAND, 0, json!({})),
        event(2, "point.debited", 1, 4, json!({})),
        event(3, "reservation.confirm_refused", 2, 9, json!({ "reason": "expired" })),
        event(4, "point.refunded", 3, 12, json!({ "reason": "hold_gone" })),
        event(5, "payment.failed", 4, 15, json!({ "reason": "hold_gone" })),
        event(6, "queue.returned", 5, 18, json!({})),
    ]
}

/// A show that is cancelled goes on in the saga of each payment.
fn show_cancelled() -> Vec<Observed> {
    let mut events = bought();
    events.truncate(4);
    let paid = json!({ "reason": "show_cancelled", "payment_id": PAYMENT });
    events.extend([
        event(7, "reservation.cancelled", 0x0ffe, 90_000, paid),
        event(8, "point.refunded", 7, 90_010, json!({ "reason": "cancelled" })),
        event(9, "payment.refunded", 8, 90_020, json!({})),
    ]);
    events
}

/// A fan gives a paid ticket back.
fn ticket_cancelled() -> Vec<Observed> {
    let paid = json!({ "reason": "by_fan", "payment_id": PAYMENT });
    vec![
        event(1, "reservation.cancelled", COMMAND, 0, paid),
        event(2, "point.refunded", 1, 5, json!({ "reason": "cancelled" })),
        event(3, "payment.refunded", 2, 10, json!({})),
    ]
}

fn hold_cancelled() -> Vec<Observed> {
    vec![event(1, "reservation.cancelled", COMMAND, 0, json!({ "reason": "by_fan" }))]
}

fn hold_expired() -> Vec<Observed> {
    vec![
        event(1, "reservation.created", COMMAND, 0, json!({ "expires_at": at(300_000) })),
        event(2, "reservation.expired", 0x0ffe, 300_100, json!({})),
    ]
}

fn withdrawn() -> Vec<Observed> {
    vec![
        event(1, "user.withdrawal_requested", COMMAND, 0, json!({})),
        event(2, "payment.withdrawal_cleared", 1, 2, json!({})),
        event(3, "reservation.withdrawal_cleared", 1, 3, json!({})),
        event(4, "point.withdrawal_cleared", 1, 4, json!({})),
        event(5, "user.withdrawn", 3, 6, json!({})),
        event(6, "queue.expired", 5, 8, json!({ "reason": "withdrawn" })),
        event(7, "reservation.cancelled", 5, 9, json!({ "reason": "withdrawn" })),
    ]
}

fn kept() -> Vec<Observed> {
    vec![
        event(1, "user.withdrawal_requested", COMMAND, 0, json!({})),
        event(2, "payment.withdrawal_cleared", 1, 2, json!({})),
        event(3, "reservation.withdrawal_cleared", 1, 3, json!({})),
        event(4, "point.withdrawal_blocked", 1, 4, json!({ "reason": "points" })),
        event(5, "user.withdrawal_refused", 4, 6, json!({})),
    ]
}

fn turned_away() -> Vec<Observed> {
    vec![
        event(1, "queue.waiting", COMMAND, 0, json!({})),
        event(2, "queue.expired", 0x0ffe, 600_000, json!({ "reason": "sold_out" })),
    ]
}

/// Every story with its flow and its end.
fn stories() -> [(Vec<Observed>, &'static str, SagaState); 10] {
    [
        (bought(), "pay", SagaState::Completed),
        (too_few_points(), "pay", SagaState::Failed),
        (hold_gone(), "pay", SagaState::Compensated),
        (show_cancelled(), "pay", SagaState::Compensated),
        (ticket_cancelled(), "cancel", SagaState::Completed),
        (hold_cancelled(), "cancel", SagaState::Completed),
        (hold_expired(), "reserve", SagaState::Compensated),
        (withdrawn(), "withdraw", SagaState::Completed),
        (kept(), "withdraw", SagaState::Compensated),
        (turned_away(), "enter", SagaState::Failed),
    ]
}

fn progress(events: &[Observed]) -> Progress {
    let mut progress = Progress::default();
    events.iter().for_each(|observed| progress.handle(Flows::shipped(), observed));
    progress
}

/// Calls `look` with the events in every possible order.
fn in_every_order(events: &mut Vec<Observed>, rest: usize, look: &mut dyn FnMut(&[Observed])) {
    if rest <= 1 {
        return look(events);
    }
    for position in 0..rest {
        events.swap(position, rest - 1);
        in_every_order(events, rest - 1, look);
        events.swap(position, rest - 1);
    }
}

#[test]
fn every_story_has_its_flow_and_its_end() {
    for (events, flow, state) in stories() {
        let line = progress(&events).line(Flows::shipped(), SagaId(PAYMENT), at(3_600_000));
        assert_eq!((line.flow.as_str(), line.state), (flow, state), "{line:?}");
        assert_eq!(line.events as usize, events.len());
        assert_eq!((line.began_at, line.last_at), (events[0].at, events[events.len() - 1].at));
        assert_eq!(line.last_event, events[events.len() - 1].event);
        assert_eq!((line.user_id, line.schedule_id), (Some(FAN.into()), Some(SHOW.into())));
        assert_eq!(line.trace_id, events[0].trace_id);
        assert!(line.awaited.is_empty());
    }
}

#[test]
fn the_order_in_which_events_are_handled_changes_nothing() {
    for (mut events, ..) in stories() {
        // In part of a story, what is still to come does not depend on the order either.
        for count in 1..=events.len() {
            let mut part = events[..count].to_vec();
            let expected = progress(&part);
            in_every_order(&mut part, count, &mut |events| assert_eq!(progress(events), expected));
        }
        let missing = events.len() / 2;
        events.remove(missing);
        let expected = progress(&events);
        let all = events.len();
        in_every_order(&mut events, all, &mut |events| assert_eq!(progress(events), expected));
    }
}

#[test]
fn an_event_that_comes_twice_is_handled_once() {
    for (events, ..) in stories() {
        let twice: Vec<_> = events.iter().chain(&events).cloned().collect();
        assert_eq!(progress(&twice), progress(&events));
        assert!(progress(&events).has_consumed(events[0].event_id));
    }
}

#[test]
fn a_progress_is_read_as_it_was_stored() {
    for (events, ..) in stories() {
        for count in 0..=events.len() {
            let before = progress(&events[..count]);
            let stored = serde_json::to_string(&before).expect("plain data");
            let again: Progress = serde_json::from_str(&stored).expect("its own");
            assert_eq!(again, before, "{stored}");
        }
    }
}

#[test]
fn a_step_that_is_missing_is_awaited_and_then_stalled() {
    let flows = Flows::shipped();
    let begun = progress(&bought()[..2]);
    assert_eq!(begun.next_due(), Some(at(10_004)));
    assert_eq!(begun.state(at(10_004)), SagaState::Running);
    assert_eq!(begun.stalled(flows, SagaId(PAYMENT), at(10_004)), []);
    assert_eq!(begun.line(flows, SagaId(PAYMENT), at(50)).awaited, ["reservation"]);

    let now = at(10_005);
    assert_eq!(begun.state(now), SagaState::Stalled);
    let stalled = begun.stalled(flows, SagaId(PAYMENT), now);
    let [stalled] = &stalled[..] else { panic!("one is awaited: {stalled:?}") };
    assert_eq!((stalled.flow.as_str(), stalled.service.as_str()), ("pay", "reservation"));
    assert_eq!(stalled.awaited, ["reservation.confirmed", "reservation.confirm_refused"]);
    assert_eq!((stalled.after.as_str(), stalled.after_id.0.as_u128()), ("point.debited", 2));
    assert_eq!((stalled.due_at, stalled.schedule_id), (at(10_004), Some(SHOW.into())));

    // The service is back: late, but done.
    assert_eq!(progress(&bought()).state(now), SagaState::Completed);
}

#[test]
fn a_gap_in_the_middle_is_awaited_although_later_events_have_come() {
    let mut events = bought();
    events.remove(1);
    let with_gap = progress(&events);
    assert_eq!(with_gap.state(at(60_000)), SagaState::Stalled);
    assert_eq!(with_gap.to_come(at(60_000))[0].events, ["point.debited", "point.debit_refused"]);
}

#[test]
fn a_hold_does_not_stall_because_it_is_paid_for_in_another_saga() {
    let hold = progress(&hold_expired()[..1]);
    assert_eq!(hold.state(at(86_400_000)), SagaState::Completed);
    assert_eq!(hold.next_due(), None);
}

#[test]
fn a_cancelled_hold_awaits_no_refund_and_a_cancelled_ticket_does() {
    assert_eq!(progress(&hold_cancelled()).next_due(), None);
    let ticket = progress(&ticket_cancelled()[..1]);
    assert_eq!(ticket.to_come(at(0))[0].events, ["point.refunded"]);
}

#[test]
fn what_audit_emits_about_a_saga_changes_nothing_but_its_length() {
    let mut events = bought()[..2].to_vec();
    events.push(event(9, "audit.saga_stalled", COMMAND, 10_500, json!({})));
    let progress = progress(&events);
    assert_eq!((progress.flow(), progress.next_due()), ("pay", Some(at(10_004))));
}

fn story_of(events: &[Observed], now: Timestamp) -> Saga {
    saga(Flows::shipped(), events, now).expect("there are events")
}

#[test]
fn a_story_is_in_causal_order_whatever_the_clocks_say() {
    let mut events = bought();
    // This service's clock is behind.
    events[1].at = at(-500);
    events.reverse();
    let story = story_of(&events, at(100));
    let steps: Vec<_> = story.steps.iter().map(|step| (step.event.as_str(), step.depth)).collect();
    assert_eq!(
        steps,
        [
            ("payment.requested", 0),
            ("point.debited", 1),
            ("reservation.confirmed", 2),
            ("payment.completed", 3),
            ("queue.completed", 4),
            ("notification.sent", 4),
        ]
    );
    assert_eq!(story.steps[1].after_ms, -500);
    assert_eq!(story.steps[3].after_ms, 3);
    assert_eq!(story.steps[0].data["user_id"], FAN.to_string());
    assert_eq!(story.line.state, SagaState::Completed);
}

#[test]
fn a_story_says_what_undid_what() {
    let undone = |events: &[Observed]| -> BTreeSet<(String, String)> {
        let story = story_of(events, at(200_000));
        let pairs = story.steps.iter().filter_map(|step| {
            let undoes = step.undoes.clone()?;
            let other = story.steps.iter().find(|other| other.event == undoes)?;
            assert_eq!(other.undone_by.as_ref(), Some(&step.event));
            Some((undoes, step.event.clone()))
        });
        pairs.collect()
    };
    let pair = |one: &str, two: &str| (one.to_owned(), two.to_owned());
    assert_eq!(undone(&bought()), [].into());
    assert_eq!(undone(&hold_gone()), [pair("point.debited", "point.refunded")].into());
    assert_eq!(
        undone(&hold_expired()),
        [pair("reservation.created", "reservation.expired")].into()
    );
    assert_eq!(
        undone(&show_cancelled()),
        [
            pair("payment.completed", "payment.refunded"),
            pair("point.debited", "point.refunded"),
            pair("reservation.confirmed", "reservation.cancelled"),
        ]
        .into()
    );
}

#[test]
fn events_that_cause_each_other_are_shown_all_the_same() {
    let events = [
        event(1, "payment.requested", 3, 0, json!({})),
        event(2, "point.debited", 1, 1, json!({})),
        event(3, "payment.failed", 2, 2, json!({})),
    ];
    assert_eq!(story_of(&events, at(9)).steps.len(), 3);
    assert_eq!(saga(Flows::shipped(), &[], at(9)), None);
}
