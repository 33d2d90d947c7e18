//! Many connections, slow ones, large heads and large bodies. Each test has a gateway of its own,
//! measures its memory, and is a client that is served meanwhile.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use harness::mesh::{SOON, eventually, run};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::process::{Gateway, files_max};

/// Connections that do nothing.
const IDLE: usize = 10_000;
/// Files that this process needs besides its connections.
const OTHER_FILES: u64 = 1_000;
/// How many connections are opened at once.
const AT_ONCE: usize = 100;
/// A slow client sends a byte in this time.
const DRIP: Duration = Duration::from_millis(100);
/// How long a body may take (`BODY_TIMEOUT` of the gateway), and some more.
const BODY_ENDS_WITHIN: Duration = Duration::from_secs(45);

async fn opened(gateway: &Gateway, count: usize) -> Vec<TcpStream> {
    stream::iter(0..count).map(|_| gateway.connect()).buffer_unordered(AT_ONCE).collect().await
}

/// Sends the same bytes on every connection, as far as the gateway reads them.
async fn send_all(clients: &mut [TcpStream], bytes: &[u8]) {
    let sending = clients.iter_mut().map(|client| async move {
        // The gateway may refuse and close before it has read everything.
        let _ = tokio::time::timeout(SOON, client.write_all(bytes)).await;
    });
    futures::future::join_all(sending).await;
}

/// Everything that the gateway sends until it closes the connection.
async fn last_words(client: &mut TcpStream, within: Duration) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(within, client.read_to_end(&mut answer)).await;
    // A reset also ends the connection; what came before it counts.
    let _ = read.expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn idle_connections_leave_room_for_a_client() {
    run(async {
        let allowed = usize::try_from(files_max().saturating_sub(OTHER_FILES)).unwrap_or(IDLE);
        let count = IDLE.min(allowed);
        if count < IDLE {
            println!("only {count} of {IDLE} connections: the system allows no more open files");
        }
        let gateway = Gateway::start(None).await;
        let idle = opened(&gateway, count).await;
        gateway.serves("others are idle").await;
        gateway.has_grown_by_at_most(&format!("{count} idle connections"), 200);
        drop(idle);
        gateway.serves("all are gone").await;
    });
}

#[test]
fn without_room_those_that_wait_longest_are_closed_and_a_client_is_served() {
    run(async {
        const FILES: u64 = 1_024;
        let gateway = Gateway::start(Some(FILES)).await;
        // Some send nothing, some send the beginning of a head, and none ever sends more.
        let mut begun = opened(&gateway, 300).await;
        send_all(&mut begun, b"GET /v1/concerts HTTP/1.1\r\nx: ").await;
        let _idle = opened(&gateway, 300).await;
        let _more = opened(&gateway, 600).await;
        gateway.serves("there is no room").await;
        let words = last_words(&mut begun[0], SOON).await;
        assert!(words.contains("\"code\":\"request_too_slow\""), "{words}");
        // A client that is always slow never keeps others out.
        for _ in 0..20 {
            let _further = opened(&gateway, 50).await;
            gateway.serves("there is no room").await;
        }
    });
}

