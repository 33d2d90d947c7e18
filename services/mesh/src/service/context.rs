//! The handler context: what a handler decides with, and where it emits.

use events::{Envelope, Event, EventId, SagaId, Timestamp, subject};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    Caller,
    metrics::{Metric, Observed},
    outbound::message::EVENT_BYTES_MAX,
    trace::TraceParent,
};

/// An event on its way into the outbox.
#[derive(Debug, Clone)]
pub struct Emitted {
    /// `ce-id`, fixed here and for good.
    pub event_id: EventId,
    /// Where it will be published.
    pub subject: String,
    /// The event as JSON.
    pub payload: Vec<u8>,
    /// `ce-subject`: the entity the event is about.
    pub about: Uuid,
    /// Which saga it belongs to.
    pub saga_id: SagaId,
    /// The event or command it follows from.
    pub cause_id: Option<Uuid>,
    /// `ce-time`.
    pub at: Timestamp,
    /// How often its cause had been tried; 1 at first.
    pub attempt: u64,
}

impl Emitted {
    /// The event on the wire, as a CloudEvent; its `traceparent` is the span that emits it.
    ///
    /// # Panics
    /// When the data is not JSON. [`Context::emit`] made it, so it is.
    pub(crate) fn encode(&self, source: &str, traceparent: Option<String>) -> Vec<u8> {
        let about = self.about.to_string();
        let kind = self.subject.rsplit_once('.').map_or("", |(kind, _)| kind);
        let envelope = Envelope {
            specversion: Default::default(),
            id: self.event_id,
            source: source.into(),
            kind: kind.into(),
            time: self.at,
            subject: about.into(),
            sagaid: self.saga_id,
            causationid: self.cause_id,
            traceparent: traceparent.map(Into::into),
            attempt: (self.attempt > 1).then_some(self.attempt),
            data: serde_json::from_slice(&self.payload).expect("events are JSON"),
        };
        let mut body = Vec::with_capacity(self.payload.len() + 512);
        envelope.encode(&mut body);
        body
    }
}

/// A live message for current subscribers; it is not stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    /// `live.<name>.<key>`.
    pub subject: String,
    /// JSON.
    pub payload: Vec<u8>,
}

/// How a message ends a saga.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct EndedSaga {
    pub(crate) saga_id: SagaId,
    /// `completed`, `failed` or `compensated`.
    pub(crate) outcome: &'static str,
    pub(crate) reason: Option<&'static str>,
}

/// What a handler decides with, besides the unit of work, and where it emits events.
///
/// Time and randomness come only from here, so that decisions stay pure.
pub struct Context<'a, C> {
    /// When the batch began.
    pub now: Timestamp,
    /// The service's configuration.
    pub config: &'a C,
    /// The caller.
    pub caller: &'a Caller,
    /// The number of this attempt at the message; 1 at first.
    pub attempt: u64,
    /// An id for the entity that this message creates; also the id of the saga it starts.
    pub id: Uuid,
    pub(crate) saga_id: SagaId,
    pub(crate) cause_id: Option<Uuid>,
    pub(crate) may_emit: &'a [&'static str],
    pub(crate) emitted: Vec<Emitted>,
    pub(crate) announced: Vec<Announcement>,
    pub(crate) ended: Vec<EndedSaga>,
    pub(crate) span: TraceParent,
    pub(crate) concerns: Vec<TraceParent>,
    pub(crate) observed: Vec<Observed>,
}

impl<'a, C> Context<'a, C> {
    /// A context outside any runtime, for tests of handlers on an in-memory unit of work.
    pub fn at(now: Timestamp, config: &'a C, caller: &'a Caller, id: Uuid) -> Self {
        Self {
            now,
            config,
            caller,
            attempt: 1,
            id,
            saga_id: SagaId(id),
            cause_id: None,
            may_emit: &[],
            emitted: Vec::new(),
            announced: Vec::new(),
            ended: Vec::new(),
            span: TraceParent::default(),
            concerns: Vec::new(),
            observed: Vec::new(),
        }
    }

    /// Another id, for further entities that this message creates.
    pub fn new_id(&mut self) -> Uuid {
        crate::clock::new_id()
    }

    /// The saga of this message.
    pub fn saga_id(&self) -> SagaId {
        self.saga_id
    }

