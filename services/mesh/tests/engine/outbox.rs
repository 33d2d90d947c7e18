//! The outbox, as the publisher uses it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use mesh::engine::{Engine, Gap, Generation, Mark, Place};
use uuid::Uuid;

use crate::{
    counter::How,
    store::{Harness, Store, eventually},
};

/// Messages that the publisher sweeps at a time.
const SWEEP: usize = 128;

fn mark(id: Uuid, sequence: u64) -> Mark {
    Mark { id, sequence }
}

fn place(id: Uuid, sequence: u64, at: &str) -> Place {
    Place { mark: mark(id, sequence), stored_at: at.parse().expect("a time") }
}

/// Ids in ascending order.
fn sorted(mut ids: Vec<Uuid>) -> Vec<Uuid> {
    ids.sort_unstable();
    ids
}

/// Publishes everything that can be swept, in so many instances at once. Returns how many sweeps
/// found something.
async fn publish_all<S: Store>(harness: &Harness<S>, count: usize, instances: usize) -> usize {
    let engines: Vec<_> = (0..instances).map(|_| harness.store.engine()).collect();
    let (mut seen, mut sweeps) = (BTreeSet::new(), 0);
    let until = Instant::now() + std::time::Duration::from_secs(60);
    while seen.len() < count {
        assert!(Instant::now() < until, "{} of {count} swept", seen.len());
        let all = engines.iter().map(|engine| engine.store().sweep(SWEEP));
        for (swept, engine) in futures::future::join_all(all).await.into_iter().zip(&engines) {
            let swept = swept.unwrap();
            assert!(swept.len() <= SWEEP);
            sweeps += usize::from(!swept.is_empty());
            let mut marks = Vec::new();
            for message in swept {
                assert!(seen.insert(message.id), "{} was swept twice", message.id);
                marks.push(mark(message.id, seen.len() as u64));
            }
            if !marks.is_empty() {
                engine.store().mark(&marks, Generation::default()).await.unwrap();
            }
        }
        tokio::task::yield_now().await;
    }
    sweeps
}

pub async fn two_instances_never_sweep_the_same_message<S: Store>(harness: Harness<S>) {
    harness.emit(600).await;
    publish_all(&harness, 600, 4).await;
    assert_eq!(harness.waiting().await, 0);
}

pub async fn a_message_is_swept_again_when_its_lease_runs_out<S: Store>(harness: Harness<S>) {
    let emitted = sorted(harness.emit(3).await);
    assert!(
        harness.engine.store().sweep(10).await.unwrap().is_empty(),
        "its own publisher has the lease"
    );
    let first = harness.swept(10).await;
    assert_eq!(sorted(first.iter().map(|message| message.id).collect()), emitted);
    assert!(harness.store.engine().store().sweep(10).await.unwrap().is_empty(), "leased");
    let again = harness.swept(10).await;
    assert_eq!(again, first, "what a message contains never changes");
}

pub async fn a_backlog_larger_than_a_sweep_is_published_completely<S: Store>(harness: Harness<S>) {
    harness.emit(SWEEP + 1).await;
    assert!(publish_all(&harness, SWEEP + 1, 1).await >= 2);
    assert_eq!(harness.waiting().await, 0);
}

pub async fn a_backlog_of_a_hundred_sweeps_is_published_completely<S: Store>(harness: Harness<S>) {
    let emitted = harness.emit(100 * SWEEP).await;
    assert_eq!(emitted.iter().collect::<BTreeSet<_>>().len(), 100 * SWEEP);
    publish_all(&harness, 100 * SWEEP, 1).await;
    assert_eq!(harness.waiting().await, 0);
    let marks = harness.engine.store().marks_above(0, 100 * SWEEP + 1).await.unwrap();
    let marked: BTreeSet<Uuid> = marks.iter().map(|mark| mark.id).collect();
    assert_eq!(marked, emitted.into_iter().collect());
}

