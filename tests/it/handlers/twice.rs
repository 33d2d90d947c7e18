//! Every stored event comes again, in every way in which it can, and has no further effect.

use std::collections::{BTreeMap, BTreeSet};

use events::ScheduleId;
use harness::{
    mesh::{Mesh, SOON, eventually, run},
    wiring,
};
use onsale::{databases::Databases, development::receipt::Receipt};

use uuid::Uuid;

use super::{
    company::{Place, Poisons},
    scenario::every_flow,
};
use crate::{
    broker::Broker,
    messages::{Producers, StoredEvent, emit_again, id_of, name_of, repeat},
    rest::{Dump, Stores, assert_same, but_audit},
};

/// An event, and the event that may be emitted once more when the first one comes again under a
/// new id. The reservation service answers a debit for a hold that is gone each time it comes,
/// because it does not record the payments that it has refused. The wallet refunds once, and the
/// payment fails once.
const ANSWERED_AGAIN: (&str, &str) = ("point.debited", "reservation.confirm_refused");

#[test]
fn every_event_that_comes_again_leaves_everything_as_it_was() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.env).await;
        let schedules = every_flow(&mesh).await;
        let scene = Scene { before: stores.at_rest().await, mesh: &mesh, stores, schedules };
        let events = scene.stores.broker.events_after(&BTreeMap::new()).await;
        everything_is_consumed(&events);
        let of_audit = events.iter().map(StoredEvent::name).find(|event| is_of_audit(event));
        assert_eq!(of_audit, None, "a sale gives the auditor nothing to report");
        scene.is_unchanged("the sale", |dump| dump).await;

        scene.deliver_again().await;
        scene.publish_again().await;
        scene.emit_again("emitted again in order", &events).await;
        let backwards: Vec<StoredEvent> = events.iter().rev().cloned().collect();
        scene.emit_again("emitted again in reverse order", &backwards).await;
        scene.emit_in_company(&events).await;
        mesh.stop().await;
    });
}

/// The sale has delivered every event to every service that consumes it.
fn everything_is_consumed(events: &[StoredEvent]) {
    let emitted: BTreeSet<&str> = events.iter().map(StoredEvent::name).collect();
    for wiring in wiring::all() {
        for (event, _) in &wiring.consumes {
            assert!(emitted.contains(event), "{} never consumed {event}", wiring.service);
        }
    }
}

fn is_of_audit(event: &str) -> bool {
    events::producer_of(event) == audit::NAME
}

struct Scene<'a> {
    mesh: &'a Mesh,
    stores: Stores,
    schedules: Vec<ScheduleId>,
    before: Dump,
}

