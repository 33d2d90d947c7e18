//! Handlers on a unit of work in memory.

use events::{
    PaymentId, ReservationId, SeatId, codes, payment::PaymentFailure, reservation::PricedSeat,
};
use time::macros::datetime;

use super::*;
use crate::unit_of_work::Waiting;

const NOW: Timestamp = Timestamp(datetime!(2027-03-10 10:00 UTC));
const FAN: UserId = UserId(Uuid::from_u128(1));
const SHOW: ScheduleId = ScheduleId(Uuid::from_u128(2));
const HOLD: ReservationId = ReservationId(Uuid::from_u128(3));
const PAYMENT: PaymentId = PaymentId(Uuid::from_u128(4));

fn fan() -> Caller {
    Caller::User { user_id: FAN, roles: vec![], expires_at: NOW.plus_secs(900) }
}

/// Runs a handler; returns its result and the events it emits.
fn act<T>(caller: &Caller, act: impl FnOnce(&mut Context<'_>) -> T) -> (T, Vec<mesh::Emitted>) {
    let config = Config::default();
    let mut ctx = mesh::Context::at(NOW, &config, caller, Uuid::from_u128(99));
    let done = act(&mut ctx);
    (done, ctx.emitted().to_vec())
}

fn handle<E: events::Event>(unit: &mut UnitOfWork, event: &E) -> Vec<mesh::Emitted>
where
    UnitOfWork: Handle<E>,
{
    let (handled, emitted) = act(&Caller::Mesh, |ctx| unit.handle(event, ctx));
    assert_eq!(handled, Ok(()));
    emitted
}

fn record(unit: &mut UnitOfWork, message_id: Uuid, outcome: Delivery) -> Vec<mesh::Emitted> {
    let command = RecordDelivery { message_id, outcome };
    let (answered, emitted) = act(&Caller::Mesh, |ctx| unit.execute(&command, ctx));
    assert_eq!(answered, Ok(()));
    emitted
}

fn created() -> ReservationCreated {
    let seat = |n| PricedSeat { seat: SeatId(format!("A-1-{n}")), price: 100 };
    ReservationCreated {
        reservation_id: HOLD,
        schedule_id: SHOW,
        user_id: FAN,
        seats: vec![seat(1), seat(2)],
        amount: 200,
        hold_version: 1,
        expires_at: NOW.plus_secs(300),
        hard_cap_at: NOW.plus_secs(360),
    }
}

fn cancelled(reason: CancelReason) -> ReservationCancelled {
    ReservationCancelled {
        reservation_id: HOLD,
        schedule_id: SHOW,
        user_id: FAN,
        seats: vec![SeatId("A-1-1".into())],
        hold_version: 1,
        reason,
        payment_id: Some(PAYMENT),
        refund: 200,
    }
}

fn failed_payment() -> PaymentFailed {
    PaymentFailed {
        payment_id: PAYMENT,
        reservation_id: HOLD,
        schedule_id: SHOW,
        user_id: FAN,
        amount: 200,
        reason: PaymentFailure::InsufficientBalance,
        requested_at: NOW,
        ended_at: NOW,
    }
}

fn withdrawn() -> UserWithdrawn {
    UserWithdrawn { user_id: FAN, attempt: Uuid::nil().into(), forfeit: false, at: NOW }
}

/// A unit of work with one pending message.
fn waiting(kind: MessageKind) -> (UnitOfWork, Uuid) {
    let id = message_id(HOLD.0, kind);
    let row = Waiting {
        subject_id: HOLD.0,
        kind,
        user_id: FAN,
        schedule_id: SHOW,
        saga_id: events::SagaId(Uuid::from_u128(70)),
        cause_id: Some(Uuid::from_u128(71)),
        created_at: NOW.plus_secs(-10),
        attempts: 2,
        next_at: NOW.plus_secs(60),
        receipt: None,
        last_error: None,
        end: None,
        traceparent: None,
    };
    let mut unit = UnitOfWork::default();
    unit.waiting.load(id, row);
    (unit, id)
}

fn kinds(unit: &UnitOfWork) -> Vec<(MessageKind, Uuid)> {
    let mut kinds: Vec<_> = unit.drafts.values().map(|d| (d.kind, d.subject_id)).collect();
    kinds.sort();
    kinds
}

#[test]
fn each_event_writes_the_message_about_its_subject_and_emits_nothing() {
    let mut unit = UnitOfWork::default();
    let expired = ReservationExpired {
        reservation_id: HOLD,
        schedule_id: SHOW,
        user_id: FAN,
        seats: vec![SeatId("A-1-1".into())],
        hold_version: 1,
    };
    let completed = PaymentCompleted {
        payment_id: PAYMENT,
        reservation_id: HOLD,
        schedule_id: SHOW,
        user_id: FAN,
        amount: 200,
        seats: 1,
        requested_at: NOW,
        ended_at: NOW,
    };
    let refunded = PaymentRefunded {
        payment_id: PAYMENT,
        reservation_id: HOLD,
        schedule_id: SHOW,
        user_id: FAN,
        amount: 200,
        seats: 1,
        requested_at: NOW,
        ended_at: NOW,
    };
    let emitted = [
        handle(&mut unit, &created()),
        handle(&mut unit, &expired),
        handle(&mut unit, &cancelled(CancelReason::ShowCancelled)),
        handle(&mut unit, &completed),
        handle(&mut unit, &failed_payment()),
        handle(&mut unit, &refunded),
    ];
    assert!(emitted.concat().is_empty());
    assert_eq!(
        kinds(&unit),
        [
            (MessageKind::ReservationMade, HOLD.0),
            (MessageKind::PaymentCompleted, PAYMENT.0),
            (MessageKind::PaymentFailed, PAYMENT.0),
            (MessageKind::HoldExpired, HOLD.0),
            (MessageKind::ShowCancelled, HOLD.0),
            (MessageKind::MoneyReturned, PAYMENT.0),
        ]
    );
}

#[test]
fn a_message_has_the_details_of_its_event() {
    let mut unit = UnitOfWork::default();
    handle(&mut unit, &created());
    handle(&mut unit, &failed_payment());
    let made = &unit.drafts[&message_id(HOLD.0, MessageKind::ReservationMade)];
    assert_eq!((made.details.amount, made.details.until), (Some(200), Some(NOW.plus_secs(300))));
    assert_eq!(made.details.seats.len(), 2);
    let failed = &unit.drafts[&message_id(PAYMENT.0, MessageKind::PaymentFailed)];
    assert_eq!(failed.details.reason, Some(PaymentFailure::InsufficientBalance));
}

#[test]
fn the_same_event_twice_is_one_message() {
    let mut unit = UnitOfWork::default();
    handle(&mut unit, &created());
    let first = unit.drafts.values().next().map(|draft| draft.listed_id);
    handle(&mut unit, &created());
    assert_eq!(unit.drafts.len(), 1);
    assert_eq!(unit.drafts.values().next().map(|draft| draft.listed_id), first);
}

#[test]
fn a_reservation_that_the_fan_cancelled_gives_no_message() {
    for reason in [CancelReason::ByFan, CancelReason::Withdrawn] {
        let mut unit = UnitOfWork::default();
        handle(&mut unit, &cancelled(reason));
        assert!(unit.drafts.is_empty(), "{reason:?}");
    }
}

#[test]
fn a_fan_who_has_withdrawn_gets_no_message_whichever_event_comes_first() {
    let mut unit = UnitOfWork::default();
    handle(&mut unit, &created());
    handle(&mut unit, &withdrawn());
    handle(&mut unit, &failed_payment());
    assert!(unit.drafts.is_empty());
    assert_eq!(unit.contact(FAN), Contact { withdrawn: true, ..Contact::default() });
}

#[test]
fn withdrawing_deletes_the_number_and_fails_pending_messages_in_the_saga_they_came_from() {
    let (mut unit, id) = waiting(MessageKind::ReservationMade);
    let phone = Some("+821012345678".to_owned());
    unit.set_contact(FAN, Contact { phone, ..Contact::default() });
    let emitted = handle(&mut unit, &withdrawn());
    assert_eq!(unit.contact(FAN).phone, None);
    assert_eq!(emitted.len(), 1);
    assert!(
        emitted[0].subject.starts_with("onsale.notification.failed.v1."),
        "{}",
        emitted[0].subject
    );
    assert_eq!(emitted[0].saga_id.0, Uuid::from_u128(70));
    assert_eq!(emitted[0].cause_id, Some(Uuid::from_u128(71)));
    // A repeat changes nothing, and neither does the result of the try that was on its way.
    assert!(handle(&mut unit, &withdrawn()).is_empty());
    assert!(record(&mut unit, id, Delivery::Taken(Channel::Sms)).is_empty());
}

#[test]
fn a_message_that_was_taken_is_reported_as_sent_once() {
    let (mut unit, id) = waiting(MessageKind::ReservationMade);
    let emitted = record(&mut unit, id, Delivery::Taken(Channel::Alimtalk));
    let event: NotificationSent = serde_json::from_slice(&emitted[0].payload).unwrap();
    assert_eq!((event.message_id, event.subject_id), (id, HOLD.0));
    assert_eq!((event.channel, event.attempts), (Channel::Alimtalk, 3));
    assert_eq!(
        (emitted[0].saga_id.0, emitted[0].cause_id),
        (Uuid::from_u128(70), Some(Uuid::from_u128(71)))
    );
    assert!(record(&mut unit, id, Delivery::Taken(Channel::Alimtalk)).is_empty());
    assert!(record(&mut unit, id, Delivery::Refused("no".into())).is_empty());
    assert!(record(&mut UnitOfWork::default(), id, Delivery::Refused("no".into())).is_empty());
}

#[test]
fn a_message_that_is_refused_has_failed_with_the_reason() {
    let (mut unit, id) = waiting(MessageKind::HoldExpired);
    let emitted = record(&mut unit, id, Delivery::Refused("no_phone_number".into()));
    let event: NotificationFailed = serde_json::from_slice(&emitted[0].payload).unwrap();
    assert_eq!((event.reason.as_str(), event.kind), ("no_phone_number", MessageKind::HoldExpired));
}

#[test]
fn a_try_that_failed_for_now_is_counted_and_retried() {
    let (mut unit, id) = waiting(MessageKind::HoldExpired);
    assert!(record(&mut unit, id, Delivery::later("answered 503")).is_empty());
    let row = &unit.waiting[&id];
    assert_eq!((row.attempts, row.end.is_none()), (3, true));
    assert!(row.next_at > NOW && row.next_at < NOW.plus_secs(6), "{}", row.next_at);
    assert_eq!(row.last_error.as_deref(), Some("answered 503"));
}

#[test]
fn a_message_that_was_accepted_keeps_its_receipt_until_it_is_over() {
    let (mut unit, id) = waiting(MessageKind::HoldExpired);
    record(&mut unit, id, Delivery::Accepted("request/1".into()));
    record(&mut unit, id, Delivery::later("no answer in time"));
    record(&mut unit, id, Delivery::Untried);
    let row = &unit.waiting[&id];
    assert_eq!((row.receipt.as_deref(), row.attempts), (Some("request/1"), 3));
}

#[test]
fn a_contact_is_kept_unless_the_account_is_closed() {
    let mut unit = UnitOfWork::default();
    let keep = KeepContact { phone: Some("+821012345678".into()), locale: Locale::Ko };
    let (kept, _) = act(&fan(), |ctx| unit.execute(&keep, ctx));
    assert_eq!(kept, Ok(()));
    assert_eq!(unit.contact(FAN).locale, Locale::Ko);
    assert!(!format!("{keep:?} {:?}", unit.contact(FAN)).contains("1234"), "no number is shown");
    handle(&mut unit, &withdrawn());
    let (kept, _) = act(&fan(), |ctx| unit.execute(&keep, ctx));
    assert_eq!(kept, Err(Refusal::No(codes::ACCOUNT_CLOSING.into())));
    assert_eq!(unit.contact(FAN).phone, None);
}
