//! Handlers on a book in memory.

use events::{
    PaymentId, ReservationId, SeatId, codes, payment::PaymentFailure, reservation::PricedSeat,
};
use time::macros::datetime;

use super::*;
use crate::book::Waiting;

const NOW: Timestamp = Timestamp(datetime!(2027-03-10 10:00 UTC));
const FAN: UserId = UserId(Uuid::from_u128(1));
const SHOW: ScheduleId = ScheduleId(Uuid::from_u128(2));
const HOLD: ReservationId = ReservationId(Uuid::from_u128(3));
const PAYMENT: PaymentId = PaymentId(Uuid::from_u128(4));

fn fan() -> Caller {
    Caller::User { user_id: FAN, roles: vec![], expires_at: NOW.plus_secs(900) }
}

/// What a handler does, and the facts it tells.
fn act<T>(caller: &Caller, act: impl FnOnce(&mut Turn<'_>) -> T) -> (T, Vec<mesh::Told>) {
    let rules = Rules::default();
    let mut turn = mesh::Turn::at(NOW, &rules, caller, Uuid::from_u128(99));
    let done = act(&mut turn);
    (done, turn.told().to_vec())
}

fn hear<E: events::Event>(book: &mut Book, fact: &E) -> Vec<mesh::Told>
where
    Book: Hear<E>,
{
    let (heard, told) = act(&Caller::Mesh, |turn| book.hear(fact, turn));
    assert_eq!(heard, Ok(()));
    told
}

fn record(book: &mut Book, message_id: Uuid, outcome: Delivery) -> Vec<mesh::Told> {
    let command = RecordDelivery { message_id, outcome };
    let (answered, told) = act(&Caller::Mesh, |turn| book.answer(&command, turn));
    assert_eq!(answered, Ok(()));
    told
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

/// A book with one message that waits.
fn waiting(kind: MessageKind) -> (Book, Uuid) {
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
        changed: false,
    };
    let mut book = Book::default();
    book.waiting.insert(id, row);
    (book, id)
}

fn kinds(book: &Book) -> Vec<(MessageKind, Uuid)> {
    let mut kinds: Vec<_> = book.drafts.values().map(|d| (d.kind, d.subject_id)).collect();
    kinds.sort();
    kinds
}

#[test]
fn each_fact_asks_for_the_message_about_its_subject_and_tells_nothing() {
    let mut book = Book::default();
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
    let told = [
        hear(&mut book, &created()),
        hear(&mut book, &expired),
        hear(&mut book, &cancelled(CancelReason::ShowCancelled)),
        hear(&mut book, &completed),
        hear(&mut book, &failed_payment()),
        hear(&mut book, &refunded),
    ];
    assert!(told.concat().is_empty());
    assert_eq!(
        kinds(&book),
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
fn a_message_says_what_the_fact_said() {
    let mut book = Book::default();
    hear(&mut book, &created());
    hear(&mut book, &failed_payment());
    let made = &book.drafts[&message_id(HOLD.0, MessageKind::ReservationMade)];
    assert_eq!((made.details.amount, made.details.until), (Some(200), Some(NOW.plus_secs(300))));
    assert_eq!(made.details.seats.len(), 2);
    let failed = &book.drafts[&message_id(PAYMENT.0, MessageKind::PaymentFailed)];
    assert_eq!(failed.details.reason, Some(PaymentFailure::InsufficientBalance));
}

#[test]
fn the_same_fact_twice_is_one_message() {
    let mut book = Book::default();
    hear(&mut book, &created());
    let first = book.drafts.values().next().map(|draft| draft.listed_id);
    hear(&mut book, &created());
    assert_eq!(book.drafts.len(), 1);
    assert_eq!(book.drafts.values().next().map(|draft| draft.listed_id), first);
}

#[test]
fn a_reservation_that_the_fan_gave_up_is_no_news() {
    for reason in [CancelReason::ByFan, CancelReason::Withdrawn] {
        let mut book = Book::default();
        hear(&mut book, &cancelled(reason));
        assert!(book.drafts.is_empty(), "{reason:?}");
    }
}

#[test]
fn a_fan_who_has_withdrawn_gets_no_message_whatever_is_heard_first() {
    let mut book = Book::default();
    hear(&mut book, &created());
    hear(&mut book, &withdrawn());
    hear(&mut book, &failed_payment());
    assert!(book.drafts.is_empty());
    assert_eq!(book.contact(FAN), Contact { withdrawn: true, ..Contact::default() });
}

#[test]
fn withdrawing_forgets_the_number_and_fails_what_waits_in_the_saga_it_came_from() {
    let (mut book, id) = waiting(MessageKind::ReservationMade);
    let phone = Some("+821012345678".to_owned());
    book.set_contact(FAN, Contact { phone, ..Contact::default() });
    let told = hear(&mut book, &withdrawn());
    assert_eq!(book.contact(FAN).phone, None);
    assert_eq!(told.len(), 1);
    assert!(told[0].subject.starts_with("onsale.notification.failed.v1."), "{}", told[0].subject);
    assert_eq!(told[0].saga_id.0, Uuid::from_u128(70));
    assert_eq!(told[0].cause_id, Some(Uuid::from_u128(71)));
    // Once more changes nothing, and neither does word of the try that was on its way.
    assert!(hear(&mut book, &withdrawn()).is_empty());
    assert!(record(&mut book, id, Delivery::Taken(Channel::Sms)).is_empty());
}

#[test]
fn a_message_that_was_taken_is_sent_once() {
    let (mut book, id) = waiting(MessageKind::ReservationMade);
    let told = record(&mut book, id, Delivery::Taken(Channel::Alimtalk));
    let fact: NotificationSent = serde_json::from_slice(&told[0].payload).unwrap();
    assert_eq!((fact.message_id, fact.subject_id), (id, HOLD.0));
    assert_eq!((fact.channel, fact.attempts), (Channel::Alimtalk, 3));
    assert_eq!(
        (told[0].saga_id.0, told[0].cause_id),
        (Uuid::from_u128(70), Some(Uuid::from_u128(71)))
    );
    assert!(record(&mut book, id, Delivery::Taken(Channel::Alimtalk)).is_empty());
    assert!(record(&mut book, id, Delivery::Refused("no".into())).is_empty());
    assert!(record(&mut Book::default(), id, Delivery::Refused("no".into())).is_empty());
}

#[test]
fn a_message_that_is_refused_has_failed_with_the_reason() {
    let (mut book, id) = waiting(MessageKind::HoldExpired);
    let told = record(&mut book, id, Delivery::Refused("no_phone_number".into()));
    let fact: NotificationFailed = serde_json::from_slice(&told[0].payload).unwrap();
    assert_eq!((fact.reason.as_str(), fact.kind), ("no_phone_number", MessageKind::HoldExpired));
}

#[test]
fn a_try_that_failed_for_now_is_counted_and_comes_again() {
    let (mut book, id) = waiting(MessageKind::HoldExpired);
    assert!(record(&mut book, id, Delivery::later("answered 503")).is_empty());
    let row = &book.waiting[&id];
    assert_eq!((row.attempts, row.end.is_none()), (3, true));
    assert!(row.next_at > NOW && row.next_at < NOW.plus_secs(6), "{}", row.next_at);
    assert_eq!(row.last_error.as_deref(), Some("answered 503"));
}

#[test]
fn a_message_that_was_accepted_keeps_its_receipt_until_it_is_over() {
    let (mut book, id) = waiting(MessageKind::HoldExpired);
    record(&mut book, id, Delivery::Accepted("request/1".into()));
    record(&mut book, id, Delivery::later("no answer in time"));
    record(&mut book, id, Delivery::Untried);
    let row = &book.waiting[&id];
    assert_eq!((row.receipt.as_deref(), row.attempts), (Some("request/1"), 3));
}

#[test]
fn a_contact_is_kept_unless_the_account_is_closed() {
    let mut book = Book::default();
    let keep = KeepContact { phone: Some("+821012345678".into()), locale: Locale::Ko };
    let (kept, _) = act(&fan(), |turn| book.answer(&keep, turn));
    assert_eq!(kept, Ok(()));
    assert_eq!(book.contact(FAN).locale, Locale::Ko);
    assert!(!format!("{keep:?} {:?}", book.contact(FAN)).contains("1234"), "no number is shown");
    hear(&mut book, &withdrawn());
    let (kept, _) = act(&fan(), |turn| book.answer(&keep, turn));
    assert_eq!(kept, Err(Refusal::No(codes::ACCOUNT_CLOSING.into())));
    assert_eq!(book.contact(FAN).phone, None);
}
