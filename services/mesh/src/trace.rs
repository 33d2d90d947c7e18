//! Spans across messages: the spans of one saga are one tree.
//!
//! The W3C context of the span that emitted an event travels in the event, so each span's
//! parent is the span that caused it, across services and restarts. Spans are exported by OTLP
//! when the standard `OTEL_*` variables name an endpoint; otherwise a [`Tracer`] is off, and
//! every call here costs only a branch. `docs/traces.md` says which spans there are.
//!
//! The spans are made here and not by a tracer of the SDK: a span of an event begins when its
//! context is needed, and is thrown away when the transaction is rolled back. The SDK batches
//! them, and encodes and sends them.

mod export;
mod here;
mod parent;
mod sampling;
mod settings;
mod span;

use std::{borrow::Cow, sync::Arc, time::Duration};

use opentelemetry::{TraceId, trace::SpanKind};

use export::Queue;
use parent::Place;
use sampling::Sampling;
use span::Open;

pub use crate::otel::{Protocol, Unsupported};
pub use export::dropped_spans;
pub use here::{Entered, Here};
pub use parent::{TRACEPARENT, TraceParent};
pub use settings::{Collector, TracerError};
pub(crate) use span::{LINKS_MAX, Messaging};
pub use span::{Span, short};

/// Creates the spans of one service.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<On>>);

struct On {
    queue: Arc<Queue>,
    sampling: Sampling,
}

impl Tracer {
    /// A tracer that creates no spans.
    pub fn off() -> Self {
        Self(None)
    }

    /// A tracer for `service` that exports as the `OTEL_*` variables specify: on when
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set and
    /// neither `OTEL_SDK_DISABLED=true` nor `OTEL_TRACES_EXPORTER=none` is. It is called within
    /// a runtime.
    ///
    /// # Errors
    /// When the variables ask for something that is not supported.
    pub fn from_env(service: &str) -> Result<Self, TracerError> {
        match Collector::from_variables(|name| std::env::var(name).ok())? {
            None => Ok(Self::off()),
            Some(collector) => Self::to_collector(service, &collector),
        }
    }

    /// A tracer for `service` that sends its spans to this collector. It is called within a
    /// runtime.
    ///
    /// # Errors
    /// When the endpoint is not an address.
    pub fn to_collector(service: &str, collector: &Collector) -> Result<Self, TracerError> {
        let queue = Queue::new(service, collector.bounds(), collector.exporter()?);
        let sampling = collector.sampling.clone();
        Ok(Self(Some(Arc::new(On { queue: Arc::new(queue), sampling }))))
    }

