//! The gateway: the only HTTP edge.
//!
//! It owns and stores nothing: a request becomes a NATS request to the service that answers
//! it, and the reply becomes the response. Tokens, bodies and idempotency keys are forwarded
//! unchanged; the services validate them. The gateway adds HTTP: routes, problems, limits,
//! waiting for an outcome (`Prefer: wait=N`), server-sent events and the OpenAPI document.
//!
//! | file | what it is |
//! |---|---|
//! | `op`, `openapi` | an operation: its route and documentation; the document of all operations |
//! | `accounts` … `wallet` | the operations, area by area |
//! | `call`, `media`, `problem` | reading a request, the type of its body, writing a response |
//! | `edge` | the state that all HTTP handlers share |
//! | `wait` | requests that wait for the end of a payment or a withdrawal |
//! | `hub`, `following`, `cursor` | event streams, and the position from which they resume |
//! | `identity` | whether a stream is still the one that was followed |
//! | `seats`, `seat_hub`, `seat_keeper`, `seat_map` | reading and following seat maps from a local copy |
//! | `limits` | how often one address may sign up or log in |
//! | `around`, `wire` | what applies to every request, and to bytes that are no request |
//! | `server`, `pages` | connections, and what is served beside the API |
//! | `readiness` | whether this process can do its work |
//!
//! **Architecture invariant:** any number of gateways may run; none knows of another, and
//! none holds anything that a client could not get from any other.

mod accounts;
mod around;
mod call;
mod catalogue;
mod cursor;
mod dead_letters;
mod edge;
mod examples;
mod export;
mod following;
mod hub;
mod identity;
mod limits;
mod media;
mod messages;
mod op;
mod openapi;
mod pages;
mod payments;
mod problem;
mod rankings;
mod readiness;
mod reservations;
mod sagas;
mod seat_hub;
mod seat_keeper;
mod seat_map;
mod seats;
mod server;
mod wait;
mod waiting_room;
mod wallet;
mod wire;
mod withdrawals;

use std::num::NonZeroU32;

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use edge::Edge;
use op::Op;
pub use readiness::{LocalHealth, Readiness};

/// The gateway's name in the mesh.
pub const NAME: &str = "gateway";

/// What an operator may configure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Sign-ups and log-ins of one address per minute; `None` for no limit.
    pub login_per_minute: Option<NonZeroU32>,
    /// How many of them may arrive at once.
    pub login_burst: NonZeroU32,
    /// Whether `X-Forwarded-For` is believed. Only behind a proxy that sets it.
    pub trust_proxy: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            login_per_minute: Some(limits::LOGIN_PER_MINUTE),
            login_burst: limits::LOGIN_BURST,
            trust_proxy: false,
        }
    }
}

impl Settings {
    /// Settings from the environment: `ONSALE_LOGIN_RATE_PER_MINUTE` (a number, or `off`),
    /// `ONSALE_LOGIN_BURST`, `ONSALE_TRUST_PROXY` (`1`).
    ///
    /// # Errors
    /// Names the variable that cannot be read.
    pub fn from_env() -> Result<Self, String> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let number = |name: &str, text: &str| {
            text.parse().map_err(|_| format!("{name} must be a number from 1, not `{text}`"))
        };
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let mut settings = Self::default();
        if let Some(text) = set("ONSALE_LOGIN_RATE_PER_MINUTE") {
            settings.login_per_minute = match text.as_str() {
                "off" | "0" => None,
                text => Some(number("ONSALE_LOGIN_RATE_PER_MINUTE", text)?),
            };
        }
        if let Some(text) = set("ONSALE_LOGIN_BURST") {
            settings.login_burst = number("ONSALE_LOGIN_BURST", &text)?;
        }
        settings.trust_proxy = set("ONSALE_TRUST_PROXY").is_some_and(|value| value == "1");
        Ok(settings)
    }
}

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
    let followers = [
        tokio::spawn(wait::run(edge.waiters().clone(), edge.client().clone(), shutdown.clone())),
        tokio::spawn({
            let (hub, shutdown) = (edge.hub().clone(), shutdown.clone());
            async move { hub.run(shutdown).await }
        }),
    ];
    let served = server::run(listener, server::router(edge, ops()), shutdown).await;
    for follower in followers {
        follower.abort();
    }
    served
}

/// The OpenAPI document that is served at `/openapi.json`.
pub fn openapi_json() -> String {
    openapi::document(&ops()).to_json().expect("the document is plain data")
}

/// Every operation of the API.
fn ops() -> Vec<Op> {
    [
        accounts::ops(),
        withdrawals::ops(),
        catalogue::ops(),
        seats::ops(),
        rankings::ops(),
        waiting_room::ops(),
        reservations::ops(),
        wallet::ops(),
        payments::ops(),
        messages::ops(),
        following::ops(),
        sagas::ops(),
        export::ops(),
        dead_letters::ops(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str, value: &str) -> Result<Settings, String> {
        Settings::from_vars(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn the_login_rate_can_be_set_and_turned_off() {
        assert_eq!(settings("", ""), Ok(Settings::default()));
        for off in ["off", "0"] {
            let settings = settings("ONSALE_LOGIN_RATE_PER_MINUTE", off).unwrap();
            assert_eq!(settings.login_per_minute, None);
        }
        let set = settings("ONSALE_LOGIN_RATE_PER_MINUTE", "600").unwrap();
        assert_eq!(set.login_per_minute, NonZeroU32::new(600));
    }

    #[test]
    fn a_setting_that_cannot_be_read_is_named() {
        let refused = settings("ONSALE_LOGIN_BURST", "many").unwrap_err();
        assert!(refused.contains("ONSALE_LOGIN_BURST"), "{refused}");
    }

    #[test]
    fn a_proxy_is_trusted_only_when_asked_for() {
        assert!(settings("ONSALE_TRUST_PROXY", "1").unwrap().trust_proxy);
        assert!(!settings("ONSALE_TRUST_PROXY", "0").unwrap().trust_proxy);
    }
}
