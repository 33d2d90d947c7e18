//! Stalls and violations are reported once.

use events::{
    EventId, SagaId, ScheduleId, Timestamp,
    audit::{ReportStall, ReportViolation, Rule, Violation},
};
use mesh::{Caller, Execute, testkit};
use sqlx::PgPool;
use uuid::Uuid;

use super::{database, moment, take};
use crate::{
    Config, Keys, UnitOfWork,
    listener::Listener,
    rehearsal::{End, Visit},
    watchdog::due,
};

/// Runs a batch of one command; returns the events it emitted.
async fn decide<C: events::Command>(pool: &PgPool, command: &C) -> Vec<&'static str>
where
    UnitOfWork: Execute<C>,
{
    let (config, caller) = (Config::default(), Caller::Mesh);
    let keys = |keys: &mut Keys| <UnitOfWork as Execute<C>>::keys(command, &caller, keys);
    let decided = testkit::batch(pool, &config, &caller, keys, |unit: &mut UnitOfWork, ctx| {
        unit.execute(command, ctx).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let is_stall = |subject: &str| subject.contains("saga_stalled");
        let name = |subject| if is_stall(subject) { "stalled" } else { "violation" };
        ctx.emitted().iter().map(|event| name(&event.subject)).collect()
    });
    decided.await.unwrap()
}

/// What the watchdog would report when every event up to `known` was read.
async fn stalls(pool: &PgPool, known: Option<Timestamp>) -> Vec<ReportStall> {
    let listener = Listener::new();
    known.into_iter().for_each(|known| listener.set_known(known));
    due(listener, pool.clone()).await.unwrap()
}

/// The stalls of a payment that was requested.
async fn stalls_of(pool: &PgPool, visit: &Visit, known: Timestamp) -> Vec<ReportStall> {
    let mut stalls = stalls(pool, Some(known)).await;
    stalls.retain(|report| report.stalled.saga_id.0 == visit.payment_id.0);
    stalls
}

#[tokio::test]
async fn a_stalled_saga_is_reported_once_for_each_awaited_event() {
    let pool = database().await;
    let visit = Visit::new(ScheduleId(Uuid::now_v7()), 1, moment(0));
    let events = visit.clone().begun();
    take(&pool, &events).await;
    let much_later = visit.at.plus_secs(3_600);
    let found = stalls_of(&pool, &visit, much_later).await;
    assert!(!found.is_empty());
    for report in &found {
        assert_eq!(decide(&pool, report).await, ["stalled"]);
        // Another batch worker, or another instance, had found it too.
        assert_eq!(decide(&pool, report).await, [""; 0]);
    }
    assert_eq!(stalls_of(&pool, &visit, much_later).await, []);
    // Nor is it reported again when the timeline is rebuilt.
    crate::forget(&pool).await.unwrap();
    take(&pool, &events).await;
    assert_eq!(stalls_of(&pool, &visit, much_later).await, found);
    for report in &found {
        assert_eq!(decide(&pool, report).await, [""; 0]);
    }
}

#[tokio::test]
async fn no_stall_is_reported_before_the_deadline_or_before_audit_has_read_that_far() {
    let pool = database().await;
    let visit = Visit::new(ScheduleId(Uuid::now_v7()), 1, moment(1));
    take(&pool, &visit.clone().begun()).await;
    let all = stalls_of(&pool, &visit, visit.at.plus_secs(3_600)).await;
    let first = all.iter().map(|report| report.stalled.due_at).min();
    let first = first.expect("something is awaited");
    assert_eq!(stalls_of(&pool, &visit, first).await, []);
    assert_eq!(stalls(&pool, None).await, []);
    assert!(!stalls_of(&pool, &visit, first.plus_millis(1)).await.is_empty());
}

#[tokio::test]
async fn an_event_that_came_after_the_watchdog_looked_is_not_reported_as_missing() {
    let pool = database().await;
    let visit = Visit::new(ScheduleId(Uuid::now_v7()), 1, moment(0));
    let events = visit.clone().events(End::Paid);
    take(&pool, &events[..2]).await;
    let found = stalls_of(&pool, &visit, visit.at.plus_secs(3_600)).await;
    take(&pool, &events[2..]).await;
    for report in &found {
        assert_eq!(decide(&pool, report).await, [""; 0]);
    }
    assert_eq!(stalls_of(&pool, &visit, visit.at.plus_secs(3_600)).await, []);
}

#[tokio::test]
async fn deadlines_that_were_met_are_deleted() {
    let pool = database().await;
    let visit = Visit::new(ScheduleId(Uuid::now_v7()), 1, moment(0));
    // Each event by itself, so that every deadline on the way is written.
    for event in visit.clone().events(End::Paid) {
        take(&pool, &[event]).await;
    }
    let open = "select count(*) from watch where saga_id = $1";
    let open = async || {
        let count = sqlx::query_scalar::<_, i64>(open).bind(visit.payment_id.0);
        count.fetch_one(&pool).await.unwrap()
    };
    assert!(open().await > 0);
    assert_eq!(stalls_of(&pool, &visit, visit.at.plus_secs(86_400)).await, []);
    assert_eq!(open().await, 0);
}

#[tokio::test]
async fn a_violation_is_reported_once() {
    let pool = database().await;
    let violation = Violation {
        violation_id: Uuid::new_v4(),
        rule: Rule::OneOwner,
        detail: "The seat A-1-2 has two owners.".into(),
        events: vec![EventId(Uuid::now_v7()), EventId(Uuid::now_v7())],
        saga_id: SagaId(Uuid::now_v7()),
        schedule_id: None,
    };
    let report = ReportViolation { violation };
    assert_eq!(decide(&pool, &report).await, ["violation"]);
    assert_eq!(decide(&pool, &report).await, [""; 0]);
}
