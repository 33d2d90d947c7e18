//! Spans across messages: the spans of one saga are one tree.
//!
//! The W3C context of the span that emitted an event travels in the event, so each span's
//! parent is the span that caused it, across services and restarts. Spans are exported by OTLP
//! when the standard `OTEL_*` variables name an endpoint; otherwise a [`Tracer`] is off, and
//! every call here costs only a branch.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use events::{EventId, SagaId};
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceState,
        Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfig, BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider},
};

use crate::service::context::Emitted;

/// The header that carries the trace context.
pub const TRACEPARENT: &str = "traceparent";

/// Maximum number of spans that wait to be sent, unless `OTEL_BSP_MAX_QUEUE_SIZE` sets another.
/// A sale that opens makes thousands within a second, and spans that do not fit are lost.
const WAITING_SPANS_MAX: usize = 16_384;
/// How long a span waits to be sent, unless `OTEL_BSP_SCHEDULE_DELAY` sets another time. A
/// process that is killed loses at most the spans of this time.
const SEND_EVERY: Duration = Duration::from_millis(50);

/// The span that a message follows from, if any.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceParent(Option<SpanContext>);

impl TraceParent {
    /// Reads a `traceparent` header; a malformed one counts as none.
    pub fn from_header(header: Option<&str>) -> Self {
        Self(header.and_then(parse))
    }

    /// The `traceparent` header to send on.
    pub fn to_header(&self) -> Option<String> {
        self.0.as_ref().map(|context| {
            format!(
                "00-{}-{}-{:02x}",
                context.trace_id(),
                context.span_id(),
                context.trace_flags().to_u8() & 1
            )
        })
    }

    /// The trace's id, for logs.
    pub fn trace_id(&self) -> Option<String> {
        self.0.as_ref().map(|context| context.trace_id().to_string())
    }

    fn context(&self) -> Context {
        match &self.0 {
            Some(context) => Context::new().with_remote_span_context(context.clone()),
            None => Context::new(),
        }
    }
}

fn parse(header: &str) -> Option<SpanContext> {
    let mut parts = header.trim().split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let exact = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    if !exact || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & 1),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// The environment asks for another protocol than the one there is.
    #[error(
        "OTEL_EXPORTER_OTLP_PROTOCOL={0} is not supported; use http/protobuf (port 4318 of the \
         collector)"
    )]
    Protocol(String),
    /// The exporter's settings are wrong.
    #[error("spans cannot be exported: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Creates the spans of one service.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<On>>);

struct On {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

impl Tracer {
    /// A tracer that creates no spans.
    pub fn off() -> Self {
        Self(None)
    }

    /// A tracer for `service` that exports as the `OTEL_*` variables specify: on when
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set and
    /// neither `OTEL_SDK_DISABLED=true` nor `OTEL_TRACES_EXPORTER=none` is. Spans are sent as
    /// OTLP over HTTP with protobuf bodies (port 4318 of a collector).
    ///
    /// # Errors
    /// When the variables ask for something that is not supported.
    pub fn from_env(service: &str) -> Result<Self, TracerError> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
            .or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT"));
        if endpoint.is_none()
            || set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || set("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none")
        {
            return Ok(Self::off());
        }
        let protocol = set("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            .or_else(|| set("OTEL_EXPORTER_OTLP_PROTOCOL"));
        if let Some(protocol) = protocol.filter(|protocol| protocol != "http/protobuf") {
            return Err(TracerError::Protocol(protocol));
        }
        crate::tls::install();
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build();
        Ok(Self::exporting(service, exporter?))
    }

    /// A tracer for `service` that sends its spans to the collector at `endpoint`
    /// (`http://host:4318`), whatever the environment.
    ///
    /// # Errors
    /// When the endpoint is not an address.
    pub fn to_collector(service: &str, endpoint: &str) -> Result<Self, TracerError> {
        crate::tls::install();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .with_retry_policy(opentelemetry_otlp::RetryPolicy::disabled())
            .build();
        Ok(Self::exporting(service, exporter?))
    }