pub async fn a_mark_is_never_overwritten<S: Store>(harness: Harness<S>) {
    let ids = harness.emit(2).await;
    harness
        .engine
        .store()
        .mark(&[mark(ids[0], 7), mark(Uuid::now_v7(), 9)], Generation::default())
        .await
        .unwrap();
    harness.engine.store().mark(&[mark(ids[0], 8)], Generation::default()).await.unwrap();
    assert_eq!(harness.engine.store().marks_above(0, 10).await.unwrap(), [mark(ids[0], 7)]);
    assert_eq!(harness.waiting().await, 1, "the other one waits");
    harness.engine.store().mark(&[], Generation::default()).await.unwrap();
    harness.engine.store().unmark(&[]).await.unwrap();
}

pub async fn only_the_mark_that_was_read_is_cleared<S: Store>(harness: Harness<S>) {
    let ids = harness.emit(3).await;
    let marks: Vec<Mark> = ids.iter().zip(1..).map(|(id, at)| mark(*id, at)).collect();
    harness.engine.store().mark(&marks, Generation::default()).await.unwrap();
    harness.engine.store().unmark(&[mark(ids[0], 2), mark(ids[2], 3)]).await.unwrap();
    assert_eq!(harness.engine.store().marks_above(0, 10).await.unwrap(), marks[..2]);
    // A cleared message has no lease: it is swept at once.
    let swept = harness.engine.store().sweep(10).await.unwrap();
    assert_eq!(swept.iter().map(|message| message.id).collect::<Vec<_>>(), [ids[2]]);
    harness.engine.store().mark(&[mark(ids[2], 9)], Generation::default()).await.unwrap();
    harness.engine.store().unmark(&[mark(ids[2], 3)]).await.unwrap();
    assert_eq!(harness.engine.store().marks_above(2, 10).await.unwrap(), [mark(ids[2], 9)]);
}

pub async fn a_mark_and_a_clear_at_once_keep_the_newer_mark<S: Store>(harness: Harness<S>) {
    let (id, other) = (harness.emit(1).await[0], harness.store.engine());
    for round in 1..50 {
        let (old, new) = (mark(id, 2 * round), mark(id, 2 * round + 1));
        harness.engine.store().mark(&[old], Generation::default()).await.unwrap();
        // One instance finds the old message lost, clears its mark and publishes it again; another
        // one has found the same, and clears late.
        let renew = async {
            harness.engine.store().unmark(&[old]).await.unwrap();
            harness.engine.store().mark(&[new], Generation::default()).await.unwrap();
        };
        let is_late = async { other.store().unmark(&[old]).await.unwrap() };
        futures::join!(is_late, renew);
        assert_eq!(harness.engine.store().marks_above(0, 10).await.unwrap(), [new]);
        harness.engine.store().unmark(&[new]).await.unwrap();
    }
}

pub async fn only_missed_messages_are_published_again<S: Store>(harness: Harness<S>) {
    harness.emit(8).await;
    let mut swept = harness.swept(10).await;
    swept.sort_unstable_by_key(|message| message.id);
    let marks: Vec<Mark> = swept.iter().zip(1..).map(|(one, at)| mark(one.id, at)).collect();
    harness.engine.store().mark(&marks, Generation::default()).await.unwrap();
    let gap = |above, below, subject: &str, since| Gap {
        above,
        below,
        subjects: vec!["onsale.nobody.".into(), subject.into()],
        since,
    };
    let wanted = "onsale.counter.moved.";
    assert!(swept.iter().all(|message| message.subject.starts_with(wanted)));
    for nothing in [
        gap(3, 4, wanted, Uuid::nil()),
        gap(8, 99, wanted, Uuid::nil()),
        gap(0, 9, "onsale.counter.movedx.", Uuid::nil()),
        gap(0, 9, wanted, Uuid::max()),
    ] {
        assert_eq!(harness.engine.store().publish_again(&nothing).await.unwrap(), 0, "{nothing:?}");
    }
    // Above the second and below the seventh, and no older than the fourth.
    let missed = gap(2, 7, wanted, marks[3].id);
    assert_eq!(harness.engine.store().publish_again(&missed).await.unwrap(), 3);
    assert_eq!(harness.engine.store().publish_again(&missed).await.unwrap(), 0, "it is done once");
    let left = harness.engine.store().marks_above(0, 10).await.unwrap();
    assert_eq!(left, [&marks[..3], &marks[6..]].concat());
    let again = harness.engine.store().sweep(10).await.unwrap();
    assert_eq!(again, swept[3..6], "they have no lease, and are unchanged");
}

