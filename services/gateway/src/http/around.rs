//! The layers around all HTTP handlers: checks for every request, headers for every answer.
//!
//! Before the handler runs, a request is checked against the contract of its operation: what the
//! OpenAPI document does not know is refused, not ignored. Afterwards the answer gets the headers
//! that belong to the operation whatever its outcome: a refusal, a `304`, a stream and a panic
//! are answers like any other. Only the outermost layer sets them. From outside to inside:
//!
//! | layer | what it does |
//! |---|---|
//! | [`Around::answer`] | request id, span, headers |
//! | `CatchPanicLayer` with [`panicked`] | a problem instead of a panic |
//! | [`Around::check`] | refuses what the operation does not know |
//!
//! `CorsLayer` of tower-http does not serve here. Whether a script may read an answer depends on
//! the operation and not on the origin, and holds for answers that no handler has made: a refusal
//! by these layers, another method of the same path, and what [`crate::http::wire`] answers. Its
//! predicate sees no answer to a request without `Origin`, though a cache gives that one to
//! scripts later; and it answers preflights of closed operations, with 200.

use std::{any::Any, cell::Cell, collections::HashMap, sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use events::{Problem, SagaId, codes};
use http_body_util::Limited;
use mesh::trace::{self, Here, Span, TRACEPARENT, TraceParent};
use tracing::error;
use uuid::Uuid;

use crate::http::{
    call::{BODY_BYTES_MAX, BODY_TIMEOUT, parameters, short, whole},
    edge::{Edge, NOTED, Noted},
    op::Op,
    problem::Refused,
};

/// Bytes of an address with its query.
const ADDRESS_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the headers of a request.
const HEADERS_BYTES_MAX: usize = 48 * 1024;
/// Characters of a request id that a client has given.
const REQUEST_ID_CHARS_MAX: usize = 128;
/// The methods whose names are recorded; another one may be any text.
static METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::CONNECT,
];
/// Requested every few seconds by monitoring; they make no traces.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Identifies a request in answers, logs and traces.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers that scripts may read, beside those that they may always read.
const EXPOSED: HeaderValue = HeaderValue::from_static("etag, retry-after, x-request-id");
const ANY_ORIGIN: HeaderValue = HeaderValue::from_static("*");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The layers around all HTTP handlers.
#[derive(Clone)]
pub(crate) struct Around {
    edge: Edge,
    contracts: Arc<Contracts>,
}

/// The contracts of the operations, by path.
type Contracts = HashMap<&'static str, Vec<Contract>>;

/// The routes beside the API, as the labels of metrics name them.
const BESIDE: [&str; 4] = ["/", "/healthz", "/readyz", "/openapi.json"];

/// What the OpenAPI document says about one operation.
struct Contract {
    method: Method,
    open_to_scripts: bool,
    has_query: bool,
    takes_body: bool,
}

impl Around {
    pub(crate) fn new(edge: Edge, ops: &[Op]) -> Self {
        let mut contracts = Contracts::new();
        for op in ops {
            contracts.entry(op.path).or_default().push(Contract {
                method: op.http_method(),
                open_to_scripts: op.open_to_scripts,
                has_query: op.has_query(),
                takes_body: !op.request.is_empty(),
            });
        }
        Self { edge, contracts: Arc::new(contracts) }
    }

    /// What is known about the operations of a request's path.
    fn contracts_of(&self, route: Option<&MatchedPath>) -> &[Contract] {
        let contracts = route.and_then(|route| self.contracts.get(route.as_str()));
        contracts.map_or(&[][..], Vec::as_slice)
    }