    /// A tracer for `service` that gives its spans to `exporter` in batches.
    fn exporting(
        service: &str,
        exporter: impl opentelemetry_sdk::trace::SpanExporter + 'static,
    ) -> Self {
        let resource = Resource::builder()
            .with_service_name(format!("onsale-{service}"))
            .with_attribute(KeyValue::new("service.namespace", "onsale"))
            // The name that the metrics of this service have in their label.
            .with_attribute(KeyValue::new("onsale.service", service.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_span_processor(
                BatchSpanProcessor::builder(exporter).with_batch_config(batches()).build(),
            )
            .build();
        Self(Some(Arc::new(On { tracer: provider.tracer("onsale-mesh"), provider })))
    }

    /// Whether spans are created.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A span of an HTTP request at the edge.
    pub fn server(&self, method: &str, route: &str, parent: &TraceParent) -> Span {
        self.start(SpanKind::Server, parent, || format!("{method} {route}").into())
    }

    /// The span of an endpoint that answers a command.
    pub fn command(&self, endpoint: &'static str, parent: &TraceParent) -> Span {
        self.start(SpanKind::Server, parent, || format!("command {endpoint}").into())
    }

    /// The span of a timer: the root of a trace of its own.
    pub fn timer(&self, name: &'static str) -> Span {
        let nothing = TraceParent::default();
        self.start(SpanKind::Internal, &nothing, || format!("timer {name}").into())
    }

    /// The span of an event being processed by its consumer.
    pub fn process(&self, event: &'static str, parent: &TraceParent) -> Span {
        self.start(SpanKind::Consumer, parent, || format!("process {event}").into())
    }

    fn start(
        &self,
        kind: SpanKind,
        parent: &TraceParent,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Span {
        match &self.0 {
            None => Span::Off(parent.clone()),
            Some(on) => {
                let builder = SpanBuilder::from_name(name()).with_kind(kind);
                let span = on.tracer.build_with_context(builder, &parent.context());
                Span::On(Box::new(Open { span, tracer: on.tracer.clone() }))
            }
        }
    }

    /// Sends the waiting spans and creates no more. It gives up after `timeout`, so that a
    /// collector that is away does not delay a shutdown.
    pub async fn close(self, timeout: Duration) {
        let Some(on) = self.0 else { return };
        let closing = tokio::task::spawn_blocking(move || {
            let _ = on.provider.shutdown_with_timeout(timeout);
        });
        let _ = closing.await;
    }
}

/// How spans are sent: by the `OTEL_BSP_*` variables, with our own defaults.
fn batches() -> BatchConfig {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let mut batches = BatchConfigBuilder::default();
    if !is_set("OTEL_BSP_MAX_QUEUE_SIZE") {
        batches = batches.with_max_queue_size(WAITING_SPANS_MAX);
    }
    if !is_set("OTEL_BSP_SCHEDULE_DELAY") {
        batches = batches.with_scheduled_delay(SEND_EVERY);
    }
    batches.build()
}

/// A span that ends when dropped; or, where tracing is off, only the context to pass on.
pub enum Span {
    /// Tracing is off; the incoming context is passed on.
    Off(TraceParent),
    /// Recording.
    On(Box<Open>),
}

/// A span that is being recorded.
pub struct Open {
    span: opentelemetry_sdk::trace::Span,
    tracer: SdkTracer,
}

impl Default for Span {
    fn default() -> Self {
        Self::Off(TraceParent::default())
    }
}

impl Span {
    /// The context that a message caused by this span carries.
    pub fn parent(&self) -> TraceParent {
        match self {
            Self::Off(parent) => parent.clone(),
            Self::On(open) => TraceParent(Some(open.span.span_context().clone())),
        }
    }

    /// The span of an event that this span emits. It starts with the event, so that its context
    /// can travel in the event, and ends when the event is stored.
    pub(crate) fn publishing(&self, name: &str, event: &Emitted) -> Span {
        let Self::On(open) = self else { return Self::Off(self.parent()) };
        let context = self.parent().context();
        let builder =
            SpanBuilder::from_name(format!("publish {name}")).with_kind(SpanKind::Producer);
        let span = open.tracer.build_with_context(builder, &context);
        let mut span = Self::On(Box::new(Open { span, tracer: open.tracer.clone() }));
        span.message(Messaging {
            operation: "publish",
            event: name,
            subject: &event.subject,
            event_id: event.event_id,
            saga_id: event.saga_id,
        });
        span
    }

    /// A child of this span, begun at `began`.
    pub fn child(&self, name: &'static str, began: Option<SystemTime>) -> Span {
        match self {
            Self::Off(parent) => Self::Off(parent.clone()),
            Self::On(open) => {
                let context =
                    Context::new().with_remote_span_context(open.span.span_context().clone());
                let mut builder = SpanBuilder::from_name(name).with_kind(SpanKind::Internal);
                builder.start_time = began;
                let span = open.tracer.build_with_context(builder, &context);
                Self::On(Box::new(Open { span, tracer: open.tracer.clone() }))
            }
        }
    }

    /// The trace's id, if the span is exported: an exemplar must lead to a trace that is there.
    pub fn exported_trace_id(&self) -> Option<String> {
        let Self::On(open) = self else { return None };
        let context = open.span.span_context();
        context.is_sampled().then(|| context.trace_id().to_string())
    }

    /// Whether the span is being recorded.
    pub fn is_on(&self) -> bool {
        matches!(self, Self::On(_))
    }

    /// Records the saga that the span belongs to: all spans of a saga are found by it.
    pub fn saga(&mut self, saga_id: SagaId) {
        self.note("onsale.saga.id", || saga_id.to_string());
    }

    /// Records the operation and its message, by the OpenTelemetry semantic conventions for
    /// messaging.
    pub(crate) fn message(&mut self, about: Messaging<'_>) {
        self.saga(about.saga_id);
        self.note("onsale.fact", || about.event.to_owned());
        self.note("messaging.system", || "nats");
        self.note("messaging.operation.name", || about.operation);
        self.note("messaging.operation.type", || match about.operation {
            "publish" => "send",
            other => other,
        });
        self.note("messaging.destination.name", || about.subject.to_owned());
        self.note("messaging.message.id", || about.event_id.to_string());
        self.note("messaging.message.conversation_id", || about.saga_id.to_string());
    }

    /// Records how a saga has ended (`completed`, `failed`, …) and why: failed and compensated
    /// sagas are found by it.
    pub fn outcome(&mut self, outcome: &'static str, reason: Option<&'static str>) {
        self.note("onsale.outcome", || outcome);
        if let Some(reason) = reason {
            self.note("onsale.reason", || reason);
        }
    }

    /// Sets an attribute of the span; the value is computed only where tracing is on.
    pub fn note<V: Into<opentelemetry::Value>>(
        &mut self,
        name: &'static str,
        value: impl FnOnce() -> V,
    ) {
        if let Self::On(open) = self {
            open.span.set_attribute(KeyValue::new(name, value()));
        }
    }

    /// The HTTP status of the answer; 500 and above mark the span as failed.
    pub fn status(&mut self, status: u16) {
        self.note("http.response.status_code", || i64::from(status));
        if status >= 500 {
            self.fail(|| status.to_string());
        }
    }

    /// Marks the span as failed.
    pub fn fail(&mut self, why: impl FnOnce() -> String) {
        if let Self::On(open) = self {
            open.span.set_status(Status::error(why()));
        }
    }
}

/// What is recorded of a message.
pub(crate) struct Messaging<'a> {
    /// `publish` or `process`.
    pub(crate) operation: &'static str,
    pub(crate) event: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) event_id: EventId,
    pub(crate) saga_id: SagaId,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_round_trips() {
        let parent = TraceParent::from_header(Some(HEADER));
        assert_eq!(parent.to_header().as_deref(), Some(HEADER));
    }

    #[test]
    fn a_malformed_traceparent_counts_as_none() {
        for bad in [
            "",
            "00-1-2-3",
            &HEADER[..50],
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            &format!("{HEADER}-x"),
        ] {
            assert_eq!(TraceParent::from_header(Some(bad)), TraceParent::default(), "{bad}");
        }
    }

    #[test]
    fn a_tracer_that_is_off_passes_the_incoming_context_on() {
        let parent = TraceParent::from_header(Some(HEADER));
        let span = Tracer::off().process("payment.requested", &parent);
        assert_eq!(span.child("transaction", None).parent(), parent);
    }

    #[tokio::test]
    async fn a_collector_that_never_answers_does_not_delay_a_shutdown() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let tracer = Tracer::to_collector("point", &endpoint).unwrap();
        drop(tracer.command("point.charge", &TraceParent::default()));
        let closing = tracer.close(Duration::from_millis(100));
        tokio::time::timeout(Duration::from_secs(5), closing).await.unwrap();
    }
}
