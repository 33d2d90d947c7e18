//! One sample of every command and of its reply.

use events::{
    audit, concert, data_platform, notification, payment, point, queue, ranking, reservation,
    state, user,
};
use serde_json::{Value, json};

use super::round_trip;

const USER: &str = "019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c01";
const CONCERT: &str = "019a5c30-11d2-7e05-8a4b-6f90c3d1e802";
const SCHEDULE: &str = "019a5c31-5b7f-7a93-b6d4-0e2c8f71a903";
const RESERVATION: &str = "019a5c3f-0c44-7d18-a1f7-92be64d05b04";
const PAYMENT: &str = "019a5c3f-4e91-7b6a-8c23-d7501fa9e605";
const ENTRY: &str = "019a5c3e-9f02-7f5c-9b88-15c7ea40d306";
const ATTEMPT: &str = "019a5c52-3d80-7a4e-8f15-c27be9d04708";
const MESSAGE: &str = "d1f0a3c2-5b64-8e17-9a02-6c3d47e85f07";
const TIME: &str = "2026-11-20T10:02:11.700318Z";

/// Reads and writes every sample, and returns the endpoints that were sampled.
pub(super) fn round_trip_all() -> Vec<&'static str> {
    [
        users(),
        concerts(),
        places(),
        reservations(),
        payments(),
        wallets(),
        rankings(),
        messages(),
        exports(),
        audits(),
        states(),
    ]
    .concat()
}

fn page(item: Value) -> Value {
    json!({"items": [item], "next_cursor": "MDE5YTVjM2Y"})
}

fn states() -> Vec<&'static str> {
    let schedule = json!({
        "schedule_id": SCHEDULE, "concert_id": CONCERT, "venue": "Arena am Fluss",
        "starts_at": "2026-12-12T19:30:00Z", "opens_at": TIME, "state": "cancelled",
        "refund_until": "2026-12-12T19:30:00Z",
        "admission": {"per_second": 100, "active_max": 1000, "pass_secs": 300},
        "hold_secs": 300, "seats_per_fan_max": 4, "seats_total": 9800, "title": "Late Bloom",
    });
    let seats = json!([
        {"seat": "A-1-1", "hold_version": 3},
        {"seat": "A-1-2", "hold_version": 4, "owner": {
            "reservation_id": RESERVATION, "user_id": USER, "is_sold": true, "seats": 2,
            "hard_cap_at": TIME,
        }},
    ]);
    let sale = json!({
        "payment_id": PAYMENT, "schedule_id": SCHEDULE, "seats": 2, "sold_at": TIME,
        "returned_at": "2026-11-20T11:00:00Z",
    });
    vec![
        round_trip::<state::StateSchedules>(
            json!({"after": SCHEDULE, "starts_after": TIME}),
            json!({"items": [schedule], "next": SCHEDULE}),
        ),
        round_trip::<state::StateSeats>(
            json!({"schedule_id": SCHEDULE, "after": "A-1-0"}),
            json!({"items": seats, "next": "A-1-2"}),
        ),
        round_trip::<state::StateSales>(json!({}), json!({"items": [sale]})),
    ]
}

