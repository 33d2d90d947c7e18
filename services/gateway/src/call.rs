//! A request, read: headers, path, query, body.
//!
//! axum's own extractors answer with plain text when they refuse; these answer with
//! problems.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, HeaderName, Uri, header, request::Parts},
};
use bytes::Bytes;
use events::{Problem, codes};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use mesh::AskHeaders;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::problem::Refused;

/// Bytes of a request body.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request body that brings a seat plan.
pub(crate) const PLAN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Characters of an `Authorization` header; a token is a tenth of that.
const AUTHORIZATION_CHARS_MAX: usize = 8 * 1024;
/// Characters of an `Idempotency-Key`.
const KEY_CHARS_MAX: usize = 255;
/// Seconds that `Prefer: wait` is honoured for.
const WAIT_SECS_MAX: u64 = 30;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const TRACEPARENT: HeaderName = HeaderName::from_static(mesh::trace::TRACEPARENT);

/// The headers of a request; its body, if any, is left unread.
pub(crate) struct Head(pub(crate) HeaderMap);

impl<S: Sync> FromRequestParts<S> for Head {
    type Rejection = Refused;

    /// Takes the headers away instead of copying them: nothing reads them afterwards.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        Ok(Self(std::mem::take(&mut parts.headers)))
    }
}

impl Head {
    /// What is passed on with a command.
    ///
    /// # Errors
    /// `unauthenticated` or `invalid` for a header that no service would read.
    pub(crate) fn ask(&self, id: Option<Uuid>) -> Result<AskHeaders<'_>, Problem> {
        Ok(AskHeaders { idempotency_key: self.idempotency_key()?, id, ..self.look()? })
    }

    /// What is passed on with a query; a key for repeating it has no meaning.
    ///
    /// # Errors
    /// `unauthenticated` for a header that no service would read.
    pub(crate) fn look(&self) -> Result<AskHeaders<'_>, Problem> {
        Ok(AskHeaders {
            authorization: self.authorization()?,
            traceparent: self.0.get(TRACEPARENT).and_then(|value| value.to_str().ok()),
            ..AskHeaders::default()
        })
    }

    /// The access token.
    ///
    /// # Errors
    /// `unauthenticated` when there is none.
    pub(crate) fn token(&self) -> Result<&str, Problem> {
        let scheme_and_token = self.authorization()?.and_then(|value| value.split_once(' '));
        match scheme_and_token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
            _ => Err(Problem::new(
                codes::UNAUTHENTICATED,
                "Send `Authorization: Bearer <access token>`.",
            )),
        }
    }

    fn authorization(&self) -> Result<Option<&str>, Problem> {
        let Some(value) = self.0.get(header::AUTHORIZATION) else { return Ok(None) };
        match value.to_str() {
            Ok(text) if text.len() <= AUTHORIZATION_CHARS_MAX => Ok(Some(text)),
            _ => Err(Problem::new(codes::UNAUTHENTICATED, "This is no access token of ours.")),
        }
    }

    fn idempotency_key(&self) -> Result<Option<&str>, Problem> {
        let Some(value) = self.0.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        let visible = |text: &&str| {
            (1..=KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        value.to_str().ok().filter(visible).map(Some).ok_or_else(|| {
            Problem::new(
                codes::INVALID,
                "An Idempotency-Key has 1 to 255 visible ASCII characters.",
            )
        })
    }

    /// How long the caller would rather wait for the outcome than follow it, in seconds.
    /// A preference that cannot be read is no preference (RFC 7240).
    pub(crate) fn wait_secs(&self) -> Option<u64> {
        self.0.get_all(PREFER).iter().filter_map(|value| value.to_str().ok()).find_map(wait_secs)
    }
}

fn wait_secs(prefer: &str) -> Option<u64> {
    let wait = prefer.split([',', ';']).find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"'))
    })?;
    let secs: u64 = wait.parse().ok()?;
    (secs > 0).then(|| secs.min(WAIT_SECS_MAX))
}

/// A request with a JSON body; the bytes are not looked into.
pub(crate) struct Call {
    pub(crate) head: Head,
    pub(crate) body: Bytes,
}

