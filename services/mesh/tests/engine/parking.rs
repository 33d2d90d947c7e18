//! Parked events: retried in order, and dead letters in the end.

use std::time::Duration;

use bytes::Bytes;
use events::{Event, UserId};
use mesh::{
    engine::{Engine, ParkedOpen, Show, Verdict, Which},
    parked::{Parked, ParkedState},
    testkit::Delivered,
};
use uuid::Uuid;

use crate::{
    counter::{Bumped, How, Opened},
    store::{Harness, Store, bumped, eventually, is_done, message, steps},
};

/// Longer than an event may be early.
const TOO_LONG: i64 = 2 * 3_600;

pub async fn an_early_event_is_taken_in_once_what_it_depends_on_is_there<S: Store>(
    harness: Harness<S>,
) {
    let counter = Uuid::now_v7();
    let ran = harness.bump(counter, 7, How::Late).await;
    assert!(is_done(&ran.outcomes[0]), "the message is taken in");
    assert_eq!((ran.parked.len(), ran.parked[0].state), (1, ParkedState::Early));
    for attempt in 2..5 {
        let parked = harness.due().await;
        assert_eq!(parked.attempts, attempt, "counted before it is made");
        assert!(!harness.attempt(&parked).await);
        assert_eq!(harness.states(counter).await, [ParkedState::Early]);
    }
    harness.open_counter(counter).await;
    assert!(harness.attempt(&harness.due().await).await);
    assert_eq!(harness.value(counter).await, (7, 1));
    assert_eq!(steps(&harness.kit.emitted().await), [(7, 1)]);
    assert_eq!(
        (harness.states(counter).await, harness.waiting().await),
        (vec![ParkedState::Resolved], 1)
    );
    assert!(harness.lease(Which::Due(10)).await.is_empty());
}

pub async fn more_early_events_than_one_lease_takes_are_all_taken_in<S: Store>(
    harness: Harness<S>,
) {
    const MANY: usize = 201;
    let counter = Uuid::now_v7();
    let early = (0..MANY).map(|_| bumped(counter, 1, How::Late));
    let ran = harness.take(&[&message(early)]).await;
    assert_eq!(ran.parked.len(), MANY);
    harness.open_counter(counter).await;
    let mut leases = 0;
    while harness.states(counter).await != [ParkedState::Resolved; MANY] {
        for parked in harness.all_due().await {
            assert!(harness.attempt(&parked).await);
        }
        leases += 1;
    }
    assert!(leases >= 3, "a lease takes a hundred at most: {leases}");
    assert_eq!(harness.value(counter).await, (MANY as i64, MANY as i64));
}

pub async fn an_early_event_does_not_hold_up_what_it_waits_for<S: Store>(harness: Harness<S>) {
    let counter = Uuid::now_v7();
    let early = [1, 2].map(|amount| bumped(counter, amount, How::Late));
    let ran = harness.take(&[&message(early)]).await;
    use ParkedState::{Early, Resolved};
    assert_eq!(ran.parked.iter().map(|parked| parked.state).collect::<Vec<_>>(), [Early; 2]);
    assert!(
        harness.lease(Which::First(counter.to_string())).await.is_empty(),
        "none holds the key"
    );
    // Later events of the same key: one more that is early, and the one that all wait for.
    harness.bump(counter, 3, How::Late).await;
    let opened = Opened { counter, by: counter };
    assert_eq!(opened.about(), bumped(counter, 0, How::Late).about());
    let ran = harness.take(&[&message([opened])]).await;
    assert!(is_done(&ran.outcomes[0]) && ran.parked.is_empty(), "{ran:?}");
    assert_eq!(harness.value(counter).await, (0, 0));
    harness.bump(counter, 4, How::Plain).await;
    assert_eq!(harness.value(counter).await, (4, 1), "taken in meanwhile");
    while harness.states(counter).await != [Resolved; 3] {
        for parked in harness.all_due().await {
            assert!(harness.attempt(&parked).await);
        }
    }
    assert_eq!(harness.value(counter).await, (10, 4));
    assert_eq!(harness.waiting().await, 4);
}