fn audits() -> Vec<&'static str> {
    let stalled = json!({
        "saga_id": PAYMENT, "flow": "pay", "awaited": ["point.debited", "point.debit_refused"],
        "service": "point", "after": "payment.requested", "after_id": ENTRY, "due_at": TIME,
        "schedule_id": SCHEDULE,
    });
    let violation = json!({
        "violation_id": MESSAGE, "rule": "taken_once", "detail": "a payment was taken twice",
        "events": [ENTRY, ATTEMPT], "saga_id": PAYMENT, "schedule_id": SCHEDULE,
    });
    let line = || {
        json!({
            "saga_id": PAYMENT, "flow": "pay", "state": "stalled", "user_id": USER,
            "schedule_id": SCHEDULE, "began_at": TIME, "last_at": TIME,
            "last_fact": "payment.requested", "facts": 1, "awaited": ["point"],
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
        })
    };
    let mut saga = line();
    // The data of an event is passed on as it is, whatever a later version adds to it.
    saga["steps"] = json!([{
        "fact": "payment.requested", "service": "payment", "event_id": ENTRY,
        "cause_id": PAYMENT, "depth": 0, "at": TIME, "after_ms": 12, "deliveries": 1,
        "trace_id": "0af7651916cd43dd8448eb211c80319c", "undoes": "point.debited",
        "undone_by": "point.refunded", "data": null,
    }]);
    saga["to_come"] = json!([{
        "facts": ["point.debited"], "service": "point", "after": "payment.requested",
        "after_id": ENTRY, "due_at": TIME, "is_overdue": true,
    }]);
    let wanted = json!({
        "state": "stalled", "service": "point", "since": TIME, "about": PAYMENT,
        "cursor": "MDE5YTVjM2Y", "limit": 5,
    });
    let some = json!({"cursor": "MDE5YTVjM2Y", "limit": 5});
    vec![
        round_trip::<audit::GetSaga>(json!({"id": PAYMENT}), saga),
        round_trip::<audit::FindSagas>(wanted, page(line())),
        round_trip::<audit::FindViolations>(some, page(violation.clone())),
        round_trip::<audit::ReportStall>(json!({"stalled": stalled}), json!({})),
        round_trip::<audit::ReportViolation>(json!({"violation": violation}), json!({})),
    ]
}

fn rankings() -> Vec<&'static str> {
    let ranking = json!({
        "by": "sell_out", "window": "24h", "at": TIME,
        "places": [{
            "place": 1, "concert_id": CONCERT, "title": "Late Bloom",
            "sell_out_ms": 61_250, "schedule_id": SCHEDULE,
        }],
    });
    let wanted = json!({"by": "sell_out", "window": "24h", "limit": 5});
    vec![round_trip::<ranking::RankConcerts>(wanted, ranking)]
}

fn users() -> Vec<&'static str> {
    let login = || json!({"email": "mina@example.org", "password": "correct horse battery"});
    let session = || {
        json!({
            "user_id": USER, "roles": ["fan"], "access_token": "eyJhbGciOiJFZERTQSJ9.e30.c2ln",
            "expires_in_secs": 900, "refresh_token": "b3BhcXVl",
        })
    };
    let account = || json!({"user_id": USER, "roles": ["fan", "organizer"]});
    let withdrawal = |state: &str| {
        let mut withdrawal = json!({
            "attempt": ATTEMPT, "user_id": USER, "forfeit": true, "state": state,
            "requested_at": TIME,
        });
        if state == "REFUSED" {
            withdrawal["reasons"] = json!(["payment_running", "refund_due"]);
            withdrawal["ended_at"] = json!(TIME);
        }
        withdrawal
    };
    vec![
        round_trip::<user::Register>(login(), session()),
        round_trip::<user::LogIn>(login(), session()),
        round_trip::<user::Refresh>(json!({"refresh_token": "b3BhcXVl"}), session()),
        round_trip::<user::Withdraw>(json!({"forfeit": true}), withdrawal("REQUESTED")),
        round_trip::<user::GetWithdrawal>(json!({"attempt": ATTEMPT}), withdrawal("REFUSED")),
        round_trip::<user::GrantRole>(json!({"user_id": USER, "role": "organizer"}), account()),
        round_trip::<user::Jwks>(json!({}), json!({"keys": []})),
    ]
}

fn organizers() -> Value {
    json!({"concert_id": CONCERT, "organizers": [
        {"user_id": USER, "since": TIME},
        {"user_id": USER, "since": TIME, "added_by": {"user_id": USER, "role": "organizer"}},
    ]})
}

