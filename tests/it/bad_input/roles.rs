//! Who may do what: a row for every operation. A new operation fails until it has one.
//!
//! Each row is tried as every caller, over HTTP and, with the caller's own connection, at the
//! endpoint on NATS that answers it. What is refused changes nothing, and what is granted to one
//! account has nothing of another's in it.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::Client;
use events::{Problem, user::Session};
use harness::mesh::run;
use hyper::Method;

use super::{
    changes,
    operation::{self, Operation},
    over_nats::{ANSWERED_BY, ask, bearer},
    request::{Case, flaws},
    world::{self, World},
};

/// Who may use an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// Anyone. A token does not matter.
    Anyone,
    /// Every account, about itself only.
    Own,
    /// The account that it is about; for others there is no such thing.
    Owner,
    /// The same, and operators.
    OwnerOrOperator,
    /// Accounts with a pass for the schedule that is theirs.
    WithPass,
    /// Every organizer and operator.
    Organizer,
    /// The organizers of this concert, and operators.
    OrganizerOfIt,
    /// Operators.
    Operator,
}

use May::{Anyone, Operator, Organizer, OrganizerOfIt, Own, Owner, OwnerOrOperator, WithPass};

const TABLE: [(&str, May); 47] = [
    ("register", Anyone),
    ("logIn", Anyone),
    ("refreshSession", Anyone),
    ("getKeys", Anyone),
    ("findConcerts", Anyone),
    ("getConcert", Anyone),
    ("findSchedules", Anyone),
    ("getPlan", Anyone),
    ("getSeats", Anyone),
    ("followSeats", Anyone),
    ("rankConcerts", Anyone),
    ("withdraw", Own),
    ("enter", Own),
    ("getPlace", Owner),
    ("leave", Owner),
    ("followPlace", Owner),
    ("charge", Own),
    ("getBalance", Own),
    ("findEntries", Own),
    ("findReservations", Own),
    ("findPayments", Own),
    ("followMyEvents", Own),
    ("setContact", Own),
    ("getContact", Own),
    ("findMessages", Own),
    ("reserve", WithPass),
    ("getWithdrawal", Owner),
    ("getReservation", Owner),
    ("cancelReservation", Owner),
    ("pay", Owner),
    ("getPayment", Owner),
    ("getSaga", OwnerOrOperator),
    ("createConcert", Organizer),
    ("openSchedule", OrganizerOfIt),
    ("cancelSchedule", OrganizerOfIt),
    ("getOrganizers", OrganizerOfIt),
    ("addOrganizer", OrganizerOfIt),
    ("removeOrganizer", OrganizerOfIt),
    ("grantRole", Operator),
    ("findSagas", Operator),
    ("findViolations", Operator),
    ("getExport", Operator),
    ("findDeadLetters", Operator),
    ("getDeadLetter", Operator),
    ("retryDeadLetter", Operator),
    ("retryDeadLetters", Operator),
    ("discardDeadLetter", Operator),
];

/// A caller, by what it presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Nobody,
    Expired,
    /// Not an access token of ours.
    Forged,
    /// The fan whom everything is about.
    Fan,
    OtherFan,
    /// The organizer of the concert.
    Host,
    OtherOrganizer,
    Operator,
}

/// The code of the refusal; `None` when the caller may.
fn refusal(may: May, caller: Caller) -> Option<&'static str> {
    use Caller::{Expired, Fan, Forged, Host, Nobody, OtherFan, OtherOrganizer};
    match (may, caller) {
        (Anyone, _) => None,
        (_, Nobody | Forged) => Some("unauthenticated"),
        (_, Expired) => Some("token_expired"),
        (Own, _) | (Owner | OwnerOrOperator | WithPass, Fan) => None,
        (OwnerOrOperator | Organizer | OrganizerOfIt | Operator, Caller::Operator) => None,
        (Owner | OwnerOrOperator, _) => Some("not_found"),
        (WithPass, _) => Some("not_active"),
        (Organizer, Host | OtherOrganizer) | (OrganizerOfIt, Host) => None,
        (Organizer | OrganizerOfIt | Operator, Fan | OtherFan)
        | (OrganizerOfIt, OtherOrganizer)
        | (Operator, Host | OtherOrganizer) => Some("forbidden"),
    }
}