pub async fn a_gap_larger_than_a_statement_is_published_again_completely<S: Store>(
    harness: Harness<S>,
) {
    const MANY: usize = 6_001;
    harness.emit(MANY).await;
    publish_all(&harness, MANY, 1).await;
    let subjects = vec!["onsale.".to_owned()];
    let gap = Gap { above: 0, below: MANY as u64, subjects, since: Uuid::nil() };
    assert_eq!(harness.engine.store().publish_again(&gap).await.unwrap(), MANY - 1);
    assert_eq!(harness.engine.store().marks_above(0, MANY).await.unwrap().len(), 1);
}

pub async fn a_refused_message_backs_off_alone<S: Store>(harness: Harness<S>) {
    let ids = harness.emit(2).await;
    let due = async || {
        let swept = harness.engine.store().sweep(10).await.unwrap();
        swept.iter().map(|message| message.id).collect::<BTreeSet<_>>()
    };
    for _ in 0..4 {
        harness.engine.store().back_off(ids[0]).await.unwrap();
    }
    let began = Instant::now();
    // The other one is due after its lease, the refused one much later (1, 2, 4, 8 s).
    let first = eventually("something is due", || async {
        let due = due().await;
        (!due.is_empty()).then_some(due)
    })
    .await;
    assert_eq!(first, BTreeSet::from([ids[1]]));
    harness.engine.store().mark(&[mark(ids[1], 1)], Generation::default()).await.unwrap();
    let second = eventually("the refused one is due", || async {
        let due = due().await;
        (!due.is_empty()).then_some(due)
    })
    .await;
    assert_eq!(second, BTreeSet::from([ids[0]]));
    assert!(began.elapsed().as_secs() >= 5, "it backed off");
    harness.engine.store().back_off(Uuid::now_v7()).await.unwrap();
    harness.engine.store().mark(&[mark(ids[0], 2)], Generation::default()).await.unwrap();
    harness.engine.store().back_off(ids[0]).await.unwrap();
    assert!(due().await.is_empty(), "what is published is not put off");
}

pub async fn marks_are_read_across_equal_sequences_and_page_ends<S: Store>(harness: Harness<S>) {
    let ids = sorted(harness.emit(9).await);
    // Three rows claim sequence 2 and two claim 4: a stream that was rolled back assigns them again.
    let at = [1, 2, 2, 2, 3, 4, 4, 5, 6];
    let marks: Vec<Mark> = ids.iter().zip(at).map(|(id, at)| mark(*id, at)).collect();
    harness.engine.store().mark(&marks, Generation::default()).await.unwrap();
    assert_eq!(harness.engine.store().marks_above(0, 100).await.unwrap(), marks);
    assert_eq!(harness.engine.store().marks_above(0, 3).await.unwrap(), marks[..3]);
    assert_eq!(harness.engine.store().marks_above(1, 3).await.unwrap(), marks[1..4]);
    assert_eq!(harness.engine.store().marks_above(2, 100).await.unwrap(), marks[4..]);
    assert_eq!(harness.engine.store().marks_above(6, 100).await.unwrap(), []);
}

pub async fn the_latest_marks_are_those_of_the_latest_messages<S: Store>(harness: Harness<S>) {
    let ids = sorted(harness.emit(5).await);
    assert_eq!(harness.engine.store().latest_marks(9).await.unwrap(), []);
    // The last one is not published yet, and the stream has the others in another order.
    let marks: Vec<Mark> = [(0, 8), (1, 3), (2, 9), (3, 1)].map(|(n, at)| mark(ids[n], at)).into();
    harness.engine.store().mark(&marks, Generation::default()).await.unwrap();
    let latest: Vec<Mark> = marks.iter().rev().copied().collect();
    assert_eq!(harness.engine.store().latest_marks(9).await.unwrap(), latest);
    assert_eq!(harness.engine.store().latest_marks(2).await.unwrap(), latest[..2]);
    harness.engine.store().unmark(&latest[..1]).await.unwrap();
    assert_eq!(harness.engine.store().latest_marks(2).await.unwrap(), latest[1..3]);
}

