//! What fails: poison parks only itself, and a store that is lost keeps all or nothing.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, Ordering},
};

use bytes::Bytes;
use events::Event;
use mesh::{
    engine::{Care, Engine, Failure, Parking, Verdict, Which},
    failpoint::Failpoint,
    parked::ParkedState,
    testkit::Delivered,
};
use uuid::Uuid;

use crate::{
    counter::{Bumped, How},
    store::{Stage, Store, bumped, drive, eventually, is_done, is_repeat, message, steps},
};

/// Messages in whose midst the store is lost.
const LOAD: i64 = 300;

pub async fn poison_in_the_middle_of_a_message_parks_only_itself<S: Store>(stage: Stage<S>) {
    in_the_middle(stage, How::Breaks).await;
}

pub async fn a_panic_in_the_middle_of_a_message_parks_only_itself<S: Store>(stage: Stage<S>) {
    in_the_middle(stage, How::Panics).await;
}

/// First, in the middle and last; and whoever comes after it in its key waits.
async fn in_the_middle<S: Store>(stage: Stage<S>, how: How) {
    for place in 0..3 {
        let [one, poison, other] = [(); 3].map(|()| Uuid::now_v7());
        let mut events = vec![bumped(one, 1, How::Plain), bumped(other, 2, How::Plain)];
        events.insert(place, bumped(poison, 1, how));
        events.push(bumped(poison, 4, How::Plain));
        events.push(bumped(one, 8, How::Plain));
        let told = message(events);
        let ran = stage.take(&[&told]).await;
        assert!(is_done(&ran.outcomes[0]), "{ran:?}");
        assert_eq!((stage.value(one).await, stage.value(other).await), ((9, 2), (2, 1)));
        assert_eq!(stage.store.counter(poison).await, None, "place {place}");
        assert_eq!(steps(&ran.emitted), [(1, 1), (2, 1), (9, 2)]);
        let parked: Vec<_> =
            ran.parked.iter().map(|parked| (parked.key.clone(), parked.state)).collect();
        let key = poison.to_string();
        assert_eq!(parked, [(key.clone(), ParkedState::Dead), (key, ParkedState::Behind)]);
        assert_eq!(ran.parked[0].envelope, told.events[place], "it is kept as it came");
        assert!(!ran.parked[0].cause.is_empty());
        assert!(is_repeat(&stage.take(&[&told]).await.outcomes[0]), "the message is taken in");
        assert_eq!(stage.states(poison).await, [ParkedState::Dead, ParkedState::Behind]);
    }
}

pub async fn an_event_that_cannot_be_read_parks_only_itself<S: Store>(stage: Stage<S>) {
    let [one, unread, other] = [(); 3].map(|()| Uuid::now_v7());
    let mut told = message([one, unread, other].map(|counter| bumped(counter, 1, How::Plain)));
    let text = String::from_utf8(told.events[1].to_vec()).unwrap();
    told.events[1] = Bytes::from(text.replace("\"amount\":1", "\"amount\":\"much\""));
    let ran = stage.take(&[&told]).await;
    assert!(is_done(&ran.outcomes[0]));
    assert_eq!((stage.value(one).await, stage.value(other).await), ((1, 1), (1, 1)));
    assert_eq!(stage.states(unread).await, [ParkedState::Dead]);
}

pub async fn a_body_that_is_no_batch_is_one_dead_letter<S: Store>(stage: Stage<S>) {
    let nonsense = Bytes::from_static(b"nonsense");
    let told = Delivered { events: vec![nonsense], ..message::<Bumped>([]) };
    let fine = Uuid::now_v7();
    let ran = stage.take(&[&told, &message([bumped(fine, 1, How::Plain)])]).await;
    assert!(ran.outcomes.iter().all(is_done));
    assert_eq!(stage.value(fine).await, (1, 1));
    let parked = stage.open_parked().await;
    assert_eq!(parked.len(), 1, "{parked:?}");
    assert_eq!((parked[0].state, &parked[0].subject), (ParkedState::Dead, &told.subject));
    assert!(is_repeat(&stage.take(&[&told]).await.outcomes[0]));
}

