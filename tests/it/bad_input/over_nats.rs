//! The same endpoints over NATS: every client can list them, and authorized callers get answers.

use std::collections::BTreeMap;

use async_nats::{Client, HeaderMap, Message, RequestErrorKind};
use events::{
    Problem, codes,
    dead_letter::{DEAD_LETTERS, DISCARD, REDRIVE},
    point::Balance,
    user::Session,
};
use futures::StreamExt;
use harness::{
    mesh::{SOON, run, shared},
    wiring,
};
use serde_json::Value;

use super::operation;

/// The endpoint that answers each operation. The gateway itself answers those without one.
pub const ANSWERED_BY: &[(&str, Option<&str>)] = &[
    ("register", Some("user.register")),
    ("logIn", Some("user.log_in")),
    ("refreshSession", Some("user.refresh")),
    ("withdraw", Some("user.withdraw")),
    ("getWithdrawal", Some("user.get_withdrawal")),
    ("grantRole", Some("user.grant_role")),
    ("getKeys", Some("user.jwks")),
    ("findConcerts", Some("concert.find")),
    ("getConcert", Some("concert.get")),
    ("findSchedules", Some("concert.schedules")),
    ("getPlan", Some("concert.plan")),
    ("getSeats", Some("concert.seats")),
    ("followSeats", Some("concert.seat_changes")),
    ("rankConcerts", Some("ranking.concerts")),
    ("createConcert", Some("concert.create")),
    ("openSchedule", Some("concert.open_schedule")),
    ("cancelSchedule", Some("concert.cancel_schedule")),
    ("getOrganizers", Some("concert.organizers")),
    ("addOrganizer", Some("concert.add_organizer")),
    ("removeOrganizer", Some("concert.remove_organizer")),
    ("enter", Some("queue.enter")),
    ("getPlace", Some("queue.place")),
    ("leave", Some("queue.leave")),
    ("followPlace", None),
    ("reserve", Some("reservation.reserve")),
    ("getReservation", Some("reservation.get")),
    ("findReservations", Some("reservation.find")),
    ("cancelReservation", Some("reservation.cancel")),
    ("charge", Some("point.charge")),
    ("getBalance", Some("point.balance")),
    ("findEntries", Some("point.entries")),
    ("pay", Some("payment.pay")),
    ("getPayment", Some("payment.get")),
    ("findPayments", Some("payment.find")),
    ("followMyEvents", None),
    ("setContact", Some("notification.set_contact")),
    ("getContact", Some("notification.contact")),
    ("findMessages", Some("notification.messages")),
    ("getSaga", Some("audit.saga")),
    ("findSagas", Some("audit.sagas")),
    ("findViolations", Some("audit.violations")),
    ("getExport", Some("data-platform.export")),
    // Each service that consumes events answers for its own dead letters.
    ("findDeadLetters", None),
    ("getDeadLetter", None),
    ("retryDeadLetter", None),
    ("retryDeadLetters", None),
    ("discardDeadLetter", None),
];
/// Used only by the services that verify passes.
const INTERNAL: &str = "queue.jwks";

#[test]
fn what_http_offers_is_listed_on_nats_and_nothing_else() {
    run(async {
        let mesh = shared().await;
        let operator = mesh.nats("operator").await;
        let mut operations: Vec<String> = operation::all().into_iter().map(|it| it.id).collect();
        let mut mapped: Vec<_> = ANSWERED_BY.iter().map(|(id, _)| (*id).to_owned()).collect();
        operations.sort();
        mapped.sort();
        assert_eq!(operations, mapped, "each operation is answered by an endpoint");

        let listed = listed(&operator).await;
        let mut expected: Vec<_> =
            ANSWERED_BY.iter().filter_map(|(_, endpoint)| *endpoint).collect();
        expected.push(INTERNAL);
        expected.sort_unstable();
        let mut subjects: Vec<String> =
            expected.iter().map(|endpoint| format!("cmd.{endpoint}")).collect();
        for wiring in harness::wiring::all().iter().filter(|wiring| !wiring.consumes.is_empty()) {
            let verbs = [DEAD_LETTERS, REDRIVE, DISCARD];
            subjects.extend(verbs.map(|verb| format!("cmd.{}.{verb}", wiring.service)));
        }
        subjects
            .extend(events::state::ENDPOINTS.iter().map(|endpoint| format!("state.{endpoint}")));
        subjects.sort_unstable();
        let found: Vec<&String> = listed.keys().collect();
        assert_eq!(found, subjects.iter().collect::<Vec<_>>());
        for (subject, endpoint) in &listed {
            let verb = subject.rsplit('.').next();
            assert_eq!(endpoint["name"].as_str(), verb, "{endpoint}");
            let service = subject.split('.').nth(1);
            assert_eq!(endpoint["queue_group"].as_str(), service, "{endpoint}");
        }
    });
}

