//! Failures: poison parks only itself, and a store that is lost keeps all of a batch or nothing.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, Ordering},
};

use bytes::Bytes;
use events::Event;
use mesh::{
    engine::{Care, Engine, Failure, Verdict, Which},
    failpoint::Failpoint,
    parked::ParkedState,
    testkit::Delivered,
};
use uuid::Uuid;

use crate::{
    counter::{Bumped, How},
    store::{Harness, Store, bumped, drive, eventually, is_done, is_repeat, message, steps},
};

/// Messages of the load during which the store is lost.
const LOAD: i64 = 300;

pub async fn poison_in_the_middle_of_a_message_parks_only_itself<S: Store>(harness: Harness<S>) {
    in_the_middle(harness, How::Breaks).await;
}

pub async fn a_panic_in_the_middle_of_a_message_parks_only_itself<S: Store>(harness: Harness<S>) {
    in_the_middle(harness, How::Panics).await;
}

/// Puts poison first, in the middle and last in a message; a later event of its key waits.
async fn in_the_middle<S: Store>(harness: Harness<S>, how: How) {
    for place in 0..3 {
        let [one, poison, other] = [(); 3].map(|()| Uuid::now_v7());
        let mut events = vec![bumped(one, 1, How::Plain), bumped(other, 2, How::Plain)];
        events.insert(place, bumped(poison, 1, how));
        events.push(bumped(poison, 4, How::Plain));
        events.push(bumped(one, 8, How::Plain));
        let delivered = message(events);
        let ran = harness.take(&[&delivered]).await;
        assert!(is_done(&ran.outcomes[0]), "{ran:?}");
        assert_eq!((harness.value(one).await, harness.value(other).await), ((9, 2), (2, 1)));
        assert_eq!(harness.store.counter(poison).await, None, "place {place}");
        assert_eq!(steps(&ran.emitted), [(1, 1), (2, 1), (9, 2)]);
        let parked: Vec<_> =
            ran.parked.iter().map(|parked| (parked.key.clone(), parked.state)).collect();
        let key = poison.to_string();
        assert_eq!(parked, [(key.clone(), ParkedState::Dead), (key, ParkedState::Behind)]);
        assert_eq!(ran.parked[0].envelope, delivered.events[place], "it is kept as it came");
        assert!(!ran.parked[0].cause.is_empty());
        assert!(
            is_repeat(&harness.take(&[&delivered]).await.outcomes[0]),
            "the message is taken in"
        );
        assert_eq!(harness.states(poison).await, [ParkedState::Dead, ParkedState::Behind]);
    }
}

pub async fn an_event_that_cannot_be_decoded_parks_only_itself<S: Store>(harness: Harness<S>) {
    let [one, unread, other] = [(); 3].map(|()| Uuid::now_v7());
    let mut delivered = message([one, unread, other].map(|counter| bumped(counter, 1, How::Plain)));
    let text = String::from_utf8(delivered.events[1].to_vec()).unwrap();
    delivered.events[1] = Bytes::from(text.replace("\"amount\":1", "\"amount\":\"much\""));
    let ran = harness.take(&[&delivered]).await;
    assert!(is_done(&ran.outcomes[0]));
    assert_eq!((harness.value(one).await, harness.value(other).await), ((1, 1), (1, 1)));
    assert_eq!(harness.states(unread).await, [ParkedState::Dead]);
}

pub async fn a_body_that_is_no_batch_is_one_dead_letter<S: Store>(harness: Harness<S>) {
    let nonsense = Bytes::from_static(b"nonsense");
    let delivered = Delivered { events: vec![nonsense], ..message::<Bumped>([]) };
    let fine = Uuid::now_v7();
    let ran = harness.take(&[&delivered, &message([bumped(fine, 1, How::Plain)])]).await;
    assert!(ran.outcomes.iter().all(is_done));
    assert_eq!(harness.value(fine).await, (1, 1));
    let parked = harness.open_parked().await;
    assert_eq!(parked.len(), 1, "{parked:?}");
    assert_eq!((parked[0].state, &parked[0].subject), (ParkedState::Dead, &delivered.subject));
    assert!(is_repeat(&harness.take(&[&delivered]).await.outcomes[0]));
}

