//! The mistakes that every operation has in common, derived from the OpenAPI document.

use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    operation::{Body, Operation},
    request::{Case, Request},
    world::World,
};

/// The size of a body that is a little too large, in bytes.
const BODY_BYTES: usize = 64 * 1024 + 1;
/// The same, where a seat plan is accepted.
const PLAN_BYTES: usize = 8 * 1024 * 1024 + 1;

/// Every mistake that does not depend on what the operation does.
pub fn cases(operation: &Operation, world: &World) -> Vec<Case> {
    let right = world.right(operation);
    let mut cases = Vec::new();
    if operation.token {
        cases.extend(tokens(&right, world));
    }
    cases.extend(roles(operation, &right, world));
    if operation.path.contains("{id}") {
        cases.extend(ids(operation, world));
    }
    cases.extend(queries(operation, &right));
    if operation.reads("Idempotency-Key") {
        cases.extend(keys(&right));
    }
    match &operation.body {
        Some(body) => {
            cases.extend(bodies(body, &right));
            cases.extend(members(body, &right));
            cases.extend(body.fields.iter().flat_map(|field| fields(field, &right)));
        }
        None => {
            let body = right.json(&json!({ "reason": "rain" }));
            let case = Case::new("a body that means nothing", body, "bad_request");
            cases.push(case.says("field", "body"));
        }
    }
    cases
}

fn tokens(right: &Request, world: &World) -> Vec<Case> {
    let unauthenticated = |what: &str, request| Case::new(what, request, "unauthenticated");
    let header = |value: &str| right.clone().with("authorization", value);
    let good = world.forger.good();
    let mut cases = vec![
        unauthenticated("no token", right.clone().without("authorization")),
        unauthenticated("an empty header", header("")),
        unauthenticated("only a scheme", header("Bearer")),
        unauthenticated("another scheme", header("Basic ZmFuOnBhc3M=")),
        unauthenticated("a token without a scheme", header(&good)),
        unauthenticated("two tokens", header(&format!("Bearer {good}, Bearer {good}"))),
        unauthenticated("a header of many bytes", header(&format!("Bearer {}", "A".repeat(9_000)))),
        unauthenticated("a header that is no ASCII", header("Bearer ☃")),
        Case::new(
            "a token that has run out",
            right.clone().by(&world.forger.expired()),
            "token_expired",
        ),
    ];
    for (what, token) in world.forger.forged() {
        cases.push(unauthenticated(&format!("a forged token: {what}"), right.clone().by(&token)));
    }
    cases
}

fn roles(operation: &Operation, right: &Request, world: &World) -> Vec<Case> {
    let sessions = [
        ("fan", &world.fan.session),
        ("organizer", &world.mesh.organizer),
        ("operator", &world.operator),
    ];
    if operation.role.is_none() {
        return Vec::new();
    }
    let others = sessions.iter().filter(|(name, _)| !operation.roles.iter().any(|it| it == name));
    let refused = |(name, session): &(&str, &events::user::Session)| {
        Case::new(
            format!("the token of a {name}"),
            right.clone().by(&session.access_token),
            "forbidden",
        )
    };
    others.map(refused).collect()
}

fn ids(operation: &Operation, world: &World) -> Vec<Case> {
    let right = world.right(operation);
    let with_id = |what: &str, id: &str| {
        let path = world.path(operation, id);
        Case::new(what, Request { path, ..right.clone() }, "not_found")
    };
    let unknown = Uuid::now_v7();
    vec![
        with_id("an id of nothing", &unknown.to_string()),
        with_id("the id of all zeros", &Uuid::nil().to_string()),
        with_id("a text that is no id", "nobody"),
        with_id("a number for an id", "1"),
        with_id("an id with a digit too many", &format!("{unknown}0")),
        with_id("a very long id", &"a".repeat(2_000)),
        with_id("an id of zero bytes", "%00"),
        with_id("an id that is no UTF-8", "%ff"),
        with_id("an id with a quote", "'%20or%201=1--"),
        with_id("an id that climbs", "..%2f..%2fetc"),
    ]
}

fn queries(operation: &Operation, right: &Request) -> Vec<Case> {
    let mut cases = vec![];
    let mut refused = |what: &str, pair: &str, codes| {
        cases.push(Case::new(format!("{what}: ?{pair:.40}"), right.clone().query(pair), codes));
    };
    refused("an unknown parameter", "colour=red", "bad_request");
    if operation.asks("limit") {
        for limit in ["", "ten", "-1", "1.5", "4294967296", "99999999999999999999", "0x10"] {
            refused("a limit that is no number", &format!("limit={limit}"), "bad_request");
        }
        for limit in ["0", "101", "4294967295"] {
            refused("a limit out of range", &format!("limit={limit}"), "invalid");
        }
        refused("two limits", "limit=1&limit=2", "bad_request");
    }
    if operation.asks("cursor") {
        let long = "a".repeat(8_000);
        for cursor in ["", "2", "page-two", "%00", "%ff", "'--", long.as_str()] {
            refused("a cursor that is none", &format!("cursor={cursor}"), "invalid");
        }
    }
    cases
}

fn keys(right: &Request) -> Vec<Case> {
    let long = "k".repeat(256);
    let wrong = ["", "a b", "a\tb", "☃", &long].map(|key| {
        let request = right.clone().with("idempotency-key", key);
        Case::new(format!("the Idempotency-Key {key:.20?}"), request, "invalid")
    });
    let two = right.clone().with("idempotency-key", "a").and("idempotency-key", "b");
    let two = Case::new("two keys", two, "invalid");
    let cases = wrong.into_iter().chain([two]);
    cases.map(|case| case.says("field", "Idempotency-Key")).collect()
}

