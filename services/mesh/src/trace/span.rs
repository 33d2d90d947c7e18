//! A span that is being recorded, and what is recorded of it.
//!
//! Names and attributes follow the OpenTelemetry semantic conventions; what they have no word
//! for begins with `onsale.`.

use std::{borrow::Cow, mem, sync::Arc, time::SystemTime};

use events::{EventId, SagaId};
use opentelemetry::{
    KeyValue, SpanId, StringValue, Value,
    trace::{Link, SpanKind, Status},
};
use opentelemetry_sdk::trace::{SpanData, SpanLinks};

use super::{
    export::Queue,
    here::Here,
    parent::{Place, TraceParent},
};
use crate::clock;

/// Maximum number of links of one span. A batch has hundreds of events; some of them are enough
/// to find it, and its attributes count them all.
pub(crate) const LINKS_MAX: usize = 32;
/// Maximum length of an address or a cause that is recorded.
const TEXT_CHARS_MAX: usize = 256;
/// How far into the data of an event its ids are looked for; they come first.
const IDS_WITHIN: usize = 1024;
/// Fields of events, and the attributes that they become.
const IDS: [(&str, &str); 2] = [
    ("\"payment_id\":\"", "onsale.payment.id"),
    ("\"reservation_id\":\"", "onsale.reservation.id"),
];
/// The length of an id as text.
const ID_CHARS: usize = 36;

/// A span that ends when dropped; or, where it is not recorded, only the context to pass on.
pub enum Span {
    /// Not recorded: tracing is off, or the trace was not sampled. The context is passed on.
    Off(TraceParent),
    /// Recording.
    On(Box<Open>),
}

/// A span that is being recorded.
pub struct Open {
    place: Place,
    parent: Option<SpanId>,
    is_parent_remote: bool,
    kind: SpanKind,
    name: Cow<'static, str>,
    began: SystemTime,
    attributes: Vec<KeyValue>,
    links: Vec<Link>,
    status: Status,
    /// How many attributes and links there were before the first decision.
    kept: Option<(usize, usize)>,
    is_discarded: bool,
    queue: Arc<Queue>,
}

impl Default for Span {
    fn default() -> Self {
        Self::Off(TraceParent::default())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.is_discarded {
            return;
        }
        let mut links = SpanLinks::default();
        links.links = mem::take(&mut self.links);
        self.queue.give(SpanData {
            span_context: self.place.to_context(false),
            parent_span_id: self.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: self.is_parent_remote,
            span_kind: mem::replace(&mut self.kind, SpanKind::Internal),
            name: mem::take(&mut self.name),
            start_time: self.began,
            end_time: clock::system_time(),
            attributes: mem::take(&mut self.attributes),
            dropped_attributes_count: 0,
            events: Default::default(),
            links,
            status: mem::take(&mut self.status),
            instrumentation_scope: self.queue.scope(),
        });
    }
}

impl Open {
    /// Begins a span. `parent` is in its trace, or there is none.
    pub(super) fn begin(
        queue: &Arc<Queue>,
        kind: SpanKind,
        name: Cow<'static, str>,
        place: Place,
        parent: &TraceParent,
    ) -> Self {
        Self {
            place,
            parent: parent.0.map(|parent| parent.span_id),
            is_parent_remote: parent.0.is_some(),
            kind,
            name,
            began: clock::system_time(),
            attributes: Vec::with_capacity(16),
            links: Vec::new(),
            status: Status::Unset,
            kept: None,
            is_discarded: false,
            queue: queue.clone(),
        }
    }

    fn child(&self, kind: SpanKind, name: Cow<'static, str>) -> Span {
        let place = Place::new(self.place.trace_id, true);
        let parent = TraceParent(Some(self.place));
        let mut open = Self::begin(&self.queue, kind, name, place, &parent);
        open.is_parent_remote = false;
        Span::On(Box::new(open))
    }

    fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.attributes.push(KeyValue::new(name, value));
    }

    fn is_noted(&self, name: &str) -> bool {
        self.attributes.iter().any(|attribute| attribute.key.as_str() == name)
    }

    /// Links it to a span that is recorded.
    pub(super) fn link_to(&mut self, to: &TraceParent) {
        let Some(to) = to.0.filter(|to| to.is_sampled) else { return };
        let is_known = |link: &Link| {
            link.span_context.span_id() == to.span_id && link.span_context.trace_id() == to.trace_id
        };
        if self.links.len() < LINKS_MAX && !self.links.iter().any(is_known) {
            self.links.push(Link::new(to.to_context(true), Vec::new(), 0));
        }
    }
}

impl Span {
    /// The context that a message caused by this span carries.
    pub fn parent(&self) -> TraceParent {
        match self {
            Self::Off(parent) => *parent,
            Self::On(open) => TraceParent(Some(open.place)),
        }
    }

    /// What the log lines of its work carry.
    pub fn here(&self, saga_id: Option<SagaId>) -> Here {
        Here { span: self.parent(), saga_id }
    }

    /// The trace's id, if the span is exported: an exemplar must lead to a trace that is there.
    pub fn exported_trace_id(&self) -> Option<String> {
        match self {
            Self::Off(_) => None,
            Self::On(open) => Some(open.place.trace_id.to_string()),
        }
    }

    /// Whether the span is being recorded.
    pub fn is_on(&self) -> bool {
        matches!(self, Self::On(_))
    }

    /// The span of an event that this span emits. It starts with the event, so that its context
    /// can travel in the event, and ends when the event is stored.
    pub(crate) fn publishing(&self, event: &str, about: Messaging<'_>) -> Span {
        let Self::On(open) = self else { return Self::Off(self.parent()) };
        let mut span = open.child(SpanKind::Producer, format!("publish {event}").into());
        span.message(about);
        span
    }

    /// The same for an event that a store has emitted, after it was stored: its context is in the
    /// event, and the span began with the call of the store.
    pub(crate) fn published(
        &self,
        event: &str,
        context: TraceParent,
        began: SystemTime,
        about: Messaging<'_>,
    ) {
        let (Self::On(open), Some(place)) = (self, context.0) else { return };
        let mut span = open.child(SpanKind::Producer, format!("publish {event}").into());
        if let Self::On(child) = &mut span {
            (child.place, child.began) = (place, began);
        }
        span.message(about);
    }

    /// A child of this span: the transaction that it takes effect in.
    pub(super) fn transaction(&self) -> Span {
        match self {
            Self::Off(parent) => Self::Off(*parent),
            Self::On(open) => open.child(SpanKind::Client, "transaction".into()),
        }
    }

    /// Links this span to another one, of whichever trace; one that is not recorded is left out.
    pub fn link(&mut self, to: &TraceParent) {
        if let Self::On(open) = self {
            open.link_to(to);
        }
    }

    /// Whether both are spans of one trace.
    pub fn is_in_trace_of(&self, other: &TraceParent) -> bool {
        let trace_id = |parent: &TraceParent| parent.0.map(|place| place.trace_id);
        trace_id(&self.parent()) == trace_id(other)
    }

    /// Forgets what an earlier decision about the same message has noted: it was rolled back.
    pub(crate) fn rewind(&mut self) {
        if let Self::On(open) = self {
            let (attributes, links) =
                *open.kept.get_or_insert((open.attributes.len(), open.links.len()));
            open.attributes.truncate(attributes);
            open.links.truncate(links);
            open.status = Status::Unset;
        }
    }

    /// Keeps what was noted so far, whatever is decided again.
    pub(crate) fn keep(&mut self) {
        if let Self::On(open) = self {
            open.kept = None;
        }
    }

    /// Ends the span without recording it: what it stands for was rolled back.
    pub(crate) fn discard(mut self) {
        if let Self::On(open) = &mut self {
            open.is_discarded = true;
        }
    }

