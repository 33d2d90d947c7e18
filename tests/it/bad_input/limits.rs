//! Limits: too many log-ins, too many guesses, too many bytes.

use std::{num::NonZeroU32, time::Duration};

use gateway::Settings;
use harness::mesh::{Mesh, SOON, eventually, run, shared};
use onsale::{
    fleet::{Fleet, ServiceConfigs},
    http::{Answer, Http},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use uuid::Uuid;

use super::request::{Case, Request, flaws};

/// How many log-ins may come at once in these tests.
const BURST: u32 = 3;

#[test]
fn an_address_that_logs_in_too_often_is_limited_with_a_retry_after() {
    run(async {
        let mesh = shared().await;
        let limits = Settings {
            login_per_minute: NonZeroU32::new(20),
            login_burst: NonZeroU32::new(BURST).expect("more than none"),
            trust_proxy: false,
            ..Settings::default()
        };
        let (fleet, http) = gateway(mesh, limits).await;
        let nobody = json!({ "email": "nobody", "password": "a long pass phrase" });
        // The gateway does not trust the `X-Forwarded-For` header of a client.
        let log_in = |from: u32| {
            let ask = http.post("/v1/sessions").json(&nobody);
            let ask = ask.header("x-forwarded-for", format!("192.0.2.{from}"));
            async move { ask.send().await.expect("an answer") }
        };
        let mut passed = 0;
        let refused = loop {
            let answer = log_in(passed).await;
            if answer.status == 429 {
                break answer;
            }
            assert_eq!(answer.code().as_deref(), Some("bad_credentials"));
            passed += 1;
            assert!(passed < 50, "no log-in is ever refused");
        };
        assert!(passed >= BURST, "only {passed} log-ins passed");
        is_limited(&refused, 3);
        // Signing up counts against the same budget; reading does not.
        let account = json!({ "email": "a@example.com", "password": "short" });
        is_limited(&http.post("/v1/users").json(&account).send().await.expect("an answer"), 3);
        assert_eq!(http.get("/v1/concerts").send().await.expect("an answer").status, 200);
        let elsewhere = mesh.http.post("/v1/sessions").json(&nobody).send().await;
        assert_eq!(elsewhere.expect("an answer").code().as_deref(), Some("bad_credentials"));
        eventually("the budget has refilled", || async {
            (log_in(0).await.status == 401).then_some(())
        })
        .await;
        fleet.stop().await;
    });
}

#[test]
fn five_wrong_passwords_lock_an_address_and_no_other() {
    run(async {
        let mesh = shared().await;
        let (fan, other) = (mesh.fan(0).await, mesh.fan(0).await);
        let nobody = format!("nobody-{}@example.com", Uuid::now_v7().simple());
        // An address without an account gets the same answers, so they reveal nothing.
        for email in [&fan.email, &nobody] {
            for _ in 0..5 {
                let wrong = log_in(mesh, email, "a wrong pass phrase").await;
                assert_eq!(wrong.code().as_deref(), Some("bad_credentials"));
            }
            is_limited(&log_in(mesh, email, "a wrong pass phrase").await, 300);
            is_limited(&log_in(mesh, email, "a long pass phrase").await, 300);
            is_limited(&log_in(mesh, &email.to_uppercase(), "a long pass phrase").await, 300);
        }
        assert_eq!(log_in(mesh, &other.email, "a long pass phrase").await.status, 201);
        // A session that exists stays valid.
        assert_eq!(fan.get("/v1/points/balance").await.status, 200);
    });
}

#[test]
fn concurrent_guesses_are_limited_like_guesses_one_by_one() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(0).await;
        let guess = |_| log_in(mesh, &fan.email, "a wrong pass phrase");
        let answers = futures::future::join_all((0..20).map(guess)).await;
        let of = |code: &str| {
            answers.iter().filter(|answer| answer.code().as_deref() == Some(code)).count()
        };
        assert_eq!((of("bad_credentials"), of("rate_limited")), (5, 15));
    });
}

