//! The gateway: the only HTTP edge.
//!
//! It owns and stores nothing: a request becomes a NATS request to the service that answers
//! it, and the reply becomes the response. Tokens, bodies and idempotency keys are forwarded
//! unchanged; the services validate them. The gateway adds HTTP: routes, problems, limits,
//! waiting for an outcome (`Prefer: wait=N`), server-sent events and the OpenAPI document.
//! [`serve`] runs it:
//!
//! ```text
//!  HTTP ── server ── around ── an operation ── edge ── MeshClient ── NATS
//!                                   │                                 │
//!                                   └── hub, seat_hub, wait ── live ──┘
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | `http` | the HTTP edge: what is the same for every operation |
//! | `operations` | what each endpoint does, area by area |
//! | `live` | what is followed on behalf of all connections: events, ends of payments, seat maps |
//! | `settings` | what an operator may configure |
//!
//! | in `http` | what it is |
//! |---|---|
//! | `server`, `wire`, `linger` | routes and connections; bytes that make no request; clients that still send |
//! | `room` | how many connections are open at once, and which one goes when there is no room |
//! | `around` | what applies to every request and to every answer |
//! | `op`, `openapi` | an operation: its route and documentation; the document of all operations |
//! | `call`, `media` | reading a request, and the type of its body |
//! | `problem`, `sse` | answers: granted or refused, or a stream of events |
//! | `edge` | the state that all handlers share, and the way to the services |
//! | `limits` | how often one address may sign up or log in |
//! | `measured` | the metrics of requests |
//! | `pages`, `readiness` | what is served beside the API, and whether this process can do its work |
//!
//! | in `operations` | what it is |
//! |---|---|
//! | `accounts` … `withdrawals` | the operations of one area, with their documentation |
//! | `following`, `seats`, `waiting_room` | also what their connections are sent |
//! | `examples`, `page` | the examples of the document; the parameters of all lists |
//!
//! | in `live` | what it is |
//! |---|---|
//! | `hub`, `cursor`, `identity` | a user's events; the position from which a client resumes; whether a stream is still the one that was followed |
//! | `wait` | requests that wait for the end of a payment or a withdrawal |
//! | `seat_hub`, `seat_mirror`, `seat_keeper`, `seat_map` | the copies of seat maps; one copy; what keeps it in step; the map itself |
//!
//! No file depends on one that depends on it, and no room on one that depends on it: `operations`
//! on `http`, and both on `live`. A test checks that.
//!
//! **Architecture invariant:** any number of gateways may run; none knows of another, and
//! none holds anything that a client could not get from any other.

mod http;
mod live;
mod operations;
mod settings;

use std::{convert::Infallible, time::Duration};

use futures::future::BoxFuture;
use mesh::{Tasks, deadline::within};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use http::{edge::Edge, openapi, server};
use live::wait;

pub use http::readiness::{LocalHealth, Readiness};
pub use settings::{Settings, SettingsError};

/// The gateway's name in the mesh.
pub const NAME: &str = "gateway";

/// How often the metrics learn whether the gateway is ready.
const SAMPLED_EVERY: Duration = Duration::from_secs(5);
/// How long a look at the streams may take: then it counts as failed.
const SAMPLED_WITHIN: Duration = Duration::from_secs(4);
/// How long the followers may take to end.
const FOLLOWERS_END_WITHIN: Duration = Duration::from_secs(1);

/// Serves the API on a listener until shutdown. Then running requests finish, waits are cut
/// short and event streams end.
///
/// # Errors
/// When connections can no longer be accepted.
pub fn serve(
    listener: TcpListener,
    link: mesh::Link,
    settings: Settings,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> BoxFuture<'static, std::io::Result<()>> {
    // Boxed here, its code is compiled in this crate and not again where it is awaited.
    Box::pin(serve_all(listener, link, settings, readiness, shutdown))
}

async fn serve_all(
    listener: TcpListener,
    link: mesh::Link,
    settings: Settings,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let edge = Edge::new(link, &settings, readiness, shutdown.clone());
    let stop = shutdown.child_token();
    // The followers also stop when nothing is served any more.
    let stopping = stop.clone().drop_guard();
    let followers = follow(&edge, &stop);
    let served = server::run(listener, server::router(edge, operations::ops()), shutdown).await;
    drop(stopping);
    followers.end(FOLLOWERS_END_WITHIN).await;
    served
}

/// Follows what is live in the background: a follower that ends or panics is started again.
fn follow(edge: &Edge, stop: &CancellationToken) -> Tasks {
    let followers = Tasks::default();
    let (waiters, running) = (edge.waiters().clone(), edge.running().clone());
    let (client, token) = (edge.client().clone(), stop.clone());
    followers.keep(NAME, "wait", stop.clone(), move || {
        let followed = wait::run(waiters.clone(), running.clone(), client.clone(), token.clone());
        async move { followed.await.map_err(|error| error.with_cause()) }
    });
    let (hub, token) = (edge.hub().clone(), stop.clone());
    followers.keep(NAME, "hub", stop.clone(), move || {
        let (hub, token) = (hub.clone(), token.clone());
        async move {
            hub.run(token).await;
            Ok::<(), Infallible>(())
        }
    });
    let (edge, token) = (edge.clone(), stop.clone());
    followers.keep(NAME, "metrics", stop.clone(), move || {
        let (edge, token) = (edge.clone(), token.clone());
        async move {
            let sampling = async {
                loop {
                    let faults = edge.readiness().own().await;
                    edge.measured().ready(edge.link().is_whole() && faults.is_empty());
                    let unread = within(SAMPLED_WITHIN, "the broker", edge.hub().unread()).await;
                    edge.measured().unread(unread.ok().and_then(Result::ok));
                    tokio::time::sleep(SAMPLED_EVERY).await;
                }
            };
            tokio::select! {
                () = token.cancelled() => {}
                () = sampling => {}
            }
            Ok::<(), Infallible>(())
        }
    });
    followers
}

/// The OpenAPI document that is served at `/openapi.json`.
pub fn openapi_json() -> String {
    openapi::document(&operations::ops()).to_json().expect("the document is plain data")
}