    /// Records the saga that the span belongs to: all spans of a saga are found by it.
    pub fn saga(&mut self, saga_id: SagaId) {
        self.note("onsale.saga.id", || saga_id.to_string());
    }

    /// Records the operation and its message, by the conventions for messaging.
    pub(crate) fn message(&mut self, about: Messaging<'_>) {
        let Self::On(open) = self else { return };
        let saga: StringValue = Arc::<str>::from(about.saga_id.to_string()).into();
        open.add("onsale.saga.id", saga.clone());
        open.add("onsale.event", about.event.to_owned());
        open.add("messaging.system", "nats");
        open.add("messaging.operation.name", about.operation);
        let kind = if about.operation == "publish" { "send" } else { about.operation };
        open.add("messaging.operation.type", kind);
        open.add("messaging.destination.name", about.subject.to_owned());
        if let Some((kind, key)) = about.subject.rsplit_once('.') {
            open.add("messaging.destination.template", format!("{kind}.{{schedule}}"));
            if key.len() == ID_CHARS {
                open.add("onsale.schedule.id", key.to_owned());
            }
        }
        open.add("messaging.message.id", about.event_id.to_string());
        open.add("messaging.message.conversation_id", saga);
        self.ids(about.data);
    }

    /// Records the payment and the reservation that the data of an event name first.
    pub(crate) fn ids(&mut self, data: &[u8]) {
        let Self::On(open) = self else { return };
        let head = &data[..data.len().min(IDS_WITHIN)];
        let text = match str::from_utf8(head) {
            Ok(text) => text,
            Err(error) => str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
        };
        for (field, name) in IDS {
            let id = text.find(field).and_then(|at| text[at + field.len()..].get(..ID_CHARS));
            if let Some(id) = id.filter(|_| !open.is_noted(name)) {
                open.add(name, id.to_owned());
            }
        }
    }

    /// Records how the saga has ended and why: sagas are found by it.
    pub fn outcome(&mut self, outcome: &'static str, reason: Option<&str>) {
        self.note("onsale.saga.outcome", || outcome);
        if let Some(reason) = reason {
            self.note("onsale.reason", || reason.to_owned());
        }
    }

    /// The same for the span that ends the saga. One that did not complete is an error here.
    pub(crate) fn ends_saga(&mut self, outcome: &'static str, reason: Option<&str>) {
        self.outcome(outcome, reason);
        if outcome != "completed"
            && let Self::On(open) = self
        {
            let why = reason.map_or_else(|| outcome.to_owned(), |why| format!("{outcome}: {why}"));
            open.status = Status::error(why);
        }
    }

    /// Sets an attribute of the span; the value is computed only where it is recorded. An
    /// earlier value is replaced.
    pub fn note<V: Into<Value>>(&mut self, name: &'static str, value: impl FnOnce() -> V) {
        if let Self::On(open) = self {
            let value = value().into();
            match open.attributes.iter_mut().find(|known| known.key.as_str() == name) {
                Some(known) => known.value = value,
                None => open.attributes.push(KeyValue::new(name, value)),
            }
        }
    }

    /// Marks the span as failed; `kind` is a word of low cardinality.
    pub fn fail(&mut self, kind: &str, why: impl FnOnce() -> String) {
        self.note("error.type", || kind.to_owned());
        if let Self::On(open) = self {
            open.status = Status::error(short(&why()).to_owned());
        }
    }
}

/// The beginning of a text: neither an address nor a cause is recorded at any length.
pub fn short(text: &str) -> &str {
    text.char_indices().nth(TEXT_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}

/// What is recorded of a message.
pub(crate) struct Messaging<'a> {
    /// `publish` or `process`.
    pub(crate) operation: &'static str,
    pub(crate) event: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) event_id: EventId,
    pub(crate) saga_id: SagaId,
    /// The event's data, or the whole event.
    pub(crate) data: &'a [u8],
}
