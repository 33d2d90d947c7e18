//! What a process logs: lines that programs can read, one for each failure, no warning for an
//! orderly stop, and nothing secret.

use events::reservation::Reservation;
use harness::mesh::{Fan, Mesh, eventually, run};
use hyper::Method;
use onsale::{
    development::environment::Environment,
    registry::{SERVICES, WITH_DATABASE, WITH_VALKEY},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

use crate::{
    dead_letters::{client::DeadLetterClient, lines::poison},
    program::Process,
};

/// Everything that our own crates can log, and what the others warn of.
const OURS: &str = "warn,onsale=debug,mesh=debug,gateway=debug,user=debug,concert=debug,\
    queue=debug,reservation=debug,payment=debug,point=debug,ranking=debug,notification=debug,\
    data_platform=debug,audit=debug";
/// A password that is nowhere else.
const PASSWORD: &str = "correct-horse-battery-7319";
const WRONG: &str = "wrong-horse-battery-8462";
const PHONE: &str = "+82 10-7319-8462";

async fn servers() -> Environment {
    Environment::start(None, Arc::new(|_: &str| {})).await.expect("servers")
}

fn level(line: &Value) -> &str {
    line["level"].as_str().expect("a level")
}

/// Sells a ticket and gives another hold back.
async fn sale(mesh: &Mesh) -> Reservation {
    let schedule = mesh.open(3, |_| {}).await.schedule_id;
    let fan = mesh.fan(200).await;
    let hold = fan.hold(schedule, &["A-1-1"]).await;
    fan.pay(&hold).await;
    let other = mesh.fan(100).await;
    let held = other.hold(schedule, &["A-1-2"]).await;
    other.delete(&format!("/v1/reservations/{}", held.reservation_id)).await;
    mesh.receipt_is_clean(schedule).await;
    hold
}

#[test]
fn an_orderly_stop_logs_no_warning_and_every_line_is_json() {
    run(async {
        let (process, mesh) = Process::run_all(servers().await, None).await;
        sale(&mesh).await;
        let lines = process.stop().await;
        let parsed: Vec<Value> = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
            .collect();
        let is_bad = |line: &&Value| matches!(level(line), "WARN" | "ERROR");
        let bad: Vec<_> = parsed.iter().filter(is_bad).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        for line in &parsed {
            let at = line["timestamp"].as_str().expect("a time");
            assert!(at.parse::<events::Timestamp>().is_ok(), "{line}");
            assert!(line["fields"]["message"].is_string(), "{line}");
        }
        let stopped = |line: &&Value| line["fields"]["message"] == "stopped";
        let of: Vec<_> =
            parsed.iter().filter(stopped).map(|line| &line["fields"]["service"]).collect();
        for service in SERVICES.into_iter().filter(|one| *one != gateway::NAME) {
            assert!(of.iter().any(|name| **name == service), "{service} did not say: {of:?}");
        }
        mesh.stop().await;
    });
}

/// Kills a server of the mesh, waits until the process has noticed, and starts the server again.
/// Returns the warnings and errors that were logged meanwhile, by service.
async fn outage(process: &Process, mesh: &Mesh, server: &str) -> BTreeMap<String, Vec<Value>> {
    let is_ready = || async {
        let answer = mesh.http.get("/readyz").send().await.expect("the gateway answers");
        answer.status == 200
    };
    eventually("every service is ready", || async { is_ready().await.then_some(()) }).await;
    let before = process.logged().len();
    let servers = mesh.env.servers.as_ref().expect("servers of our own");
    let server = servers.by_name(server).expect("a server");
    server.kill();
    eventually("it is noticed", || async { (!is_ready().await).then_some(()) }).await;
    server.restart().await.expect("it runs again");
    eventually("every service is ready again", || async { is_ready().await.then_some(()) }).await;
    let mut bad: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in process.logged().split_off(before) {
        if matches!(level(&line), "WARN" | "ERROR") {
            let service = line["fields"]["service"].as_str().unwrap_or("none").to_owned();
            bad.entry(service).or_default().push(line);
        }
    }
    bad
}

#[test]
fn a_server_that_goes_away_is_logged_once_by_each_service() {
    run(async {
        for (server, services) in [
            ("postgres", &WITH_DATABASE[..]),
            ("valkey", &WITH_VALKEY[..]),
            ("nats", &SERVICES[..]),
        ] {
            // A service that rests may notice only later that a connection of its pool is gone, so
            // each outage has a process of its own.
            let (process, mesh) = Process::run_all(servers().await, None).await;
            let mut bad = outage(&process, &mesh, server).await;
            assert!(!bad.contains_key("none"), "{server}: {bad:#?}");
            // Accounts are let in over a connection of their own.
            let callout = bad.remove("callout").unwrap_or_default();
            assert!(callout.len() <= 1, "{server}: {callout:#?}");
            assert!(bad.keys().all(|name| services.contains(&name.as_str())), "{server}: {bad:#?}");
            assert!(!bad.is_empty(), "{server}: nobody has said it");
            for (service, lines) in &bad {
                // Concert has two halves, each with a connection and a store.
                let most = if service == concert::NAME { 2 } else { 1 };
                assert!(lines.len() <= most, "{server}, {service}: {lines:#?}");
            }
            process.stop().await;
            mesh.stop().await;
        }
    });
}

/// What must not be in a log, by what it is.
struct Secrets(Vec<(&'static str, String)>);

impl Secrets {
    fn of(env: &Environment) -> Self {
        let config = &env.config;
        let mut secrets = vec![("the operator's password", env.operator.password.clone())];
        secrets.extend(config.nkey_seeds.values().map(|seed| ("a seed", seed.clone())));
        for url in config.database_urls.values().chain([&config.valkey_url]) {
            secrets.push(("a password of a store", password_of(url)));
        }
        Self(secrets)
    }

    fn add(&mut self, what: &'static str, secret: impl Into<String>) {
        let secret = secret.into();
        assert!(secret.len() >= 6, "{what} is too short to be looked for: {secret}");
        self.0.push((what, secret));
    }

    fn session(&mut self, session: &Value) {
        for (what, name) in
            [("an access token", "access_token"), ("a refresh token", "refresh_token")]
        {
            self.add(what, session[name].as_str().expect("a token"));
        }
    }

    /// The lines that contain one of them, with what it is.
    fn found<'a>(&self, lines: &'a [String]) -> Vec<(&'static str, &'a String)> {
        let mut found = Vec::new();
        for (what, secret) in &self.0 {
            // Anything that is in a token is in its signature's half as well.
            let part = secret.rsplit('.').next().unwrap_or(secret);
            found.extend(lines.iter().filter(|line| line.contains(part)).map(|line| (*what, line)));
        }
        found
    }
}

fn password_of(url: &str) -> String {
    let (_, rest) = url.split_once("://").expect("a URL");
    let (user, _) = rest.rsplit_once('@').expect("with a password");
    user.split_once(':').expect("after the name").1.to_owned()
}

#[test]
fn a_whole_run_logs_nothing_secret() {
    run(async {
        let (process, mesh) = Process::run_all(servers().await, Some(OURS)).await;
        let mut secrets = Secrets::of(&mesh.env);
        secrets.add("an address", "private-7319@example.com");
        secrets.add("a password", PASSWORD);
        secrets.add("a wrong password", WRONG);
        secrets.add("a number", "1073198462");
        secrets.add("a number", PHONE);
        sale(&mesh).await;
        account(&mesh, &mut secrets).await;
        refused(&mesh, &mut secrets).await;
        dead(&mesh, &mut secrets).await;
        let lines = process.stop().await;
        assert!(lines.iter().any(|line| line.contains(r#""level":"DEBUG""#)), "{lines:#?}");
        let found = secrets.found(&lines);
        assert!(found.is_empty(), "{found:#?}");
        let logged = Secrets(vec![("no secret", "the gateway listens".into())]);
        assert_eq!(logged.found(&lines).len(), 1, "what is logged is found");
        // Whatever is written like an address belongs to somebody.
        let address = |line: &&String| line.contains("@example.com");
        assert_eq!(lines.iter().filter(address).collect::<Vec<_>>(), Vec::<&String>::new());
        mesh.stop().await;
    });
}

/// Signs up, logs in with the right and with a wrong password, and closes the account.
async fn account(mesh: &Mesh, secrets: &mut Secrets) {
    let own = json!({ "email": "private-7319@example.com", "password": PASSWORD });
    let answer = mesh.http.post("/v1/users").json(&own).send().await.expect("sent");
    secrets.session(&answer.json().expect("an account"));
    let wrong = json!({ "email": "private-7319@example.com", "password": WRONG });
    let answer = mesh.http.post("/v1/sessions").json(&wrong).send().await.expect("sent");
    assert_eq!(answer.status, 401);
    let answer = mesh.http.post("/v1/sessions").json(&own).send().await.expect("sent");
    let session: Value = answer.json().expect("logged in");
    secrets.session(&session);
    let token = session["access_token"].as_str().expect("a token");
    let put = |body: Value| mesh.http.ask(Method::PUT, "/v1/me/contact").token(token).json(&body);
    let answer = put(json!({ "phone": PHONE, "locale": "ko" })).send().await.expect("sent");
    assert!(answer.status.is_success(), "{answer:?}");
    let refreshed = json!({ "refresh_token": session["refresh_token"] });
    let answer =
        mesh.http.post("/v1/sessions/refresh").json(&refreshed).send().await.expect("sent");
    secrets.session(&answer.json().expect("a new session"));
    let delete = mesh.http.delete("/v1/users/me").token(token).header("prefer", "wait=20");
    let answer = delete.send().await.expect("sent");
    assert!(answer.status.is_success(), "{answer:?}");
}

/// Requests that are refused, with secrets wherever one can stand.
async fn refused(mesh: &Mesh, secrets: &mut Secrets) {
    secrets.add("a forged token", "eyJhbGciOiJub25lIn0.eyJzdWIiOiI3MzE5In0.forged7319forged");
    secrets.add("a key", "idempotent-7319-key");
    let forged = "eyJhbGciOiJub25lIn0.eyJzdWIiOiI3MzE5In0.forged7319forged";
    for body in [
        json!({ "email": "private-7319@example.com", "password": 7 }).to_string(),
        json!({ "email": "private-7319@example.com", "password": PASSWORD, "x": 1 }).to_string(),
        format!(r#"{{"email":"private-7319@example.com","password":"{PASSWORD}""#),
        json!({ "email": "not-an-address", "password": PASSWORD }).to_string(),
    ] {
        for path in ["/v1/users", "/v1/sessions"] {
            let ask = mesh.http.post(path).header("content-type", "application/json");
            let answer = ask.body(body.clone()).send().await.expect("sent");
            assert!(answer.status.is_client_error(), "{answer:?}");
        }
    }
    for path in ["/v1/points/charges", "/v1/payments", "/v1/reservations"] {
        let ask = mesh.http.post(path).token(forged).json(&json!({ "amount": PASSWORD }));
        let answer = ask.header("idempotency-key", "idempotent-7319-key").send().await;
        assert!(answer.expect("sent").status.is_client_error());
    }
    let query = format!("/v1/concerts?q={PASSWORD}&access_token={forged}");
    mesh.http.get(query).send().await.expect("sent");
    let by_nats = mesh.nats_by(forged, "_INBOX_account.x").await;
    assert!(by_nats.is_err(), "a forged token is not let in");
}

/// A dead letter, which is retried and discarded.
async fn dead(mesh: &Mesh, secrets: &mut Secrets) {
    let fan: Fan<'_> = mesh.fan(100).await;
    secrets.add("an access token", fan.token());
    poison(mesh, &fan).await;
    let client = DeadLetterClient::of(mesh).await;
    let letter = eventually("there is a dead letter", || async {
        client.dead_letters("point", "").await?.first().map(|one| one.letter.clone())
    })
    .await;
    client.retry(&letter).await;
    let answer = client.discard(&letter, "a test").await;
    assert!(answer.status.is_success(), "{answer:?}");
}