pub async fn the_verified_position_is_kept<S: Store>(mut harness: Harness<S>) {
    assert_eq!(harness.engine.store().verified().await.unwrap(), None);
    let [early, late] = ["2026-11-30T09:00:00.000001Z", "2026-11-30T09:00:01Z"];
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let places = [(first, 9, early), (first, 9, late), (second, 1 << 40, late)];
    let places = places.map(|(id, sequence, at)| Some(place(id, sequence, at)));
    for place in places.into_iter().chain([None, None]) {
        harness.engine.store().set_verified(place, Generation::default()).await.unwrap();
        harness.restart();
        assert_eq!(harness.engine.store().verified().await.unwrap(), place);
    }
}

pub async fn one_instance_at_a_time_compares_outbox_and_stream<S: Store>(harness: Harness<S>) {
    let engines = [harness.store.engine(), harness.store.engine()];
    let instances = [Uuid::now_v7(), Uuid::now_v7()];
    let lease = async |of: usize, lease: Duration| {
        engines[of].store().lease_comparison(instances[of], lease).await.unwrap()
    };
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(200));
    assert!(lease(0, long).await);
    assert!(!lease(1, long).await, "the first has it");
    engines[1].store().release_comparison(instances[1]).await.unwrap();
    assert!(!lease(1, long).await, "it was not for the second to release");
    assert!(lease(0, long).await, "the first prolongs it");
    engines[0].store().release_comparison(instances[0]).await.unwrap();
    // The second one dies with it.
    assert!(lease(1, short).await, "it is free");
    eventually("its lease is over", || async { lease(0, long).await.then_some(()) }).await;
    assert!(!lease(1, long).await, "it is the first one's again");
}

pub async fn a_mark_of_an_earlier_generation_is_not_written<S: Store>(harness: Harness<S>) {
    let ids = sorted(harness.emit(3).await);
    let (one, other) = (harness.store.engine(), harness.store.engine());
    let at = "2026-11-30T09:00:00Z";
    let before = one.store().begin_generation().await.unwrap();
    assert!(one.store().mark(&[mark(ids[0], 1)], before).await.unwrap());
    let after = other.store().begin_generation().await.unwrap();
    assert_eq!(one.store().generation().await.unwrap(), after);
    // The other instance compares from now on. A mark from before would escape it.
    assert!(!one.store().mark(&[mark(ids[1], 2)], before).await.unwrap());
    assert!(!one.store().set_verified(Some(place(ids[0], 1, at)), before).await.unwrap());
    assert_eq!(other.store().marks_above(0, 9).await.unwrap(), [mark(ids[0], 1)]);
    assert_eq!(other.store().verified().await.unwrap(), None);
    assert!(one.store().mark(&[mark(ids[1], 2)], after).await.unwrap());
    assert!(other.store().mark(&[mark(ids[2], 3)], after).await.unwrap());
    assert!(one.store().set_verified(Some(place(ids[2], 3, at)), after).await.unwrap());
    assert_eq!(other.store().verified().await.unwrap(), Some(place(ids[2], 3, at)));
}

pub async fn the_backlog_is_counted_in_events<S: Store>(harness: Harness<S>) {
    let began = mesh::clock::now();
    let empty = harness.engine.store().backlog().await.unwrap();
    assert_eq!((empty.events, empty.since), (0, None));
    let id = harness.emit(3).await[1];
    harness.bump(Uuid::now_v7(), 1, How::Plain).await;
    let some = harness.engine.store().backlog().await.unwrap();
    assert_eq!(some.events, 4);
    let since = some.since.expect("since when");
    assert!(since >= began.plus_secs(-1) && since <= mesh::clock::now(), "{since:?}");
    harness.engine.store().mark(&[mark(id, 1)], Generation::default()).await.unwrap();
    assert_eq!(harness.waiting().await, 3);
}