/// Every caller with each of its tokens.
async fn callers(world: &World) -> Vec<(String, Caller, Option<String>)> {
    let mut callers = vec![("nobody".to_owned(), Caller::Nobody, None)];
    let mut with = |what: &str, caller, token: &str| {
        callers.push((what.to_owned(), caller, Some(token.to_owned())));
    };
    with("an expired token", Caller::Expired, &world.forger.expired());
    with("a refresh token", Caller::Forged, &world.fan.session.refresh_token);
    with("a pass", Caller::Forged, world.pass());
    with("an expired pass", Caller::Forged, &world.pass_of_yesterday().await);
    for (what, token) in world.forger.forged() {
        with(&format!("a token {what}"), Caller::Forged, &token);
    }
    with("the fan", Caller::Fan, world.fan.token());
    with("another fan", Caller::OtherFan, world.other.token());
    with("the organizer", Caller::Host, &world.mesh.organizer.access_token);
    with("another organizer", Caller::OtherOrganizer, &world.rival.access_token);
    with("the operator", Caller::Operator, &world.operator.access_token);
    callers
}

/// What is the fan's alone.
fn secrets(world: &World) -> Vec<String> {
    let ids = [world.hold.0, world.sold.0, world.payment.0, world.attempt.0];
    let mut secrets: Vec<String> = ids.iter().map(uuid::Uuid::to_string).collect();
    secrets.extend([world.fan.email.clone(), world.fan.session.user_id.to_string()]);
    secrets.push(world.pass().to_owned());
    secrets
}

/// There is no dead letter in the world: for who may read one it is not found, as it is tried in
/// the tests of dead letters.
fn is_there(operation: &Operation) -> bool {
    !operation.path.contains("{letter}")
}

#[test]
fn the_table_has_a_row_for_every_operation() {
    let rows: BTreeMap<&str, May> = TABLE.into_iter().collect();
    assert_eq!(rows.len(), TABLE.len(), "an operation is there twice");
    let operations = operation::all();
    let documented: BTreeSet<&str> = operations.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(rows.keys().copied().collect::<BTreeSet<_>>(), documented);
    for operation in &operations {
        let may = rows[operation.id.as_str()];
        assert_eq!(operation.token, may != Anyone, "{} needs a token or not", operation.id);
        let roles = operation.roles.iter().map(String::as_str).collect::<Vec<_>>();
        let expected: &[&str] = match may {
            Organizer | OrganizerOfIt => &["organizer", "operator"],
            Operator => &["operator"],
            _ => &[],
        };
        assert_eq!(roles, expected, "{} says who needs which role", operation.id);
    }
}

#[test]
fn every_caller_may_do_over_http_what_the_table_says_and_nothing_else() {
    run(async {
        let (world, _guard) = world::alone().await;
        let rows: BTreeMap<&str, May> = TABLE.into_iter().collect();
        let (callers, secrets) = (callers(world).await, secrets(world));
        let before = world.stores.at_rest().await;
        let mut bad = Vec::new();
        for operation in operation::all() {
            for (what, caller, token) in &callers {
                let right = world.right(&operation).without("authorization");
                let request = match token {
                    Some(token) => right.by(token),
                    None => right,
                };
                let what = format!("{} as {what}", operation.id);
                let refusal = refusal(rows[operation.id.as_str()], *caller);
                let reads = operation.method == Method::GET && !operation.streams;
                // What is granted and changes something is tried in the journeys.
                if refusal.is_none() && !(reads && is_there(&operation)) {
                    continue;
                }
                let answer = request.send(&world.mesh.http).await.expect("an answer");
                match refusal {
                    Some(code) => {
                        let found = flaws(&answer, &Case::new(&what, request, code));
                        bad.extend(found.iter().map(|flaw| format!("{what}: {flaw}")));
                    }
                    None if answer.status != 200 => bad.push(format!("{what}: {answer:?}")),
                    None => {}
                }
                let is_theirs = matches!(caller, Caller::Fan | Caller::Operator);
                let text = String::from_utf8_lossy(&answer.body);
                let leaked = secrets.iter().find(|secret| text.contains(*secret));
                if let (false, Some(secret)) = (is_theirs, leaked) {
                    bad.push(format!("{what}: the answer has {secret} in it: {text}"));
                }
            }
        }
        let after = world.stores.at_rest().await;
        bad.extend(changes(&before, &after));
        assert!(bad.is_empty(), "{} flaws:\n{}", bad.len(), bad.join("\n"));
    });
}

