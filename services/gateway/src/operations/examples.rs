//! Examples for the API's documentation. Each is parsed as its type when the document is made,
//! so none can go stale.

pub(crate) const REGISTER: &str =
    r#"{"email":"fan@example.com","password":"correct horse battery"}"#;

pub(crate) const REFRESH: &str = r#"{"refresh_token":"gJ2yq0VnTz6l8cYb4w1x"}"#;

pub(crate) const SESSION: &str = r#"{
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "roles": ["fan"],
    "access_token": "eyJhbGciOiJFZERTQSIsImtpZCI6IjEifQ.eyJzdWIiOiIuLi4ifQ.c2lnbmF0dXJl",
    "expires_in_secs": 900,
    "refresh_token": "gJ2yq0VnTz6l8cYb4w1x"
}"#;

pub(crate) const ACCOUNT: &str =
    r#"{"user_id":"019a8f3e-0001-7000-8000-000000000001","roles":["fan","organizer"]}"#;

pub(crate) const WITHDRAW: &str = r#"{"forfeit":false}"#;

pub(crate) const WITHDRAWAL: &str = r#"{
    "attempt": "019a8f3e-0008-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "forfeit": false,
    "state": "REQUESTED",
    "requested_at": "2027-03-10T10:20:00Z"
}"#;

pub(crate) const WITHDRAWAL_REFUSED: &str = r#"{
    "attempt": "019a8f3e-0008-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "forfeit": false,
    "state": "REFUSED",
    "reasons": ["tickets", "points"],
    "requested_at": "2027-03-10T10:20:00Z",
    "ended_at": "2027-03-10T10:20:00.012Z"
}"#;

pub(crate) const JWKS: &str = r#"{"keys":[{
    "kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"1",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
}]}"#;

pub(crate) const CREATE_CONCERT: &str =
    r#"{"title":"Night Train","artist":"The Sleepers","description":"One night only."}"#;

pub(crate) const CONCERT: &str = r#"{
    "concert_id": "019a8f3e-0002-7000-8000-000000000001",
    "title": "Night Train",
    "artist": "The Sleepers",
    "description": "One night only.",
    "created_at": "2027-03-01T09:00:00Z"
}"#;

pub(crate) const CONCERTS: &str = r#"{"items":[{
    "concert_id": "019a8f3e-0002-7000-8000-000000000001",
    "title": "Night Train",
    "artist": "The Sleepers",
    "description": "One night only.",
    "created_at": "2027-03-01T09:00:00Z"
}],"next_cursor":"019a8f3e-0002-7000-8000-000000000001"}"#;

pub(crate) const SEAT_PLAN: &str = "section,row,seat,price\nA,1,1,120000\nA,1,2,120000\n";

pub(crate) const OPEN_SCHEDULE: &str = r#"{
    "venue": "Club Blau",
    "starts_at": "2027-06-01T19:00:00Z",
    "opens_at": "2027-03-10T10:00:00Z",
    "refund_until": "2027-05-25T19:00:00Z",
    "admission": {"per_second": 100, "active_max": 1000, "pass_secs": 300},
    "hold_secs": 300,
    "seats_per_fan_max": 4,
    "seat_plan": "section,row,seat,price\nA,1,1,120000\nA,1,2,120000\n"
}"#;

pub(crate) const SCHEDULE: &str = r#"{
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "concert_id": "019a8f3e-0002-7000-8000-000000000001",
    "venue": "Club Blau",
    "starts_at": "2027-06-01T19:00:00Z",
    "opens_at": "2027-03-10T10:00:00Z",
    "refund_until": "2027-05-25T19:00:00Z",
    "state": "open",
    "admission": {"per_second": 100, "active_max": 1000, "pass_secs": 300},
    "hold_secs": 300,
    "seats_per_fan_max": 4,
    "seats_total": 2
}"#;

