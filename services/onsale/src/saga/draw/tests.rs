use bytes::Bytes;
use events::{EventId, SagaId};
use serde_json::{Value, json};

use super::*;
use auditor::Observed;
use flows::Flows;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(1_800_000_000_000 + millis).expect("in range")
}

fn event(id: u128, name: &str, cause: u128, millis: i64, data: Value) -> Observed {
    Observed {
        event_id: EventId(Uuid::from_u128(id)),
        event: name.to_owned(),
        stream_seq: 1,
        saga_id: SagaId(Uuid::from_u128(0x77)),
        cause_id: Some(Uuid::from_u128(cause)),
        about: Uuid::from_u128(0x77),
        at: at(millis),
        deliveries: 1,
        trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
        payload: Bytes::from(data.to_string()),
    }
}

/// The picture without its head and its colours.
fn drawn(events: &[Observed], width: usize, now: i64) -> String {
    let saga =
        auditor::timeline::saga(Flows::shipped(), events, at(now)).expect("there are events");
    let drawn = draw(&saga, width, at(now));
    let plain = anstream::adapter::strip_str(&drawn).to_string();
    assert!(plain.lines().all(|line| line.chars().count() <= width.max(110)), "{plain}");
    plain.split_once("\n\n").expect("a head").1.to_owned()
}

#[test]
fn a_payment_that_went_well_is_a_straight_line_and_then_a_fork() {
    let mut events = vec![
        event(1, "payment.requested", 99, 0, json!({})),
        event(2, "point.debited", 1, 4, json!({})),
        event(3, "reservation.confirmed", 2, 9, json!({})),
        event(4, "payment.completed", 3, 12, json!({})),
        event(5, "queue.completed", 4, 15, json!({})),
        event(6, "notification.sent", 4, 20, json!({})),
    ];
    events[2].deliveries = 3;
    assert_eq!(
        drawn(&events, 84, 100),
        "\
◆ payment.requested      payment                  ╹
● point.debited          point         +4 ms      ━━━━━━━
● reservation.confirmed  reservation   +5 ms  ×3        ━━━━━━━━━
● payment.completed      payment       +3 ms                    ━━━━━━
├─● queue.completed      queue         +3 ms                         ━━━━━━
╰─● notification.sent    notification  +8 ms                         ━━━━━━━━━━━━━━
trace 0af7651916cd43dd8448eb211c80319c
"
    );
}

#[test]
fn an_undone_event_and_the_one_that_undoes_it_are_marked() {
    let events = [
        event(1, "payment.requested", 99, 0, json!({})),
        event(2, "point.debited", 1, 4, json!({})),
        event(3, "reservation.confirm_refused", 2, 9, json!({ "reason": "expired" })),
        event(4, "point.refunded", 3, 12, json!({ "reason": "hold_gone" })),
        event(5, "payment.failed", 4, 15, json!({ "reason": "hold_gone" })),
        event(6, "queue.returned", 5, 18, json!({})),
    ];
    assert_eq!(
        drawn(&events, 60, 100),
        "\
◆ payment.requested                            ╹
⊘ point.debited                         +4 ms  ━━━
● reservation.confirm_refused{expired}  +5 ms    ━━━━━
↩ point.refunded{hold_gone}             +3 ms        ━━━
● payment.failed{hold_gone}             +3 ms          ━━━
● queue.returned                        +3 ms            ━━
trace 0af7651916cd43dd8448eb211c80319c
"
    );
}

#[test]
fn what_is_still_to_come_is_named_with_the_awaited_service() {
    let events = [event(1, "payment.requested", 99, 0, json!({}))];
    assert_eq!(drawn(&events, 100, 6_800), "\
◆ payment.requested  payment    ╹
◌ still to come: point.debited | point.debit_refused by point, due in 3.2 s (after payment.requested)
trace 0af7651916cd43dd8448eb211c80319c
");
    assert_eq!(drawn(&events, 100, 14_100), "\
◆ payment.requested  payment    ╹
◌ still to come: point.debited | point.debit_refused by point, overdue by 4.1 s (after payment.requested)
trace 0af7651916cd43dd8448eb211c80319c
");
}

#[test]
fn an_event_begun_by_a_timer_stands_for_itself() {
    let events = [
        event(1, "reservation.created", 99, 0, json!({})),
        event(2, "reservation.expired", 98, 300_100, json!({})),
    ];
    assert_eq!(
        drawn(&events, 80, 400_000),
        "\
⊘ reservation.created  reservation            ╹
↩ reservation.expired  reservation  +5.0 min  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
trace 0af7651916cd43dd8448eb211c80319c
"
    );
}

#[test]
fn a_branch_keeps_its_line_until_its_last_sibling() {
    let events = [
        event(1, "user.withdrawn", 99, 0, json!({})),
        event(2, "reservation.cancelled", 1, 5, json!({ "payment_id": Uuid::nil() })),
        event(3, "point.refunded", 2, 9, json!({ "reason": "cancelled" })),
        event(4, "queue.expired", 1, 30, json!({ "reason": "withdrawn" })),
    ];
    assert_eq!(
        drawn(&events, 20, 400_000),
        "\
◆ user.withdrawn
├─● reservation.cancelled       +5 ms
│ ● point.refunded{cancelled}   +4 ms
╰─● queue.expired{withdrawn}   +30 ms
◌ still to come: payment.refunded by payment, overdue by 6.5 min (after point.refunded)
trace 0af7651916cd43dd8448eb211c80319c
"
    );
}

#[test]
fn times_are_written_as_people_write_them() {
    for (millis, text) in [
        (0, "0 ms"),
        (-4, "-4 ms"),
        (3_240, "3.2 s"),
        (300_100, "5.0 min"),
        (9_000_000, "2.5 h"),
        (1_000_000_000, "11.6 d"),
    ] {
        assert_eq!(span(millis), text);
    }
}