#[test]
fn slow_clients_cost_little_and_end() {
    run(async {
        let gateway = Gateway::start(None).await;
        let (mut heads, mut bodies) = (opened(&gateway, 400).await, opened(&gateway, 400).await);
        send_all(&mut heads, b"GET /v1/concerts HTTP/1.1\r\nx: ").await;
        let head = b"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                     content-length: 60000\r\n\r\n{";
        send_all(&mut bodies, head).await;
        let mut one = bodies.pop().expect("a connection");
        let begun = Instant::now();
        let mut rounds = 0;
        while begun.elapsed() < Duration::from_secs(5) {
            send_all(&mut heads, b"y").await;
            send_all(&mut bodies, b" ").await;
            gateway.serves("others send a byte at a time").await;
            rounds += 1;
            tokio::time::sleep(DRIP).await;
        }
        assert!(rounds > 3, "only {rounds} rounds: the attack was no attack");
        gateway.has_grown_by_at_most("800 slow requests", 64);
        // Each byte shows that the client is alive, and buys it no time.
        let (mut reader, mut writer) = one.split();
        let dripping = async {
            while writer.write_all(b" ").await.is_ok() {
                tokio::time::sleep(DRIP).await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = vec![0; 4_096];
        let read = tokio::time::timeout(BODY_ENDS_WITHIN, reader.read(&mut answer));
        let read = tokio::select! {
            read = read => read.expect("it ends").expect("an answer"),
            () = dripping => unreachable!("it drips for ever"),
        };
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("\"code\":\"request_too_slow\""), "{answer}");
    });
}

#[test]
fn large_heads_are_refused_and_cost_no_more_than_their_limit() {
    run(async {
        let gateway = Gateway::start(None).await;
        // Heads that never end, a little below what is read of one.
        let mut clients = opened(&gateway, 200).await;
        let endless = [b"GET / HTTP/1.1\r\nhost: x\r\nx: ".to_vec(), vec![b'y'; 120 * 1024]];
        send_all(&mut clients, &endless.concat()).await;
        gateway.serves("others send large heads").await;
        gateway.has_grown_by_at_most("200 heads of 120 KiB", 100);
        let many: String = (0..5_000).map(|n| format!("x-{n}: y\r\n")).collect();
        let heads = [
            format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(60_000)),
            format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(2_000_000)),
            format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
            format!("GET / HTTP/1.1\r\nhost: x\r\n{}: y\r\n\r\n", "n".repeat(100_000)),
            format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(101)),
        ];
        for head in heads {
            let mut client = gateway.connect().await;
            // The client keeps its half open: to the gateway, one that closes it has gone away.
            let head = head.replacen("host: x", "connection: close\r\nhost: x", 1);
            let _ = client.write_all(head.as_bytes()).await;
            let answer = last_words(&mut client, SOON).await;
            let what = format!("{} bytes: {answer}", head.len());
            let (status, code) = match head.contains("nnnn") {
                // A name that is no name of a header.
                true => (["400", "431"], ["bad_request", "headers_too_large"]),
                false => (["431"; 2], ["headers_too_large"; 2]),
            };
            let is = |prefix: &&str| answer.starts_with(&format!("HTTP/1.1 {prefix} "));
            assert!(status.iter().any(is), "{what}");
            assert!(code.iter().any(|code| answer.contains(code)), "{what}");
        }
    });
}

#[test]
fn large_bodies_are_refused_before_they_are_read() {
    run(async {
        let gateway = Gateway::start(None).await;
        let id = uuid::Uuid::now_v7();
        // Nobody may send a seat plan, and nobody's plan is read.
        let plan = format!("/v1/concerts/{id}/schedules?venue=x&starts_at=2030-01-01T00:00:00Z");
        for (path, media, code) in [
            (plan.as_str(), "text/csv", "unauthenticated"),
            ("/v1/sessions", "application/json", "body_too_large"),
        ] {
            const BYTES: usize = 7 * 1024 * 1024;
            let sending = (0..50).map(|_| async {
                let (mut reader, mut writer) = gateway.connect().await.into_split();
                let head = format!(
                    "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {media}\r\n\
                     content-length: {}\r\n\r\n",
                    BYTES + 1
                );
                let sent = tokio::spawn(async move {
                    writer.write_all(head.as_bytes()).await?;
                    // All but the last byte: a reader of it all would wait for it.
                    writer.write_all(&vec![b'x'; BYTES]).await?;
                    Ok::<_, std::io::Error>(writer)
                });
                let mut answer = vec![0; 4_096];
                let read = tokio::time::timeout(SOON, reader.read(&mut answer)).await;
                let read = read.expect("an answer in time").expect("an answer");
                let _ = sent.await.expect("sent");
                String::from_utf8_lossy(&answer[..read]).into_owned()
            });
            for answer in futures::future::join_all(sending).await {
                assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{path}: {answer}");
            }
            gateway.serves("others send large bodies").await;
            gateway.has_grown_by_at_most(&format!("50 bodies of 7 MiB to {path:.12}"), 64);
        }
    });
}

#[test]
fn endless_chunks_are_refused_and_end() {
    run(async {
        let gateway = Gateway::start(None).await;
        let endless = (0..50).map(|_| async {
            let mut client = gateway.connect().await;
            let head = "POST /v1/users HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                        transfer-encoding: chunked\r\n\r\n";
            client.write_all(head.as_bytes()).await.expect("sent");
            let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
            let mut sent = 0;
            while client.write_all(chunk.as_bytes()).await.is_ok() {
                sent += chunk.len();
            }
            sent
        });
        let ended = tokio::time::timeout(SOON, futures::future::join_all(endless)).await;
        let most = ended.expect("each is cut off").into_iter().max().expect("one");
        println!("at most {} MiB were taken from one client", most / 1024 / 1024);
        gateway.has_grown_by_at_most("50 endless bodies", 64);
        eventually("the gateway serves", || async {
            gateway.serves("the others are gone").await;
            Some(())
        })
        .await;
    });
}
