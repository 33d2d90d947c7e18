//! What the runtime counts for one service. Its counters are looked up once, when it starts.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use events::codes;
use serde::Deserialize;

use super::{
    metric::{Metric, SECONDS, SIZES},
    observed::{self, Observed},
    registry::{Counter, Histogram, Metrics},
};

static MESSAGE_EVENTS: Metric =
    Metric::histogram("onsale_message_events", "Events of a message that was taken in", &[], SIZES);
static BATCH_MESSAGES: Metric =
    Metric::histogram("onsale_batch_messages", "Messages and commands of a batch", &[], SIZES);
static BATCH_DURATION: Metric = Metric::histogram(
    "onsale_batch_duration_seconds",
    "Time from the begin of a batch until it is stored",
    &[],
    SECONDS,
);
static HANDLED: Metric = Metric::counter(
    "onsale_handled_events",
    "Events that were taken in, by how that ended",
    &["event", "result"],
);
static EMITTED: Metric =
    Metric::counter("onsale_emitted_events", "Events that were emitted and stored", &["event"]);
static PUBLISHED: Metric =
    Metric::counter("onsale_published_messages", "Messages that the stream has acknowledged", &[]);
static SWEEPS: Metric = Metric::counter(
    "onsale_outbox_sweeps",
    "Sweeps of the outbox that found messages to publish",
    &[],
);
static REPUBLISHED: Metric = Metric::counter(
    "onsale_republished_messages",
    "Messages published again: dropped before a consumer took them in, or lost by the stream",
    &["cause"],
);
static COMMANDS: Metric = Metric::counter(
    "onsale_commands",
    "Commands and queries from outside that were answered, by the code of the refusal or `ok`",
    &["endpoint", "code"],
);
static COMMAND_DURATION: Metric = Metric::histogram(
    "onsale_command_duration_seconds",
    "Time from the arrival of a command or a query until its answer",
    &["endpoint"],
    SECONDS,
);

/// The code of a granted command.
const GRANTED: &str = "ok";
/// An event, or a refusal, that is none of those known.
const OTHER: &str = "other";

/// How an event was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Result {
    /// It was handled, at once or after it was parked.
    Handled,
    /// Its message was taken in before.
    Repeat,
    /// It was parked.
    Parked,
    /// It has become a dead letter.
    Dead,
}

const RESULTS: [&str; 4] = ["handled", "repeat", "parked", "dead"];

/// An event that is counted as something else as well when it is emitted.
#[derive(Debug, Clone)]
pub(crate) struct CountedEvent {
    pub(crate) event: &'static str,
    pub(crate) metric: &'static Metric,
    pub(crate) labels: &'static [&'static str],
}

/// What a service declares for its metrics.
#[derive(Debug, Default)]
pub(crate) struct DeclaredMetrics<'a> {
    /// The events that it consumes or reads.
    pub(crate) taken_in: BTreeSet<&'static str>,
    /// The events that it emits.
    pub(crate) emits: BTreeSet<&'static str>,
    /// The endpoints that it answers.
    pub(crate) endpoints: Vec<&'static str>,
    /// The emitted events that are counted as something else as well.
    pub(crate) counted: &'a [CountedEvent],
    /// What its handlers count and measure, with the labels that are known before.
    pub(crate) observed: &'a [(&'static Metric, &'static [&'static [&'static str]])],
}

/// The counters of one service; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct OfService(Arc<Handles>);

#[derive(Debug)]
struct Handles {
    metrics: Metrics,
    service: &'static str,
    message_events: Histogram,
    batch_messages: Histogram,
    batch_duration: Histogram,
    handled: BTreeMap<&'static str, [Counter; 4]>,
    emitted: BTreeMap<&'static str, Vec<Counter>>,
    commands: BTreeMap<&'static str, (Counter, Histogram)>,
    published: Counter,
    sweeps: Counter,
    aged_out: Counter,
    forgotten: Counter,
}

impl Default for OfService {
    fn default() -> Self {
        Self::new(&Metrics::default(), "none", &DeclaredMetrics::default())
    }
}

