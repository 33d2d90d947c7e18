//! Bytes that are no request, or one with two meanings, against a whole mesh. Each is answered
//! with a problem where an answer is possible, and never understood as two requests.

use std::time::Duration;

use harness::mesh::{Mesh, run, shared};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection that is not closed is silent for this long after its last answer.
const SILENT_FOR: Duration = Duration::from_secs(1);
/// Levels of nested JSON.
const LEVELS: usize = 10_000;

/// All answers to these bytes.
async fn answers(mesh: &Mesh, bytes: &[u8]) -> String {
    let addr = mesh.http.base().trim_start_matches("http://");
    let mut client = TcpStream::connect(addr).await.expect("a connection");
    // The gateway may refuse and close before it has read everything.
    let _ = client.write_all(bytes).await;
    let mut answers = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    let mut silent_for = 20 * SILENT_FOR;
    while let Ok(Ok(read)) = tokio::time::timeout(silent_for, client.read(&mut piece)).await
        && read > 0
    {
        answers.extend_from_slice(&piece[..read]);
        silent_for = SILENT_FOR;
    }
    String::from_utf8_lossy(&answers).into_owned()
}

/// Statuses and codes of the answers.
fn outcomes(answers: &str) -> Vec<(u16, String)> {
    // A problem may name the protocol; an answer begins with it and a status.
    let each = answers.split("HTTP/1.1 ").skip(1);
    each.filter_map(|answer| {
        let status = answer.split(' ').next()?.parse().ok()?;
        let code = answer.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let is_problem = answer.contains("content-type: application/problem+json");
        assert_eq!(code.is_some(), is_problem, "{answer}");
        Some((status, code.unwrap_or_default().to_owned()))
    })
    .collect()
}

fn json_to(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A request to log in, with these headers in place of its length, and whatever follows.
fn framed(headers: &str, rest: &str) -> Vec<u8> {
    format!(
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         {headers}\r\n\r\n{rest}"
    )
    .into_bytes()
}

/// A head with one line in it.
fn line(line: &[u8]) -> Vec<u8> {
    [b"GET /v1/concerts HTTP/1.1\r\nhost: x\r\n", line, b"\r\n\r\n"].concat()
}

fn first(line: &[u8]) -> Vec<u8> {
    [line, b"\r\nhost: x\r\n\r\n"].concat()
}

#[test]
fn bytes_that_are_no_request_are_refused_with_a_code() {
    run(async {
        let mesh = shared().await;
        let (none, bad) = ((404, "not_found"), (400, "bad_request"));
        let unknown = (405, "method_not_allowed");
        let cases: Vec<(&str, Vec<u8>, (u16, &str))> = vec![
            ("a path that is no UTF-8", first(b"GET /v1/\xff\xfe HTTP/1.1"), bad),
            ("an escaped path that is none", first(b"GET /v1/concerts/%ff HTTP/1.1"), none),
            ("a query that is no UTF-8", first(b"GET /v1/concerts?q=\xff HTTP/1.1"), bad),
            ("a header's name that is no UTF-8", line(b"\xffx: y"), bad),
            ("a header with a zero byte", line(b"x: a\0b"), bad),
            ("a header that goes on in the next line", line(b"x: a\r\n b"), bad),
            ("a blank before the colon", line(b"x : a"), bad),
            ("HTTP/0.9", b"GET /v1/concerts\r\n\r\n".to_vec(), bad),
            ("HTTP/2.0", first(b"GET /v1/concerts HTTP/2.0"), bad),
            ("HTTP/3.7", first(b"GET /v1/concerts HTTP/3.7"), bad),
            ("HTTP/2 without a word", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), bad),
            ("TLS", [&b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..], &[b'a'; 300]].concat(), bad),
            ("a tunnel", first(b"CONNECT example.com:443 HTTP/1.1"), none),
            ("a question about everything", first(b"OPTIONS * HTTP/1.1"), none),
            ("an unknown method", first(b"BREW /v1/concerts HTTP/1.1"), unknown),
            ("a method in small letters", first(b"get /v1/concerts HTTP/1.1"), unknown),
            ("a method that echoes", first(b"TRACE /v1/concerts HTTP/1.1"), unknown),
            ("a method of odd characters", first(b"G@T{} /v1/concerts HTTP/1.1"), bad),
            ("two hosts", line(b"host: y"), bad),
        ];
        for (what, bytes, (status, code)) in cases {
            let answers = answers(mesh, &bytes).await;
            assert_eq!(outcomes(&answers), [(status, code.to_owned())], "{what}: {answers}");
        }
    });
}