pub async fn an_event_that_becomes_early_after_a_retry_releases_its_key<S: Store>(
    harness: Harness<S>,
) {
    let (held, by) = (Uuid::now_v7(), UserId(Uuid::now_v7()));
    let hows = [How::Breaks, How::Late, How::Plain, How::Plain];
    let dead =
        harness.take(&[&message(hows.map(|how| bumped(held, 2, how)))]).await.parked.remove(0);
    let open = async || harness.engine.store().parked_open().await.unwrap();
    assert_eq!(open().await, ParkedOpen { waiting: 3, dead: 1 });
    assert!(harness.engine.store().discard(dead.number, by, "of no use").await.unwrap());
    assert_eq!(open().await, ParkedOpen { waiting: 3, dead: 0 });
    let late = harness.due().await;
    assert!(!harness.attempt(&late).await);
    use ParkedState::{Behind, Discarded, Early, Resolved};
    assert_eq!(harness.states(held).await, [Discarded, Early, Behind, Behind]);
    harness.bump(held, 2, How::Plain).await;
    assert_eq!(harness.states(held).await[4..], [Behind], "those behind hold the key still");
    let due = harness.all_due().await;
    let is_next = |parked: &Parked| (parked.number, parked.attempts) == (late.number + 1, 1);
    assert!(due.iter().any(is_next), "{due:?}");
    for parked in due {
        harness.attempt(&parked).await;
    }
    while harness.states(held).await[1..] != [Resolved; 4] {
        for parked in harness.all_due().await {
            harness.attempt(&parked).await;
        }
    }
    assert_eq!(harness.value(held).await, (8, 4));
}

pub async fn an_early_event_waits_for_a_dead_letter_before_it<S: Store>(harness: Harness<S>) {
    let (held, by) = (Uuid::now_v7(), UserId(Uuid::now_v7()));
    harness.take(&[&message([1, 2].map(|amount| bumped(held, amount, How::Late)))]).await;
    let mut leased: Vec<Parked> = Vec::new();
    while leased.len() < 2 {
        leased.extend(harness.all_due().await);
    }
    leased.sort_by_key(|parked| parked.number);
    let again = Verdict::Again { after: Duration::ZERO, cause: "not yet".into(), counts: true };
    harness.engine.store().settle(leased[1].number, again).await.unwrap();
    let dead = Verdict::Dead { cause: "in vain".into(), by: None };
    harness.engine.store().settle(leased[0].number, dead).await.unwrap();
    use ParkedState::{Dead, Discarded, Early, Resolved};
    assert_eq!(harness.states(held).await, [Dead, Early]);
    for which in [Which::Due(10), Which::Missed(10), Which::Number(leased[1].number)] {
        let leased = harness.lease(which).await;
        assert!(leased.is_empty(), "{leased:?}");
    }
    harness.open_counter(held).await;
    assert!(harness.engine.store().discard(leased[0].number, by, "of no use").await.unwrap());
    assert!(harness.attempt(&harness.due().await).await);
    assert_eq!(harness.states(held).await, [Discarded, Resolved]);
    assert_eq!(harness.value(held).await, (2, 1));
}

pub async fn an_event_that_stays_early_becomes_a_dead_letter<S: Store>(harness: Harness<S>) {
    let counter = Uuid::now_v7();
    harness.bump(counter, 7, How::Late).await;
    let parked = harness.due().await;
    let parked = Parked { kept_at: parked.kept_at.plus_secs(-TOO_LONG), ..parked };
    assert!(!harness.attempt(&parked).await);
    let dead = harness.engine.store().parked(Show::Number(parked.number)).await.unwrap().remove(0);
    assert_eq!((dead.state, dead.attempts, dead.history.len()), (ParkedState::Dead, 2, 1));
    // It is not retried without an operator any more, and neither is any event of its key.
    harness.bump(counter, 1, How::Plain).await;
    assert!(harness.lease(Which::Due(10)).await.is_empty());
    assert_eq!(harness.states(counter).await, [ParkedState::Dead, ParkedState::Behind]);
}

pub async fn events_behind_a_dead_letter_wait_and_drain_in_order<S: Store>(harness: Harness<S>) {
    let (held, free) = (Uuid::now_v7(), Uuid::now_v7());
    harness.dead(held, 1).await;
    let delivered = message([bumped(free, 1, How::Plain), bumped(held, 2, How::Plain)]);
    harness.take(&[&delivered]).await;
    let delivered = message([bumped(held, 3, How::Plain), bumped(free, 2, How::Plain)]);
    let ran = harness.take(&[&delivered, &message([bumped(held, 4, How::Plain)])]).await;
    assert!(ran.outcomes.iter().all(is_done));
    assert_eq!(ran.parked.iter().map(|parked| parked.attempts).collect::<Vec<_>>(), [0, 0]);
    assert_eq!((harness.store.counter(held).await, harness.value(free).await), (None, (3, 2)));
    use ParkedState::{Behind, Dead};
    assert_eq!(harness.states(held).await, [Dead, Behind, Behind, Behind]);

    harness.open_counter(held).await;
    assert!(harness.attempt(&harness.first(held).await).await);
    assert_eq!(harness.value(held).await, (1, 1));
    for wanted in [(3, 2), (6, 3), (10, 4)] {
        // Only the first of a key is ever leased, and the next one as soon as it has ended.
        assert!(harness.attempt(&harness.due().await).await);
        assert_eq!(harness.value(held).await, wanted);
    }
    assert_eq!(steps(&harness.kit.emitted().await), [(1, 1), (3, 2), (6, 3), (10, 4)]);
    assert_eq!(harness.states(held).await, [ParkedState::Resolved; 4]);
    harness.bump(held, 5, How::Plain).await;
    assert_eq!(harness.value(held).await, (15, 5), "the key is free again");
}