pub async fn poison_leaves_the_neighbours_of_its_message_alone<S: Store>(stage: Stage<S>) {
    for how in [How::Breaks, How::Panics] {
        let [before, poison, after] = [(); 3].map(|()| Uuid::now_v7());
        let told = [
            message([bumped(before, 1, How::Plain)]),
            message([bumped(poison, 1, how)]),
            message([bumped(after, 1, How::Plain), bumped(before, 2, How::Plain)]),
        ];
        let ran = stage.take(&told.iter().collect::<Vec<_>>()).await;
        assert!(ran.outcomes.iter().all(is_done), "{ran:?}");
        assert_eq!((stage.value(before).await, stage.value(after).await), ((3, 2), (1, 1)));
        assert_eq!(stage.states(poison).await, [ParkedState::Dead]);
    }
}

pub async fn a_message_that_seems_to_kill_the_process_is_parked_without_being_run<S: Store>(
    stage: Stage<S>,
) {
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    let told = message([bumped(one, 1, How::Plain), bumped(other, 1, How::Plain)]);
    let told = Delivered { times: 20, ..told };
    let ran = stage.engine.run(&mut stage.works(&[&told]), Care::Unrun).await.unwrap();
    assert!(is_done(&ran.outcomes[0]) && ran.emitted.is_empty(), "{ran:?}");
    for counter in [one, other] {
        assert_eq!(stage.store.counter(counter).await, None);
        assert_eq!(stage.states(counter).await, [ParkedState::Dead]);
    }
    assert!(is_repeat(&stage.take(&[&told]).await.outcomes[0]));
}

pub async fn a_store_lost_before_the_commit_keeps_nothing<S: Store>(mut stage: Stage<S>) {
    let (counter, poison) = (Uuid::now_v7(), Uuid::now_v7());
    let told = message([bumped(counter, 1, How::Plain), bumped(poison, 1, How::Late)]);
    stage.engine.failpoints().arm(Failpoint::BeforeCommit, 2);
    for _ in 0..2 {
        let lost = drive(&*stage.engine, stage.works(&[&told])).await;
        assert!(matches!(lost, Err(Failure::Unavailable(_))), "{lost:?}");
        assert_eq!((stage.store.counter(counter).await, stage.waiting().await), (None, 0));
        assert!(stage.open_parked().await.is_empty());
    }
    stage.restart();
    assert!(is_done(&stage.take(&[&told]).await.outcomes[0]));
    assert_eq!((stage.value(counter).await, stage.waiting().await), ((1, 1), 1));
    assert_eq!(stage.states(poison).await, [ParkedState::Early]);
}

pub async fn a_store_lost_after_the_commit_absorbs_the_repeat<S: Store>(mut stage: Stage<S>) {
    let (counter, early) = (Uuid::now_v7(), Uuid::now_v7());
    let told = message([bumped(counter, 1, How::Plain), bumped(early, 1, How::Late)]);
    // What it has come to, nobody learns.
    let emitted = stage.take(&[&told]).await.emitted.remove(0);
    stage.restart();
    assert!(is_repeat(&stage.take(&[&told]).await.outcomes[0]));
    assert_eq!((stage.value(counter).await, stage.waiting().await), ((1, 1), 1));
    assert_eq!(stage.states(early).await, [ParkedState::Early], "it is parked once");
    assert_eq!(stage.swept(10).await, [emitted], "and what was emitted is published");
}

