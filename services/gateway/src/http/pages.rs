//! What is served beside the API: health, the OpenAPI document, a page of links.

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use events::{Problem, codes};

use crate::http::{
    edge::Edge,
    problem::{JSON, Refused},
};

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The routes beside the API.
pub(crate) fn router(openapi: String) -> Router<Edge> {
    let openapi = Bytes::from(openapi);
    Router::new()
        .route("/", get(async || Html(include_str!("index.html"))))
        .route("/healthz", get(async || state(r#"{"status":"alive"}"#)))
        .route("/readyz", get(ready))
        .route("/openapi.json", get(async move || ([(header::CONTENT_TYPE, JSON)], openapi)))
}

/// Ready while this process can do its work, and otherwise what keeps it from that.
async fn ready(State(edge): State<Edge>) -> Result<Response, Refused> {
    let faults = edge.readiness().faults().await;
    if faults.is_empty() {
        return Ok(state(r#"{"status":"ready"}"#));
    }
    Err(Problem::new(codes::UNAVAILABLE, format!("Not ready: {}.", faults.join("; ")))
        .with("ails", faults)
        .with("retry_after_secs", 1)
        .into())
}

fn state(json: &'static str) -> Response {
    ([(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, NO_STORE)], json).into_response()
}