pub async fn a_dead_letter_holds_its_key_until_it_is_discarded<S: Store>(harness: Harness<S>) {
    let (held, by) = (Uuid::now_v7(), UserId(Uuid::now_v7()));
    let delivered = message([How::Breaks, How::Plain, How::Plain].map(|how| bumped(held, 2, how)));
    let dead = harness.take(&[&delivered]).await.parked.remove(0);
    assert!(harness.lease(Which::Due(10)).await.is_empty());
    assert_eq!(harness.states(held).await[0], ParkedState::Dead);
    assert!(harness.engine.store().discard(dead.number, by, "of no use").await.unwrap());
    assert!(
        !harness.engine.store().discard(dead.number, by, "again").await.unwrap(),
        "it has ended"
    );
    for wanted in [(2, 1), (4, 2)] {
        assert!(harness.attempt(&harness.due().await).await);
        assert_eq!(harness.value(held).await, wanted);
    }
    let rows = harness.engine.store().parked(Show::Key(held.to_string())).await.unwrap();
    assert_eq!(rows[0].state, ParkedState::Discarded);
    let last = rows[0].history.last().expect("a history");
    assert_eq!((last.by, last.why.as_deref()), (Some(by), Some("of no use")));
}

pub async fn the_first_event_of_a_key_is_not_overtaken_while_it_is_tried<S: Store>(
    harness: Harness<S>,
) {
    let held = Uuid::now_v7();
    harness.dead(held, 1).await;
    harness.bump(held, 1, How::Plain).await;
    harness.open_counter(held).await;
    let head = harness.first(held).await;
    let second = harness.store.engine();
    for which in [Which::Due(10), Which::First(held.to_string())] {
        let leased = second.store().lease(which, Duration::from_secs(1)).await.unwrap();
        assert!(leased.is_empty(), "{leased:?}");
    }
    let leased = second.store().lease(Which::Missed(10), Duration::from_secs(1)).await.unwrap();
    assert!(leased.is_empty(), "{leased:?}");
    harness.bump(held, 4, How::Plain).await;
    assert_eq!(harness.value(held).await, (0, 0), "an event that comes meanwhile waits");
    assert!(harness.attempt(&head).await);
    for wanted in [(2, 2), (6, 3)] {
        assert!(harness.attempt(&harness.due().await).await);
        assert_eq!(harness.value(held).await, wanted);
    }
}

pub async fn an_attempt_prevented_by_the_store_is_not_counted<S: Store>(harness: Harness<S>) {
    let held = Uuid::now_v7();
    harness.bump(held, 1, How::Late).await;
    let again = |cause: &str| Verdict::Again {
        after: Duration::from_millis(1),
        cause: cause.into(),
        counts: false,
    };
    let first = harness.due().await;
    harness.engine.store().settle(first.number, again("the store was away")).await.unwrap();
    let second = harness.due().await;
    assert_eq!((second.attempts, second.unsettled), (first.attempts, 1));
    assert_eq!((second.state, &*second.cause), (ParkedState::Early, "the store was away"));
    // A dead letter stays one when the store prevents an operator's retry.
    let dead = Verdict::Dead { cause: "in vain".into(), by: None };
    harness.engine.store().settle(second.number, dead).await.unwrap();
    let leased = harness.first(held).await;
    harness.engine.store().settle(leased.number, again("the store was away")).await.unwrap();
    assert_eq!(harness.states(held).await, [ParkedState::Dead]);
    assert!(harness.lease(Which::Due(10)).await.is_empty());
}