fn concerts() -> Vec<&'static str> {
    let admission = json!({"per_second": 100, "active_max": 1000, "pass_secs": 300});
    let concert = json!({
        "concert_id": CONCERT, "title": "Late Bloom", "artist": "The Perennials",
        "description": "One night only.", "created_at": TIME,
    });
    let schedule = json!({
        "schedule_id": SCHEDULE, "concert_id": CONCERT, "venue": "Arena am Fluss",
        "starts_at": "2026-12-12T19:30:00Z", "opens_at": TIME, "state": "cancelled",
        "refund_until": "2026-12-05T19:30:00Z",
        "cancelled": {"at": TIME, "reason": "Storm", "by": {"user_id": USER, "role": "operator"}},
        "admission": admission, "hold_secs": 300, "seats_per_fan_max": 4, "seats_total": 9800,
    });
    let open = json!({
        "concert_id": CONCERT, "venue": "Arena am Fluss", "starts_at": "2026-12-12T19:30:00Z",
        "opens_at": TIME, "refund_until": TIME, "admission": admission, "hold_secs": 300, "seats_per_fan_max": 4,
        "seat_plan": "section,row,seat,price\nA,1,1,12000\n",
    });
    let epoch = "8f3a51c07d9e2b46";
    let map = json!({
        "schedule_id": SCHEDULE, "epoch": epoch, "sequence": 9, "state": "cancelled",
        "sections": [{"section": "A", "free": 1, "held": 0, "sold": 1}],
        "seats": [{"seat": "A-1-1", "state": "sold"}],
    });
    let plan = json!({
        "schedule_id": SCHEDULE,
        "seats": [{"section": "A", "row": "1", "price": 12000, "seats": ["1", "2"]}],
    });
    let changes = json!({
        "epoch": epoch, "sequence": 9, "is_gone": false,
        "deltas": [{
            "sequence": 9,
            "sections": [{"section": "A", "held": 0, "sold": 1}],
            "seats": [{"seat": "A-1-1", "state": "sold"}],
        }, {"sequence": 10, "sections": [], "seats": [], "state": "cancelled"}],
    });
    let new = json!({"title": "Late Bloom", "artist": "The Perennials", "description": ""});
    vec![
        round_trip::<concert::CreateConcert>(new, concert.clone()),
        round_trip::<concert::OpenSchedule>(open, schedule.clone()),
        round_trip::<concert::CancelSchedule>(
            json!({"schedule_id": SCHEDULE, "reason": "The singer has lost her voice."}),
            schedule.clone(),
        ),
        round_trip::<concert::AddOrganizer>(
            json!({"concert_id": CONCERT, "user_id": USER}),
            organizers(),
        ),
        round_trip::<concert::RemoveOrganizer>(
            json!({"concert_id": CONCERT, "user_id": USER}),
            organizers(),
        ),
        round_trip::<concert::GetOrganizers>(json!({"concert_id": CONCERT}), organizers()),
        round_trip::<concert::FindConcerts>(
            json!({"q": "bloom", "cursor": "MDE5", "limit": 5}),
            page(concert.clone()),
        ),
        round_trip::<concert::GetConcert>(json!({"concert_id": CONCERT}), concert),
        round_trip::<concert::FindSchedules>(
            json!({"concert_id": CONCERT, "cursor": null, "limit": 5}),
            page(schedule),
        ),
        round_trip::<concert::GetPlan>(json!({"schedule_id": SCHEDULE}), plan),
        round_trip::<concert::GetSeats>(json!({"schedule_id": SCHEDULE, "section": "A"}), map),
        round_trip::<concert::GetSeatChanges>(
            json!({"schedule_id": SCHEDULE, "epoch": epoch, "sequence": 8}),
            changes,
        ),
    ]
}

fn places() -> Vec<&'static str> {
    let room = || json!({"schedule_id": SCHEDULE});
    let waiting = json!({
        "schedule_id": SCHEDULE, "user_id": USER, "state": "WAITING", "position": 4216,
        "expected_wait_secs": 43, "poll_after_secs": 4, "ticket": "eyJhbGciOiJFZERTQSJ9.e30.dA",
    });
    let active = json!({
        "schedule_id": SCHEDULE, "user_id": USER, "state": "ACTIVE",
        "pass": "eyJhbGciOiJFZERTQSJ9.e30.cA", "reserve_until": TIME,
    });
    let left = json!({
        "schedule_id": SCHEDULE, "user_id": USER, "state": "EXPIRED", "reason": "left",
    });
    let enter = json!({"schedule_id": SCHEDULE, "ticket": "eyJhbGciOiJFZERTQSJ9.e30.dA"});
    vec![
        round_trip::<queue::Enter>(enter, waiting),
        round_trip::<queue::GetPlace>(room(), active),
        round_trip::<queue::Leave>(room(), left),
        round_trip::<queue::Jwks>(json!({}), json!({"keys": []})),
    ]
}

