//! The headers that every answer of an operation has: here for granted requests, a `304` and a
//! stream. That refusals have them too is tested with every refusal, and in the gateway.

use std::collections::BTreeMap;

use harness::mesh::{SOON, run};
use hyper::Method;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{
    operation::{self, Operation},
    request::Request,
    world::{self, World},
};

type Head = BTreeMap<String, String>;

/// Sends a request and reads only the head of the answer, because a stream has no end.
async fn head(world: &World, request: &Request) -> (u16, Head) {
    let addr = world.mesh.http.base().trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&addr).await.expect("a connection");
    let mut text = format!("{} {} HTTP/1.1\r\nhost: {addr}\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        text += &format!("{name}: {value}\r\n");
    }
    socket.write_all(format!("{text}\r\n").as_bytes()).await.expect("sent");
    let mut lines = BufReader::new(socket).lines();
    let read = async {
        let first = lines.next_line().await.expect("a line").expect("an answer");
        let mut head = Head::new();
        while let Some((name, value)) = lines.next_line().await.expect("a line").and_then(|line| {
            Some(line.split_once(": ")?).map(|(a, b)| (a.to_owned(), b.to_owned()))
        }) {
            let before = head.insert(name, value);
            assert!(before.is_none(), "a header twice: {before:?} and in {head:?}");
        }
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), head)
    };
    tokio::time::timeout(SOON, read).await.expect("an answer in time")
}

fn check(operation: &Operation, head: &Head) {
    let what = format!("{}: {head:?}", operation.id);
    assert!(head.contains_key("cache-control"), "{what}");
    assert_eq!(head.get("x-request-id").map(String::as_str), Some("of-the-test"), "{what}");
    let origins = head.get("access-control-allow-origin").map(String::as_str);
    assert_eq!(origins, operation.is_open.then_some("*"), "{what}");
    let exposed = head.get("access-control-expose-headers");
    let exposed =
        exposed.is_some_and(|names| names.contains("etag") && names.contains("retry-after"));
    assert_eq!(exposed, operation.is_open, "{what}");
}

#[test]
fn every_answer_has_the_headers_of_its_operation() {
    run(async {
        let (world, _guard) = world::alone().await;
        let mut tagged = 0;
        let reads = |operation: &Operation| {
            operation.method == Method::GET && !operation.path.contains("{letter}")
        };
        for operation in operation::all().iter().filter(|operation| reads(operation)) {
            let right = world.right(operation).with("origin", "https://shop.example");
            let right = right.with("x-request-id", "of-the-test");
            let (status, granted) = head(world, &right).await;
            assert_eq!(status, 200, "{}: {granted:?}", operation.id);
            check(operation, &granted);
            if let Some(tag) = granted.get("etag") {
                let again = right.clone().with("if-none-match", tag.clone());
                let (status, unchanged) = head(world, &again).await;
                assert_eq!(status, 304, "{}", operation.id);
                check(operation, &unchanged);
                assert_eq!(unchanged.get("etag"), Some(tag));
                assert_eq!(unchanged.get("cache-control"), granted.get("cache-control"));
                tagged += 1;
            }
            let (status, refused) = head(world, &right.clone().query("colour=red")).await;
            assert_eq!(status, 400, "{}: {refused:?}", operation.id);
            check(operation, &refused);
            let without_body = Request { method: Method::HEAD, ..right };
            if !operation.streams {
                let (status, same) = head(world, &without_body).await;
                assert_eq!(status, 200, "{}: {same:?}", operation.id);
                check(operation, &same);
            }
        }
        assert!(tagged >= 2, "only {tagged} operations have a tag");
    });
}