pub async fn an_event_whose_retries_kill_the_process_becomes_a_dead_letter<S: Store>(
    mut harness: Harness<S>,
) {
    let held = Uuid::now_v7();
    harness.bump(held, 1, How::Late).await;
    harness.open_counter(held).await;
    let lease = Duration::from_millis(1);
    for killed in 1..=3 {
        let parked = eventually("it is leased", || async {
            harness.engine.store().lease(Which::Due(10), lease).await.unwrap().pop()
        })
        .await;
        assert_eq!((parked.unsettled, parked.attempts), (killed, u64::from(killed) + 1));
        // The process is killed before it writes the outcome.
        harness.restart();
    }
    let last = harness.due().await;
    assert!(!harness.attempt(&last).await, "it is not even run");
    assert_eq!(
        (harness.states(held).await, harness.value(held).await),
        (vec![ParkedState::Dead], (0, 0))
    );
    let parked = harness.first(held).await;
    assert_eq!(parked.unsettled, 1, "an operator may try it again");
    assert!(harness.attempt(&parked).await);
    assert_eq!(harness.value(held).await, (1, 1));
}

pub async fn an_operators_retry_takes_a_dead_letter_in<S: Store>(harness: Harness<S>) {
    let held = Uuid::now_v7();
    harness.dead(held, 1).await;
    harness.bump(held, 1, How::Plain).await;
    let still = harness.first(held).await;
    assert!(!harness.attempt(&still).await, "what it needs is not there");
    assert_eq!(harness.states(held).await, [ParkedState::Dead, ParkedState::Behind]);
    harness.open_counter(held).await;
    for _ in 0..2 {
        assert!(harness.attempt(&harness.first(held).await).await);
    }
    let left = harness.lease(Which::First(held.to_string())).await;
    assert!(left.is_empty(), "the key is drained: {left:?}");
    assert_eq!(harness.value(held).await, (2, 2));
}

pub async fn an_event_without_an_order_key_waits_for_no_other<S: Store>(harness: Harness<S>) {
    let nothing = || Bytes::from_static(b"{}");
    let delivered = Delivered { events: vec![nothing(), nothing()], ..message::<Bumped>([]) };
    harness.take(&[&delivered]).await;
    let parked = harness.open_parked().await;
    let keys: Vec<_> = parked.iter().map(|parked| (&*parked.key, parked.state)).collect();
    assert_eq!(keys, [("-", ParkedState::Dead), ("-", ParkedState::Dead)]);
    assert!(harness.lease(Which::First("-".into())).await.is_empty());
    for row in &parked {
        let leased = harness.lease(Which::Number(row.number)).await;
        assert_eq!(leased.iter().map(|row| row.number).collect::<Vec<_>>(), [row.number]);
        assert!(!harness.attempt(&leased[0]).await);
    }
    let of_a_key = harness.dead(Uuid::now_v7(), 1).await;
    assert!(harness.lease(Which::Number(of_a_key.number)).await.is_empty(), "it has a key");
    let early = harness.bump(Uuid::now_v7(), 1, How::Late).await.parked.remove(0);
    assert_eq!(harness.lease(Which::Number(early.number)).await.len(), 1, "it holds none");
}

pub async fn parked_events_are_listed_in_the_order_of_parking<S: Store>(harness: Harness<S>) {
    let keys: Vec<Uuid> = (0..5).map(|_| Uuid::now_v7()).collect();
    for key in &keys {
        harness.bump(*key, 1, How::Late).await;
    }
    let by = UserId(Uuid::now_v7());
    let all = harness.open_parked().await;
    let shown: Vec<String> = all.iter().map(|row| row.key.clone()).collect();
    assert_eq!(shown, keys.iter().map(Uuid::to_string).collect::<Vec<_>>());
    assert!(all.windows(2).all(|two| two[0].number < two[1].number));
    harness.engine.store().discard(all[1].number, by, "of no use").await.unwrap();
    let count = async |ended, most| {
        harness.engine.store().parked(Show::All(ended, most)).await.unwrap().len()
    };
    assert_eq!((count(false, 10).await, count(true, 10).await), (4, 5));
    let newest = harness.engine.store().parked(Show::All(true, 2)).await.unwrap();
    let newest: Vec<u64> = newest.iter().map(|row| row.number).collect();
    assert_eq!(newest, [all[3].number, all[4].number]);
    assert!(harness.engine.store().parked(Show::Number(u32::MAX.into())).await.unwrap().is_empty());
    let row = &all[0];
    assert_eq!((&*row.stream, row.sequence, row.attempts), ("TEST", 1, 1));
    assert_eq!(row.subject, "onsale.counter.bumped.v1.-");
    assert_eq!(harness.engine.store().backlog().await.unwrap().events, 0);
}
