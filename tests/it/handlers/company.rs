//! Events in company: in one message with other events and with poison, that is, an event that no
//! consumer can read. Each event has the same effect as alone, and only the poison is parked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use events::ScheduleId;
use harness::{
    mesh::{Mesh, run},
    project, wiring,
};
use onsale::development::environment::Environment;
use serde_json::Value;
use uuid::Uuid;

use super::{scenario::every_flow, twice::receipt_is_clean};
use crate::{
    broker::Broker,
    messages::{Message, Producers, StoredEvent, events_of, id_of, name_of},
    rest::Stores,
};

/// The place of events in a message, relative to poison.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    Middle,
    Last,
    First,
    Standalone,
}

impl Place {
    pub const ALL: [Self; 4] = [Self::Middle, Self::Last, Self::First, Self::Standalone];

    /// These events of one subject, with the poison that this place has.
    fn among(self, events: Vec<Value>, poison: impl Fn() -> Value) -> Vec<Value> {
        let (before, behind) = match self {
            Self::Middle => (vec![poison()], vec![poison()]),
            Self::Last => (vec![poison()], vec![]),
            Self::First => (vec![], vec![poison()]),
            Self::Standalone => (vec![], vec![]),
        };
        [before, events, behind].concat()
    }
}

/// A parked event: its service, its state and its id.
type Row = (String, String, Uuid);

/// The published events that no consumer can read: the name of each, by its id.
#[derive(Debug, Clone, Default)]
pub struct Poisons(BTreeMap<Uuid, String>);

impl Poisons {
    /// Packs these events of one subject into a message, in company.
    pub fn pack(
        &mut self,
        subject: &str,
        events: Vec<Value>,
        like: &StoredEvent,
        place: Place,
    ) -> Message {
        let own: BTreeSet<Uuid> = events.iter().map(id_of).collect();
        let packed = place.among(events, || like.poison());
        let strange = packed.iter().map(id_of).filter(|id| !own.contains(id));
        self.0.extend(strange.map(|id| (id, like.name().to_owned())));
        Message::of(subject, &packed)
    }

    /// The ids of the poison events.
    pub fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.0.keys().copied()
    }

    /// Every service that consumes such an event has parked it for an operator, and parked nothing
    /// else.
    pub async fn alone_are_parked(&self, stores: &Stores) {
        let mut expected = Vec::new();
        for wiring in wiring::all() {
            for (id, name) in &self.0 {
                if wiring.consumes.iter().any(|(event, _)| event == name) {
                    expected.push((wiring.service.to_owned(), "dead".to_owned(), *id));
                }
            }
        }
        expected.sort_unstable();
        assert!(!expected.is_empty());
        let parked = stores.parked().await;
        let differs = |one: &[Row], other: &[Row]| -> Vec<Row> {
            one.iter().filter(|row| !other.contains(row)).cloned().collect()
        };
        let (more, less) = (differs(&parked, &expected), differs(&expected, &parked));
        assert!(more.is_empty(), "parked although they can be read: {more:?}");
        assert!(less.is_empty(), "not parked: {less:?}");
        assert_eq!(parked.len(), expected.len(), "parked once");
        let copies = stores.broker.stored("DEAD_LETTERS", 0).await;
        assert_eq!(copies.len(), expected.len(), "a copy of each");
    }
}

#[test]
fn every_event_that_first_comes_in_a_message_with_poison_has_its_effect() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.env).await;
        let (schedules, poisons) = every_flow_in_company(&mesh, &stores).await;
        receipt_is_clean(&mesh, &schedules).await;
        poisons.alone_are_parked(&stores).await;
        mesh.stop().await;
    });
}

/// Runs [`every_flow`] to its end, while consumers get every event in company, also the first
/// time: whole sagas depend on it.
pub async fn every_flow_in_company(mesh: &Mesh, stores: &Stores) -> (Vec<ScheduleId>, Poisons) {
    see_only_what_is_packed(&stores.broker).await;
    let is_over = AtomicBool::new(false);
    let sale = async {
        let schedules = every_flow(mesh).await;
        stores.at_rest().await;
        is_over.store(true, Ordering::SeqCst);
        schedules
    };
    tokio::join!(sale, pack_all(&mesh.env, &stores.broker, &is_over))
}

/// The last token of the subject of a message that was packed again.
const PACKED: &str = "packed";
/// How often the packer looks for what was published.
const EVERY: Duration = Duration::from_millis(10);

/// From here on, consumers get only what a packer between them and the producers publishes.
async fn see_only_what_is_packed(broker: &Broker) {
    for (stream, consumer) in Broker::consumers() {
        let file = project::read_json(format!("jetstream/consumers/{stream}.{consumer}.json"));
        let mut config: async_nats::jetstream::consumer::pull::Config =
            serde_json::from_value(file).expect("a consumer");
        for filter in &mut config.filter_subjects {
            *filter = filter.replace(".>", &format!(".*.{PACKED}"));
        }
        let stream = broker.jetstream.get_stream_no_info(&stream).await.expect("a stream");
        stream.update_consumer(config).await.expect("updated");
    }
}

/// Publishes the events of every message again, with the same ids and in company.
async fn pack_all(env: &Environment, broker: &Broker, is_over: &AtomicBool) -> Poisons {
    let mut producers = Producers::of(env);
    let (mut poisons, mut read) = (Poisons::default(), BTreeMap::<String, u64>::new());
    let mut rounds: BTreeMap<String, usize> = BTreeMap::new();
    let mut look = tokio::time::interval(EVERY);
    while !is_over.load(Ordering::SeqCst) {
        look.tick().await;
        for stream in Broker::event_streams() {
            let seen = read.entry(stream.clone()).or_default();
            let mut by_subject: BTreeMap<String, Vec<StoredEvent>> = BTreeMap::new();
            for message in broker.stored(&stream, *seen).await {
                *seen = message.sequence;
                if !message.subject.ends_with(PACKED) {
                    let events = by_subject.entry(message.subject.to_string()).or_default();
                    events.extend(events_of(&message));
                }
            }
            for (subject, events) in by_subject {
                let round = rounds.entry(name_of(&subject).to_owned()).or_default();
                let place = Place::ALL[*round % Place::ALL.len()];
                *round += 1;
                let packed = events.iter().map(|event| event.json.clone()).collect();
                let subject = format!("{subject}.{PACKED}");
                let message = poisons.pack(&subject, packed, &events[0], place);
                assert!(producers.publish(&message).await, "it is new");
            }
        }
    }
    poisons
}
