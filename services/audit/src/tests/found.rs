//! The queries of operators and fans.

use events::{
    ScheduleId,
    audit::{FindSagas, SagaState},
    codes,
};
use uuid::Uuid;

use super::{database, moment, sale, take};
use crate::{
    keys::Key,
    queries::{find, list},
    rehearsal::{End, Visit},
};

#[tokio::test]
async fn a_saga_is_found_by_everything_that_it_is_about() {
    let pool = database().await;
    take(&pool, &sale(8, 0)).await;
    let at = moment(0);
    let visit = Visit::new(ScheduleId(Uuid::now_v7()), 7, at);
    let events = visit.clone().events(End::Paid);
    take(&pool, &events).await;
    let seat = format!("{}/{}", visit.schedule_id, visit.seat);
    let event = events[3].event_id.to_string();
    for by in [
        visit.payment_id.to_string(),
        visit.user_id.to_string(),
        visit.trace_id.clone(),
        seat,
        event,
    ] {
        let key: Key = by.parse().unwrap();
        let saga = find(&pool, key, None, at).await.unwrap().expect("a saga");
        assert_eq!(saga.line.saga_id.0, visit.payment_id.0, "{by}");
        assert_eq!(saga.line.events as usize, events.len() - 1);
        let own = find(&pool, key, Some(visit.user_id), at).await.unwrap();
        assert_eq!(own.as_ref(), Some(&saga), "{by}");
    }
    // A reservation has a saga of its own, which is meant; the list has both.
    let key = Key(visit.reservation_id.0);
    let saga = find(&pool, key, None, at).await.unwrap().expect("a saga");
    assert_eq!(saga.line.saga_id.0, visit.reservation_id.0);
    let about = Some(visit.reservation_id.to_string());
    let page = list(&pool, &FindSagas { about, ..FindSagas::default() }, at).await.unwrap();
    let ids: Vec<Uuid> = page.items.iter().map(|line| line.saga_id.0).collect();
    assert_eq!(ids, [visit.payment_id.0, visit.reservation_id.0]);
    assert_eq!(find(&pool, Key(Uuid::now_v7()), None, at).await.unwrap(), None);
}

#[tokio::test]
async fn another_fans_saga_is_not_found() {
    let pool = database().await;
    let schedule_id = ScheduleId(Uuid::now_v7());
    let (earlier, later) = (moment(1), moment(0));
    let mine = Visit::new(schedule_id, 7, earlier);
    let theirs = Visit::new(schedule_id, 7, later);
    take(&pool, &mine.clone().events(End::HoldGone)).await;
    take(&pool, &theirs.clone().events(End::Paid)).await;
    for key in [theirs.payment_id.0, theirs.user_id.0, theirs.reservation_id.0] {
        assert_eq!(find(&pool, Key(key), Some(mine.user_id), later).await.unwrap(), None);
    }
    // Of a seat that both had, each finds their own.
    let seat: Key = format!("{schedule_id}/{}", mine.seat).parse().unwrap();
    for visit in [&mine, &theirs] {
        let own = find(&pool, seat, Some(visit.user_id), later).await.unwrap().expect("a saga");
        assert_eq!(own.line.saga_id.0, visit.payment_id.0);
    }
}

#[tokio::test]
async fn sagas_are_listed_by_state_service_and_time() {
    let pool = database().await;
    take(&pool, &sale(8, 3)).await;
    let at = moment(0);
    let schedule_id = ScheduleId(Uuid::now_v7());
    take(&pool, &Visit::new(schedule_id, 1, at).events(End::Paid)).await;
    let open = Visit::new(schedule_id, 2, at);
    take(&pool, &open.clone().begun()).await;
    let since = Some(at.plus_secs(-60));
    let ids = async |command: FindSagas, now| {
        let page = list(&pool, &command, now).await.unwrap();
        page.items.iter().map(|line| line.saga_id.0).collect::<Vec<_>>()
    };
    let all = FindSagas { since, limit: Some(100), ..FindSagas::default() };
    assert_eq!(ids(all.clone(), at).await.len(), 4);
    let running = FindSagas { state: Some(SagaState::Running), ..all.clone() };
    assert!(ids(running.clone(), at).await.contains(&open.payment_id.0));
    let stalled = FindSagas { state: Some(SagaState::Stalled), ..all.clone() };
    assert!(!ids(stalled.clone(), at).await.contains(&open.payment_id.0));
    // A day later, nothing has come.
    assert!(ids(stalled, at.plus_secs(86_400)).await.contains(&open.payment_id.0));
    assert!(!ids(running, at.plus_secs(86_400)).await.contains(&open.payment_id.0));
    let point = FindSagas { service: Some("point".into()), ..all.clone() };
    // It took part in the one, and is awaited in the other.
    assert_eq!(ids(point, at).await.len(), 2);
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap() {
    let pool = database().await;
    take(&pool, &sale(9, 0)).await;
    let at = moment(0);
    let all = list(&pool, &FindSagas { limit: Some(100), ..FindSagas::default() }, at).await;
    let all = all.unwrap().items;
    let (mut paged, mut cursor) = (Vec::new(), None);
    loop {
        let command = FindSagas { cursor, limit: Some(4), ..FindSagas::default() };
        let page = list(&pool, &command, at).await.unwrap();
        paged.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, all);
}

#[tokio::test]
async fn an_invalid_query_is_refused() {
    let pool = database().await;
    for command in [
        FindSagas { service: Some("accounting".into()), ..FindSagas::default() },
        FindSagas { about: Some("the first".into()), ..FindSagas::default() },
        FindSagas { cursor: Some("x".into()), ..FindSagas::default() },
        FindSagas { limit: Some(0), ..FindSagas::default() },
    ] {
        let refused = list(&pool, &command, moment(0)).await.unwrap_err();
        assert!(refused.is(codes::INVALID), "{command:?}");
    }
}