#[test]
fn a_body_whose_end_is_not_certain_is_refused_and_nothing_behind_it_is_a_request() {
    run(async {
        let mesh = shared().await;
        let hidden = "GET /v1/rankings/concerts HTTP/1.1\r\nhost: x\r\n\r\n";
        let chunked = format!("0\r\n\r\n{hidden}");
        let zz = format!("zz\r\n{{}}\r\n{chunked}");
        for (headers, rest) in [
            ("content-length: 5\r\ncontent-length: 6", hidden),
            ("content-length: 2, 2", hidden),
            ("content-length: -1", hidden),
            ("content-length: +2", hidden),
            ("content-length: 99999999999999999999999", hidden),
            ("transfer-encoding: identity", hidden),
            ("transfer-encoding: xchunked", chunked.as_str()),
            ("transfer-encoding: chunked, identity", &chunked),
            ("transfer-encoding: chunked", &zz),
            ("transfer-encoding: chunked", "fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        ] {
            let answers = answers(mesh, &framed(headers, rest)).await;
            let refused = [(400, "bad_request".to_owned())];
            assert_eq!(outcomes(&answers), refused, "{headers}: {answers}");
        }
        // Both a length and chunks: the chunks count, and the connection ends there.
        let both = framed("content-length: 6\r\ntransfer-encoding: chunked", &chunked);
        let answers = answers(mesh, &both).await;
        assert_eq!(outcomes(&answers).len(), 1, "{answers}");
        assert!(!answers.contains("HTTP/1.1 200"), "{answers}");
    });
}

#[test]
fn a_transfer_coding_that_is_not_read_is_refused() {
    run(async {
        let mesh = shared().await;
        let coded = framed("transfer-encoding: gzip, chunked", "2\r\n{}\r\n0\r\n\r\n");
        let answers = answers(mesh, &coded).await;
        assert_eq!(outcomes(&answers), [(400, "bad_request".to_owned())], "{answers}");
        assert!(answers.contains("\"field\":\"Transfer-Encoding\""), "{answers}");
    });
}

#[test]
fn odd_but_valid_requests_are_answered_each_once_and_in_order() {
    run(async {
        let mesh = shared().await;
        let get = "GET /v1/concerts?limit=1 HTTP/1.1\r\nhost: x\r\n";
        let pipelined: String =
            (0..50).map(|n| format!("{get}x-request-id: {n}\r\n\r\n")).collect();
        let answered = answers(mesh, pipelined.as_bytes()).await;
        let ids = answered.lines().filter_map(|line| line.strip_prefix("x-request-id: "));
        let ids: Vec<usize> = ids.map(|id| id.parse().expect("a number")).collect();
        assert_eq!(ids, (0..50).collect::<Vec<_>>());
        // What is wrong with one of them does not matter to the others.
        let mixed = format!("{get}\r\nGET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n{get}\r\n");
        let statuses: Vec<u16> = outcomes(&answers(mesh, mixed.as_bytes()).await)
            .into_iter()
            .map(|(it, _)| it)
            .collect();
        assert_eq!(statuses, [200, 404, 200]);
        for odd in [
            first(b"GET http://elsewhere.example/v1/concerts HTTP/1.1"),
            b"GET /v1/concerts HTTP/1.0\r\n\r\n".to_vec(),
            [b"\r\n\r\n".to_vec(), line(b"x: y")].concat(),
            line(b"x: \xff\xfe"),
            line(b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMA"),
        ] {
            let answers = answers(mesh, &odd).await.replace("HTTP/1.0 ", "HTTP/1.1 ");
            let outcomes = outcomes(&answers);
            assert_eq!(outcomes, [(200, String::new())], "{}", String::from_utf8_lossy(&odd));
        }
    });
}

#[test]
fn json_of_ten_thousand_levels_is_refused() {
    run(async {
        let mesh = shared().await;
        let lists = [b"[".repeat(LEVELS), b"]".repeat(LEVELS)].concat();
        let objects = [b"{\"a\":".repeat(LEVELS), b"1".to_vec(), b"}".repeat(LEVELS)].concat();
        for path in ["/v1/users", "/v1/sessions", "/v1/sessions/refresh"] {
            for deep in [&lists, &objects] {
                let inside = [&b"{\"email\":"[..], deep, b"}"].concat();
                for body in [deep.as_slice(), &inside] {
                    let answers = answers(mesh, &json_to(path, body)).await;
                    let outcomes = outcomes(&answers);
                    let is_refused = matches!(&outcomes[..], [(400 | 413 | 422, _)]);
                    assert!(is_refused, "{path}: {outcomes:?}");
                }
            }
        }
        let bad = json_to("/v1/sessions", b"{\"email\":\"\xff\xfe\"}");
        let answers = answers(mesh, &bad).await;
        assert_eq!(outcomes(&answers), [(400, "bad_request".to_owned())], "{answers}");
    });
}