impl<S: Sync> FromRequest<S> for Call {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        Self::read(request, BODY_BYTES_MAX, &["application/json"]).await
    }
}

impl Call {
    /// Reads a body of one of the given content types. One without content needs no type.
    ///
    /// # Errors
    /// `body_too_large`, `unsupported_media_type`, or `bad_request` when it does not arrive.
    pub(crate) async fn read(
        request: Request,
        bytes_max: usize,
        content_types: &[&str],
    ) -> Result<Self, Refused> {
        let (parts, body) = request.into_parts();
        let head = Head(parts.headers);
        let stated = head.0.get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok());
        if stated.and_then(|text| text.parse().ok()).is_some_and(|bytes: usize| bytes > bytes_max) {
            return Err(too_large(bytes_max).into());
        }
        let body = collect(body, bytes_max).await?;
        if !body.is_empty() && !content_types.iter().any(|kind| is_of(&head.0, kind)) {
            let detail = format!("Send `Content-Type: {}`.", content_types.join("` or `"));
            return Err(Problem::new(codes::UNSUPPORTED_MEDIA_TYPE, detail).into());
        }
        Ok(Self { head, body })
    }

    /// The body with values from the path, which win over the same names inside.
    ///
    /// # Errors
    /// `bad_request` with line and column when the body is not JSON, `invalid` when it is no
    /// object: as a service would say.
    pub(crate) fn body_with(&self, values: &[(&str, String)]) -> Result<Bytes, Problem> {
        let mut object: Map<String, Value> = match self.body.as_ref() {
            [] => Map::new(),
            body => serde_json::from_slice(body).map_err(|error| {
                let kind = if error.is_data() { codes::INVALID } else { codes::BAD_REQUEST };
                Problem::new(kind, error.to_string())
                    .with("line", error.line())
                    .with("column", error.column())
            })?,
        };
        for (name, value) in values {
            object.insert((*name).to_owned(), Value::String(value.clone()));
        }
        Ok(json(&object))
    }
}

/// Whether the body is of this content type, in UTF-8.
pub(crate) fn is_of(headers: &HeaderMap, kind: &str) -> bool {
    let Some(stated) = headers.get(header::CONTENT_TYPE).and_then(|text| text.to_str().ok()) else {
        return false;
    };
    let mut parts = stated.split(';').map(str::trim);
    let exact = parts.next().is_some_and(|stated| stated.eq_ignore_ascii_case(kind));
    exact
        && parts.filter_map(|part| part.split_once('=')).all(|(name, value)| {
            !name.eq_ignore_ascii_case("charset")
                || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
}

async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, bytes_max).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(bytes_max)),
        Ok(Err(_)) => Err(Problem::new(codes::BAD_REQUEST, "The body broke off.")),
        Err(_) => Err(Problem::new(codes::BAD_REQUEST, "The body did not arrive in time.")),
    }
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(codes::BODY_TOO_LARGE, format!("At most {bytes_max} bytes are read here."))
        .with("bytes_max", bytes_max)
}

/// The one id in the path. What is no UUID names nothing, so it is `not_found`.
pub(crate) struct Id<T>(pub(crate) T);

impl<S: Send + Sync, T: From<Uuid> + Send> FromRequestParts<S> for Id<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let id = Path::<Uuid>::from_request_parts(parts, state).await;
        let Path(id) = id.map_err(|_| not_a_name())?;
        Ok(Self(id.into()))
    }
}

/// Why a path names nothing.
pub(crate) fn not_a_name() -> Problem {
    Problem::new(codes::NOT_FOUND, "An id in the path is not a UUID.")
}

/// The query, where unknown names are refused.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        Ok(Self::of(&parts.uri)?)
    }
}

impl<T: DeserializeOwned> Params<T> {
    /// The query of an address.
    ///
    /// # Errors
    /// `bad_request` with the reason.
    pub(crate) fn of(uri: &Uri) -> Result<Self, Problem> {
        let query = Query::<T>::try_from_uri(uri);
        let Query(params) = query.map_err(|error| {
            let detail = error.to_string();
            let told = detail.strip_prefix("Failed to deserialize query string: ");
            Problem::new(codes::BAD_REQUEST, told.unwrap_or(&detail))
        })?;
        Ok(Self(params))
    }
}

