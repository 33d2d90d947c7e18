//! How far those are behind that read streams by position, without a consumer.

use harness::{
    mesh::{Mesh, eventually, run},
    sse,
};
use sqlx::PgPool;

use super::Scraper;

/// A reader's two values of a stream: how many messages wait, and for how long.
async fn reader(scraper: &Scraper, service: &str, producer: &str) -> Option<(f64, f64)> {
    let scraped = scraper.scrape().await;
    let labels = [("producer", producer), ("service", service)];
    let value = |name| scraped.value(name, &labels);
    value("onsale_reader_unread").zip(value("onsale_reader_oldest_seconds"))
}

#[test]
fn an_auditor_that_stands_still_is_seen_by_the_age_of_what_it_has_not_read() {
    run(async {
        let mesh = Mesh::own().await;
        let scraper = Scraper::of(&mesh).await;
        mesh.open(1, |_| {}).await;
        eventually("audit has read all", || async {
            let behind = reader(&scraper, "audit", "concert").await?;
            (behind == (0.0, 0.0)).then_some(())
        })
        .await;
        let url = mesh.env.config.database_url("audit").expect("an address");
        let audit = PgPool::connect(url).await.expect("a database");
        let mut locked = audit.begin().await.expect("a transaction");
        // Its position can be read and not moved.
        sqlx::query("lock table mesh.positions in exclusive mode")
            .execute(&mut *locked)
            .await
            .expect("locked");
        mesh.open(1, |_| {}).await;
        let (unread, at_first) = eventually("messages wait", || async {
            reader(&scraper, "audit", "concert").await.filter(|(unread, _)| *unread > 0.0)
        })
        .await;
        assert!(unread <= 5.0, "one schedule is not {unread} messages");
        eventually("their age grows, and only theirs", || async {
            let (_, age) = reader(&scraper, "audit", "concert").await?;
            let other = reader(&scraper, "data-platform", "concert").await;
            // Data-platform has no target here, and is not behind.
            (age > at_first + 1.0 && other.is_none()).then_some(())
        })
        .await;
        locked.rollback().await.expect("released");
        eventually("audit has caught up", || async {
            let behind = reader(&scraper, "audit", "concert").await?;
            (behind == (0.0, 0.0)).then_some(())
        })
        .await;
        mesh.stop().await;
    });
}

#[test]
fn messages_that_a_service_was_given_and_does_not_end_are_seen_as_such() {
    run(async {
        let mesh = Mesh::own().await;
        let scraper = Scraper::of(&mesh).await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let consumer = async |pending: f64, ack_pending: f64| {
            let what = format!("{pending} wait and {ack_pending} are given out");
            eventually(&what, || async {
                let scraped = scraper.scrape().await;
                let labels = [("producer", "payment"), ("service", "point")];
                let value = |name| scraped.value(name, &labels);
                let is_so = value("onsale_consumer_pending") == Some(pending)
                    && value("onsale_consumer_ack_pending") == Some(ack_pending);
                is_so.then_some(())
            })
            .await;
        };
        consumer(0.0, 0.0).await;
        let url = mesh.env.config.database_url("point").expect("an address");
        let point = PgPool::connect(url).await.expect("a database");
        let mut locked = point.begin().await.expect("a transaction");
        sqlx::query("lock table mesh.inbox in exclusive mode")
            .execute(&mut *locked)
            .await
            .expect("locked");
        let body = serde_json::json!({ "reservation_id": hold.reservation_id });
        let asked: events::payment::Payment =
            fan.post("/v1/payments", &body).await.json().expect("accepted");
        consumer(0.0, 1.0).await;
        locked.rollback().await.expect("released");
        fan.payment_becomes(&asked, events::payment::PaymentState::Completed).await;
        consumer(0.0, 0.0).await;
        mesh.stop().await;
    });
}

#[test]
fn a_gateway_says_how_far_its_event_streams_are_behind_while_somebody_follows() {
    run(async {
        let mesh = Mesh::own().await;
        let scraper = Scraper::of(&mesh).await;
        let fan = mesh.fan(100).await;
        eventually("others are read", || reader(&scraper, "audit", "point")).await;
        assert_eq!(reader(&scraper, "gateway", "point").await, None, "nobody follows");
        let mut events = sse::open(mesh.http.base(), "/v1/me/events", fan.token(), None).await;
        fan.charge(10).await;
        events.until("point.charged").await;
        eventually("all was passed on", || async {
            let behind = reader(&scraper, "gateway", "point").await?;
            (behind == (0.0, 0.0)).then_some(())
        })
        .await;
        drop(events);
        mesh.stop().await;
    });
}
