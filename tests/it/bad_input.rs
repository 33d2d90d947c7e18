//! Bad input: every operation of the API, with everything that can be wrong with a request.
//!
//! Each request is refused with the documented code, as `application/problem+json`, and changes
//! nothing in any store. The operations are taken from the OpenAPI document, so a new operation
//! without cases fails.
//!
//! | file | what it is |
//! |---|---|
//! | `operation` | the operations, as the document describes them |
//! | `request` | a request, and what its refusal must look like |
//! | `world` | a small sale that the requests are sent to |
//! | `everywhere` | what can be wrong with any operation |
//! | `headers` | the headers that every answer has |
//! | `own`, `seat_plans` | what can be wrong with one operation |
//! | `tokens` | tokens that must be refused |
//! | `roles` | who may do what: every caller at every operation and endpoint |
//! | `limits` | good requests, but too many or too large |
//! | `over_nats` | the same endpoints without the gateway |

mod everywhere;
mod headers;
mod limits;
mod operation;
mod over_nats;
mod own;
mod request;
mod roles;
mod seat_plans;
mod tokens;
mod world;

use futures::{StreamExt, stream};
use harness::{mesh::run, stored::Stored};
use hyper::Method;

use operation::Operation;
use request::{Case, Request, flaws};
use world::World;

/// How many requests are in flight at once.
const AT_ONCE: usize = 16;

#[test]
fn bad_input_is_refused_as_documented_and_leaves_no_trace() {
    run(async {
        let (world, _guard) = world::alone().await;
        let mut bad = Vec::new();
        for operation in operation::all() {
            let Some(own) = own::cases(&operation, world).await else {
                bad.push(format!("{} has no cases of its own; list them", operation.id));
                continue;
            };
            let mut cases = everywhere::cases(&operation, world);
            cases.extend(own);
            bad.extend(undocumented(&operation, &cases));
            bad.extend(tried(&operation.id, &cases, world).await);
        }
        assert!(bad.is_empty(), "{} flaws:\n{}", bad.len(), bad.join("\n"));
    });
}

/// Without this, a refusal might have another reason than the one that its case names.
#[test]
fn the_requests_are_granted_before_they_are_spoilt() {
    run(async {
        let (world, _guard) = world::alone().await;
        // There is no dead letter here that could be read.
        let reads = |operation: &Operation| {
            let is_there = !operation.path.contains("{letter}");
            operation.method == Method::GET && !operation.streams && is_there
        };
        for operation in operation::all().iter().filter(|operation| reads(operation)) {
            let right = world.right(operation);
            let mut others = vec![right.clone()];
            if operation.token {
                // The forger's token is a fan's.
                let good = operation.role.is_none().then(|| world.forger.good());
                others.extend(good.map(|token| right.clone().by(&token)));
            } else {
                // An operation that needs no token accepts a bad one as well.
                others.push(right.clone().by("rubbish"));
                others.push(right.clone().by(&world.forger.expired()));
            }
            // An idempotency key means nothing to an operation that only reads.
            others.push(right.with("idempotency-key", "a b"));
            for request in others {
                let answer = request.send(&world.mesh.http).await.expect("an answer");
                assert_eq!(answer.status, 200, "{}: {request:?} {answer:?}", operation.id);
            }
        }
    });
}

#[test]
fn a_path_accepts_only_the_documented_methods() {
    run(async {
        let (world, _guard) = world::alone().await;
        let operations = operation::all();
        let mut bad = Vec::new();
        for operation in &operations {
            let path = world.path(operation, &world.id(operation));
            let request = |method| Request::new(method, path.clone()).by(world.fan.token());
            let cases: Vec<_> = everywhere::other_methods(&operation.path, &operations)
                .into_iter()
                .map(|method| Case::new(method.to_string(), request(method), "method_not_allowed"))
                .collect();
            bad.extend(tried(&operation.path, &cases, world).await);
        }
        assert!(bad.is_empty(), "{} flaws:\n{}", bad.len(), bad.join("\n"));
    });
}

#[test]
fn an_unknown_path_is_not_found() {
    run(async {
        let (world, _guard) = world::alone().await;
        let paths = [
            "/v1",
            "/v1/",
            "/v2/users",
            "/v1/users/",
            "/v1/concerts/",
            "//v1/users",
            "/V1/users",
            "/v1/users/me/x",
            "/v1/../v1/users",
            "/v1/%75sers/..",
            "/.env",
            "/admin",
            "/v1/concerts%2f",
            "/.well-known/openid-configuration",
        ];
        let cases: Vec<_> = paths
            .iter()
            .flat_map(|path| [Method::GET, Method::POST].map(|method| (path, method)))
            .map(|(path, method)| {
                let request = Request::new(method.clone(), *path).by(world.fan.token());
                Case::new(format!("{method} {path}"), request, "not_found")
            })
            .collect();
        let bad = tried("nowhere", &cases, world).await;
        assert!(bad.is_empty(), "{} flaws:\n{}", bad.len(), bad.join("\n"));
    });
}

/// Odd search texts are allowed.
#[test]
fn a_search_for_anything_is_only_a_search() {
    run(async {
        let (world, _guard) = world::alone().await;
        let schedule = world.schedule;
        let odd = ["", "%00", "'", "%27%20or%201=1--", ":*", "a%26%7C!()", "%ff", "%25", "*", "☃"];
        for odd in odd {
            for path in ["/v1/concerts?q=", &format!("/v1/schedules/{schedule}/seats?section=")] {
                let request = Request::new(Method::GET, format!("{path}{odd}"));
                let answer = request.send(&world.mesh.http).await.expect("an answer");
                assert_eq!(answer.status, 200, "{path}{odd}: {answer:?}");
            }
        }
    });
}

/// The cases that expect a code which the document does not have.
fn undocumented(operation: &Operation, cases: &[Case]) -> Vec<String> {
    let expected = cases.iter().flat_map(|case| case.codes.iter().map(move |code| (case, code)));
    let missing = expected.filter(|(_, code)| !operation.codes.contains_key(**code));
    missing
        .map(|(case, code)| format!("{}: {}: {code} is not documented", operation.id, case.what))
        .collect()
}

/// Sends all cases. Returns what was wrong with the answers, and what was changed in the stores.
async fn tried(name: &str, cases: &[Case], world: &World) -> Vec<String> {
    let before = world.stores.at_rest().await;
    let sent = stream::iter(cases).map(|case| async move {
        let flaws = match case.request.send(&world.mesh.http).await {
            Err(error) => vec![format!("has no answer: {error:#}")],
            Ok(answer) => flaws(&answer, case),
        };
        flaws
            .into_iter()
            .map(|flaw| format!("{name}: {}: {flaw:.600}", case.what))
            .collect::<Vec<_>>()
    });
    let mut bad: Vec<String> = sent.buffer_unordered(AT_ONCE).concat().await;
    let after = world.stores.at_rest().await;
    bad.extend(changes(&before, &after).map(|change| format!("{name}: {change}")));
    bad
}

fn changes<'a>(before: &'a Stored, after: &'a Stored) -> impl Iterator<Item = String> + 'a {
    let tables = before.keys().chain(after.keys().filter(|table| !before.contains_key(*table)));
    tables.filter(|table| before.get(*table) != after.get(*table)).map(|table| {
        let rows = |stored: &Stored| stored.get(table).map_or(0, |(rows, _)| *rows);
        format!("{table} has changed, from {} to {} rows", rows(before), rows(after))
    })
}
