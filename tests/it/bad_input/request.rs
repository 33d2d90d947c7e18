//! A request with one mistake, and the refusal that it must get.

use bytes::Bytes;
use events::Problem;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper_util::rt::TokioIo;
use onsale::http::{Answer, Http};
use serde_json::Value;
use tokio::net::TcpStream;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub path: String,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: Bytes,
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// With this header, in place of the one it had.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self = self.without(name);
        self.headers.push((name, value.into()));
        self
    }

    /// Without this header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    /// With this header added.
    pub fn and(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// As the owner of this access token.
    pub fn by(self, token: &str) -> Self {
        self.with("authorization", format!("Bearer {token}"))
    }

    /// With one more query parameter.
    pub fn query(mut self, pair: &str) -> Self {
        let joint = if self.path.contains('?') { '&' } else { '?' };
        self.path = format!("{}{joint}{pair}", self.path);
        self
    }

    /// With this body as it is.
    pub fn bytes(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// With this JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.with("content-type", "application/json").bytes(body.to_string())
    }

    /// With one field of its JSON body changed; `a.b` is a field inside a field.
    ///
    /// # Panics
    /// When there is no such body.
    pub fn set(self, field: &str, value: impl Into<Value>) -> Self {
        let mut body: Value = serde_json::from_slice(&self.body).expect("a JSON body");
        let mut at = &mut body;
        for name in field.split('.') {
            at = &mut at[name];
        }
        *at = value.into();
        self.json(&body)
    }

    /// Without one field of its JSON body.
    ///
    /// # Panics
    /// When it is not there.
    pub fn unset(self, field: &str) -> Self {
        let mut body: Value = serde_json::from_slice(&self.body).expect("a JSON body");
        let fields = body.as_object_mut().expect("an object");
        assert!(fields.remove(field).is_some(), "{field} in {fields:?}");
        self.json(&body)
    }

    /// Sends it.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(&self, http: &Http) -> anyhow::Result<Answer> {
        // A client takes `..` out of a path before it sends it.
        if self.path.split('/').any(|part| part == "..") {
            return self.send_untidied(http.base().trim_start_matches("http://")).await;
        }
        let mut ask = http.ask(self.method.clone(), self.path.clone()).body(self.body.clone());
        for (name, value) in &self.headers {
            ask = ask.header(name, value.clone());
        }
        ask.send().await
    }
}

impl Request {
    /// Sends it with its path as it is, on a connection of its own.
    async fn send_untidied(&self, addr: &str) -> anyhow::Result<Answer> {
        let stream = TokioIo::new(TcpStream::connect(addr).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::spawn(connection);
        let mut request = hyper::Request::builder().method(&self.method).uri(&self.path);
        request = request.header("host", addr);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let answer = sender.send_request(request.body(Full::new(self.body.clone()))?).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// Codes whose refusal names the field that is wrong.
const WITH_FIELD: [&str; 7] = [
    "bad_request",
    "invalid",
    "unauthenticated",
    "token_expired",
    "idempotency_key_reused",
    "unsupported_media_type",
    "body_too_large",
];
/// Messages of parsing libraries. A refusal must never contain them.
const OF_LIBRARIES: [&str; 16] = [
    "at line ",
    "expected struct",
    "expected a ",
    "expected value",
    "expected one of",
    "with 1 element",
    "invalid type",
    "invalid value",
    "invalid length",
    "unknown field",
    "unknown variant",
    "missing field",
    "duplicate field",
    "component could not be parsed",
    "UUID parsing failed",
    "trailing characters",
];

/// Something that must be refused.
#[derive(Debug, Clone)]
pub struct Case {
    /// What is wrong with it.
    pub what: String,
    /// The request.
    pub request: Request,
    /// The codes it may be refused with; nearly always one.
    pub codes: Vec<&'static str>,
    /// Members that the problem must have besides its code.
    pub says: Vec<(&'static str, Value)>,
    /// Words that its detail must have.
    pub mentions: &'static str,
}

impl Case {
    /// A request that must be refused with this code; `a|b` allows either.
    pub fn new(what: impl Into<String>, request: Request, codes: &'static str) -> Self {
        let codes = codes.split('|').collect();
        Self { what: what.into(), request, codes, says: Vec::new(), mentions: "" }
    }

    /// The problem must also have this member.
    pub fn says(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.says.push((name, value.into()));
        self
    }

    /// The problem's detail must have these words.
    pub fn mentions(mut self, words: &'static str) -> Self {
        self.mentions = words;
        self
    }
}

/// What is wrong with a refusal; empty when it is the expected problem.
pub fn flaws(answer: &Answer, case: &Case) -> Vec<String> {
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let mut flaws = Vec::new();
    let mut must = |holds: bool, flaw: String| {
        if !holds {
            flaws.push(flaw);
        }
    };
    let content_type = header("content-type");
    must(content_type == Some("application/problem+json"), format!("is {content_type:?}"));
    must(header("cache-control") == Some("no-store"), "may be kept".into());
    must(header("x-request-id").is_some(), "has no request id".into());
    let status = answer.status.as_u16();
    must((400..500).contains(&status), format!("is a {status}"));
    must(
        status != 401 || header("www-authenticate").is_some(),
        "does not say how to log in".into(),
    );
    must(status != 429 || header("retry-after").is_some(), "does not say when to retry".into());
    match serde_json::from_slice::<Problem>(&answer.body) {
        Err(error) => must(false, format!("is no problem: {error}")),
        Ok(problem) => {
            let code = problem.code.as_str();
            let documented = events::codes::ALL.iter().find(|known| known.code == code);
            must(case.codes.contains(&code), format!("is {problem}, not {:?}", case.codes));
            must(documented.is_some_and(|known| known.status == status), format!("is a {status}"));
            must(problem.status == status, format!("says {} in a {status}", problem.status));
            must(problem.r#type == format!("urn:onsale:problem:{code}"), problem.r#type.clone());
            must(!problem.title.is_empty(), "has no title".into());
            let field = problem.extra.get("field").and_then(Value::as_str);
            let is_named = field.is_some() || problem.detail.starts_with("`phone`");
            must(is_named || !WITH_FIELD.contains(&code), format!("no field: {problem}"));
            let of_libraries = OF_LIBRARIES.iter().find(|words| problem.detail.contains(**words));
            must(of_libraries.is_none(), format!("is in a library's words: {problem}"));
            let mentions = problem.detail.contains(case.mentions);
            must(mentions, format!("does not mention `{}`", case.mentions));
            for (name, value) in &case.says {
                let found = problem.extra.get(*name);
                must(found == Some(value), format!("has {name} = {found:?}, not {value}"));
            }
        }
    }
    flaws
}
