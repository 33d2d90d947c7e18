//! A collector of spans: a real server that receives what the mesh exports, over HTTP or gRPC.
//!
//! [`Sink`] keeps every span it receives. [`Tree`] checks that the spans of one trace form one
//! tree, with one root and no orphan, as those of one saga must.

mod span;
mod tree;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use mesh::trace::{Collector, Protocol};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{Span as Sent, status::StatusCode as SpanCode},
};
use prost::Message;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Instant};
use tonic::transport::server::TcpIncoming;

pub use span::Span;
pub use tree::Tree;

/// The content type of OTLP over HTTP in protobuf.
const PROTOBUF: &str = "application/x-protobuf";

/// All spans that were received, by trace.
pub type Traces = BTreeMap<String, Vec<Span>>;

/// The collector. It stops when dropped.
pub struct Sink {
    addr: SocketAddr,
    protocol: Protocol,
    traces: watch::Receiver<Traces>,
    server: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Sink {
    /// A collector on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(protocol: Protocol) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (sender, traces) = watch::channel(Traces::new());
        let received = Received(Arc::new(sender));
        let server = match protocol {
            Protocol::Http => tokio::spawn(async move {
                let app = Router::new()
                    .route("/v1/traces", post(take))
                    .layer(DefaultBodyLimit::disable())
                    .with_state(received);
                axum::serve(listener, app).await.expect("it serves until it is dropped");
            }),
            Protocol::Grpc => tokio::spawn(async move {
                let service =
                    TraceServiceServer::new(received).max_decoding_message_size(usize::MAX);
                let server = tonic::transport::Server::builder().add_service(service);
                let served = server.serve_with_incoming(TcpIncoming::from(listener)).await;
                served.expect("it serves until it is dropped");
            }),
        };
        Ok(Self { addr, protocol, traces, server })
    }

    /// Where it listens, and how it is spoken to.
    pub fn collector(&self) -> Collector {
        Collector::at(format!("http://{}", self.addr), self.protocol)
    }

    /// Everything received so far.
    pub fn traces(&self) -> Traces {
        self.traces.borrow().clone()
    }

    /// What was received of one trace, in the order in which the spans began.
    pub fn spans_of_trace(&self, trace_id: &str) -> Vec<Span> {
        let mut spans = self.traces.borrow().get(trace_id).cloned().unwrap_or_default();
        spans.sort_by_key(|span| span.began_nanos);
        spans
    }

    /// Waits until `found` returns something; it is called again after each export.
    ///
    /// # Panics
    /// At the timeout; the message shows what was received.
    pub async fn wait_for<T>(&self, within: Duration, found: impl Fn(&Traces) -> Option<T>) -> T {
        let deadline = Instant::now() + within;
        let mut traces = self.traces.clone();
        loop {
            if let Some(found) = found(&traces.borrow_and_update()) {
                return found;
            }
            let changed = tokio::time::timeout_at(deadline, traces.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                let seen: String =
                    traces.borrow().values().map(|spans| tree::draw(spans)).collect();
                panic!("not seen within {within:?}; received:\n{seen}");
            }
        }
    }

    /// Waits until the spans of one trace form a whole tree that `complete` accepts.
    /// Spans come in batches, so a trace that is not yet a tree may become one.
    ///
    /// # Panics
    /// At the timeout; the message says what is missing and shows the trace.
    pub async fn wait_for_tree(
        &self,
        trace_id: &str,
        within: Duration,
        complete: impl Fn(&Tree) -> bool,
    ) -> Tree {
        let deadline = Instant::now() + within;
        let mut traces = self.traces.clone();
        loop {
            let tree = {
                let traces = traces.borrow_and_update();
                Tree::of(traces.get(trace_id).map_or(&[], Vec::as_slice))
            };
            let why = match tree {
                Ok(tree) if complete(&tree) => return tree,
                Ok(tree) => format!("the tree is whole, but not what was expected\n{tree}"),
                Err(why) => why,
            };
            let changed = tokio::time::timeout_at(deadline, traces.changed()).await;
            assert!(matches!(changed, Ok(Ok(()))), "trace {trace_id} after {within:?}: {why}");
        }
    }
}

/// Where received spans are put.
#[derive(Clone)]
struct Received(Arc<watch::Sender<Traces>>);

impl Received {
    fn take(&self, request: ExportTraceServiceRequest) {
        self.0.send_modify(|traces| {
            for batch in request.resource_spans {
                let service = service_of(batch.resource.as_ref());
                for sent in batch.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    let span = span(sent, &service);
                    traces.entry(span.trace_id.clone()).or_default().push(span);
                }
            }
        });
    }
}