pub async fn poison_leaves_the_other_messages_of_its_batch_alone<S: Store>(harness: Harness<S>) {
    for how in [How::Breaks, How::Panics] {
        let [before, poison, after] = [(); 3].map(|()| Uuid::now_v7());
        let delivered = [
            message([bumped(before, 1, How::Plain)]),
            message([bumped(poison, 1, how)]),
            message([bumped(after, 1, How::Plain), bumped(before, 2, How::Plain)]),
        ];
        let ran = harness.take(&delivered.iter().collect::<Vec<_>>()).await;
        assert!(ran.outcomes.iter().all(is_done), "{ran:?}");
        assert_eq!((harness.value(before).await, harness.value(after).await), ((3, 2), (1, 1)));
        assert_eq!(harness.states(poison).await, [ParkedState::Dead]);
    }
}

pub async fn a_message_that_seems_to_kill_the_process_is_parked_without_being_run<S: Store>(
    harness: Harness<S>,
) {
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    let delivered = message([bumped(one, 1, How::Plain), bumped(other, 1, How::Plain)]);
    let delivered = Delivered { times: 20, ..delivered };
    let ran = harness.engine.run(&mut harness.works(&[&delivered]), Care::ParkUnrun).await.unwrap();
    assert!(is_done(&ran.outcomes[0]) && ran.emitted.is_empty(), "{ran:?}");
    for counter in [one, other] {
        assert_eq!(harness.store.counter(counter).await, None);
        assert_eq!(harness.states(counter).await, [ParkedState::Dead]);
    }
    assert!(is_repeat(&harness.take(&[&delivered]).await.outcomes[0]));
}

pub async fn a_store_lost_before_the_commit_keeps_nothing<S: Store>(mut harness: Harness<S>) {
    let (counter, poison) = (Uuid::now_v7(), Uuid::now_v7());
    let delivered = message([bumped(counter, 1, How::Plain), bumped(poison, 1, How::Late)]);
    harness.engine.store().failpoints().arm(Failpoint::BeforeCommit, 2);
    for _ in 0..2 {
        let lost = drive(&*harness.engine, harness.works(&[&delivered])).await;
        assert!(matches!(lost, Err(Failure::Unavailable(_))), "{lost:?}");
        assert_eq!((harness.store.counter(counter).await, harness.waiting().await), (None, 0));
        assert!(harness.open_parked().await.is_empty());
    }
    harness.restart();
    assert!(is_done(&harness.take(&[&delivered]).await.outcomes[0]));
    assert_eq!((harness.value(counter).await, harness.waiting().await), ((1, 1), 1));
    assert_eq!(harness.states(poison).await, [ParkedState::Early]);
}

pub async fn a_store_lost_after_the_commit_drops_the_repeat<S: Store>(mut harness: Harness<S>) {
    let (counter, early) = (Uuid::now_v7(), Uuid::now_v7());
    let delivered = message([bumped(counter, 1, How::Plain), bumped(early, 1, How::Late)]);
    // The process ends before anything learns of the outcome.
    let emitted = harness.take(&[&delivered]).await.emitted.remove(0);
    harness.restart();
    assert!(is_repeat(&harness.take(&[&delivered]).await.outcomes[0]));
    assert_eq!((harness.value(counter).await, harness.waiting().await), ((1, 1), 1));
    assert_eq!(harness.states(early).await, [ParkedState::Early], "it is parked once");
    assert_eq!(harness.swept(10).await, [emitted], "and what was emitted is published");
}