    /// The route of a request; `None` when there is no such route.
    fn known(&self, route: Option<&MatchedPath>) -> Option<&'static str> {
        let route = route?.as_str();
        let of_operation = self.contracts.get_key_value(route).map(|(route, _)| *route);
        of_operation.or_else(|| BESIDE.into_iter().find(|beside| *beside == route))
    }

    /// Passes a request on, if its size is allowed and it has nothing that its operation does not
    /// know.
    pub(crate) async fn check(self, request: Request, next: Next) -> Response {
        let contracts = self.contracts_of(request.extensions().get());
        match checked(contract_of(contracts, request.method()), request).await {
            Ok(request) => next.run(request).await,
            Err(problem) => Refused(problem).into_response(),
        }
    }

    /// Answers a request, with a span around it.
    pub(crate) async fn answer(self, mut request: Request, next: Next) -> Response {
        let route = request.extensions().get::<MatchedPath>().cloned();
        let is_open = is_open(self.contracts_of(route.as_ref()), request.method());
        let id = request_id(request.headers());
        let (began, method) = (Instant::now(), request.method().clone());
        let mut trace_id = None;
        let span = begin_span(&self.edge, &mut request, route.as_ref(), &id);
        let here = Here { span: span.parent(), saga_id: None };
        let mut response = match span.is_on() {
            false => here.within(next.run(request)).await,
            true => {
                let answering = async {
                    let response = here.within(next.run(request)).await;
                    trace_id = span.exported_trace_id();
                    end_span(span, response.status(), NOTED.with(Cell::get));
                    response
                };
                NOTED.scope(Cell::default(), answering).await
            }
        };
        let (route, status) = (self.known(route.as_ref()), response.status());
        self.edge.measured().answered(&method, route, status, began.elapsed(), trace_id);
        if response.extensions().get::<Panicked>().is_some() {
            error!(request_id = ?id, "a handler panicked");
        }
        dress(response.headers_mut(), is_open, id);
        response
    }
}

/// Adds the headers that every answer of an operation has.
pub(crate) fn dress(headers: &mut HeaderMap, is_open_to_scripts: bool, request_id: HeaderValue) {
    headers.insert(REQUEST_ID, request_id);
    // Without a word on caching, an answer is not to be stored.
    headers.entry(header::CACHE_CONTROL).or_insert(NO_STORE);
    if is_open_to_scripts {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

/// Whether a script may read the answer: its operation is open to scripts, or the path has no
/// operation with this method and one with another method is open.
fn is_open(contracts: &[Contract], method: &Method) -> bool {
    match contract_of(contracts, method) {
        Some(contract) => contract.open_to_scripts,
        None => contracts.iter().any(|contract| contract.open_to_scripts),
    }
}

fn contract_of<'a>(contracts: &'a [Contract], method: &Method) -> Option<&'a Contract> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    contracts.iter().find(|contract| contract.method == *method)
}

/// The client's own id for its request, when it is valid; otherwise a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|id| {
        (1..=REQUEST_ID_CHARS_MAX).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(new_request_id)
}

/// A new id, for a request that has none.
pub(crate) fn new_request_id() -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    let text = Uuid::now_v7().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).expect("digits and hyphens")
}

/// Marks the answer to a request whose handler has panicked: the request id is known outside only.
#[derive(Debug, Clone, Copy)]
struct Panicked;

/// The answer instead of a panic. The panic itself has been reported by the hook.
pub(crate) fn panicked(_: Box<dyn Any + Send>) -> Response {
    let mut response = Refused::from(codes::INTERNAL).into_response();
    response.extensions_mut().insert(Panicked);
    response
}