    /// The id of this event or command: the cause of what its handler emits.
    pub fn cause_id(&self) -> Option<Uuid> {
        self.cause_id
    }

    /// Emits an event in the saga of this message.
    pub fn emit<E: Event>(&mut self, event: E) {
        self.emit_in(self.saga_id, event);
    }

    /// Emits an event in another saga, for a message that affects many of them.
    ///
    /// # Panics
    /// When the service did not declare that this message may cause this event: proofs and
    /// diagrams are made from the declared graph, so it must be true.
    pub fn emit_in<E: Event>(&mut self, saga_id: SagaId, event: E) {
        self.emit_after(saga_id, self.cause_id, event);
    }

    /// Emits an event that follows from an earlier message, because its work was put off until
    /// now. Pass [`Context::saga_id`] and [`Context::cause_id`] of that earlier message.
    ///
    /// # Panics
    /// As [`Context::emit_in`] does; also when the event is larger than any message may be.
    pub fn emit_after<E: Event>(&mut self, saga_id: SagaId, cause_id: Option<Uuid>, event: E) {
        assert!(
            self.may_emit.is_empty() || self.may_emit.contains(&E::NAME),
            "{} is not declared as a consequence here",
            E::NAME
        );
        let payload = serde_json::to_vec(&event).expect("events are plain data");
        let bytes = payload.len();
        assert!(bytes <= EVENT_BYTES_MAX, "{} of {bytes} bytes fits in no message", E::NAME);
        self.emitted.push(Emitted {
            event_id: EventId(crate::clock::new_id()),
            subject: subject(E::NAME, E::VERSION, event.schedule()),
            payload,
            about: event.about(),
            saga_id,
            cause_id,
            at: self.now,
            attempt: self.attempt,
        });
    }

    /// Sends a live message to current subscribers of `live.<name>.<key>`.
    pub fn announce<T: Serialize>(&mut self, name: &str, key: Uuid, what: &T) {
        self.announced.push(Announcement {
            subject: format!("live.{name}.{key}"),
            payload: serde_json::to_vec(what).expect("announcements are plain data"),
        });
    }

    /// Records on the trace how this message ends its saga (`completed`, `failed` or
    /// `compensated`, as in `jetstream/flows.toml`), and why.
    pub fn ends_saga(&mut self, outcome: &'static str, reason: Option<&'static str>) {
        self.ends_saga_of(self.saga_id, outcome, reason);
    }

    /// The same for another saga, in which this message emits.
    pub fn ends_saga_of(
        &mut self,
        saga_id: SagaId,
        outcome: &'static str,
        reason: Option<&'static str>,
    ) {
        self.ended.push(EndedSaga { saga_id, outcome, reason });
    }

    /// The span of this message, to be kept with what it begins and passed to
    /// [`Context::concerns`] by what happens to it later; `None` where it is not recorded.
    pub fn traceparent(&self) -> Option<String> {
        self.span.is_sampled().then(|| self.span.to_header())?
    }

    /// Notes that this message is about something that a span of another trace began. The two
    /// traces are linked both ways.
    pub fn concerns(&mut self, traceparent: Option<&str>) {
        if let Some(traceparent) = traceparent {
            self.concerns.push(TraceParent::from_header(Some(traceparent)));
        }
    }

    /// Counts one more, once the batch is stored. The service declares the metric
    /// ([`crate::Service::observes`]), and no label may be an id.
    ///
    /// # Panics
    /// When there are more or fewer labels than the metric has.
    pub fn count(&mut self, metric: &'static Metric, labels: &[&'static str]) {
        self.observed.push(Observed::one(metric, labels));
    }

    /// Measures a value, once the batch is stored, as [`Context::count`] does.
    ///
    /// # Panics
    /// As [`Context::count`] does.
    pub fn measure(&mut self, metric: &'static Metric, labels: &[&'static str], value: f64) {
        self.observed.push(Observed::value(metric, labels, value));
    }

    /// What was counted and measured so far.
    pub fn observed(&self) -> &[Observed] {
        &self.observed
    }

    /// The events emitted so far.
    pub fn emitted(&self) -> &[Emitted] {
        &self.emitted
    }

    /// The live messages announced so far.
    pub fn announced(&self) -> &[Announcement] {
        &self.announced
    }
}