pub async fn a_store_lost_before_a_retry_commits_keeps_the_event_parked<S: Store>(
    mut harness: Harness<S>,
) {
    let counter = Uuid::now_v7();
    harness.bump(counter, 7, How::Late).await;
    harness.open_counter(counter).await;
    let parked = harness.due().await;
    harness.engine.store().failpoints().arm_for(Failpoint::BeforeCommit, [Bumped::NAME]);
    assert!(!harness.attempt(&parked).await);
    assert_eq!((harness.value(counter).await, harness.waiting().await), ((0, 0), 0));
    harness.restart();
    let again = harness.due().await;
    assert_eq!((again.number, again.attempts), (parked.number, parked.attempts));
    assert!(harness.attempt(&again).await);
    assert_eq!((harness.value(counter).await, harness.waiting().await), ((7, 1), 1));
    // The outcome of a retry was lost, so the same lease is tried once more.
    assert!(harness.attempt(&again).await, "it has ended");
    assert_eq!((harness.value(counter).await, harness.waiting().await), ((7, 1), 1));
}

pub async fn a_service_restarted_between_every_two_steps_loses_nothing<S: Store>(
    mut harness: Harness<S>,
) {
    let (late, plain) = (Uuid::now_v7(), Uuid::now_v7());
    let first = message([bumped(late, 5, How::Late), bumped(plain, 1, How::Plain)]);
    let second = message([bumped(late, 6, How::Plain), bumped(plain, 2, How::Plain)]);
    for (delivered, value, state) in
        [(&first, (1, 1), ParkedState::Early), (&second, (3, 2), ParkedState::Behind)]
    {
        harness.restart();
        assert!(is_done(&harness.take(&[delivered]).await.outcomes[0]));
        harness.restart();
        assert!(is_repeat(&harness.take(&[delivered]).await.outcomes[0]));
        assert_eq!(harness.value(plain).await, value);
        assert_eq!(harness.states(late).await.pop(), Some(state));
        if state == ParkedState::Early {
            harness.restart();
            let parked = harness.due().await;
            harness.restart();
            let in_vain = Verdict::Dead { cause: "in vain".into(), by: None };
            harness.engine.store().settle(parked.number, in_vain).await.unwrap();
        }
    }
    harness.restart();
    assert_eq!(harness.states(late).await, [ParkedState::Dead, ParkedState::Behind]);
    harness.open_counter(late).await;
    for (is_dead, value) in [(true, (5, 1)), (false, (11, 2))] {
        harness.restart();
        let parked = if is_dead { harness.first(late).await } else { harness.due().await };
        harness.restart();
        assert!(harness.attempt(&parked).await);
        harness.restart();
        assert_eq!(harness.value(late).await, value);
    }
    assert!(harness.lease(Which::Due(10)).await.is_empty());
    let mut published = BTreeMap::new();
    while published.len() < 4 {
        harness.restart();
        published.extend(harness.swept(1).await.into_iter().map(|message| (message.id, message)));
    }
    let mut steps = steps(&published.into_values().collect::<Vec<_>>());
    steps.sort_unstable();
    assert_eq!(steps, [(1, 1), (3, 2), (5, 1), (11, 2)]);
    harness.restart();
    assert_eq!(harness.states(late).await, [ParkedState::Resolved; 2]);
}

pub async fn a_store_lost_under_load_takes_each_message_in_once<S: Store>(harness: Harness<S>) {
    let (counter, delivered) = (Uuid::now_v7(), AtomicI64::new(0));
    let load = async {
        let engine = harness.store.engine();
        for _ in 0..LOAD {
            let message = message([bumped(counter, 1, How::Plain)]);
            // It is unknown whether it was taken in, so it is redelivered until it is acknowledged.
            while drive(&*engine, harness.works(&[&message])).await.is_err() {
                tokio::task::yield_now().await;
            }
            delivered.fetch_add(1, Ordering::SeqCst);
        }
    };
    let losses = async {
        for loss in 1..=4 {
            eventually("some of it is done", || async {
                (delivered.load(Ordering::SeqCst) >= loss * LOAD / 5).then_some(())
            })
            .await;
            harness.store.lose().await;
        }
    };
    futures::join!(load, losses);
    assert_eq!(harness.value(counter).await, (LOAD, LOAD));
    assert_eq!(harness.waiting().await, LOAD as u64);
}
