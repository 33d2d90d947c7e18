//! The shows. Only their events are played, as the concert service would emit them.

use events::{
    Envelope, Event, EventId, SagaId, ScheduleId, Timestamp,
    concert::{ScheduleCancelled, ScheduleOpened},
};
use mesh::{memory::Shelf as _, message::Message};
use rand::{RngExt as _, rngs::StdRng};
use serde_json::{json, value::RawValue};
use uuid::Uuid;

use crate::{
    broker::Broker,
    people::{SEATS, seat},
};

/// The name of the stream.
const NAME: &str = "concert";
/// The price of a seat, in points.
const PRICE: i64 = 50;

/// The events that the concert service has emitted, and those it will.
pub struct Concert {
    planned: Vec<(Timestamp, Planned)>,
    emitted: Vec<Message>,
}

enum Planned {
    Opened(ScheduleId, i64),
    Cancelled(ScheduleId),
}

impl Concert {
    /// A few shows, some of which are cancelled.
    pub fn plan(chance: &mut StdRng, now: Timestamp) -> Self {
        let mut planned = Vec::new();
        for _ in 0..chance.random_range(1..4) {
            let id = ScheduleId(mesh::clock::new_id());
            // Some holds expire while they are being paid, some last long.
            let hold_secs = [4, 15, 90][chance.random_range(0..3)];
            planned.push((now, Planned::Opened(id, hold_secs)));
            if chance.random_bool(0.3) {
                let at = now.plus_millis(chance.random_range(5_000..60_000));
                planned.push((at, Planned::Cancelled(id)));
            }
        }
        Self { planned, emitted: Vec::new() }
    }

    /// The shows.
    pub fn shows(&self) -> Vec<ScheduleId> {
        let opened = |(_, planned): &(_, Planned)| match planned {
            Planned::Opened(id, _) => Some(*id),
            Planned::Cancelled(_) => None,
        };
        self.planned.iter().filter_map(opened).collect()
    }

    /// Publishes what is due, and again what the stream has lost.
    pub fn play(&mut self, broker: &mut Broker, at: Timestamp, now: Timestamp) {
        let (due, later) =
            std::mem::take(&mut self.planned).into_iter().partition(|(when, _)| *when <= at);
        self.planned = later;
        for (_, planned) in Vec::from_iter::<Vec<(Timestamp, Planned)>>(due) {
            let message = match planned {
                Planned::Opened(id, hold_secs) => message(&opened(id, hold_secs, now), id, now),
                Planned::Cancelled(id) => {
                    let (schedule_id, concert_id) = (id, events::ConcertId(id.0));
                    let reason = "The singer is ill.".to_owned();
                    let by = None;
                    message(&ScheduleCancelled { schedule_id, concert_id, reason, by }, id, now)
                }
            };
            self.emitted.push(message);
        }
        let is_there = |message: &Message| {
            broker.stream(NAME).is_some_and(|stream| {
                (1..=stream.last_sequence())
                    .any(|at| stream.at(at).is_some_and(|place| place.mark.id == message.id))
            })
        };
        let missing: Vec<Message> =
            self.emitted.iter().filter(|message| !is_there(message)).cloned().collect();
        for message in missing {
            broker.publish(NAME, message, at);
        }
    }

    /// Whether nothing more is planned.
    pub fn is_over(&self) -> bool {
        self.planned.is_empty()
    }

    /// What was emitted.
    pub fn emitted(&self) -> impl Iterator<Item = &Message> {
        self.emitted.iter()
    }
}

fn opened(id: ScheduleId, hold_secs: i64, now: Timestamp) -> ScheduleOpened {
    let seats: Vec<String> = (0..SEATS).map(|number| (number + 1).to_string()).collect();
    debug_assert_eq!(seat(0).0, "A-1-1");
    let opened = json!({
        "schedule_id": id, "concert_id": id, "title": "Simulated", "venue": "Nowhere",
        "opens_at": now.plus_secs(-60), "starts_at": now.plus_secs(86_400),
        "admission": {"per_second": 100, "active_max": 1_000, "pass_secs": 600},
        "hold_secs": hold_secs, "seats_per_fan_max": 4,
        "seats": [{"section": "A", "row": "1", "price": PRICE, "seats": seats}],
    });
    serde_json::from_value(opened).expect("a show as the concert service emits it")
}

fn message<E: Event>(event: &E, of: ScheduleId, now: Timestamp) -> Message {
    let data = serde_json::to_string(event).and_then(RawValue::from_string).expect("plain data");
    let envelope = Envelope {
        specversion: Default::default(),
        id: EventId(mesh::clock::new_id()),
        source: "/onsale/concert".into(),
        kind: format!("onsale.{}.v{}", E::NAME, E::VERSION).into(),
        time: now,
        subject: event.about().to_string().into(),
        sagaid: SagaId(of.0),
        causationid: None::<Uuid>,
        traceparent: None,
        attempt: None,
        data: &data,
    };
    let mut body = vec![b'['];
    envelope.encode(&mut body);
    body.push(b']');
    let subject = events::subject(E::NAME, E::VERSION, Some(of));
    Message { id: mesh::clock::new_id(), subject, events: 1, body: body.into() }
}