    /// Whether spans are created.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// How many spans of this service were dropped instead of sent.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |on| on.queue.dropped())
    }

    /// A span of an HTTP request at the edge.
    pub fn server(&self, method: &str, route: Option<&str>, parent: &TraceParent) -> Span {
        self.start(SpanKind::Server, parent, &[], || match route {
            Some(route) => format!("{method} {route}").into(),
            None => method.to_owned().into(),
        })
    }

    /// The span of an endpoint that answers a command.
    pub fn command(&self, endpoint: &'static str, parent: &TraceParent) -> Span {
        let mut span =
            self.start(SpanKind::Server, parent, &[], || format!("command {endpoint}").into());
        span.note("rpc.system.name", || "nats");
        span.note("rpc.method", || endpoint);
        span
    }

    /// The span of a timer: the root of a trace of its own. What it is about and was begun in
    /// other traces, it is linked to.
    pub fn timer(&self, name: &'static str, links: &[TraceParent]) -> Span {
        let nothing = TraceParent::default();
        self.start(SpanKind::Internal, &nothing, links, || format!("timer {name}").into())
    }

    /// The span of an event being processed by its consumer.
    pub fn process(&self, event: &'static str, parent: &TraceParent) -> Span {
        self.start(SpanKind::Consumer, parent, &[], || format!("process {event}").into())
    }

    /// The span of an event that is processed long after its time, because an operator asked
    /// for it: the root of a trace of its own, linked to the span that emitted the event.
    pub fn process_later(&self, event: &'static str, emitted_by: &TraceParent) -> Span {
        let nothing = TraceParent::default();
        let name = || format!("process {event}").into();
        self.start(SpanKind::Consumer, &nothing, &[*emitted_by], name)
    }

    /// A small span in a trace that may have ended long ago: it says that `to` followed, in a
    /// trace of its own, and is linked to it. The span of `to` is linked back.
    pub(crate) fn leads_to(&self, from: &TraceParent, what: &'static str, to: &mut Span) -> Span {
        to.link(from);
        let links = [to.parent()];
        self.start(SpanKind::Internal, from, &links, || format!("leads to {what}").into())
    }

    /// The span of the transaction that these spans take effect in: the child of the only one,
    /// or the root of a trace of its own. Then it is linked to some of them, and they to it.
    pub fn transaction(&self, spans: &mut [&mut Span]) -> Span {
        if let [only] = spans {
            return only.transaction();
        }
        let recorded = spans.iter().filter(|span| span.is_on()).take(LINKS_MAX);
        let links: Vec<TraceParent> = recorded.map(|span| span.parent()).collect();
        if links.is_empty() {
            return Span::default();
        }
        let nothing = TraceParent::default();
        let batch = self.start(SpanKind::Client, &nothing, &links, || "transaction".into());
        let place = batch.parent();
        for span in spans {
            // What an earlier batch has noted was rolled back; the link to this one stays.
            span.rewind();
            span.link(&place);
            span.keep();
        }
        batch
    }

    fn start(
        &self,
        kind: SpanKind,
        parent: &TraceParent,
        links: &[TraceParent],
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Span {
        let Some(on) = &self.0 else { return Span::Off(*parent) };
        let trace_id = match parent.0 {
            Some(parent) => parent.trace_id,
            // Zero is not an id; it comes once in 2^128.
            None => TraceId::from(rand::random::<u128>().max(1)),
        };
        if !on.sampling.records(trace_id, parent, links) {
            let root = || TraceParent(Some(Place::new(trace_id, false)));
            return Span::Off(if parent.0.is_some_and(|parent| !parent.is_sampled) {
                *parent
            } else {
                root()
            });
        }
        let place = Place::new(trace_id, true);
        let mut open = Open::begin(&on.queue, kind, name(), place, parent);
        links.iter().for_each(|link| open.link_to(link));
        Span::On(Box::new(open))
    }

    /// Sends the waiting spans and creates no more. It gives up after `timeout`, so that a
    /// collector that is away does not delay a shutdown.
    pub async fn close(self, timeout: Duration) {
        let Some(on) = self.0 else { return };
        let _ = tokio::task::spawn_blocking(move || on.queue.close(timeout)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Instant};

    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    /// Far more than it takes to make the spans of these tests, on a busy machine.
    const AT_ONCE: Duration = Duration::from_secs(5);

    fn make(tracer: &Tracer, spans: u64) {
        let parent = TraceParent::from_header(Some(HEADER));
        (0..spans).for_each(|_| drop(tracer.command("payment.pay", &parent)));
    }

    #[test]
    fn a_tracer_that_is_off_passes_the_incoming_context_on() {
        let parent = TraceParent::from_header(Some(HEADER));
        let mut span = Tracer::off().command("payment.pay", &parent);
        span.note("never", || -> String { panic!("computed although it is off") });
        assert_eq!(span.parent(), parent);
        assert!(!span.is_on());
    }

    #[test]
    fn a_span_that_is_not_recorded_computes_nothing_and_says_so_to_others() {
        let not_recorded = TraceParent::from_header(Some(&HEADER.replace("-01", "-00")));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _within = runtime.enter();
        let collector = Collector::at("http://127.0.0.1:1", Protocol::Http);
        let tracer = Tracer::to_collector("point", &collector).unwrap();
        let mut span = tracer.process("payment.requested", &not_recorded);
        span.note("never", || -> String { panic!("computed although it is not recorded") });
        assert_eq!(span.parent(), not_recorded);
        drop(span);
        assert_eq!(tracer.dropped(), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_is_gone_costs_the_spans_and_they_are_counted() {
        for protocol in Protocol::ALL {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let collector = Collector::at(format!("http://{free}"), protocol);
            let tracer = Tracer::to_collector("point", &collector).unwrap();
            let (before, began) = (dropped_spans(), Instant::now());
            make(&tracer, 2_000);
            assert!(began.elapsed() < AT_ONCE, "{protocol}: {:?}", began.elapsed());
            tracer.clone().close(AT_ONCE).await;
            assert_eq!(tracer.dropped(), 2_000, "{protocol}");
            assert!(dropped_spans() - before >= 2_000);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_never_answers_holds_nothing_up_but_its_own_queue() {
        for protocol in Protocol::ALL {
            // It takes connections in, and nothing more.
            let silent = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", silent.local_addr().unwrap());
            let collector =
                Collector { waiting_spans_max: 1_000, ..Collector::at(endpoint, protocol) };
            let tracer = Tracer::to_collector("point", &collector).unwrap();
            let began = Instant::now();
            make(&tracer, 50_000);
            assert!(began.elapsed() < AT_ONCE, "{protocol}: {:?}", began.elapsed());
            // What one export holds and what the queue holds is not lost yet.
            assert!((48_000..=49_000).contains(&tracer.dropped()), "{}", tracer.dropped());
            let began = Instant::now();
            tracer.clone().close(Duration::from_millis(100)).await;
            assert!(began.elapsed() < AT_ONCE, "{protocol}: {:?}", began.elapsed());
            assert!(tracer.dropped() >= 49_000, "{}", tracer.dropped());
        }
    }
}