pub(crate) const CANCELLED_SCHEDULE: &str = r#"{
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "concert_id": "019a8f3e-0002-7000-8000-000000000001",
    "venue": "Club Blau",
    "starts_at": "2027-06-01T19:00:00Z",
    "opens_at": "2027-03-10T10:00:00Z",
    "refund_until": "2027-05-25T19:00:00Z",
    "state": "cancelled",
    "cancelled": {
        "at": "2027-05-30T08:00:00Z", "reason": "The singer has lost her voice.",
        "by": {"user_id": "019a8f3e-0001-7000-8000-000000000009", "role": "operator"}
    },
    "admission": {"per_second": 100, "active_max": 1000, "pass_secs": 300},
    "hold_secs": 300,
    "seats_per_fan_max": 4,
    "seats_total": 2
}"#;

pub(crate) const SCHEDULES: &str = r#"{"items":[{
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "concert_id": "019a8f3e-0002-7000-8000-000000000001",
    "venue": "Club Blau",
    "starts_at": "2027-06-01T19:00:00Z",
    "opens_at": "2027-03-10T10:00:00Z",
    "refund_until": "2027-05-25T19:00:00Z",
    "state": "open",
    "admission": {"per_second": 100, "active_max": 1000, "pass_secs": 300},
    "hold_secs": 300,
    "seats_per_fan_max": 4,
    "seats_total": 2
}]}"#;

pub(crate) const ORGANIZERS: &str = r#"{
    "concert_id": "019a8f3e-0002-7000-8000-000000000001",
    "organizers": [
        {"user_id": "019a8f3e-0001-7000-8000-000000000002", "since": "2027-03-01T09:00:00Z"},
        {
            "user_id": "019a8f3e-0001-7000-8000-000000000003", "since": "2027-03-02T09:00:00Z",
            "added_by": {"user_id": "019a8f3e-0001-7000-8000-000000000002", "role": "organizer"}
        }
    ]
}"#;

pub(crate) const SEAT_PLAN_READ: &str = r#"{
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "seats": [{"section": "A", "row": "1", "price": 120000, "seats": ["1", "2"]}]
}"#;

pub(crate) const SEAT_MAP: &str = r#"{
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "epoch": "8f3a51c07d9e2b46",
    "sequence": 1,
    "state": "open",
    "sections": [{"section": "A", "free": 1, "held": 1, "sold": 0}],
    "seats": [{"seat": "A-1-1", "state": "held"}]
}"#;

pub(crate) const SEAT_EVENTS: &str = r#"id: 8f3a51c07d9e2b46.1
event: snapshot
data: {"schedule_id":"019a8f3e-0003-7000-8000-000000000001","epoch":"8f3a51c07d9e2b46","sequence":1,"state":"open","sections":[{"section":"A","free":1,"held":1,"sold":0}],"seats":[{"seat":"A-1-1","state":"held"}]}

id: 8f3a51c07d9e2b46.2
event: delta
data: {"sequence":2,"sections":[{"section":"A","free":1,"held":0,"sold":1}],"seats":[{"seat":"A-1-1","state":"sold"}]}

"#;

pub(crate) const RANKING: &str = r#"{
    "by": "sold",
    "window": "24h",
    "at": "2027-03-10T10:30:00Z",
    "places": [{
        "place": 1,
        "concert_id": "019a8f3e-0002-7000-8000-000000000001",
        "title": "Night Train",
        "seats_sold": 412
    }]
}"#;

pub(crate) const ENTER: &str = "{}";

pub(crate) const PLACE: &str = r#"{
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "state": "WAITING",
    "position": 412,
    "expected_wait_secs": 5,
    "poll_after_secs": 2,
    "ticket": "eyJhbGciOiJFZERTQSIsImtpZCI6IjEifQ.eyJ0aWNrZXQiOjQxM30.c2lnbmF0dXJl"
}"#;

pub(crate) const ACTIVE_PLACE: &str = r#"{
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "state": "ACTIVE",
    "pass": "eyJhbGciOiJFZERTQSIsImtpZCI6IjEifQ.eyJwYXNzIjoiLi4uIn0.c2lnbmF0dXJl",
    "reserve_until": "2027-03-10T10:05:07Z"
}"#;

