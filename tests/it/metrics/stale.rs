//! What cannot be read is not exported.

use harness::mesh::{Mesh, eventually, run};
use onsale::config::PROVISIONER;

use super::Scraper;
use crate::broker::Broker;

#[test]
fn a_store_that_is_away_leaves_no_stale_value_and_its_age_grows_until_it_is_back() {
    run(async {
        let mesh = Mesh::own().await;
        let scraper = Scraper::of(&mesh).await;
        let of_payment = [("service", "payment")];
        let age = [("service", "payment"), ("source", "store")];
        let becomes = async |what: &str, sampled: Option<f64>, up: f64| {
            eventually(what, || async {
                let scraped = scraper.scrape().await;
                let value = |name| scraped.value(name, &of_payment);
                let is_so = value("onsale_outbox_unpublished") == sampled
                    && value("onsale_outbox_oldest_seconds") == sampled
                    && value("onsale_store_up") == Some(up)
                    && value("onsale_ready") == Some(up);
                is_so.then(|| scraped.value("onsale_sample_age_seconds", &age))
            })
            .await
        };
        becomes("the outbox is sampled", Some(0.0), 1.0).await;
        let postgres = mesh.env.servers.as_ref().expect("our own servers").postgres.clone();
        postgres.kill();
        let at_first = becomes("the samples are gone", None, 0.0).await.expect("an age");
        eventually("the age grows", || async {
            let now = scraper.scrape().await.value("onsale_sample_age_seconds", &age);
            now.filter(|now| *now > at_first + 1.0)
        })
        .await;
        postgres.restart().await.expect("PostgreSQL again");
        becomes("the outbox is sampled again", Some(0.0), 1.0).await;
        mesh.stop().await;
    });
}

#[test]
fn events_that_cannot_be_published_are_seen_while_nothing_is_published() {
    run(async {
        let mesh = Mesh::own().await;
        let scraper = Scraper::of(&mesh).await;
        let of_concert = [("service", "concert")];
        mesh.open(1, |_| {}).await;
        let published = eventually("the schedule is published", || async {
            let scraped = scraper.scrape().await;
            let published = scraped.value("onsale_published_messages_total", &of_concert)?;
            let unpublished = scraped.value("onsale_outbox_unpublished", &of_concert)?;
            (published >= 1.0 && unpublished == 0.0).then_some(published)
        })
        .await;
        let provisioner = Broker::of(&mesh.env, PROVISIONER).await;
        provisioner.jetstream.delete_stream("CONCERT").await.expect("deleted");
        mesh.open(1, |_| {}).await;
        eventually("an event waits, and none is published", || async {
            let scraped = scraper.scrape().await;
            let unpublished = scraped.value("onsale_outbox_unpublished", &of_concert)?;
            let oldest = scraped.value("onsale_outbox_oldest_seconds", &of_concert)?;
            let now = scraped.value("onsale_published_messages_total", &of_concert)?;
            (unpublished >= 1.0 && oldest > 0.0 && now == published).then_some(())
        })
        .await;
        mesh.stop().await;
    });
}
