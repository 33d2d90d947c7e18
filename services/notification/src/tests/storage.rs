//! Contacts and messages stored by several batches at once.

use events::notification::{Locale, MessageKind};

use super::*;
use crate::{domain::message_id, handlers::KeepContact};

async fn count(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from messages").fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn there_is_one_message_per_subject_and_kind_however_often_its_event_is_handled() {
    let pool = testkit::pool(&crate::MIGRATIONS).await;
    let show = ScheduleId(Uuid::now_v7());
    let events: Vec<_> = (0..20).map(|_| created(fan(), show)).collect();
    // In both orders, in large batches: they do not deadlock.
    let workers = (0..6).map(|worker| {
        let (pool, mut events) = (pool.clone(), events.clone());
        if worker % 2 == 1 {
            events.reverse();
        }
        tokio::spawn(async move {
            let config = Config::default();
            let keys = |keys: &mut Keys| {
                events.iter().for_each(|event| <UnitOfWork as Handle<_>>::keys(event, keys));
            };
            let handled = testkit::batch(
                &pool,
                &config,
                &Caller::Mesh,
                keys,
                |unit: &mut UnitOfWork, ctx| {
                    events.iter().for_each(|event| unit.handle(event, ctx).unwrap());
                },
            );
            handled.await.unwrap();
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    assert_eq!(count(&pool).await, 20);
    let id = message_id(events[0].reservation_id.0, MessageKind::ReservationMade);
    let kept: (String, i32) = sqlx::query_as("select state, attempts from messages where id = $1")
        .bind(id)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(kept, ("PENDING".to_owned(), 0));
}

#[tokio::test]
async fn a_withdrawn_fan_has_no_number_and_no_new_message_in_any_order() {
    let pool = testkit::pool(&crate::MIGRATIONS).await;
    let (config, show, leaver) = (Config::default(), ScheduleId(Uuid::now_v7()), fan());
    let caller = Caller::User { user_id: leaver, roles: vec![], expires_at: now().plus_secs(900) };
    let keep = KeepContact { phone: Some("+821012345678".into()), locale: Locale::Ko };
    assert!(execute(&pool, &caller, &config, &keep).await.is_empty());
    handle(&pool, &created(leaver, show)).await;
    let gone = withdrawn(leaver);
    for _ in 0..2 {
        handle(&pool, &gone).await;
        handle(&pool, &created(leaver, show)).await;
    }
    let contact: (Option<String>, bool) =
        sqlx::query_as("select phone, withdrawn from contacts").fetch_one(&pool).await.unwrap();
    assert_eq!(contact, (None, true));
    let states: Vec<String> =
        sqlx::query_scalar("select state from messages").fetch_all(&pool).await.unwrap();
    assert_eq!(states, ["FAILED"]);
    // The withdrawal is the first event about this fan.
    let early = fan();
    handle(&pool, &withdrawn(early)).await;
    handle(&pool, &created(early, show)).await;
    assert_eq!(count(&pool).await, 1);
}

#[tokio::test]
async fn a_number_that_is_set_while_its_fan_withdraws_is_not_kept() {
    let pool = testkit::pool(&crate::MIGRATIONS).await;
    for _ in 0..20 {
        let leaver = fan();
        let caller =
            Caller::User { user_id: leaver, roles: vec![], expires_at: now().plus_secs(900) };
        let keep = KeepContact { phone: Some("+821012345678".into()), locale: Locale::Ko };
        let config = Config::default();
        let keys = |keys: &mut Keys| {
            <UnitOfWork as Execute<KeepContact>>::keys(&keep, &caller, keys);
        };
        // It may be refused, when it comes second.
        let keeping =
            testkit::batch(&pool, &config, &caller, keys, |unit: &mut UnitOfWork, ctx| {
                unit.execute(&keep, ctx)
            });
        let gone = withdrawn(leaver);
        let (kept, ()) = tokio::join!(keeping, handle(&pool, &gone));
        kept.unwrap().ok();
        let contact: (Option<String>, bool) =
            sqlx::query_as("select phone, withdrawn from contacts where user_id = $1")
                .bind(leaver.0)
                .fetch_one(&pool)
                .await
                .unwrap();
        assert_eq!(contact, (None, true));
    }
}
