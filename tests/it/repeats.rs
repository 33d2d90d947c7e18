//! `Idempotency-Key`: the scope of a key, and which requests count as the same. Also the scope of
//! other names that callers choose: cursors and proposed ids. Over HTTP and over NATS.

use async_nats::{Client, HeaderMap, HeaderValue};
use events::{Page, Problem, codes, point::Entry, reservation::Reservation, user::Session};
use harness::mesh::{Fan, Mesh, run, shared};
use onsale::http::Answer;
use serde_json::{Value, json};
use uuid::Uuid;

/// `POST path` with this idempotency key and this body.
async fn post(mesh: &Mesh, path: &str, token: Option<&str>, key: &str, body: &str) -> Answer {
    let mut ask = mesh.http.post(path).body(body.to_owned());
    if let Some(token) = token {
        ask = ask.token(token);
    }
    let ask = ask.header("content-type", "application/json").header("idempotency-key", key);
    ask.send().await.expect("an answer")
}

async fn sign_up(mesh: &Mesh, email: &str, password: &str, key: &str) -> Answer {
    let body = json!({ "email": email, "password": password }).to_string();
    post(mesh, "/v1/users", None, key, &body).await
}

async fn refresh(mesh: &Mesh, session: &Session, key: &str) -> Answer {
    let body = json!({ "refresh_token": session.refresh_token }).to_string();
    post(mesh, "/v1/sessions/refresh", None, key, &body).await
}

async fn charge(mesh: &Mesh, fan: &Fan<'_>, key: &str, body: &str) -> Answer {
    post(mesh, "/v1/points/charges", Some(fan.token()), key, body).await
}

fn address() -> String {
    format!("{}@example.com", Uuid::now_v7().simple())
}

#[test]
fn callers_without_an_account_may_use_the_same_key() {
    run(async {
        let mesh = shared().await;
        let (mine, theirs) = (address(), address());
        let first = sign_up(mesh, &mine, "a long pass phrase", "signup-1").await;
        let other = sign_up(mesh, &theirs, "a long pass phrase", "signup-1").await;
        assert_eq!((first.status.as_u16(), other.status.as_u16()), (201, 201), "{other:?}");
        let (first, other): (Session, Session) =
            (first.json().expect("a session"), other.json().expect("a session"));
        assert_ne!(first.user_id, other.user_id);
        // A retry finds the account that it has opened.
        let again = sign_up(mesh, &mine, "a long pass phrase", "signup-1").await;
        assert_eq!(again.json::<Session>().expect("a session").user_id, first.user_id);
        // The key alone does not give access to the account.
        let guess = sign_up(mesh, &mine, "another pass phrase", "signup-1").await;
        assert_eq!(guess.code().as_deref(), Some("idempotency_key_reused"));

        let (a, b) = (refresh(mesh, &first, "r1").await, refresh(mesh, &other, "r1").await);
        assert_eq!((a.status.as_u16(), b.status.as_u16()), (201, 201), "{b:?}");
        let (a, b): (Session, Session) = (a.json().expect("one"), b.json().expect("one"));
        assert_eq!((a.user_id, b.user_id), (first.user_id, other.user_id));
        // A retry gets the lost answer of the exchange, and does not count as theft.
        let again: Session = refresh(mesh, &first, "r1").await.json().expect("the same");
        assert_eq!(again.refresh_token, a.refresh_token);
    });
}

#[test]
fn fans_may_use_the_same_key() {
    run(async {
        let mesh = shared().await;
        let (fan, other) = (mesh.fan(0).await, mesh.fan(0).await);
        for (fan, amount) in [(&fan, 3), (&other, 5)] {
            let answer = charge(mesh, fan, "c1", &json!({ "amount": amount }).to_string()).await;
            assert_eq!(answer.json::<Entry>().expect("charged").balance, amount);
        }
        let reused = charge(mesh, &fan, "c1", "{\"amount\":4}").await;
        let problem: Problem = serde_json::from_slice(&reused.body).expect("a problem");
        assert!(problem.is(codes::IDEMPOTENCY_KEY_REUSED), "{problem}");
        assert_eq!(problem.extra["field"], "Idempotency-Key");
    });
}

#[test]
fn a_request_in_other_bytes_is_the_same_request() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(0).await;
        let first = charge(mesh, &fan, "c1", "{\"amount\":1}").await;
        for again in ["{ \"amount\" : 1 }", "{\"amount\":1}\r\n", "{\"am\\u006funt\":1}"] {
            let answer = charge(mesh, &fan, "c1", again).await;
            assert_eq!((answer.status, &answer.body), (first.status, &first.body), "{again}");
        }
        assert_eq!(fan.balance().await, 1);

        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let pass = fan.admitted(schedule).await;
        let hold = fan.ask_for(schedule, &["A-1-1"], &pass).await;
        let hold: Reservation = hold.json().expect("a hold");
        assert_eq!(
            fan.delete(&format!("/v1/reservations/{}", hold.reservation_id)).await.status,
            202
        );
        let capitals = schedule.to_string().to_uppercase();
        let bodies = [
            format!(r#"{{"schedule_id":"{schedule}","seats":["A-1-1"],"pass":"{pass}"}}"#),
            format!(r#"{{"pass":"{pass}","seats":[ "A-1-1" ],"schedule_id":"{schedule}"}}"#),
            format!(r#"{{"pass":"{pass}","seats":["A\u002d1-1"],"schedule_id":"{capitals}"}}"#),
        ];
        let mut held = Vec::new();
        for body in bodies {
            let answer = post(mesh, "/v1/reservations", Some(fan.token()), "h1", &body).await;
            assert_eq!(answer.status, 201, "{answer:?}");
            held.push(answer.json::<Reservation>().expect("a hold").reservation_id);
        }
        assert!(held.iter().all(|id| *id == held[0]), "{held:?}");
    });
}

