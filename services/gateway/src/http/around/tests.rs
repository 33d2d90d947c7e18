use std::net::SocketAddr;

use axum::{Router, extract::ConnectInfo};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::{
    http::{readiness::Readiness, server::router},
    operations::ops,
    settings::Settings,
};

/// The gateway without a mesh behind it.
async fn edge() -> Edge {
    let settings = Settings { login_per_minute: None, ..Settings::default() };
    let link = mesh::Link::unconnected(crate::NAME).await;
    let readiness = Readiness::new(link.clone(), std::sync::Arc::new(Vec::new));
    Edge::new(link, &settings, readiness, CancellationToken::new())
}

fn request(method: &Method, path: &str) -> Request {
    let id = Uuid::now_v7().to_string();
    let path = path.replace("{id}", &id).replace("{role}", "fan").replace("{letter}", "point-1");
    let mut request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9))));
    request
}

async fn sent(router: &Router, request: Request) -> Response {
    router.clone().oneshot(request).await.unwrap()
}

fn text(response: &Response, name: &str) -> Option<String> {
    let values = response.headers().get_all(name);
    assert!(values.iter().count() <= 1, "{name} is there twice");
    values.iter().next().map(|value| value.to_str().unwrap().to_owned())
}

/// Checks the headers of an answer, whatever its outcome.
fn check(what: &str, response: &Response, is_open: bool) {
    let what = format!("{what}: {}", response.status());
    assert!(text(response, "x-request-id").is_some(), "{what}");
    assert!(text(response, "cache-control").is_some(), "{what}");
    let any_origin = text(response, "access-control-allow-origin");
    assert_eq!(any_origin.as_deref(), is_open.then_some("*"), "{what}");
    let exposed = text(response, "access-control-expose-headers").unwrap_or_default();
    assert_eq!(exposed.contains("retry-after"), is_open, "{what}");
    if response.status().as_u16() == 503 {
        assert!(text(response, "retry-after").is_some(), "{what}");
    }
    if !response.status().is_success() {
        let kind = text(response, "content-type");
        assert_eq!(kind.as_deref(), Some("application/problem+json"), "{what}");
        assert_eq!(text(response, "cache-control").as_deref(), Some("no-store"), "{what}");
    }
}

#[tokio::test]
async fn every_operation_has_its_headers_on_every_answer() {
    let router = router(edge().await, ops());
    for op in ops() {
        let method = op.http_method();
        let plain = || request(&method, op.path);
        let check = |what: &str, response| {
            check(&format!("{} {what}", op.id), &response, op.open_to_scripts)
        };
        check("without a mesh", sent(&router, plain()).await);
        let unknown = request(&method, &format!("{}?colour=red", op.path));
        let refused = sent(&router, unknown).await;
        assert_eq!(refused.status(), 400, "{}", op.id);
        check("with an unknown parameter", refused);
        let mut forged = plain();
        forged.headers_mut().insert("authorization", HeaderValue::from_static("Bearer x"));
        check("with a forged token", sent(&router, forged).await);
        let mut other = plain();
        other.headers_mut().insert("last-event-id", HeaderValue::from_static("x"));
        check("with a foreign event id", sent(&router, other).await);
        let none = plain().uri().path().replace("point-1", "x");
        check("of something unknown", sent(&router, request(&method, &none)).await);
    }
}

#[tokio::test]
async fn a_refused_method_is_answered_with_those_that_are_allowed() {
    let router = router(edge().await, ops());
    let all = ops();
    for op in &all {
        let response = sent(&router, request(&Method::PATCH, op.path)).await;
        assert_eq!(response.status(), 405, "{}", op.path);
        let allowed = text(&response, "allow").expect(op.path);
        let is_named = |method: &str| allowed.split(',').any(|known| known.trim() == method);
        let mut is_open = false;
        for known in all.iter().filter(|known| known.path == op.path) {
            assert!(is_named(known.http_method().as_str()), "{}: {allowed}", op.path);
            is_open |= known.open_to_scripts;
        }
        check(op.path, &response, is_open);
    }
}

#[tokio::test]
async fn a_panic_is_an_answer_of_its_operation() {
    let panics = async || -> Response { panic!("on purpose") };
    let ops = vec![
        Op::get("/open", panics).open_to_scripts().gives::<String>(200, "x", "\"x\""),
        Op::get("/own", panics).gives::<String>(200, "x", "\"x\""),
    ];
    let router = router(edge().await, ops);
    for (path, is_open) in [("/open", true), ("/own", false)] {
        let response = sent(&router, request(&Method::GET, path)).await;
        assert_eq!(response.status(), 500);
        check(path, &response, is_open);
    }
}

#[tokio::test]
async fn an_answer_from_beside_the_api_has_a_request_id_too() {
    let router = router(edge().await, ops());
    for path in ["/", "/healthz", "/readyz", "/openapi.json", "/nowhere", "/v1"] {
        check(path, &sent(&router, request(&Method::GET, path)).await, false);
    }
    let preflight = sent(&router, request(&Method::OPTIONS, "/v1/concerts")).await;
    assert_eq!(preflight.status(), 204);
    check("a preflight", &preflight, true);
    assert!(text(&preflight, "access-control-allow-methods").is_some());
}

#[tokio::test]
async fn a_request_keeps_its_own_id_if_it_is_valid() {
    let router = router(edge().await, ops());
    let named = async |id: &[u8]| {
        let mut request = request(&Method::GET, "/healthz");
        request.headers_mut().insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
        text(&sent(&router, request).await, "x-request-id").unwrap()
    };
    assert_eq!(named(b"from-the-shop.17").await, "from-the-shop.17");
    for odd in [&b""[..], b"a b", &[b'x'; 129], "é".as_bytes()] {
        assert!(named(odd).await.parse::<Uuid>().is_ok());
    }
}

#[tokio::test]
async fn an_unexpected_body_is_refused_and_an_empty_one_is_allowed() {
    let router = router(edge().await, ops());
    for op in ops().iter().filter(|op| op.request.is_empty()) {
        for (body, is_refused) in [("{\"reason\":\"rain\"}", true), ("{}", false), (" ", false)] {
            let mut request = request(&op.http_method(), op.path);
            *request.body_mut() = body.into();
            let response = sent(&router, request).await;
            assert_eq!(response.status() == 400, is_refused, "{} {body}", op.id);
        }
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_with_the_reason() {
    let router = router(edge().await, ops());
    let long =
        sent(&router, request(&Method::GET, &format!("/v1/concerts?q={}", "x".repeat(20_000))))
            .await;
    assert_eq!(long.status(), 414);
    check("a long address", &long, true);
    let mut request = request(&Method::GET, "/v1/concerts");
    let value = HeaderValue::from_str(&"x".repeat(50_000)).unwrap();
    request.headers_mut().insert("x-large", value);
    let large = sent(&router, request).await;
    assert_eq!(large.status(), 431);
    check("large headers", &large, true);
}
