//! Commands: decided once under an idempotency key, and answered each time.

use events::{Problem, codes};
use mesh::{Idempotency, Outcome};
use uuid::Uuid;

use crate::{
    counter::{Add, How},
    store::{Harness, Store, alone, bumped, drive, granted, message},
};

fn key(n: u8) -> Idempotency {
    Idempotency { scope: [n; 32], body: [7; 32] }
}

fn add(counter: Uuid, amount: i64) -> Add {
    Add { counter, amount, how: How::Plain }
}

fn refusal(outcome: &Outcome) -> Problem {
    match outcome {
        Outcome::Done(answered) if !answered.is_granted() => {
            serde_json::from_slice(&answered.body).unwrap()
        }
        other => panic!("not refused: {other:?}"),
    }
}

pub async fn a_repeated_command_gets_its_answer_again_and_another_body_is_refused<S: Store>(
    mut harness: Harness<S>,
) {
    let counter = Uuid::now_v7();
    let first = granted(&harness.add(&add(counter, 3), Some(&key(1))).await);
    assert_eq!((first.value, first.version), (3, 1));
    // The counter moves meanwhile; the answer stays the same.
    harness.bump(counter, 10, How::Plain).await;
    for round in 0..2 {
        assert_eq!(granted(&harness.add(&add(counter, 3), Some(&key(1))).await), first);
        let other = Idempotency { body: [8; 32], ..key(1) };
        let refused = refusal(&harness.add(&add(counter, 3), Some(&other)).await);
        assert!(refused.is(codes::IDEMPOTENCY_KEY_REUSED), "{refused:?}");
        assert_eq!(harness.value(counter).await, (13, 2), "round {round}");
        harness.restart();
    }
    let second = granted(&harness.add(&add(counter, 3), Some(&key(2))).await);
    assert_eq!((second.value, second.version), (16, 3), "another key is another command");
    assert_eq!(harness.waiting().await, 3);
}

pub async fn an_idempotency_key_twice_in_a_batch_is_decided_once<S: Store>(harness: Harness<S>) {
    let counter = Uuid::now_v7();
    let other_body = Idempotency { body: [8; 32], ..key(1) };
    let commands = [Some(key(1)), None, Some(key(1)), Some(other_body)]
        .map(|key| harness.kit.command(&add(counter, 3), key));
    let ran = drive(&*harness.engine, commands.into()).await.unwrap();
    let first = granted(&ran.outcomes[0]);
    assert_eq!(granted(&ran.outcomes[1]).version, 2);
    assert_eq!(granted(&ran.outcomes[2]), first);
    assert!(refusal(&ran.outcomes[3]).is(codes::IDEMPOTENCY_KEY_REUSED));
    assert_eq!((harness.value(counter).await, harness.waiting().await), ((6, 2), 2));
}

pub async fn an_idempotency_key_at_two_instances_at_once_is_decided_once<S: Store>(
    harness: Harness<S>,
) {
    let engines = [harness.store.engine(), harness.store.engine()];
    for round in 0..20 {
        let counter = Uuid::now_v7();
        // In every other round the counter exists before; in the others both create it.
        if round % 2 == 0 {
            harness.open_counter(counter).await;
        }
        let both = engines.each_ref().map(|engine| {
            let command = harness.kit.command(&add(counter, 3), Some(key(round)));
            drive(&**engine, vec![command])
        });
        let answers = futures::future::join_all(both).await;
        let answers = answers.into_iter().map(|ran| granted(&ran.unwrap().outcomes[0]));
        let answers: Vec<_> = answers.collect();
        assert_eq!(answers[0], answers[1], "round {round}");
        assert_eq!(harness.value(counter).await, (3, 1), "round {round}");
    }
    assert_eq!(harness.waiting().await, 20);
}

pub async fn a_refused_command_leaves_nothing_and_may_be_repeated<S: Store>(harness: Harness<S>) {
    let counter = Uuid::now_v7();
    let refused = refusal(&harness.add(&add(counter, 0), Some(&key(1))).await);
    assert!(refused.is(codes::INVALID));
    assert_eq!(harness.store.counter(counter).await, None);
    let granted = granted(&harness.add(&add(counter, 4), Some(&key(1))).await);
    assert_eq!((granted.value, harness.waiting().await), (4, 1));
}

pub async fn a_command_that_the_store_refuses_fails_alone<S: Store>(harness: Harness<S>) {
    for how in [How::Breaks, How::Panics] {
        let [broken, one, other] = [(); 3].map(|()| Uuid::now_v7());
        let delivered = message([bumped(other, 5, How::Plain)]);
        let breaks = Add { how, ..add(broken, 1) };
        let works = vec![
            harness.kit.command(&add(one, 3), None),
            harness.kit.command(&breaks, Some(key(9))),
            harness.kit.message(&delivered),
        ];
        let ran = drive(&*harness.engine, works).await.unwrap();
        assert_eq!(granted(&ran.outcomes[0]).value, 3);
        let failed = &ran.outcomes[1];
        assert!(matches!(failed, Outcome::Never(_)), "{how:?}: {failed:?}");
        assert_eq!(harness.store.counter(broken).await, None, "{how:?}");
        assert_eq!((harness.value(one).await, harness.value(other).await), ((3, 1), (5, 1)));
        let again = &mut [harness.kit.command(&breaks, None)];
        let ran = alone(&*harness.engine, again).await.unwrap();
        assert!(matches!(ran.outcomes[0], Outcome::Never(_)), "{how:?}");
    }
    assert!(harness.open_parked().await.is_empty(), "commands are never parked");
}