pub(crate) const LEFT_PLACE: &str = r#"{
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "state": "EXPIRED",
    "reason": "left"
}"#;

pub(crate) const PLACE_EVENTS: &str = "event: place\n\
data: {\"schedule_id\":\"019a8f3e-0003-7000-8000-000000000001\",\"state\":\"WAITING\",\"position\":412}\n\n";

pub(crate) const RESERVE: &str = r#"{
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "seats": ["A-1-1", "A-1-2"],
    "pass": "eyJhbGciOiJFZERTQSIsImtpZCI6IjEifQ.eyJwYXNzIjoiLi4uIn0.c2lnbmF0dXJl"
}"#;

pub(crate) const RESERVATION: &str = r#"{
    "reservation_id": "019a8f3e-0004-7000-8000-000000000001",
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "state": "PENDING",
    "seats": [{"seat": "A-1-1", "price": 120000}, {"seat": "A-1-2", "price": 120000}],
    "amount": 240000,
    "created_at": "2027-03-10T10:00:12Z",
    "expires_at": "2027-03-10T10:05:12Z"
}"#;

pub(crate) const RESERVATIONS: &str = r#"{"items":[{
    "reservation_id": "019a8f3e-0004-7000-8000-000000000001",
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "state": "CONFIRMED",
    "seats": [{"seat": "A-1-1", "price": 120000}, {"seat": "A-1-2", "price": 120000}],
    "amount": 240000,
    "created_at": "2027-03-10T10:00:12Z",
    "expires_at": "2027-03-10T10:05:12Z",
    "payment_id": "019a8f3e-0005-7000-8000-000000000001"
}]}"#;

pub(crate) const CANCELLED: &str = r#"{
    "reservation_id": "019a8f3e-0004-7000-8000-000000000001",
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "state": "CANCELLED",
    "seats": [{"seat": "A-1-1", "price": 120000}, {"seat": "A-1-2", "price": 120000}],
    "amount": 240000,
    "created_at": "2027-03-10T10:00:12Z",
    "expires_at": "2027-03-10T10:05:12Z",
    "payment_id": "019a8f3e-0005-7000-8000-000000000001"
}"#;

pub(crate) const CHARGE: &str = r#"{"amount":500000}"#;

pub(crate) const ENTRY: &str = r#"{
    "entry_id": "019a8f3e-0006-7000-8000-000000000001",
    "kind": "charge",
    "amount": 500000,
    "balance": 500000,
    "at": "2027-03-10T09:30:00Z"
}"#;

pub(crate) const BALANCE: &str =
    r#"{"user_id":"019a8f3e-0001-7000-8000-000000000001","balance":500000}"#;

pub(crate) const ENTRIES: &str = r#"{"items":[{
    "entry_id": "019a8f3e-0006-7000-8000-000000000002",
    "kind": "debit",
    "amount": -240000,
    "balance": 260000,
    "payment_id": "019a8f3e-0005-7000-8000-000000000001",
    "at": "2027-03-10T10:00:20Z"
}]}"#;

pub(crate) const PAY: &str = r#"{"reservation_id":"019a8f3e-0004-7000-8000-000000000001"}"#;

pub(crate) const PAYMENT: &str = r#"{
    "payment_id": "019a8f3e-0005-7000-8000-000000000001",
    "reservation_id": "019a8f3e-0004-7000-8000-000000000001",
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "amount": 240000,
    "state": "REQUESTED",
    "requested_at": "2027-03-10T10:00:20Z"
}"#;

pub(crate) const COMPLETED_PAYMENT: &str = r#"{
    "payment_id": "019a8f3e-0005-7000-8000-000000000001",
    "reservation_id": "019a8f3e-0004-7000-8000-000000000001",
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "amount": 240000,
    "state": "COMPLETED",
    "requested_at": "2027-03-10T10:00:20Z",
    "ended_at": "2027-03-10T10:00:20.007Z"
}"#;