impl OfService {
    pub(crate) fn new(
        metrics: &Metrics,
        service: &'static str,
        declared: &DeclaredMetrics<'_>,
    ) -> Self {
        let counter = |metric, labels: &[&'static str]| metrics.counter(metric, service, labels);
        let histogram =
            |metric, labels: &[&'static str]| metrics.histogram(metric, service, labels);
        for (metric, known) in declared.observed {
            known.iter().for_each(|labels| metrics.at_zero(metric, service, labels));
        }
        let results = |event| RESULTS.map(|result| counter(&HANDLED, &[event, result]));
        let emitted = |event| {
            let also = declared.counted.iter().filter(|counted| counted.event == event);
            let also = also.map(|counted| counter(counted.metric, counted.labels));
            std::iter::once(counter(&EMITTED, &[event])).chain(also).collect()
        };
        let command = |endpoint| {
            let granted = counter(&COMMANDS, &[endpoint, GRANTED]);
            (granted, histogram(&COMMAND_DURATION, &[endpoint]))
        };
        let handles = Handles {
            message_events: histogram(&MESSAGE_EVENTS, &[]),
            batch_messages: histogram(&BATCH_MESSAGES, &[]),
            batch_duration: histogram(&BATCH_DURATION, &[]),
            handled: declared.taken_in.iter().map(|event| (*event, results(event))).collect(),
            emitted: declared.emits.iter().map(|event| (*event, emitted(event))).collect(),
            commands: declared.endpoints.iter().map(|name| (*name, command(name))).collect(),
            published: counter(&PUBLISHED, &[]),
            sweeps: counter(&SWEEPS, &[]),
            aged_out: counter(&REPUBLISHED, &["retention"]),
            forgotten: counter(&REPUBLISHED, &["forgotten"]),
            metrics: metrics.clone(),
            service,
        };
        Self(Arc::new(handles))
    }

    /// A batch of so many messages and commands was stored.
    pub(crate) fn batch(&self, messages: usize, took: Duration) {
        self.0.batch_messages.observe(messages as f64, None);
        self.0.batch_duration.took(took, None);
    }

    /// A message with so many events was taken in.
    pub(crate) fn message(&self, events: usize) {
        self.0.message_events.observe(events as f64, None);
    }

    /// Events with this name were taken in.
    pub(crate) fn handled(&self, event: &str, result: Result, count: u64) {
        if count == 0 {
            return;
        }
        match self.0.handled.get(event) {
            Some(counters) => counters[result as usize].add(count),
            // An event that the service does not consume ends as a dead letter: it is rare.
            None => {
                let labels = [OTHER, RESULTS[result as usize]];
                self.0.metrics.counter(&HANDLED, self.0.service, &labels).add(count);
            }
        }
    }

    /// A stored transaction has emitted these events: their names, and how many of each.
    pub(crate) fn emitted<'a>(&self, events: impl Iterator<Item = (&'a str, u64)>) {
        for (event, count) in events {
            let counters = self.0.emitted.get(event).into_iter().flatten();
            counters.for_each(|counter| counter.add(count));
        }
    }

    /// What the handlers of a stored transaction have counted and measured.
    pub(crate) fn observed(&self, observed: Vec<Observed>) {
        if !observed.is_empty() {
            observed::add_all(&self.0.metrics, self.0.service, observed);
        }
    }

    /// A command or a query was answered.
    pub(crate) fn command(&self, endpoint: &'static str, took: Duration, status: u16, body: &[u8]) {
        let Some((granted, duration)) = self.0.commands.get(endpoint) else { return };
        duration.took(took, None);
        if status < 400 {
            return granted.add(1);
        }
        self.0.metrics.counter(&COMMANDS, self.0.service, &[endpoint, code_of(body)]).add(1);
    }

    pub(crate) fn published(&self, count: u64) {
        self.0.published.add(count);
    }

    /// A sweep has found so many messages to publish.
    pub(crate) fn swept(&self, messages: usize) {
        self.0.sweeps.add(u64::from(messages > 0));
    }

    /// Messages are published again that the stream had dropped before a consumer took them in.
    pub(crate) fn aged_out(&self, count: u64) {
        self.0.aged_out.add(count);
    }

    /// Messages are published again that the stream had acknowledged and lost.
    pub(crate) fn forgotten(&self, count: u64) {
        self.0.forgotten.add(count);
    }
}

/// The code of a refusal; only a code of the documentation is a value of a label.
fn code_of(refusal: &[u8]) -> &'static str {
    #[derive(Deserialize)]
    struct Refusal<'a> {
        #[serde(borrow)]
        code: Cow<'a, str>,
    }
    let refusal = serde_json::from_slice::<Refusal<'_>>(refusal);
    let known = refusal
        .ok()
        .and_then(|Refusal { code }| codes::ALL.iter().find(|known| known.code == code));
    known.map_or(OTHER, |known| known.code)
}

#[cfg(test)]
mod tests {
    use events::Problem;

    use super::super::registry::Format;
    use super::*;

    #[test]
    fn only_a_documented_code_becomes_a_label() {
        let body = |problem: &Problem| serde_json::to_vec(problem).unwrap();
        assert_eq!(code_of(&body(&codes::SOLD_OUT.into())), "sold_out");
        let other = Problem { code: "0192f3aa".into(), ..codes::SOLD_OUT.into() };
        assert_eq!(code_of(&body(&other)), "other");
        assert_eq!(code_of(b"rubbish"), "other");
    }

    #[test]
    fn an_event_is_counted_under_its_name_and_as_what_it_means() {
        static HOLDS: Metric = Metric::counter("test_holds", "Holds", &["state"]);
        let counted = [CountedEvent { event: "a.made", metric: &HOLDS, labels: &["made"] }];
        let declared = DeclaredMetrics {
            emits: ["a.made", "a.gone"].into(),
            taken_in: ["b.done"].into(),
            counted: &counted,
            ..DeclaredMetrics::default()
        };
        let metrics = Metrics::default();
        let service = OfService::new(&metrics, "a", &declared);
        service.emitted([("a.made", 3), ("a.gone", 1)].into_iter());
        service.handled("b.done", Result::Repeat, 2);
        service.handled("c.unknown", Result::Dead, 1);
        let text = metrics.text(Format::OpenMetrics);
        for line in [
            r#"test_holds_total{service="a",state="made"} 3"#,
            r#"onsale_emitted_events_total{service="a",event="a.gone"} 1"#,
            r#"onsale_handled_events_total{service="a",event="b.done",result="repeat"} 2"#,
            r#"onsale_handled_events_total{service="a",event="other",result="dead"} 1"#,
            r#"onsale_published_messages_total{service="a"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
