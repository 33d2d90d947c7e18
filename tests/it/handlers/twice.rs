//! Every stored fact is delivered again, in three ways, and nothing comes of it.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::message::StreamMessage;
use events::ScheduleId;
use harness::{
    mesh::{Mesh, SOON, eventually, run},
    wiring,
};
use onsale::receipt::Books;

use super::scenario::every_flow;
use crate::{
    broker::{Broker, header, name_of, tell_again},
    rest::{Dump, Stores, assert_same, but_audit},
};

/// What may be told once more when another fact is told again under a new id. Money for a
/// hold that is gone is answered each time it comes, because the judge keeps no note of a
/// payment that it has refused. The wallet gives back once, the payment fails once.
const ANSWERED_AGAIN: (&str, &str) = ("point.debited", "reservation.confirm_refused");

#[test]
fn every_fact_delivered_again_late_or_backwards_leaves_everything_as_it_was() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.stage).await;
        let schedules = every_flow(&mesh).await;
        let scene = Scene { before: stores.at_rest().await, mesh: &mesh, stores, schedules };
        let facts = scene.stores.broker.facts_after(&BTreeMap::new()).await;
        everything_is_heard(&facts);
        let of_audit = facts.iter().map(name_of).find(|fact| is_of_audit(fact));
        assert_eq!(of_audit, None, "a sale gives the auditor nothing to say");
        scene.is_unchanged("the sale", |dump| dump).await;

        scene.deliver_again(&facts).await;
        scene.tell_again("told again in order", &facts).await;
        let backwards: Vec<StreamMessage> = facts.iter().rev().cloned().collect();
        scene.tell_again("told again backwards", &backwards).await;
        mesh.stop().await;
    });
}

/// The sale has handed every fact to every service that hears it.
fn everything_is_heard(facts: &[StreamMessage]) {
    let told: BTreeSet<&str> = facts.iter().map(name_of).collect();
    for wiring in wiring::all() {
        for (fact, _) in &wiring.hears {
            assert!(told.contains(fact), "{} never heard {fact}", wiring.service);
        }
    }
}

fn is_of_audit(fact: &str) -> bool {
    events::producer_of(fact) == audit::NAME
}

struct Scene<'a> {
    mesh: &'a Mesh,
    stores: Stores,
    schedules: Vec<ScheduleId>,
    before: Dump,
}

impl Scene<'_> {
    /// The same events, once more to every consumer: each of them is a repeat to its inbox.
    async fn deliver_again(&self, facts: &[StreamMessage]) {
        let broker = &self.stores.broker;
        let ends = broker.ends().await;
        let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
        for wiring in wiring::all() {
            let heard =
                |fact: &&StreamMessage| wiring.hears.iter().any(|(name, _)| *name == name_of(fact));
            let count = facts.iter().filter(heard).count() as u64;
            let before = || self.repeats(wiring.service);
            *expected.entry(wiring.service).or_insert_with(before) += count;
        }
        for (stream, consumer) in Broker::consumers() {
            let stream = broker.jetstream.get_stream_no_info(&stream).await.expect("a stream");
            stream.reset_consumer(&consumer, Some(1)).await.expect("reset");
        }
        eventually("every inbox has seen all of it again", || async {
            let seen = |(service, count): (&&str, &u64)| self.repeats(service) >= *count;
            expected.iter().all(seen).then_some(())
        })
        .await;
        self.is_unchanged("delivered again", |dump| dump).await;
        assert_eq!(broker.ends().await, ends, "a repeat tells nothing");
        for (service, count) in expected {
            assert_eq!(self.repeats(service), count, "{service} was given each fact once more");
        }
    }

    fn repeats(&self, service: &str) -> u64 {
        let halves = self.mesh.fleet.running().iter().filter(|it| it.name() == service);
        halves.map(|it| it.health().counts().repeats).sum()
    }

    /// The same facts as new events, each by its producer.
    async fn tell_again(&self, how: &str, facts: &[StreamMessage]) {
        let broker = &self.stores.broker;
        let ends = broker.ends().await;
        let told = tell_again(&self.mesh.stage, facts).await;
        self.is_unchanged(how, but_audit).await;
        let mut all = broker.facts_after(&ends).await;
        // It says what it must of events that should never have been.
        all.retain(|fact| !is_of_audit(name_of(fact)));
        let is_ours = |fact: &&StreamMessage| {
            header(fact, "ce-id").is_some_and(|id| told.iter().any(|told| told == id))
        };
        assert_eq!(all.iter().filter(is_ours).count(), told.len());
        let caused: Vec<&str> = all.iter().filter(|fact| !is_ours(fact)).map(name_of).collect();
        let (cause, effect) = ANSWERED_AGAIN;
        assert!(caused.iter().all(|fact| *fact == effect), "{how} it makes news: {caused:?}");
        let causes = facts.iter().filter(|fact| name_of(fact) == cause).count();
        assert!(caused.len() <= causes, "{how}: {} of {cause} make {caused:?}", causes);
    }

    /// Of the stores, what `part` leaves of them.
    async fn is_unchanged(&self, what: &str, part: fn(Dump) -> Dump) {
        let now = part(self.stores.at_rest().await);
        assert_same(&part(self.before.clone()), &now, what);
        let dead = self.stores.broker.stored("DEAD_LETTERS", 0).await;
        assert!(dead.is_empty(), "{what}: {dead:?}");
        receipt_is_clean(self.mesh, &self.schedules).await;
    }
}

/// What the databases say of all these schedules together.
pub async fn receipt_is_clean(mesh: &Mesh, schedules: &[ScheduleId]) {
    let books = Books::open(&mesh.stage.config).await.expect("databases");
    let ids: Vec<uuid::Uuid> = schedules.iter().map(|schedule| schedule.0).collect();
    let receipt = books.receipt_at_rest(&ids, SOON).await.expect("a receipt");
    assert!(receipt.broken().is_empty(), "{:?}\n{receipt:?}", receipt.broken());
}
