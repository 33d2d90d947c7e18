//! The answers on a connection whose bytes do not make a request.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{http::readiness::Readiness, operations::ops, settings::Settings};

/// How long the head of a request may take in these tests.
const HEAD_SOON: Duration = Duration::from_millis(300);
/// How long an answer may take.
const SOON: Duration = Duration::from_secs(20);

/// A connection to a gateway without a mesh.
async fn client() -> TcpStream {
    let link = mesh::Link::unconnected(crate::NAME).await;
    let readiness = Readiness::new(link.clone(), std::sync::Arc::new(Vec::new));
    let edge = Edge::new(link, &Settings::default(), readiness, CancellationToken::new());
    let router = router(edge, ops());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, peer) = listener.accept().await.unwrap();
        // Its result does not matter here.
        let _ = connection(stream, peer, router, Arc::default(), HEAD_SOON).await;
    });
    TcpStream::connect(addr).await.unwrap()
}

/// Sends bytes and reads until the gateway closes the connection.
async fn answer_to(sent: &[u8]) -> (u16, String) {
    let mut client = client().await;
    client.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, client.read_to_end(&mut answer)).await.expect("it ends").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {answer:?}")), answer)
}

/// A request with a body of so many bytes, all of which are there.
fn with_body(path: &str, bytes: usize) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {bytes}\r\n\r\n");
    [head.into_bytes(), vec![b' '; bytes]].concat()
}

#[tokio::test]
async fn a_client_that_sends_a_body_that_is_not_read_still_reads_why() {
    const BYTES: usize = 12 * 1024 * 1024;
    let id = uuid::Uuid::now_v7();
    let chunked = [
        b"POST /v1/payments HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
        format!("{BYTES:x}\r\n").into_bytes(),
        vec![b' '; BYTES],
        b"\r\n0\r\n\r\n".to_vec(),
    ];
    for (sent, status, code) in [
        (with_body("/v1/payments", BYTES), 413, "body_too_large"),
        (chunked.concat(), 413, "body_too_large"),
        (with_body(&format!("/v1/reservations/{id}/cancel"), BYTES), 404, "not_found"),
        (with_body("/v1/payments?colour=red", BYTES), 400, "bad_request"),
        ([b"RUBBISH\r\n\r\n".to_vec(), vec![b' '; BYTES]].concat(), 400, "bad_request"),
    ] {
        let (answered, answer) = answer_to(&sent).await;
        assert_eq!(answered, status, "{answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_sends_for_ever_is_cut_off() {
    let mut client = client().await;
    let endless = b"POST /v1/payments HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    client.write_all(endless).await.unwrap();
    let sending = async {
        let chunk = vec![b' '; 1024 * 1024];
        while client.write_all(&chunk).await.is_ok() {}
    };
    tokio::time::timeout(SOON, sending).await.expect("it is cut off");
}

#[tokio::test]
async fn bytes_that_are_no_request_are_answered_with_a_problem() {
    let long = |bytes: usize| {
        format!("GET /v1/concerts?q={} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(bytes))
    };
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
    let large = format!("GET / HTTP/1.1\r\na: {}", "x".repeat(HEAD_BYTES_MAX));
    for (sent, status, code) in [
        (long(70_000), 414, "address_too_long"),
        (long(HEAD_BYTES_MAX), 414, "address_too_long"),
        (many, 431, "headers_too_large"),
        (large, 431, "headers_too_large"),
        ("RUBBISH\r\n\r\n".into(), 400, "bad_request"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 400, "bad_request"),
        ("GET /\u{7f} HTTP/1.1\r\n\r\n".into(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n".into(), 400, "bad_request"),
        ("GET /v1/concerts HTTP/1.1\r\nhost:".into(), 408, "request_too_slow"),
    ] {
        let (answered, answer) = answer_to(sent.as_bytes()).await;
        let what = format!("{sent:.60}: {answer}");
        assert_eq!(answered, status, "{what}");
        for line in [
            "content-type: application/problem+json",
            "cache-control: no-store",
            "connection: close",
            "x-request-id: ",
            "access-control-allow-origin: *",
            &format!("\"code\":\"{code}\""),
        ] {
            assert!(answer.contains(line), "{line} in {what}");
        }
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_has_no_more_time_than_another() {
    let mut client = client().await;
    let begun = std::time::Instant::now();
    let dripping = async {
        client.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        // Each byte shows that the client is alive, and buys it no time.
        while client.write_all(b"y").await.is_ok() {
            tokio::time::sleep(HEAD_SOON / 30).await;
        }
    };
    tokio::time::timeout(SOON, dripping).await.expect("it is cut off");
    assert!(begun.elapsed() >= HEAD_SOON, "it had {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_head_with_two_meanings_is_refused() {
    for (sent, field) in [
        ("host: x\r\nhost: y\r\n\r\n", "Host"),
        ("host: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding"),
    ] {
        let sent = format!("POST /v1/sessions HTTP/1.1\r\nconnection: close\r\n{sent}");
        let (status, answer) = answer_to(sent.as_bytes()).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer.contains(&format!("\"field\":\"{field}\"")), "{answer}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_an_answer() {
    let (status, answer) = answer_to(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(status, 200);
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}