impl Scene<'_> {
    /// Delivers the same messages once more to every consumer: each is a repeat for its inbox.
    async fn deliver_again(&self) {
        let broker = &self.stores.broker;
        let ends = broker.ends().await;
        let expected = self.repeats_after_one_more().await;
        for (stream, consumer) in Broker::consumers() {
            let stream = broker.jetstream.get_stream_no_info(&stream).await.expect("a stream");
            stream.reset_consumer(&consumer, Some(1)).await.expect("reset");
        }
        self.are_repeats("delivered again", expected).await;
        assert_eq!(broker.ends().await, ends, "a repeat emits nothing");
    }

    /// Publishes the same messages once more, when the broker no longer remembers their ids.
    async fn publish_again(&self) {
        let broker = &self.stores.broker;
        let expected = self.repeats_after_one_more().await;
        let messages = broker.messages_after(&BTreeMap::new()).await;
        broker.forget_ids().await;
        let ends = broker.ends().await;
        let mut producers = Producers::of(&self.mesh.env);
        for message in &messages {
            repeat(&mut producers, message).await;
        }
        self.are_repeats("published again", expected).await;
        let stored = broker.messages_after(&ends).await;
        assert_eq!(stored.len(), messages.len(), "a repeat emits nothing");
    }

    /// How many repeats each service will have counted when every message has come again.
    async fn repeats_after_one_more(&self) -> BTreeMap<&'static str, u64> {
        let messages = self.stores.broker.messages_after(&BTreeMap::new()).await;
        let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
        for wiring in wiring::all() {
            let is_consumed =
                |subject: &str| wiring.consumes.iter().any(|(name, _)| *name == name_of(subject));
            let count = messages.iter().filter(|message| is_consumed(&message.subject)).count();
            let before = || self.repeats(wiring.service);
            *expected.entry(wiring.service).or_insert_with(before) += count as u64;
        }
        expected
    }

    async fn are_repeats(&self, how: &str, expected: BTreeMap<&str, u64>) {
        eventually("every inbox has seen all of it again", || async {
            let seen = |(service, count): (&&str, &u64)| self.repeats(service) >= *count;
            expected.iter().all(seen).then_some(())
        })
        .await;
        self.is_unchanged(how, |dump| dump).await;
        for (service, count) in expected {
            assert_eq!(self.repeats(service), count, "{service}: each message {how} once");
        }
    }

    fn repeats(&self, service: &str) -> u64 {
        let engines = self.mesh.fleet.running().iter().filter(|it| it.name() == service);
        engines.map(|it| it.health().counts().repeats).sum()
    }

    /// Emits the same events again under new ids, each by its producer and alone in its message.
    async fn emit_again(&self, how: &str, events: &[StoredEvent]) {
        let ends = self.stores.broker.ends().await;
        let emitted = emit_again(&self.mesh.env, events).await.into_iter().collect();
        self.is_unchanged(how, but_audit).await;
        self.nothing_follows(how, &ends, &emitted).await;
    }

    /// Emits the same events again under new ids, each as the first, in the middle and as the last
    /// of a message, with others of its subject and with one that cannot be read.
    async fn emit_in_company(&self, events: &[StoredEvent]) {
        let how = "emitted again in company";
        let ends = self.stores.broker.ends().await;
        let (mut poisons, mut emitted) = (Poisons::default(), BTreeSet::new());
        let mut producers = Producers::of(&self.mesh.env);
        for (at, event) in events.iter().enumerate() {
            let others = events[at + 1..].iter().chain(&events[..at]);
            let other = others.clone().find(|other| other.subject == event.subject);
            for place in Place::ALL {
                let mut events = vec![event.anew()];
                let index = usize::from(matches!(place, Place::First | Place::Middle));
                events.splice(index..index, other.map(StoredEvent::anew));
                emitted.extend(events.iter().map(id_of));
                let message = poisons.pack(&event.subject, events, event, place);
                assert!(producers.publish(&message).await, "it is new");
            }
        }
        let now = but_audit(self.stores.at_rest().await);
        assert_same(&but_audit(self.before.clone()), &now, how);
        poisons.alone_are_parked(&self.stores).await;
        receipt_is_clean(self.mesh, &self.schedules).await;
        emitted.extend(poisons.ids());
        self.nothing_follows(how, &ends, &emitted).await;
    }

    /// Nothing follows from the events that were emitted again.
    async fn nothing_follows(
        &self,
        how: &str,
        ends: &BTreeMap<String, u64>,
        emitted: &BTreeSet<Uuid>,
    ) {
        let mut all = self.stores.broker.events_after(ends).await;
        // Audit rightly reports events that should not exist.
        all.retain(|event| !is_of_audit(event.name()));
        let (ours, caused): (Vec<_>, Vec<_>) =
            all.iter().partition(|event| emitted.contains(&event.id()));
        assert_eq!(ours.len(), emitted.len());
        let caused: Vec<&str> = caused.into_iter().map(StoredEvent::name).collect();
        let (cause, effect) = ANSWERED_AGAIN;
        assert!(caused.iter().all(|event| *event == effect), "{how}: these follow: {caused:?}");
        let causes = ours.iter().filter(|event| event.name() == cause).count();
        assert!(caused.len() <= causes, "{how}: {causes} of {cause} cause {caused:?}");
    }

    /// The stores are as before, as far as `part` selects from them.
    async fn is_unchanged(&self, what: &str, part: fn(Dump) -> Dump) {
        let now = part(self.stores.at_rest().await);
        assert_same(&part(self.before.clone()), &now, what);
        let parked = self.stores.parked().await;
        assert!(parked.is_empty(), "{what}: {parked:?}");
        receipt_is_clean(self.mesh, &self.schedules).await;
    }
}

/// The receipt of all these schedules together must be clean.
pub async fn receipt_is_clean(mesh: &Mesh, schedules: &[ScheduleId]) {
    let databases = Databases::open(&mesh.env.config).await.expect("databases");
    let ids: Vec<uuid::Uuid> = schedules.iter().map(|schedule| schedule.0).collect();
    let receipt = Receipt::at_rest(&databases, &ids, SOON).await.expect("a receipt");
    assert!(receipt.broken().is_empty(), "{:?}\n{receipt:?}", receipt.broken());
}
