//! Two instances on one store at once.

use std::sync::Arc;

use mesh::{
    engine::{Engine, Which},
    testkit::Delivered,
};
use uuid::Uuid;

use crate::{
    counter::How,
    store::{Harness, LONG, Store, alone, bumped, drive, is_done, is_repeat, message, moved},
};

/// Rounds of a case whose instances may collide.
const ROUNDS: i64 = 30;

pub async fn a_message_at_two_instances_at_once_takes_effect_once<S: Store>(harness: Harness<S>) {
    let engines = [harness.store.engine(), harness.store.engine()];
    let counter = Uuid::now_v7();
    for round in 1..=ROUNDS {
        let delivered = message([bumped(counter, 1, How::Plain), bumped(counter, 1, How::Plain)]);
        let both = engines.each_ref().map(|engine| drive(&**engine, harness.works(&[&delivered])));
        let ran = futures::future::join_all(both).await;
        let ran: Vec<_> = ran.into_iter().map(|ran| ran.unwrap().outcomes.remove(0)).collect();
        assert_eq!(ran.iter().filter(|outcome| is_done(outcome)).count(), 1, "{ran:?}");
        assert_eq!(ran.iter().filter(|outcome| is_repeat(outcome)).count(), 1, "{ran:?}");
        assert_eq!(harness.value(counter).await, (2 * round, 2 * round));
    }
}

pub async fn two_instances_at_once_on_one_key_lose_nothing<S: Store>(harness: Harness<S>) {
    let harness = Arc::new(harness);
    let counter = Uuid::now_v7();
    let instances: Vec<_> = (0..2)
        .map(|_| {
            let harness = harness.clone();
            tokio::spawn(async move {
                let (engine, mut emitted) = (harness.store.engine(), Vec::new());
                for _ in 0..ROUNDS {
                    let delivered = message([bumped(counter, 1, How::Plain)]);
                    emitted.extend(
                        drive(&*engine, harness.works(&[&delivered])).await.unwrap().emitted,
                    );
                }
                emitted
            })
        })
        .collect();
    let mut emitted = Vec::new();
    for instance in instances {
        emitted.extend(instance.await.unwrap());
    }
    let mut versions: Vec<i64> = moved(&emitted).iter().map(|moved| moved.version).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=2 * ROUNDS).collect::<Vec<_>>());
    assert_eq!(harness.value(counter).await, (2 * ROUNDS, 2 * ROUNDS));
}

pub async fn two_instances_that_create_the_same_counter_at_once_agree<S: Store>(
    harness: Harness<S>,
) {
    let engines = [harness.store.engine(), harness.store.engine()];
    for _ in 0..ROUNDS {
        let counter = Uuid::now_v7();
        let delivered = [1, 2].map(|amount| message([bumped(counter, amount, How::Plain)]));
        let both = engines
            .iter()
            .zip(&delivered)
            .map(|(engine, delivered)| drive(&**engine, harness.works(&[delivered])));
        for ran in futures::future::join_all(both).await {
            assert!(is_done(&ran.unwrap().outcomes[0]));
        }
        assert_eq!(harness.value(counter).await, (3, 2));
    }
    assert!(harness.open_parked().await.is_empty(), "a lost race is no poison");
}

pub async fn batches_with_keys_in_opposite_orders_do_not_deadlock<S: Store>(harness: Harness<S>) {
    let harness = Arc::new(harness);
    opposing(&harness, |harness, engine, delivered| async move {
        let works = harness.works(&delivered.iter().collect::<Vec<_>>());
        drive(&*engine, works).await.unwrap();
    })
    .await;
}

pub async fn messages_with_keys_in_opposite_orders_do_not_deadlock_alone<S: Store>(
    harness: Harness<S>,
) {
    let harness = Arc::new(harness);
    opposing(&harness, |harness, engine, delivered| async move {
        let events = delivered.into_iter().flat_map(|delivered| delivered.events).collect();
        let delivered = Delivered { events, ..message([bumped(Uuid::now_v7(), 0, How::Plain)]) };
        alone(&*engine, &mut harness.works(&[&delivered])).await.unwrap();
    })
    .await;
}

/// Runs instances that go through the same keys, half of them forwards and half backwards.
async fn opposing<S: Store, F, R>(harness: &Arc<Harness<S>>, run: F)
where
    F: Fn(Arc<Harness<S>>, Arc<S::Engine>, Vec<Delivered>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    let keys: Vec<Uuid> = (0..8).map(|_| Uuid::now_v7()).collect();
    for key in &keys {
        harness.open_counter(*key).await;
    }
    let instances = (0..4).map(|n| {
        let mut keys = keys.clone();
        if n % 2 == 1 {
            keys.reverse();
        }
        let (harness, run) = (harness.clone(), run.clone());
        tokio::spawn(async move {
            let engine = harness.store.engine();
            for _ in 0..ROUNDS {
                let delivered = keys.iter().map(|key| message([bumped(*key, 1, How::Plain)]));
                run(harness.clone(), engine.clone(), delivered.collect()).await;
            }
        })
    });
    for instance in instances.collect::<Vec<_>>() {
        instance.await.unwrap();
    }
    for key in keys {
        assert_eq!(harness.value(key).await, (4 * ROUNDS, 4 * ROUNDS));
    }
}

pub async fn two_instances_never_lease_the_same_event<S: Store>(harness: Harness<S>) {
    let keys: Vec<Uuid> = (0..40).map(|_| Uuid::now_v7()).collect();
    let late = keys.iter().map(|key| bumped(*key, 1, How::Late));
    harness.take(&[&message(late)]).await;
    let engines: Vec<_> = (0..4).map(|_| harness.store.engine()).collect();
    let mut leased = Vec::new();
    while leased.len() < keys.len() {
        let all = engines.iter().map(|engine| engine.store().lease(Which::Due(7), LONG));
        for some in futures::future::join_all(all).await {
            leased.extend(some.unwrap().into_iter().map(|parked| parked.number));
        }
    }
    leased.sort_unstable();
    let count = leased.len();
    leased.dedup();
    assert_eq!((leased.len(), count), (keys.len(), keys.len()), "none was leased twice");
}