#[test]
fn every_service_answers_a_ping() {
    run(async {
        let mesh = shared().await;
        let operator = mesh.nats("operator").await;
        let mut names: Vec<String> = gathered(&operator, "$SRV.PING")
            .await
            .iter()
            .map(|pong| pong["name"].as_str().expect("a name").to_owned())
            .collect();
        names.sort();
        let mut services: Vec<_> =
            wiring::all().into_iter().map(|wiring| format!("onsale-{}", wiring.service)).collect();
        services.sort();
        assert_eq!(names, services);
    });
}

#[test]
fn a_client_is_answered_over_nats_with_its_token_and_refused_without() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(70).await;
        let client = fan.nats().await;
        let good =
            ask(&client, "point.balance", &[("authorization", &bearer(fan.token()))], "").await;
        let balance: Balance = serde_json::from_slice(&good.payload).expect("a balance");
        assert_eq!((status(&good), balance.balance), (200, 70));
        // The catalogue is public.
        assert_eq!(status(&ask(&client, "concert.find", &[], "{}").await), 200);

        let forged = bearer(&fan.token().replace('.', ".e30"));
        for (headers, body, expected) in [
            (vec![], "{}", codes::UNAUTHENTICATED),
            (vec![("authorization", "Bearer ")], "{}", codes::UNAUTHENTICATED),
            (vec![("authorization", fan.token())], "{}", codes::UNAUTHENTICATED),
            (vec![("authorization", &forged)], "{}", codes::UNAUTHENTICATED),
            (vec![("authorization", &bearer(fan.token()))], "{\"amount\":", codes::BAD_REQUEST),
            (vec![("authorization", &bearer(fan.token()))], "{\"amount\":-1}", codes::INVALID),
            (
                vec![("authorization", &bearer(fan.token())), ("idempotency-key", "a b")],
                "{\"amount\":1}",
                codes::INVALID,
            ),
            (
                vec![
                    ("authorization", &bearer(fan.token())),
                    ("onsale-id", "00000000-0000-4000-8000-000000000000"),
                ],
                "{\"amount\":1}",
                codes::INVALID,
            ),
        ] {
            let refused = ask(&client, "point.charge", &headers, body).await;
            let problem: Problem = serde_json::from_slice(&refused.payload).expect("a problem");
            assert!(problem.is(expected), "{headers:?} {body}: {problem}");
            assert_eq!(status(&refused), expected.status);
        }
        assert_eq!(fan.balance().await, 70, "none of them took effect");
        let fans = [("authorization", &*bearer(fan.token()))];
        let refused = ask(&client, "concert.create", &fans, r#"{"title":"a","artist":"b"}"#).await;
        assert_eq!(status(&refused), codes::FORBIDDEN.status);
    });
}