fn reservations() -> Vec<&'static str> {
    let one = || json!({"reservation_id": RESERVATION});
    let held = json!({
        "reservation_id": RESERVATION, "schedule_id": SCHEDULE, "user_id": USER,
        "state": "PENDING", "seats": [{"seat": "A-1-2", "price": 12000}], "amount": 12000,
        "created_at": TIME, "expires_at": "2026-11-20T10:07:11.700318Z",
    });
    let mut owned = held.clone();
    owned["state"] = json!("CONFIRMED");
    owned["payment_id"] = json!(PAYMENT);
    let reserve = json!({
        "schedule_id": SCHEDULE, "seats": ["A-1-2"], "pass": "eyJhbGciOiJFZERTQSJ9.e30.cA",
    });
    vec![
        round_trip::<reservation::Reserve>(reserve, held.clone()),
        round_trip::<reservation::Cancel>(one(), owned.clone()),
        round_trip::<reservation::GetReservation>(one(), owned),
        round_trip::<reservation::FindReservations>(
            json!({"cursor": null, "limit": 100}),
            page(held),
        ),
    ]
}

fn payments() -> Vec<&'static str> {
    let running = json!({
        "payment_id": PAYMENT, "reservation_id": RESERVATION, "schedule_id": SCHEDULE,
        "user_id": USER, "amount": 12000, "state": "REQUESTED", "requested_at": TIME,
    });
    let mut failed = running.clone();
    failed["state"] = json!("FAILED");
    failed["reason"] = json!("insufficient_balance");
    failed["ended_at"] = json!("2026-11-20T10:02:11.709854Z");
    vec![
        round_trip::<payment::Pay>(json!({"reservation_id": RESERVATION}), running),
        round_trip::<payment::GetPayment>(json!({"payment_id": PAYMENT}), failed.clone()),
        round_trip::<payment::FindPayments>(json!({"cursor": "MDE5", "limit": null}), page(failed)),
    ]
}

fn wallets() -> Vec<&'static str> {
    let charged =
        json!({"entry_id": ENTRY, "kind": "charge", "amount": 50000, "balance": 50000, "at": TIME});
    let taken = json!({
        "entry_id": ENTRY, "kind": "debit", "amount": -12000, "balance": 38000,
        "payment_id": PAYMENT, "at": TIME,
    });
    vec![
        round_trip::<point::Charge>(json!({"amount": 50000}), charged),
        round_trip::<point::GetBalance>(json!({}), json!({"user_id": USER, "balance": 38000})),
        round_trip::<point::FindEntries>(json!({"cursor": null, "limit": 20}), page(taken)),
    ]
}

fn messages() -> Vec<&'static str> {
    let contact = || json!({"user_id": USER, "phone": "+821012345678", "locale": "ko"});
    let sent = json!({
        "message_id": MESSAGE, "subject_id": PAYMENT, "kind": "payment_completed", "state": "SENT",
        "channel": "alimtalk", "text": "Your payment has been received.", "attempts": 1,
        "created_at": TIME, "sent_at": TIME,
    });
    vec![
        round_trip::<notification::SetContact>(
            json!({"phone": "+821012345678", "locale": "ko"}),
            contact(),
        ),
        round_trip::<notification::GetContact>(json!({}), contact()),
        round_trip::<notification::FindMessages>(json!({"cursor": null, "limit": 20}), page(sent)),
    ]
}

fn exports() -> Vec<&'static str> {
    let stream = json!({"service": "payment", "sequence": 1042, "facts": 1040, "behind": 3});
    let trouble = json!({"cause": "connection refused", "since": TIME, "attempts": 4});
    let state = json!({
        "state": "STUCK", "watermark": TIME, "streams": [stream], "trouble": trouble,
    });
    vec![round_trip::<data_platform::GetExport>(json!({}), state)]
}