pub(crate) const PAYMENTS: &str = r#"{"items":[{
    "payment_id": "019a8f3e-0005-7000-8000-000000000001",
    "reservation_id": "019a8f3e-0004-7000-8000-000000000001",
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "amount": 240000,
    "state": "FAILED",
    "reason": "insufficient_balance",
    "requested_at": "2027-03-10T10:00:20Z",
    "ended_at": "2027-03-10T10:00:20.004Z"
}]}"#;

pub(crate) const MY_EVENTS: &str = "event: payment.completed\n\
data: {\"type\":\"payment.completed\",\"id\":\"019a8f3e-0007-7000-8000-000000000001\",\
\"saga_id\":\"019a8f3e-0005-7000-8000-000000000001\",\"at\":\"2027-03-10T10:00:20.007Z\",\
\"data\":{\"payment_id\":\"019a8f3e-0005-7000-8000-000000000001\",\"amount\":240000}}\n\
id: 1.2a.5b.11.2f\n\n";

pub(crate) const SAGA: &str = r#"{
    "saga_id": "019a8f3e-0005-7000-8000-000000000001",
    "flow": "pay",
    "state": "running",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "began_at": "2027-03-10T10:00:20Z",
    "last_at": "2027-03-10T10:00:20Z",
    "last_fact": "payment.requested",
    "facts": 1,
    "awaited": ["point"],
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "steps": [{
        "fact": "payment.requested",
        "service": "payment",
        "event_id": "019a8f3e-0007-7000-8000-000000000001",
        "cause_id": "019a8f3e-0005-7000-8000-000000000001",
        "depth": 0,
        "at": "2027-03-10T10:00:20Z",
        "after_ms": 0,
        "deliveries": 1,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "data": {"payment_id": "019a8f3e-0005-7000-8000-000000000001", "amount": 240000}
    }],
    "to_come": [{
        "facts": ["point.debit_refused", "point.debited"],
        "service": "point",
        "after": "payment.requested",
        "after_id": "019a8f3e-0007-7000-8000-000000000001",
        "due_at": "2027-03-10T10:00:30Z",
        "is_overdue": false
    }]
}"#;

pub(crate) const SAGAS: &str = r#"{"items":[{
    "saga_id": "019a8f3e-0005-7000-8000-000000000001",
    "flow": "pay",
    "state": "stalled",
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001",
    "began_at": "2027-03-10T10:00:20Z",
    "last_at": "2027-03-10T10:00:20Z",
    "last_fact": "payment.requested",
    "facts": 1,
    "awaited": ["point"]
}],"next_cursor":"019a8f3e-0005-7000-8000-000000000001"}"#;

pub(crate) const VIOLATIONS: &str = r#"{"items":[{
    "violation_id": "019a8f3e-0008-7000-8000-000000000001",
    "rule": "one_owner",
    "detail": "The seat A-1-1 is confirmed for two reservations.",
    "events": [
        "019a8f3e-0007-7000-8000-000000000001",
        "019a8f3e-0007-7000-8000-000000000002"
    ],
    "saga_id": "019a8f3e-0005-7000-8000-000000000001",
    "schedule_id": "019a8f3e-0003-7000-8000-000000000001"
}]}"#;

pub(crate) const SET_CONTACT: &str = r#"{"phone":"+821012345678","locale":"ko"}"#;

pub(crate) const CONTACT: &str = r#"{
    "user_id": "019a8f3e-0001-7000-8000-000000000001",
    "phone": "+821012345678",
    "locale": "ko"
}"#;

pub(crate) const MESSAGES: &str = r#"{"items":[{
    "message_id": "d1f0a3c2-5b64-8e17-9a02-6c3d47e85f07",
    "subject_id": "019a8f3e-0005-7000-8000-000000000001",
    "kind": "payment_completed",
    "state": "SENT",
    "channel": "alimtalk",
    "text": "결제가 완료되어 예매가 확정되었습니다. 즐거운 관람 되세요!\n▶ 공연: Night Train / Club Blau / 2027년 6월 2일 04:00(한국 시간)\n▶ 결제 금액: 240,000포인트",
    "attempts": 1,
    "created_at": "2027-03-10T10:00:20.007Z",
    "sent_at": "2027-03-10T10:00:20.312Z"
}]}"#;

