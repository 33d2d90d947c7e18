//! Commands: decided once under a key, answered as often as asked.

use events::{Problem, codes};
use mesh::{Idempotency, Outcome};
use uuid::Uuid;

use crate::{
    counter::{Add, How},
    store::{Stage, Store, alone, bumped, drive, granted, message},
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

pub async fn an_answered_command_repeats_its_answer_and_refuses_another_body<S: Store>(
    mut stage: Stage<S>,
) {
    let counter = Uuid::now_v7();
    let first = granted(&stage.add(&add(counter, 3), Some(&key(1))).await);
    assert_eq!((first.value, first.version), (3, 1));
    // Something happens meanwhile: the answer is what it was.
    stage.bump(counter, 10, How::Plain).await;
    for round in 0..2 {
        assert_eq!(granted(&stage.add(&add(counter, 3), Some(&key(1))).await), first);
        let other = Idempotency { body: [8; 32], ..key(1) };
        let refused = refusal(&stage.add(&add(counter, 3), Some(&other)).await);
        assert!(refused.is(codes::IDEMPOTENCY_KEY_REUSED), "{refused:?}");
        assert_eq!(stage.value(counter).await, (13, 2), "round {round}");
        stage.restart();
    }
    let second = granted(&stage.add(&add(counter, 3), Some(&key(2))).await);
    assert_eq!((second.value, second.version), (16, 3), "another key is another command");
    assert_eq!(stage.waiting().await, 3);
}

pub async fn the_same_key_twice_in_a_batch_is_decided_once<S: Store>(stage: Stage<S>) {
    let counter = Uuid::now_v7();
    let other_body = Idempotency { body: [8; 32], ..key(1) };
    let commands = [Some(key(1)), None, Some(key(1)), Some(other_body)]
        .map(|key| stage.kit.command(&add(counter, 3), key));
    let ran = drive(&*stage.engine, commands.into()).await.unwrap();
    let first = granted(&ran.outcomes[0]);
    assert_eq!(granted(&ran.outcomes[1]).version, 2);
    assert_eq!(granted(&ran.outcomes[2]), first);
    assert!(refusal(&ran.outcomes[3]).is(codes::IDEMPOTENCY_KEY_REUSED));
    assert_eq!((stage.value(counter).await, stage.waiting().await), ((6, 2), 2));
}

pub async fn the_same_key_at_two_instances_at_once_is_decided_once<S: Store>(stage: Stage<S>) {
    let engines = [stage.store.engine(), stage.store.engine()];
    for round in 0..20 {
        let counter = Uuid::now_v7();
        // Half of the time both find it there, half of the time both make it.
        if round % 2 == 0 {
            stage.open_counter(counter).await;
        }
        let asked = engines.each_ref().map(|engine| {
            let command = stage.kit.command(&add(counter, 3), Some(key(round)));
            drive(&**engine, vec![command])
        });
        let answers = futures::future::join_all(asked).await;
        let answers = answers.into_iter().map(|ran| granted(&ran.unwrap().outcomes[0]));
        let answers: Vec<_> = answers.collect();
        assert_eq!(answers[0], answers[1], "round {round}");
        assert_eq!(stage.value(counter).await, (3, 1), "round {round}");
    }
    assert_eq!(stage.waiting().await, 20);
}

pub async fn a_refused_command_leaves_nothing_and_may_be_asked_again<S: Store>(stage: Stage<S>) {
    let counter = Uuid::now_v7();
    let refused = refusal(&stage.add(&add(counter, 0), Some(&key(1))).await);
    assert!(refused.is(codes::INVALID));
    assert_eq!(stage.store.counter(counter).await, None);
    let granted = granted(&stage.add(&add(counter, 4), Some(&key(1))).await);
    assert_eq!((granted.value, stage.waiting().await), (4, 1));
}

pub async fn a_command_that_breaks_the_store_harms_nobody_else<S: Store>(stage: Stage<S>) {
    for how in [How::Breaks, How::Panics] {
        let [broken, one, other] = [(); 3].map(|()| Uuid::now_v7());
        let told = message([bumped(other, 5, How::Plain)]);
        let breaks = Add { how, ..add(broken, 1) };
        let works = vec![
            stage.kit.command(&add(one, 3), None),
            stage.kit.command(&breaks, Some(key(9))),
            stage.kit.message(&told),
        ];
        let ran = drive(&*stage.engine, works).await.unwrap();
        assert_eq!(granted(&ran.outcomes[0]).value, 3);
        let failed = &ran.outcomes[1];
        assert!(matches!(failed, Outcome::Never(_)), "{how:?}: {failed:?}");
        assert_eq!(stage.store.counter(broken).await, None, "{how:?}");
        assert_eq!((stage.value(one).await, stage.value(other).await), ((3, 1), (5, 1)));
        let again = &mut [stage.kit.command(&breaks, None)];
        let ran = alone(&*stage.engine, again).await.unwrap();
        assert!(matches!(ran.outcomes[0], Outcome::Never(_)), "{how:?}");
    }
    assert!(stage.open_parked().await.is_empty(), "commands are never parked");
}