#[test]
fn every_endpoint_reads_as_strictly_as_over_http() {
    run(async {
        let mesh = shared().await;
        let account = mesh.http.post("/v1/sessions").json(&mesh.env.operator).send().await;
        let operator: Session = account.expect("an answer").json().expect("a session");
        let fan = mesh.fan(0).await;
        let mut callers = Vec::new();
        for session in [&fan.session, &mesh.organizer, &operator] {
            let (token, prefix) =
                (&session.access_token, format!("_INBOX_account.{}", session.user_id));
            let client = mesh.nats_by(token, &prefix).await.expect("an account is let in");
            callers.push((client, bearer(token)));
        }
        let long = format!("{{\"{}\":1}}", "é".repeat(5_000));
        let bodies = [
            (r#"{"colour":1}"#, "colour"),
            (r#"{"colour":1,"colour":2}"#, "colour"),
            ("[]", "body"),
            ("null", "body"),
            (&long, ""),
        ];
        for subject in listed(&mesh.nats("operator").await).await.keys() {
            // No account may use the endpoints that services use among themselves.
            let Some(endpoint) = subject.strip_prefix("cmd.") else { continue };
            for (body, field) in bodies {
                let mut refusals = Vec::new();
                for (client, token) in &callers {
                    let answer = ask(client, endpoint, &[("authorization", token)], body).await;
                    let problem: Problem = serde_json::from_slice(&answer.payload).expect(endpoint);
                    refusals.push(problem);
                }
                // Some callers are not authorized; the others get the reason.
                let read = refusals.iter().find(|problem| problem.is(codes::INVALID));
                let read = read.unwrap_or_else(|| panic!("{endpoint} {body:.30}: {refusals:?}"));
                let named = read.extra["field"].as_str().expect("a field");
                assert!(named == field || field.is_empty(), "{endpoint} {body:.30}: {read}");
                assert!(read.detail.len() < 1_000, "{endpoint}: {read}");
            }
        }
    });
}

#[test]
fn no_client_reaches_the_commands_that_a_service_sends_to_itself() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(0).await;
        let client = fan.nats().await;
        let listed = listed(&mesh.nats("operator").await).await;
        let wirings = wiring::all();
        let answered = wirings.iter().flat_map(|wiring| &wiring.answers);
        let inner: Vec<String> = answered
            .map(|(endpoint, _)| format!("cmd.{endpoint}"))
            .filter(|subject| !listed.contains_key(subject))
            .collect();
        assert!(inner.len() > 3, "{inner:?}");
        for subject in inner {
            let asked = client.request(subject.clone(), "{}".into()).await;
            let error = asked.expect_err(&subject);
            assert_eq!(error.kind(), RequestErrorKind::NoResponders, "{subject}");
        }
    });
}

/// Every listed endpoint, by its subject.
async fn listed(operator: &Client) -> BTreeMap<String, Value> {
    let services = gathered(operator, "$SRV.INFO").await;
    let endpoints = services.iter().flat_map(|info| info["endpoints"].as_array().cloned());
    endpoints
        .flatten()
        .map(|endpoint| (endpoint["subject"].as_str().expect("a subject").to_owned(), endpoint))
        .collect()
}

/// The answers of all services to one request.
async fn gathered(operator: &Client, subject: &'static str) -> Vec<Value> {
    let inbox = operator.new_inbox();
    let mut replies = operator.subscribe(inbox.clone()).await.expect("an inbox");
    operator.publish_with_reply(subject, inbox, "".into()).await.expect("sent");
    let mut answers = Vec::new();
    while answers.len() < wiring::all().len() {
        let reply = tokio::time::timeout(SOON, replies.next()).await;
        let reply = reply.unwrap_or_else(|_| panic!("only {answers:?}")).expect("a reply");
        answers.push(serde_json::from_slice(&reply.payload).expect("JSON"));
    }
    answers
}

/// Sends a request to an endpoint.
pub async fn ask(client: &Client, endpoint: &str, headers: &[(&str, &str)], body: &str) -> Message {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let request =
        client.request_with_headers(format!("cmd.{endpoint}"), map, body.to_owned().into());
    request.await.unwrap_or_else(|error| panic!("{endpoint}: {error}"))
}

fn status(answer: &Message) -> u16 {
    let headers = answer.headers.as_ref().expect("headers");
    headers.get("onsale-status").expect("a status").as_str().parse().expect("a number")
}

/// The header that presents a token.
pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}