/// A command or reply as JSON.
pub(crate) fn json<T: Serialize>(what: &T) -> Bytes {
    serde_json::to_vec(what).expect("commands and replies are plain data").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: HeaderName, value: &[u8]) -> Head {
        let value = axum::http::HeaderValue::from_bytes(value).unwrap();
        Head(HeaderMap::from_iter([(name, value)]))
    }

    #[test]
    fn a_preference_to_wait_is_read_where_it_stands() {
        for (text, secs) in [
            ("wait=5", Some(5)),
            ("respond-async, wait=10", Some(10)),
            ("Wait = \"7\"; x=1", Some(7)),
            ("wait=300", Some(30)),
        ] {
            assert_eq!(head(PREFER, text.as_bytes()).wait_secs(), secs, "{text}");
        }
    }

    #[test]
    fn a_preference_that_cannot_be_read_is_none() {
        for text in ["", "wait", "wait=", "wait=0", "wait=-1", "wait=soon", "waiting=3"] {
            assert_eq!(head(PREFER, text.as_bytes()).wait_secs(), None, "{text}");
        }
    }

    #[test]
    fn an_idempotency_key_has_1_to_255_visible_characters() {
        let longest = "x".repeat(255);
        let good = head(IDEMPOTENCY_KEY, longest.as_bytes());
        assert_eq!(good.ask(None).unwrap().idempotency_key, Some(longest.as_str()));
        for bad in [&b""[..], b"a b", "x".repeat(256).as_bytes(), "☃".as_bytes()] {
            let refused = head(IDEMPOTENCY_KEY, bad).ask(None).unwrap_err();
            assert!(refused.is(codes::INVALID));
        }
    }

    #[test]
    fn an_authorization_header_without_a_bearer_token_is_unauthenticated() {
        let longest = "x".repeat(AUTHORIZATION_CHARS_MAX + 1);
        for bad in ["", "Bearer", "Basic dXNlcg==", &longest] {
            let refused = head(header::AUTHORIZATION, bad.as_bytes()).token().unwrap_err();
            assert!(refused.is(codes::UNAUTHENTICATED), "{bad}");
        }
        let good = head(header::AUTHORIZATION, b"bearer abc");
        assert_eq!(good.token().unwrap(), "abc");
    }

    #[test]
    fn a_content_type_is_compared_without_its_charset() {
        for (text, json) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json; charset=latin1", false),
            ("text/plain", false),
        ] {
            let headers = head(header::CONTENT_TYPE, text.as_bytes()).0;
            assert_eq!(is_of(&headers, "application/json"), json, "{text}");
        }
    }

    #[test]
    fn the_path_wins_over_the_body() {
        let call = |body: &'static str| Call {
            head: Head(HeaderMap::new()),
            body: Bytes::from_static(body.as_bytes()),
        };
        let path = [("id", "1".to_owned())];
        assert_eq!(call("").body_with(&path).unwrap(), r#"{"id":"1"}"#);
        assert_eq!(call(r#"{"id":2,"x":3}"#).body_with(&path).unwrap(), r#"{"id":"1","x":3}"#);
        let refused = call("{\n nonsense").body_with(&path).unwrap_err();
        assert!(refused.is(codes::BAD_REQUEST));
        assert_eq!(refused.extra["line"], 2);
        assert!(call("[1]").body_with(&path).unwrap_err().is(codes::INVALID));
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit_and_of_its_kind() {
        async fn code(body: &str, content_type: &str) -> Option<String> {
            let request = Request::builder()
                .header(header::CONTENT_TYPE, content_type)
                .body(Body::from(body.to_owned()))
                .unwrap();
            let read = Call::read(request, 8, &["application/json"]).await;
            read.err().map(|refused| refused.0.code)
        }
        assert_eq!(code("12345678", "application/json").await, None);
        assert_eq!(code("", "text/plain").await, None);
        assert_eq!(code("123456789", "application/json").await.as_deref(), Some("body_too_large"));
        assert_eq!(code("1", "text/plain").await.as_deref(), Some("unsupported_media_type"));
    }
}
