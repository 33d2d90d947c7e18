//! Rows depend on the events alone.

use auditor::Observed;
use events::producer_of;
use sqlx::{AssertSqlSafe, PgPool};

use super::{database, moment, sale, take};
use crate::{forget, forgetting::forget_old};

/// Every row of the timeline, as text.
async fn rows(pool: &PgPool) -> Vec<String> {
    let mut rows = Vec::new();
    for (table, key) in [("facts", "event_id"), ("sagas", "saga_id"), ("saga_keys", "key, saga_id")]
    {
        let statement = format!("select '{table} ' || t::text from {table} t order by {key}");
        let some: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(statement)).fetch_all(pool).await.unwrap();
        rows.extend(some);
    }
    rows
}

/// The same events as they are read: stream after stream.
fn by_stream(events: &[Observed], order: &[&str]) -> Vec<Observed> {
    let mut events = events.to_vec();
    let place = |observed: &Observed| {
        let stream = producer_of(&observed.event);
        order.iter().position(|name| *name == stream).unwrap_or(order.len())
    };
    events.sort_by_key(place);
    events
}

#[tokio::test]
async fn deleting_the_timeline_and_replaying_gives_the_same_rows() {
    let pool = database().await;
    let events = sale(40, 0);
    for piece in events.chunks(17) {
        assert_eq!(take(&pool, piece).await, piece.len());
    }
    let before = rows(&pool).await;
    assert!(before.len() > events.len());
    forget(&pool).await.unwrap();
    assert_eq!(rows(&pool).await, Vec::<String>::new());
    take(&pool, &events).await;
    assert_eq!(rows(&pool).await, before);
}

#[tokio::test]
async fn the_order_in_which_streams_are_read_changes_no_row() {
    let (one, other) = (database().await, database().await);
    let events = sale(24, 0);
    for piece in by_stream(&events, &["queue", "payment", "point", "reservation"]).chunks(11) {
        take(&one, piece).await;
    }
    for piece in by_stream(&events, &["reservation", "point", "payment", "queue"]).chunks(29) {
        take(&other, piece).await;
    }
    assert_eq!(rows(&one).await, rows(&other).await);
}

#[tokio::test]
async fn a_stream_that_is_read_again_changes_no_row() {
    let pool = database().await;
    let events = sale(12, 0);
    take(&pool, &events).await;
    let before = rows(&pool).await;
    assert_eq!(take(&pool, &events[10..]).await, 0);
    let twice: Vec<Observed> = events.iter().chain(&events).cloned().collect();
    assert_eq!(take(&pool, &twice).await, 0);
    assert_eq!(rows(&pool).await, before);
}

#[tokio::test]
async fn an_event_that_comes_twice_in_one_read_is_handled_once() {
    let (once, twice) = (database().await, database().await);
    let events = sale(4, 0);
    take(&once, &events).await;
    let doubled: Vec<Observed> =
        events.iter().flat_map(|observed| [observed.clone(), observed.clone()]).collect();
    assert_eq!(take(&twice, &doubled).await, events.len());
    assert_eq!(rows(&once).await, rows(&twice).await);
}

#[tokio::test]
async fn events_that_are_too_old_are_deleted_with_their_day() {
    let pool = database().await;
    let (old, young) = (sale(6, 9), sale(6, 2));
    take(&pool, &old).await;
    take(&pool, &young).await;
    let partitions = "select count(*) from pg_inherits where inhparent = 'facts'::regclass";
    let count = async || sqlx::query_scalar::<_, i64>(partitions).fetch_one(&pool).await.unwrap();
    // The two days, and the default partition.
    assert_eq!(count().await, 3);
    forget_old(&pool, moment(0), 7).await.unwrap();
    assert_eq!(count().await, 2);
    let left = rows(&pool).await;
    let anew = database().await;
    take(&anew, &young).await;
    assert_eq!(left, rows(&anew).await);
}

#[tokio::test]
async fn events_that_were_too_old_from_the_start_are_deleted_too() {
    let pool = database().await;
    take(&pool, &sale(3, 60)).await;
    assert!(!rows(&pool).await.is_empty());
    forget_old(&pool, moment(0), 7).await.unwrap();
    assert_eq!(rows(&pool).await, Vec::<String>::new());
}
