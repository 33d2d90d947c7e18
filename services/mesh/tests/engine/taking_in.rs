//! Messages taken in: once, whole, in their order.

use events::{Envelope, SagaId};
use mesh::testkit::Delivered;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    counter::{Bumped, How, Opened},
    store::{Harness, Store, bumped, envelope, is_done, is_repeat, message, moved, steps},
};

pub async fn a_message_takes_effect_and_emits_one_message_for_each_subject<S: Store>(
    harness: Harness<S>,
) {
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    let ran = harness
        .take(&[&message([
            bumped(one, 1, How::Plain),
            bumped(other, 10, How::Plain),
            bumped(one, 2, How::Spreads(2)),
        ])])
        .await;
    assert!(ran.outcomes.iter().all(is_done) && ran.parked.is_empty(), "{ran:?}");
    assert_eq!((harness.value(one).await, harness.value(other).await), ((3, 2), (10, 1)));
    let counts: Vec<_> = ran.emitted.iter().map(|message| message.events).collect();
    assert_eq!(counts, [2, 1, 1], "two without a schedule, two with one each");
    assert_eq!(steps(&ran.emitted), [(1, 1), (10, 1), (3, 2), (3, 2)]);
    assert_eq!(harness.waiting().await, 4);
    for message in &ran.emitted {
        assert!(message.subject.starts_with("onsale.counter.moved.v1."), "{}", message.subject);
    }
}

pub async fn a_redelivered_message_changes_nothing<S: Store>(mut harness: Harness<S>) {
    let counter = Uuid::now_v7();
    let delivered = message([bumped(counter, 1, How::Plain), bumped(counter, 2, How::Plain)]);
    assert!(is_done(&harness.take(&[&delivered]).await.outcomes[0]));
    for round in 0..3 {
        if round == 2 {
            harness.restart();
        }
        let ran = harness.take(&[&delivered]).await;
        assert!(is_repeat(&ran.outcomes[0]) && ran.emitted.is_empty(), "{ran:?}");
        assert_eq!((harness.value(counter).await, harness.waiting().await), ((3, 2), 2));
    }
}

pub async fn a_repeat_within_a_batch_changes_nothing<S: Store>(harness: Harness<S>) {
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    let first = message([bumped(one, 1, How::Plain)]);
    let second = message([bumped(other, 5, How::Plain)]);
    let ran = harness.take(&[&first, &first, &second, &first]).await;
    let repeats: Vec<bool> = ran.outcomes.iter().map(is_repeat).collect();
    assert_eq!(repeats, [false, true, false, true]);
    assert_eq!((harness.value(one).await, harness.value(other).await), ((1, 1), (5, 1)));
    assert_eq!(steps(&ran.emitted), [(1, 1), (5, 1)]);
}

pub async fn events_of_a_key_take_effect_in_order<S: Store>(harness: Harness<S>) {
    let counter = Uuid::now_v7();
    let events = |from: i64| (from..from + 40).map(move |n| bumped(counter, n, How::Plain));
    let delivered: Vec<Delivered> = (0..5).map(|n| message(events(n * 40))).collect();
    let ran = harness.take(&delivered.iter().collect::<Vec<_>>()).await;
    let wanted: Vec<(i64, i64)> = (0..200).map(|n| (n * (n + 1) / 2, n + 1)).collect();
    assert_eq!(steps(&ran.emitted), wanted);
    assert_eq!(Some(&harness.value(counter).await), wanted.last());
}

pub async fn an_emitted_event_names_its_cause_and_its_saga<S: Store>(harness: Harness<S>) {
    let (counter, saga) = (Uuid::now_v7(), SagaId(Uuid::now_v7()));
    let event = envelope(&bumped(counter, 1, How::Late), saga);
    let cause = Envelope::decode(&event).unwrap().id.0;
    let delivered = Delivered { events: vec![event.clone()], ..message::<Bumped>([]) };
    // Once as it came, and once from a parked row.
    harness.take(&[&delivered]).await;
    harness.open_counter(counter).await;
    assert!(harness.attempt(&harness.due().await).await);
    let again = Delivered { id: Uuid::now_v7(), ..delivered };
    let mut emitted = harness.kit.emitted().await;
    emitted.extend(harness.take(&[&again]).await.emitted);
    assert_eq!(moved(&emitted).len(), 2);
    for message in &emitted {
        let events: Vec<&RawValue> = serde_json::from_slice(&message.body).unwrap();
        let envelope = Envelope::decode(events[0].get().as_bytes()).unwrap();
        assert_eq!((envelope.causationid, envelope.sagaid), (Some(cause), saga));
        assert_eq!(envelope.source, "/onsale/counter");
    }
}

pub async fn a_message_without_events_is_taken_in<S: Store>(harness: Harness<S>) {
    let empty = message::<Opened>([]);
    assert!(is_done(&harness.take(&[&empty]).await.outcomes[0]));
    assert!(is_repeat(&harness.take(&[&empty]).await.outcomes[0]));
}