/// `POST /v1/traces`, as the OTLP specification defines it.
async fn take(
    State(received): State<Received>,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> Response {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != PROTOBUF) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    received.take(request);
    let answer = ExportTraceServiceResponse::default().encode_to_vec();
    ([(header::CONTENT_TYPE, PROTOBUF)], answer).into_response()
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.take(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn service_of(resource: Option<&Resource>) -> String {
    let attributes = resource.map_or(&[][..], |resource| &resource.attributes);
    let name = attributes.iter().find(|attribute| attribute.key == "service.name");
    let name = name.map(|name| text(name.value.as_ref())).unwrap_or_default();
    name.strip_prefix("onsale-").unwrap_or(&name).to_owned()
}

fn span(sent: Sent, service: &str) -> Span {
    let failed = sent.status.filter(|status| status.code == SpanCode::Error as i32);
    let attribute = |KeyValue { key, value, .. }| (key, text(value.as_ref()));
    Span {
        trace_id: hex(&sent.trace_id),
        span_id: hex(&sent.span_id),
        parent_id: (!sent.parent_span_id.is_empty()).then(|| hex(&sent.parent_span_id)),
        links: sent.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        service: service.to_owned(),
        name: sent.name,
        began_nanos: sent.start_time_unix_nano,
        ended_nanos: sent.end_time_unix_nano,
        attributes: sent.attributes.into_iter().map(attribute).collect(),
        error: failed.map(|status| status.message),
    }
}

fn text(value: Option<&AnyValue>) -> String {
    use any_value::Value;
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use mesh::trace::{TraceParent, Tracer};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn tracer(service: &str, collector: &Collector) -> Tracer {
        Tracer::to_collector(service, collector).expect("an endpoint of our own")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_mesh_exports_arrives_as_one_tree_over_http_and_over_grpc() {
        for protocol in Protocol::ALL {
            let sink = Sink::start(protocol).await.unwrap();
            let collector = sink.collector();
            let (gateway, payment) = (tracer("gateway", &collector), tracer("payment", &collector));
            let path = Some("/v1/payments");
            let mut edge = gateway.server("POST", path, &TraceParent::default());
            edge.fail("500", || "500".into());
            let trace_id = edge.parent().trace_id().unwrap();
            let header = edge.parent().to_header();
            let mut command =
                payment.command("payment.pay", &TraceParent::from_header(header.as_deref()));
            command.note("onsale.saga_id", || "42");
            drop((command, edge));

            let tree = sink.wait_for_tree(&trace_id, SOON, |tree| tree.spans() == 2).await;
            assert_eq!(tree.services(), ["gateway", "payment"], "{protocol}");
            let spans = sink.spans_of_trace(&trace_id);
            assert_eq!(spans[0].name, "POST /v1/payments");
            assert!(spans[0].error.is_some() && spans[0].parent_id.is_none());
            assert_eq!(spans[1].attributes["onsale.saga_id"], "42");
            assert_eq!((gateway.dropped(), payment.dropped()), (0, 0));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn separate_sagas_are_separate_traces() {
        let sink = Sink::start(Protocol::Http).await.unwrap();
        let tracer = tracer("queue", &sink.collector());
        for _ in 0..3 {
            drop(tracer.command("queue.enter", &TraceParent::default()));
        }
        let roots = sink
            .wait_for(SOON, |traces| (traces.len() == 3).then(|| traces.values().flatten().count()))
            .await;
        assert_eq!(roots, 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_clean_stop_sends_every_span_that_waits() {
        for protocol in Protocol::ALL {
            let sink = Sink::start(protocol).await.unwrap();
            let mut collector = sink.collector();
            collector.send_every = Duration::from_secs(3_600);
            let tracer = tracer("queue", &collector);
            for _ in 0..100 {
                drop(tracer.command("queue.enter", &TraceParent::default()));
            }
            assert_eq!(sink.traces().len(), 0, "{protocol}");
            tracer.close(SOON).await;
            assert_eq!(sink.traces().len(), 100, "{protocol}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_ratio_keeps_a_saga_whole_and_drops_the_others_whole() {
        let sink = Sink::start(Protocol::Grpc).await.unwrap();
        let collector = sink.collector().sampled(0.5);
        let (gateway, payment) = (tracer("gateway", &collector), tracer("payment", &collector));
        for _ in 0..200 {
            let edge = gateway.server("POST", Some("/v1/payments"), &TraceParent::default());
            let header = edge.parent().to_header().expect("the decision travels");
            drop(payment.command("payment.pay", &TraceParent::from_header(Some(&header))));
        }
        tokio::join!(gateway.close(SOON), payment.close(SOON));
        let traces = sink.traces();
        assert!((40..160).contains(&traces.len()), "{} of 200", traces.len());
        for spans in traces.values() {
            assert_eq!(Tree::of(spans).unwrap().services(), ["gateway", "payment"]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_of_many_is_a_trace_of_its_own_with_links_both_ways_and_few_of_them() {
        let sink = Sink::start(Protocol::Http).await.unwrap();
        let tracer = tracer("point", &sink.collector());
        let none = TraceParent::default();
        let mut spans: Vec<_> = (0..100).map(|_| tracer.command("point.charge", &none)).collect();
        let batch = tracer.transaction(&mut spans.iter_mut().collect::<Vec<_>>());
        let batch_id = batch.parent().trace_id().unwrap();
        drop((batch, spans));
        tracer.close(SOON).await;
        let traces = sink.traces();
        let batch = &traces[&batch_id][0];
        assert!((10..100).contains(&batch.links.len()), "{} links", batch.links.len());
        for (trace_id, span_id) in &batch.links {
            let linked = &traces[trace_id][0];
            assert_eq!(&linked.span_id, span_id);
            assert_eq!(linked.links, [(batch_id.clone(), batch.span_id.clone())]);
        }
    }
}
