//! Routes and connections.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use events::{Problem, codes};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{debug, info, warn};

use crate::http::{
    around::{self, Around},
    edge::Edge,
    op::Op,
    openapi, pages,
    problem::Refused,
    room::Room,
    wire::{Progress, Wire},
};

/// How long a connection may take to send the head of its next request, idling included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Bytes of a request's head that are read at all. The limit is lower, and its refusal says so.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// How long running requests may take to finish once shutdown has begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);
/// How long to wait when the system has no sockets left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The API, what is served beside it, and the layers around every request.
pub(crate) fn router(edge: Edge, ops: Vec<Op>) -> Router {
    let document = openapi::document(&ops).to_json().expect("the document is plain data");
    let around = Around::new(edge.clone(), &ops);
    let checks = around.clone();
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
        .method_not_allowed_fallback(async || {
            Refused(Problem::new(
                codes::METHOD_NOT_ALLOWED,
                "`Allow` names the methods of this address.",
            ))
        })
        // The last one is the outermost.
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            checks.clone().check(request, next)
        }))
        .layer(CatchPanicLayer::custom(around::panicked))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            around.clone().answer(request, next)
        }))
        .with_state(edge)
}

/// Answers a browser's preflight: a script may read the catalogue.
async fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Accepts connections until shutdown, then lets running requests finish.
pub(crate) async fn run(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let room = Room::of_this_process();
    info!(connections_max = room.max(), "accepting connections");
    let graceful = GracefulShutdown::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = room.permit() => permit?,
        };
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_about_one_connection(&error) => continue,
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let progress = Arc::<Progress>::default();
        let place = room.place(permit, progress.clone());
        let connection = connection(stream, peer, router.clone(), progress, HEAD_TIMEOUT);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    debug!(%peer, %error, "a connection broke");
                },
                () = place.is_wanted() => debug!(%peer, "closed, because there was no room"),
            }
            drop(place);
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
    progress: Arc<Progress>,
    head_timeout: Duration,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "TCP_NODELAY could not be set");
    }
    let wire = Wire::new(stream, progress.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let in_flight = progress.begin();
        let mut request = request.map(|body| Body::new(progress.body(body)));
        request.extensions_mut().insert(ConnectInfo(peer));
        let answered = router.clone().call(request);
        async move {
            let answered = answered.await.unwrap_or_else(|never| match never {});
            drop(in_flight);
            Ok::<_, Infallible>(answered)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(wire), service)
}

/// Whether only this one connection failed, as when its client has already hung up.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests;