#[test]
fn every_caller_may_do_over_nats_what_the_table_says_and_nothing_else() {
    run(async {
        let (world, _guard) = world::alone().await;
        let rows: BTreeMap<&str, May> = TABLE.into_iter().collect();
        let anonymous = world.mesh.nats("client").await;
        let before = world.stores.at_rest().await;
        let mut bad = Vec::new();
        let mut connections: Vec<(Caller, String, Client)> = Vec::new();
        for (caller, session) in [
            (Caller::Fan, &world.fan.session),
            (Caller::Host, &world.mesh.organizer),
            (Caller::Operator, &world.operator),
        ] {
            connections.push((caller, session.access_token.clone(), own(world, session).await));
        }
        let endpoints = endpoints(&rows);
        for (endpoint, may) in &endpoints {
            for (caller, token, client) in &connections {
                // Its members are wrong, so what is granted is not done.
                let body = "{\"colour\":1}";
                let answer =
                    ask(client, endpoint, &[("authorization", &bearer(token))], body).await;
                let problem: Problem = serde_json::from_slice(&answer.payload).expect(endpoint);
                let expected = match refusal(*may, *caller) {
                    // Whose something is, is looked up only when the request was read.
                    None | Some("not_found" | "not_active") => "invalid",
                    Some(code) => code,
                };
                if problem.code != expected {
                    bad.push(format!("{endpoint} as {caller:?}: {problem}, not {expected}"));
                }
            }
            if *may == Anyone {
                continue;
            }
            let forged = world.forger.forged();
            let tokens = forged.iter().map(|(what, token)| (*what, token.as_str()));
            let own = &connections[0].2;
            for (what, token) in tokens.chain([("a pass", world.pass()), ("none", "")]) {
                let headers = [("authorization", &*bearer(token))];
                let headers: &[_] = if what == "none" { &[] } else { &headers };
                let answer = ask(own, endpoint, headers, "{}").await;
                let problem: Problem = serde_json::from_slice(&answer.payload).expect(endpoint);
                if problem.code != "unauthenticated" {
                    bad.push(format!("{endpoint} with {what}: {problem}"));
                }
            }
            // The token of an account does not help where others could read the answer.
            let fan = bearer(world.fan.token());
            let answer = ask(&anonymous, endpoint, &[("authorization", &fan)], "{}").await;
            let problem: Problem = serde_json::from_slice(&answer.payload).expect(endpoint);
            if problem.code != "forbidden" {
                bad.push(format!("{endpoint} on a shared connection: {problem}"));
            }
        }
        let after = world.stores.at_rest().await;
        bad.extend(changes(&before, &after));
        assert!(bad.is_empty(), "{} flaws:\n{}", bad.len(), bad.join("\n"));
    });
}

/// Every endpoint with the row of its operation; dead letters are for operators.
fn endpoints(rows: &BTreeMap<&str, May>) -> BTreeMap<String, May> {
    let answered = ANSWERED_BY.iter().map(|(id, endpoint)| (*endpoint, rows[*id]));
    let mut endpoints: BTreeMap<String, May> =
        answered.filter_map(|(endpoint, may)| Some((endpoint?.to_owned(), may))).collect();
    use events::dead_letter::{DEAD_LETTERS, DISCARD, REDRIVE};
    for wiring in harness::wiring::all().iter().filter(|wiring| !wiring.consumes.is_empty()) {
        for verb in [DEAD_LETTERS, REDRIVE, DISCARD] {
            endpoints.insert(format!("{}.{verb}", wiring.service), Operator);
        }
    }
    assert!(endpoints.len() > 50, "{endpoints:?}");
    endpoints
}

/// An account's own connection.
async fn own(world: &World, session: &Session) -> Client {
    let prefix = format!("_INBOX_account.{}", session.user_id);
    world.mesh.nats_by(&session.access_token, &prefix).await.expect("an account is let in")
}