#[test]
fn a_good_log_in_resets_the_count_of_failures() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(0).await;
        for _ in 0..2 {
            for _ in 0..4 {
                assert_eq!(log_in(mesh, &fan.email, "a wrong pass phrase").await.status, 401);
            }
            assert_eq!(log_in(mesh, &fan.email, "a long pass phrase").await.status, 201);
        }
    });
}

#[test]
fn an_address_is_signed_up_once_however_many_requests_come_at_once() {
    run(async {
        let mesh = shared().await;
        let email = format!("twin-{}@example.com", Uuid::now_v7().simple());
        let account = json!({ "email": email, "password": "a long pass phrase" });
        let sign_up = |_| async {
            let ask = mesh.http.post("/v1/users").json(&account);
            let answer = ask.send().await.expect("an answer");
            answer.code().unwrap_or_else(|| answer.status.as_u16().to_string())
        };
        let mut answers = futures::future::join_all((0..6).map(sign_up)).await;
        answers.sort();
        let taken = "email_taken";
        assert_eq!(answers, ["201", taken, taken, taken, taken, taken]);
    });
}

#[test]
fn a_chunked_body_that_is_too_large_is_refused_as_well() {
    run(async {
        let mesh = shared().await;
        let addr = mesh.http.base().trim_start_matches("http://");
        let (reader, mut writer) = TcpStream::connect(addr).await.expect("there").into_split();
        let head = format!(
            "POST /v1/users HTTP/1.1\r\nhost: {addr}\r\ncontent-type: application/json\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        writer.write_all(head.as_bytes()).await.expect("sent");
        // The gateway may close the connection before it has read everything.
        tokio::spawn(async move {
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            while writer.write_all(chunk.as_bytes()).await.is_ok() {}
        });
        let answer = read_answer(reader).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{answer}");
        assert!(answer.contains("\"code\":\"body_too_large\""), "{answer}");
    });
}

/// The head and the body of one answer.
async fn read_answer(reader: impl tokio::io::AsyncRead + Unpin) -> String {
    let (mut reader, mut answer) = (BufReader::new(reader), String::new());
    let read = async {
        while !answer.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut answer).await.expect("a line") > 0, "{answer}");
        }
        let length = answer.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.expect("a length").parse().expect("a number")];
        reader.read_exact(&mut body).await.expect("a body");
        answer.push_str(&String::from_utf8_lossy(&body));
    };
    tokio::time::timeout(SOON, read).await.expect("an answer in time");
    answer
}

/// One more gateway of the same mesh.
async fn gateway(mesh: &Mesh, limits: Settings) -> (Fleet, Http) {
    let mut config = mesh.env.config.clone();
    config.http_addr = Some(([127, 0, 0, 1], 0).into());
    let configs = ServiceConfigs { gateway: limits, ..ServiceConfigs::default() };
    let fleet = Fleet::start(&config, &["gateway"], &configs).await.expect("a gateway");
    let http = Http::new(format!("http://{}", fleet.http_addr().expect("an address")));
    (fleet, http)
}

async fn log_in(mesh: &Mesh, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password });
    mesh.http.post("/v1/sessions").json(&body).send().await.expect("an answer")
}

/// The answer is `429`, and header and body agree on when to retry.
fn is_limited(answer: &Answer, secs_max: u64) {
    let request = Request::new(hyper::Method::POST, "/v1/sessions");
    let flaws = flaws(answer, &Case::new("too often", request, "rate_limited"));
    assert!(flaws.is_empty(), "{flaws:?}");
    let header = answer.headers["retry-after"].to_str().expect("text");
    let after = Duration::from_secs(header.parse().expect("seconds"));
    assert!(after >= Duration::from_secs(1) && after <= Duration::from_secs(secs_max), "{after:?}");
    let body: Value = serde_json::from_slice(&answer.body).expect("a problem");
    assert_eq!(body["retry_after_secs"], json!(after.as_secs()));
}