pub async fn a_store_lost_before_a_retry_commits_keeps_the_event_parked<S: Store>(
    mut stage: Stage<S>,
) {
    let counter = Uuid::now_v7();
    stage.bump(counter, 7, How::Late).await;
    stage.open_counter(counter).await;
    let parked = stage.due().await;
    stage.engine.failpoints().aim(Failpoint::BeforeCommit, [Bumped::FACT]);
    assert!(!stage.attempt(&parked).await);
    assert_eq!((stage.value(counter).await, stage.waiting().await), ((0, 0), 0));
    stage.restart();
    let again = stage.due().await;
    assert_eq!((again.number, again.attempts), (parked.number, parked.attempts));
    assert!(stage.attempt(&again).await);
    assert_eq!((stage.value(counter).await, stage.waiting().await), ((7, 1), 1));
    // The end of a retry that nobody learned of: the same lease once more.
    assert!(stage.attempt(&again).await, "it has ended");
    assert_eq!((stage.value(counter).await, stage.waiting().await), ((7, 1), 1));
}

pub async fn a_service_restarted_between_every_two_steps_loses_nothing<S: Store>(
    mut stage: Stage<S>,
) {
    let (late, plain) = (Uuid::now_v7(), Uuid::now_v7());
    let first = message([bumped(late, 5, How::Late), bumped(plain, 1, How::Plain)]);
    let second = message([bumped(late, 6, How::Plain), bumped(plain, 2, How::Plain)]);
    for (told, value, state) in
        [(&first, (1, 1), ParkedState::Early), (&second, (3, 2), ParkedState::Behind)]
    {
        stage.restart();
        assert!(is_done(&stage.take(&[told]).await.outcomes[0]));
        stage.restart();
        assert!(is_repeat(&stage.take(&[told]).await.outcomes[0]));
        assert_eq!(stage.value(plain).await, value);
        assert_eq!(stage.states(late).await.pop(), Some(state));
        if state == ParkedState::Early {
            stage.restart();
            let parked = stage.due().await;
            stage.restart();
            let in_vain = Verdict::Dead { cause: "in vain".into(), by: None };
            stage.engine.settle(parked.number, in_vain).await.unwrap();
        }
    }
    stage.restart();
    assert_eq!(stage.states(late).await, [ParkedState::Dead, ParkedState::Behind]);
    stage.open_counter(late).await;
    for (is_dead, value) in [(true, (5, 1)), (false, (11, 2))] {
        stage.restart();
        let parked = if is_dead { stage.first(late).await } else { stage.due().await };
        stage.restart();
        assert!(stage.attempt(&parked).await);
        stage.restart();
        assert_eq!(stage.value(late).await, value);
    }
    assert!(stage.lease(Which::Due(10)).await.is_empty());
    let mut published = BTreeMap::new();
    while published.len() < 4 {
        stage.restart();
        published.extend(stage.swept(1).await.into_iter().map(|message| (message.id, message)));
    }
    let mut steps = steps(&published.into_values().collect::<Vec<_>>());
    steps.sort_unstable();
    assert_eq!(steps, [(1, 1), (3, 2), (5, 1), (11, 2)]);
    stage.restart();
    assert_eq!(stage.states(late).await, [ParkedState::Resolved; 2]);
}

pub async fn a_store_lost_under_load_takes_each_message_in_once<S: Store>(stage: Stage<S>) {
    let (counter, told) = (Uuid::now_v7(), AtomicI64::new(0));
    let load = async {
        let engine = stage.store.engine();
        for _ in 0..LOAD {
            let message = message([bumped(counter, 1, How::Plain)]);
            // Whether it was taken in, nobody knows: it comes again until that is said.
            while drive(&*engine, stage.works(&[&message])).await.is_err() {
                tokio::task::yield_now().await;
            }
            told.fetch_add(1, Ordering::SeqCst);
        }
    };
    let losses = async {
        for loss in 1..=4 {
            eventually("some of it is done", || async {
                (told.load(Ordering::SeqCst) >= loss * LOAD / 5).then_some(())
            })
            .await;
            stage.store.lose().await;
        }
    };
    futures::join!(load, losses);
    assert_eq!(stage.value(counter).await, (LOAD, LOAD));
    assert_eq!(stage.waiting().await, LOAD as u64);
}