#[test]
fn two_keys_are_refused_and_the_same_key_twice_counts_as_one() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(0).await;
        for (keys, status) in [(["a", "b"], 422), (["a", "a"], 201), (["a", "A"], 422)] {
            let ask = mesh.http.post("/v1/points/charges").token(fan.token());
            let ask = ask.json(&json!({ "amount": 1 }));
            let ask = ask.header("idempotency-key", keys[0]).header("Idempotency-Key", keys[1]);
            let answer = ask.send().await.expect("an answer");
            assert_eq!(answer.status, status, "{keys:?}: {answer:?}");
            if status == 422 {
                let problem: Problem = serde_json::from_slice(&answer.body).expect("a problem");
                assert_eq!(problem.extra["field"], "Idempotency-Key");
            }
        }
        assert_eq!(fan.balance().await, 1);
    });
}

#[test]
fn a_cursor_of_another_fan_shows_nothing_of_theirs() {
    run(async {
        let mesh = shared().await;
        let (fan, other) = (mesh.fan(1).await, mesh.fan(0).await);
        fan.charge(2).await;
        let page: Page<Entry> = fan.get("/v1/points/entries?limit=1").await.json().expect("a page");
        let cursor = page.next_cursor.expect("there is a second page");
        let theirs = other.get(&format!("/v1/points/entries?cursor={cursor}")).await;
        assert_eq!(theirs.json::<Page<Entry>>().expect("a page").items, []);

        let (base, path) = (mesh.http.base(), "/v1/me/events");
        let mut events = harness::sse::open(base, path, fan.token(), None).await;
        fan.charge(3).await;
        let place = events.until("point.charged").await.id;
        fan.charge(4).await;
        let mut theirs = harness::sse::open(base, path, other.token(), place).await;
        other.charge(5).await;
        let first: Value = theirs.next().await.json();
        assert_eq!(first["data"]["user_id"], json!(other.session.user_id), "{first}");
    });
}

/// Requests `point.charge` over NATS, and returns the status and the body of the answer.
async fn asked(client: &Client, fan: &Fan<'_>, keys: &[(&str, &str)], body: &str) -> (u16, Value) {
    let mut map = HeaderMap::new();
    map.insert("authorization", format!("Bearer {}", fan.token()));
    for (name, key) in keys {
        map.append(*name, HeaderValue::from(*key));
    }
    let asked = client.request_with_headers("cmd.point.charge", map, body.to_owned().into());
    let answer = asked.await.expect("an answer");
    let status = answer.headers.expect("headers").get("onsale-status").expect("one").to_string();
    (status.parse().expect("a number"), serde_json::from_slice(&answer.payload).expect("JSON"))
}

#[test]
fn over_nats_a_key_is_the_same_as_over_http() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(0).await;
        let client = fan.nats().await;
        let (lower, title) = ("idempotency-key", "Idempotency-Key");
        let http = charge(mesh, &fan, "k", "{\"amount\":7}").await;
        let http: Value = serde_json::from_slice(&http.body).expect("JSON");
        for keys in [&[(lower, "k")][..], &[(title, "k")], &[(lower, "k"), (title, "k")]] {
            let (status, entry) = asked(&client, &fan, keys, "{ \"amount\": 7 }").await;
            assert_eq!((status, &entry), (201, &http), "{keys:?}");
        }
        let (status, problem) = asked(&client, &fan, &[(lower, "k")], "{\"amount\":8}").await;
        assert_eq!((status, &problem["code"]), (422, &json!("idempotency_key_reused")));
        for keys in [[(lower, "k"), (lower, "l")], [(lower, "k"), (title, "l")]] {
            let (status, problem) = asked(&client, &fan, &keys, "{\"amount\":7}").await;
            assert_eq!((status, &problem["field"]), (422, &json!(lower)), "{keys:?}");
        }
        assert_eq!(fan.balance().await, 7);
    });
}

#[test]
fn no_caller_can_choose_an_id_that_belongs_to_another() {
    run(async {
        let mesh = shared().await;
        let (fan, other) = (mesh.fan(0).await, mesh.fan(0).await);
        let proposed = Uuid::now_v7().to_string();
        let charge = async |fan: &Fan<'_>, id: &str| -> Entry {
            let client = fan.nats().await;
            let (status, entry) = asked(&client, fan, &[("onsale-id", id)], "{\"amount\":1}").await;
            assert_eq!(status, 201, "{entry}");
            serde_json::from_value(entry).expect("an entry")
        };
        let first = charge(&fan, &proposed).await.entry_id;
        let mut ids = vec![first];
        for id in [proposed, first.to_string()] {
            ids.push(charge(&other, &id).await.entry_id);
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 3, "each has an id of its own");
    });
}