/// The request, if its size is allowed and it has nothing that its operation does not know.
async fn checked(contract: Option<&Contract>, request: Request) -> Result<Request, Problem> {
    let address = request.uri().path_and_query().map_or(0, |address| address.as_str().len());
    if address > ADDRESS_BYTES_MAX {
        let detail = format!("An address has at most {ADDRESS_BYTES_MAX} bytes, not {address}.");
        return Err(Problem::new(codes::ADDRESS_TOO_LONG, detail));
    }
    let headers = request.headers().iter();
    let bytes: usize = headers.map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > HEADERS_BYTES_MAX {
        let detail = format!("Headers have at most {HEADERS_BYTES_MAX} bytes, not {bytes}.");
        return Err(Problem::new(codes::HEADERS_TOO_LARGE, detail));
    }
    unambiguous(request.headers())?;
    let Some(contract) = contract else { return Ok(request) };
    if !contract.has_query
        && let Some((name, _)) = parameters(request.uri()).next()
    {
        let what = "is not known here; this address takes no parameters";
        return Err(Problem::about(codes::BAD_REQUEST, &short(&name), what));
    }
    if contract.takes_body { Ok(request) } else { without_body(request).await }
}

/// Refuses a head of which a proxy could understand something else: which host is meant, and
/// where the body ends.
fn unambiguous(headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |name: &str, what: &str| Err(Problem::about(codes::BAD_REQUEST, name, what));
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return refused("Host", "is there twice");
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if headers.contains_key(header::CONTENT_LENGTH) {
        return refused("Transfer-Encoding", "must not come together with `Content-Length`");
    }
    let is_chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    match is_chunked && codings.next().is_none() {
        true => Ok(()),
        false => refused("Transfer-Encoding", "must be `chunked`; no other is read here"),
    }
}

/// A request of an operation that takes no body. An empty body is allowed all the same: some
/// clients send an empty object with every request.
async fn without_body(request: Request) -> Result<Request, Problem> {
    use axum::body::HttpBody;
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let read = whole(Limited::new(body, BODY_BYTES_MAX));
    let read = tokio::time::timeout(BODY_TIMEOUT, read).await;
    let is_empty = read.is_ok_and(|read| {
        read.is_ok_and(|read| matches!(read.trim_ascii(), b"" | b"{}" | b"null"))
    });
    match is_empty {
        true => Ok(Request::from_parts(parts, Body::empty())),
        false => {
            let detail = "This operation takes no body; what was sent in it has no meaning here.";
            Err(Problem::new(codes::BAD_REQUEST, detail).with("field", "body"))
        }
    }
}

/// Begins the span of a request; the `traceparent` that is passed on names this span. With
/// tracing off, the header is passed on unchanged. Attributes follow the conventions for HTTP.
fn begin_span(
    edge: &Edge,
    request: &mut Request,
    route: Option<&MatchedPath>,
    id: &HeaderValue,
) -> Span {
    let tracer = edge.link().tracer();
    let incoming = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let parent = TraceParent::from_header(incoming);
    let route = route.map(MatchedPath::as_str);
    if !tracer.is_on() || route.is_some_and(|route| PROBES.contains(&route)) {
        return Span::Off(parent);
    }
    let method = match METHODS.iter().find(|known| *known == request.method()) {
        Some(known) => known.as_str(),
        None => "_OTHER",
    };
    let mut span = tracer.server(method, route, &parent);
    span.note("http.request.method", || method.to_owned());
    if let Some(route) = route {
        span.note("http.route", || route.to_owned());
    }
    span.note("url.scheme", || "http");
    span.note("url.path", || trace::short(request.uri().path()).to_owned());
    span.note("onsale.request_id", || id.to_str().unwrap_or_default().to_owned());
    let passed_on = span.parent().to_header().and_then(|text| HeaderValue::from_str(&text).ok());
    if let Some(passed_on) = passed_on {
        request.headers_mut().insert(TRACEPARENT, passed_on);
    }
    span
}

/// Ends the span of a request. A saga that failed is no error of the request.
fn end_span(mut span: Span, status: StatusCode, noted: Noted) {
    span.note("http.response.status_code", || i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status.as_str(), || status.to_string());
    }
    if let Some(saga_id) = noted.saga_id {
        span.saga(SagaId(saga_id));
    }
    if let Some((outcome, reason)) = noted.outcome {
        span.outcome(outcome.as_str(), reason);
    }
}

#[cfg(test)]
mod tests;