fn bodies(body: &Body, right: &Request) -> Vec<Case> {
    let typed = |kind: &str| right.clone().with("content-type", kind);
    let with = |what: &str, bytes: Vec<u8>, codes| {
        Case::new(what, typed("application/json").bytes(bytes), codes)
    };
    let mut cases = vec![
        with("half a body", b"{".to_vec(), "bad_request").says("line", 1).says("column", 1),
        with("a body that ends in a text", b"{\n \"a".to_vec(), "bad_request").says("line", 2),
        with("a body that is no JSON", b"email=a&password=b".to_vec(), "bad_request"),
        with("a body that is no UTF-8", b"{\"\xff\xfe\": 1}".to_vec(), "bad_request"),
        with("a number that is none", br#"{"a":1e}"#.to_vec(), "bad_request"),
        with("a body of null", b"null".to_vec(), "invalid").says("field", "body"),
        with("a body of a text", b"\"text\"".to_vec(), "invalid").says("field", "body"),
        with("a body of a number", b"1".to_vec(), "invalid").says("field", "body"),
        with("a body of a list", b"[]".to_vec(), "invalid").says("field", "body"),
        with("a list for an object", b"[1,2,3,4,5,6,7,8,9]".to_vec(), "invalid"),
        with("a body of many lists", b"[".repeat(10_000), "invalid|bad_request"),
    ];
    for kind in ["text/plain", "application/xml", "multipart/form-data; boundary=x", "json", ""] {
        cases.push(Case::new(format!("a body of `{kind}`"), typed(kind), "unsupported_media_type"));
    }
    let latin = "application/json; charset=iso-8859-1";
    cases.push(Case::new("a body in Latin 1", typed(latin), "unsupported_media_type"));
    let untyped = right.clone().without("content-type");
    cases.push(Case::new("a body of no type", untyped, "unsupported_media_type"));
    let bytes_max = if body.takes_csv { PLAN_BYTES } else { BODY_BYTES };
    let large = format!("{{\"padding\":\"{}\"}}", "x".repeat(bytes_max)).into_bytes();
    cases.push(with("a body too large", large, "body_too_large"));
    if body.required {
        cases.push(with("no body", Vec::new(), "invalid"));
        cases.push(with("an empty object", b"{}".to_vec(), "invalid"));
    }
    let behind = [&right.body[..], b" {}"].concat();
    cases.push(with("a body with something behind it", behind, "bad_request"));
    for name in &body.needed {
        let half = format!(r#"{{"{name}":"\ud800"}}"#).into_bytes();
        let (what, is_text) = (format!("a {name} of half a character"), is_text(body, name));
        cases.extend(is_text.then(|| with(&what, half, "bad_request")));
        let what = format!("no {name}");
        cases.push(Case::new(what, right.clone().unset(name), "invalid").says("field", &**name));
        let what = format!("a {name} of null");
        let null = Case::new(what, right.clone().set(name, Value::Null), "invalid");
        cases.push(null.says("field", &**name));
    }
    cases
}

/// Members that the body does not have, or has twice.
fn members(body: &Body, right: &Request) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut refused = |what: String, name: &str, body: String| {
        let request = right.clone().with("content-type", "application/json").bytes(body);
        cases.push(Case::new(what, request, "invalid").says("field", name));
    };
    let text = String::from_utf8(right.body.to_vec()).expect("JSON");
    let object = text.strip_prefix('{').expect("an object");
    let joint = if object.starts_with('}') { "" } else { "," };
    refused("a member more".into(), "colour", format!("{{\"colour\":1{joint}{object}"));
    for (name, _) in &body.fields {
        let typo = format!("{name}x");
        refused(format!("a {typo}"), &typo, format!("{{\"{typo}\":1{joint}{object}"));
    }
    let Value::Object(members) = serde_json::from_slice(&right.body).expect("JSON") else {
        panic!("no object: {text}")
    };
    for (name, value) in members {
        let twice = format!("{{\"{name}\":{value},{object}");
        refused(format!("two of {name}"), &name, twice);
    }
    cases
}

fn is_text(body: &Body, field: &str) -> bool {
    body.fields.iter().any(|(name, kind)| name == field && kind == "string")
}

/// Values that a field of this kind cannot have.
fn fields((name, kind): &(String, String), right: &Request) -> Vec<Case> {
    let values = match kind.as_str() {
        "string" => vec![json!(1), json!(true), json!([]), json!({ "a": ["b"] })],
        "integer" => vec![
            json!("1"),
            json!(1.5),
            json!(true),
            json!([1]),
            json!({}),
            json!(u64::MAX),
            json!(1e300),
        ],
        "array" => vec![json!(1), json!("text"), json!({}), json!([1]), json!([null]), json!([[]])],
        "object" => vec![json!(1), json!("text")],
        "boolean" => vec![json!(1), json!("true"), json!([true]), json!({})],
        other => panic!("what is no {other}?"),
    };
    let refused = |value: Value| {
        Case::new(format!("a {name} of {value}"), right.clone().set(name, value), "invalid")
    };
    values.into_iter().map(refused).collect()
}

/// Every method that is not documented for this path.
pub fn other_methods(path: &str, operations: &[Operation]) -> Vec<Method> {
    let documented = |method: &Method| {
        operations.iter().any(|known| known.path == path && known.method == *method)
    };
    let all = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    all.into_iter().filter(|method| !documented(method)).collect()
}