pub(crate) const EXPORT: &str = r#"{
    "state": "STUCK",
    "watermark": "2027-03-10T10:00:21Z",
    "streams": [
        {"service": "payment", "sequence": 1042, "facts": 1042, "behind": 38},
        {"service": "reservation", "sequence": 2105, "facts": 2101, "behind": 12}
    ],
    "trouble": {
        "cause": "the data platform answers 503 Service Unavailable",
        "since": "2027-03-10T10:00:22Z",
        "attempts": 4
    }
}"#;

pub(crate) const DEAD_LETTERS: &str = r#"{"items":[{
    "letter": "point-17",
    "service": "point",
    "fact": "reservation.confirm_refused",
    "key": "019a8f3e-0001-7000-8000-000000000001",
    "state": "parked",
    "cause": "nothing was taken for this payment",
    "attempts": 2,
    "event_id": "019a8f3e-0008-7000-8000-000000000001",
    "saga_id": "019a8f3e-0006-7000-8000-000000000001",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "stream": "RESERVATION",
    "sequence": 40213,
    "subject": "onsale.reservation.confirm_refused.v1.019a8f3e-0003-7000-8000-000000000001",
    "told_at": "2027-03-10T10:00:04Z",
    "kept_at": "2027-03-10T10:00:04Z",
    "history": [{
        "at": "2027-03-10T10:07:00Z",
        "became": "parked",
        "by": "019a8f3e-0001-7000-8000-000000000009",
        "why": "nothing was taken for this payment"
    }]
}],"next_before":"1804672804000000000-point-17"}"#;

pub(crate) const OPENED_DEAD_LETTER: &str = r#"{
    "letter": "point-17",
    "service": "point",
    "fact": "reservation.confirm_refused",
    "key": "019a8f3e-0001-7000-8000-000000000001",
    "state": "parked",
    "cause": "nothing was taken for this payment",
    "attempts": 2,
    "event_id": "019a8f3e-0008-7000-8000-000000000001",
    "saga_id": "019a8f3e-0006-7000-8000-000000000001",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "stream": "RESERVATION",
    "sequence": 40213,
    "subject": "onsale.reservation.confirm_refused.v1.019a8f3e-0003-7000-8000-000000000001",
    "told_at": "2027-03-10T10:00:04Z",
    "kept_at": "2027-03-10T10:00:04Z",
    "history": [{
        "at": "2027-03-10T10:07:00Z",
        "became": "parked",
        "by": "019a8f3e-0001-7000-8000-000000000009",
        "why": "nothing was taken for this payment"
    }],
    "payload": "{\"payment_id\":\"019a8f3e-0006-7000-8000-000000000001\"}",
    "deliveries": []
}"#;

pub(crate) const REDRIVEN: &str = r#"{
    "letter": "point-17",
    "service": "point",
    "key": "019a8f3e-0001-7000-8000-000000000001",
    "resolved": ["point-17", "point-18"],
    "stopped": {"letter": "point-21", "cause": "a payment of -1 points", "attempts": 2},
    "left": 3
}"#;

pub(crate) const RETRY_ALL: &str = r#"{"service":"point","cause":"nothing was taken"}"#;

pub(crate) const RETRIED_ALL: &str = r#"{
    "lines": [{
        "letter": "point-17",
        "service": "point",
        "key": "019a8f3e-0001-7000-8000-000000000001",
        "resolved": ["point-17", "point-18"],
        "left": 0
    }],
    "unasked": [{"letter": "queue-40", "why": "unavailable (503): The service is not running."}],
    "left": 0
}"#;

pub(crate) const DISCARD_REASON: &str =
    r#"{"reason":"Emitted by a test by mistake; see ticket 812.","leave_open":true}"#;
