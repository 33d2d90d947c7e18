//! Connections, and what happens to every request.

use std::{
    cell::Cell, convert::Infallible, io, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use events::{Problem, SagaId, codes};
use futures::FutureExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use mesh::trace::{Span, TRACEPARENT, TraceParent};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, error, warn};

use crate::{Edge, edge::SAGA, openapi, ops, pages, problem::Refused};

/// Connections open at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 16_384;
/// How long a connection may take to send the head of its next request, idling included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long running requests may take to finish once shutdown has begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Asked every few seconds by whoever watches; they make no traces.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];
/// How long to wait when the system has no more sockets to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The API and everything around it.
pub(crate) fn router(edge: Edge) -> Router {
    let ops = ops();
    let document = openapi::document(&ops).to_json().expect("the document is plain data");
    let mut router = pages::router(document);
    for op in ops {
        let route = match op.open_to_scripts {
            true => op.route.options(preflight),
            false => op.route,
        };
        router = router.route(op.path, route);
    }
    router
        .fallback(async || {
            Refused(Problem::new(codes::NOT_FOUND, "There is no such address; see /openapi.json."))
        })
        .method_not_allowed_fallback(async || Refused::from(codes::METHOD_NOT_ALLOWED))
        .layer(middleware::from_fn_with_state(edge.clone(), around))
        .with_state(edge)
}

/// Tells a browser that a script may read the catalogue.
async fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// What happens to every request: a span around it, and a problem instead of a panic.
async fn around(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let Some(mut span) = begin_span(&edge, &mut request) else {
        return answered(request, next).await;
    };
    let within = async {
        let response = answered(request, next).await;
        span.status(response.status().as_u16());
        if let Some(saga_id) = SAGA.with(Cell::get) {
            span.saga(SagaId(saga_id));
        }
        response
    };
    SAGA.scope(Cell::new(None), within).await
}

async fn answered(request: Request, next: Next) -> Response {
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        error!("a handler panicked");
        Refused::from(codes::INTERNAL).into_response()
    })
}

/// The span of a request, which takes its place in the `traceparent` that is sent on. With
/// tracing off, what came in is sent on as it is.
fn begin_span(edge: &Edge, request: &mut Request) -> Option<Span> {
    let tracer = edge.link().tracer();
    if !tracer.is_on() {
        return None;
    }
    let incoming = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let parent = TraceParent::from_header(incoming);
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
    if PROBES.contains(&route) {
        return None;
    }
    let mut span = tracer.server(request.method().as_str(), route, &parent);
    span.note("http.request.method", || request.method().as_str().to_owned());
    span.note("http.route", || route.to_owned());
    span.note("url.path", || request.uri().path().to_owned());
    let sent_on = span.parent().to_header().and_then(|text| HeaderValue::from_str(&text).ok());
    if let Some(sent_on) = sent_on {
        request.headers_mut().insert(TRACEPARENT, sent_on);
    }
    Some(span)
}

/// Accepts connections until shutdown, then lets running requests finish.
pub(crate) async fn run(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = room.clone().acquire_owned() => permit.map_err(io::Error::other)?,
        };
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    warn!(%error, "no connection accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let connection = graceful.watch(connection(stream, peer, router.clone()));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%peer, %error, "connection broken");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        warn!("some requests did not finish in time");
    }
    Ok(())
}

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "TCP_NODELAY not set");
    }
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        let answered = router.clone().call(request);
        async move { Ok::<_, Infallible>(answered.await.unwrap_or_else(|never| match never {})) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
}

/// Whether only the connection at hand failed, as when its client has hung up already.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
