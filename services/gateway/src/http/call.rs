//! Reading a request: headers, path, query and body.
//!
//! axum's own extractors refuse with plain text; these refuse with problems.

use std::{str::FromStr, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use events::{Code, Problem, codes};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use mesh::{IDEMPOTENCY_KEY, RequestHeaders};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::http::{media, problem::Refused};

/// Bytes of a request body.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request body that contains a seat plan.
pub(crate) const PLAN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a body may take to arrive.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Characters of an `Authorization` header; a token has a tenth of that.
const AUTHORIZATION_CHARS_MAX: usize = 8 * 1024;
/// Seconds that `Prefer: wait` is honoured for at most.
const WAIT_SECS_MAX: u64 = 30;

/// Characters of a value that a refusal repeats.
const QUOTED_CHARS_MAX: usize = 60;

const AUTHORIZATION: &str = "Authorization";
const LAST_EVENT_ID: &str = "Last-Event-ID";
const PREFER: HeaderName = HeaderName::from_static("prefer");
const TRACEPARENT: HeaderName = HeaderName::from_static(mesh::trace::TRACEPARENT);

/// The headers of a request; its body, if any, stays unread.
pub(crate) struct Head(pub(crate) HeaderMap);

impl<S: Sync> FromRequestParts<S> for Head {
    type Rejection = Refused;

    /// Moves the headers instead of copying them: nothing reads them afterwards.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        Ok(Self(std::mem::take(&mut parts.headers)))
    }
}

impl Head {
    /// The headers that are passed on with a command.
    ///
    /// # Errors
    /// `unauthenticated` or `invalid` for a header that no service would accept.
    pub(crate) fn for_command(&self, id: Option<Uuid>) -> Result<RequestHeaders<'_>, Problem> {
        Ok(RequestHeaders { idempotency_key: self.idempotency_key()?, id, ..self.for_query()? })
    }

    /// The headers that are passed on with a query; an idempotency key has no meaning there.
    ///
    /// # Errors
    /// `unauthenticated` for a header that no service would accept.
    pub(crate) fn for_query(&self) -> Result<RequestHeaders<'_>, Problem> {
        Ok(RequestHeaders {
            authorization: self.authorization()?,
            traceparent: self.0.get(TRACEPARENT).and_then(|value| value.to_str().ok()),
            ..RequestHeaders::default()
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
            _ => Err(Problem::about(
                codes::UNAUTHENTICATED,
                AUTHORIZATION,
                "must be `Bearer <access token>`",
            )),
        }
    }

    /// A header that may have one value only: with two, which one was meant is not known.
    ///
    /// # Errors
    /// A problem of this kind when there are two different values.
    pub(crate) fn one(&self, name: &str, kind: Code) -> Result<Option<&HeaderValue>, Problem> {
        let mut values = self.0.get_all(name).iter();
        let first = values.next();
        match values.all(|other| Some(other) == first) {
            true => Ok(first),
            false => Err(Problem::about(kind, name, "is there twice, with two values")),
        }
    }

    fn authorization(&self) -> Result<Option<&str>, Problem> {
        let Some(value) = self.one(AUTHORIZATION, codes::UNAUTHENTICATED)? else {
            return Ok(None);
        };
        match value.to_str() {
            Ok(text) if text.len() <= AUTHORIZATION_CHARS_MAX => Ok(Some(text)),
            _ => Err(Problem::about(
                codes::UNAUTHENTICATED,
                AUTHORIZATION,
                "has no access token of ours in it",
            )),
        }
    }

    fn idempotency_key(&self) -> Result<Option<&str>, Problem> {
        let Some(value) = self.one(IDEMPOTENCY_KEY, codes::INVALID)? else { return Ok(None) };
        // A value that is no text is no key either; the check's refusal says what a key is.
        let key = value.to_str().unwrap_or_default();
        mesh::check_key(key).map(|()| Some(key))
    }

    /// The position from which a client wants to resume.
    ///
    /// # Errors
    /// `invalid` when it is no position of ours.
    pub(crate) fn last_event_id<T: FromStr>(&self) -> Result<Option<T>, Problem> {
        let Some(value) = self.one(LAST_EVENT_ID, codes::INVALID)? else { return Ok(None) };
        let place = value.to_str().ok().and_then(|text| text.parse().ok());
        place.map(Some).ok_or_else(|| {
            let what = "must be the `id` of an event that was sent here";
            Problem::about(codes::INVALID, LAST_EVENT_ID, what)
        })
    }

    /// How long the caller prefers to wait for the outcome, in seconds. A preference that
    /// cannot be read counts as none (RFC 7240).
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

/// A request with a JSON body, as bytes; the JSON is not parsed here.
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
    /// Reads a body of one of the given content types. An empty body needs no type.
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
        if !body.is_empty() && !content_types.iter().any(|kind| media::is_read(&head.0, kind)) {
            return Err(unread_type(&head, content_types).into());
        }
        Ok(Self { head, body })
    }

    /// The body with values from the path added.
    ///
    /// # Errors
    /// What a service would answer; and `invalid` when the body has another value.
    pub(crate) fn body_with(&self, values: &[(&str, String)]) -> Result<Bytes, Problem> {
        mesh::input::complete(&self.body, values).map(Bytes::from)
    }
}

fn unread_type(head: &Head, read: &[&str]) -> Problem {
    let wanted = read.join("` or `");
    let came = match head.0.get(header::CONTENT_TYPE) {
        None => "it is missing".to_owned(),
        Some(value) => format!("not `{}`", short(&String::from_utf8_lossy(value.as_bytes()))),
    };
    let what = format!("must be `{wanted}`, {came}");
    Problem::about(codes::UNSUPPORTED_MEDIA_TYPE, "Content-Type", what)
}

/// A value, cut to the length that a refusal repeats.
pub(crate) fn short(text: &str) -> String {
    let mut chars = text.chars();
    let begin: String = chars.by_ref().take(QUOTED_CHARS_MAX).collect();
    if chars.next().is_some() { format!("{begin}…") } else { begin }
}

/// The body, if it comes whole and in time. `RequestBodyLimitLayer` and `TimeoutLayer` of
/// tower-http do not serve here: they answer in plain text and with nothing, the limit is one for
/// all methods of a path, and a time limit of the whole request would end event streams.
async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, whole(Limited::new(body, bytes_max)));
    match collected.await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(bytes_max)),
        Ok(Err(_)) => {
            let detail = "The body broke off, or is not sent as its headers say.";
            Err(Problem::new(codes::BAD_REQUEST, detail).with("field", "body"))
        }
        Err(_) => {
            let detail = format!("A body may take {} seconds.", BODY_TIMEOUT.as_secs());
            Err(Problem::new(codes::REQUEST_TOO_SLOW, detail).with("field", "body"))
        }
    }
}

/// The bytes of a body. A frame keeps the whole buffer that it was read into: of a body that comes
/// byte by byte each byte would keep one. So all frames but a lone one are copied.
pub(crate) async fn whole(mut body: Limited<Body>) -> Result<Bytes, axum::BoxError> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if all.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(codes::BODY_TOO_LARGE, format!("At most {bytes_max} bytes are read here."))
        .with("field", "body")
        .with("bytes_max", bytes_max)
}

/// The one id in the path. A value that is no UUID names nothing, so it is `not_found`.
pub(crate) struct Id<T>(pub(crate) T);

impl<S: Send + Sync, T: From<Uuid> + Send> FromRequestParts<S> for Id<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let (name, text) = path_parameter(parts, state).await?;
        let id: Uuid = text.parse().map_err(|_| not_an_id(&name, &text))?;
        Ok(Self(id.into()))
    }
}

/// The problem for a path parameter that must be an id and is none.
pub(crate) fn not_an_id(name: &str, came: &str) -> Problem {
    let what = format!("must be an id, a UUID, not `{}`", short(came));
    Problem::about(codes::NOT_FOUND, name, what)
}

/// The one parameter of the path: its name and its value.
///
/// # Errors
/// `not_found` when the value is no text.
pub(crate) async fn path_parameter<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<(String, String), Problem> {
    let mut parameters = path_parameters(parts, state).await?;
    Ok(parameters.pop().expect("the path has a parameter"))
}

/// The parameters of the path: their names and values.
///
/// # Errors
/// `not_found` when one of the values is no text.
pub(crate) async fn path_parameters<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<Vec<(String, String)>, Problem> {
    let parameters = RawPathParams::from_request_parts(parts, state).await;
    let parameters = parameters.map_err(|_| {
        Problem::new(codes::NOT_FOUND, "A name in the path is not UTF-8.").with("field", "path")
    })?;
    Ok(parameters.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// The query parameters; unknown names are refused.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        Ok(Self::of(&parts.method, &parts.uri)?)
    }
}

impl<T: DeserializeOwned> Params<T> {
    /// The query parameters of an address.
    ///
    /// # Errors
    /// `bad_request` with the field.
    pub(crate) fn of(method: &Method, uri: &Uri) -> Result<Self, Problem> {
        let pairs = parameters(uri).collect::<Vec<_>>();
        // A search for unreadable text only finds nothing, but a command must not store it.
        let is_unreadable = |(_, value): &&(String, String)| value.contains('\u{fffd}');
        if *method != Method::GET
            && *method != Method::HEAD
            && let Some((name, _)) = pairs.iter().find(is_unreadable)
        {
            let what = "is not UTF-8; escape it as UTF-8";
            return Err(Problem::about(codes::BAD_REQUEST, &short(name), what));
        }
        mesh::input::query(pairs).map(Self)
    }
}

/// The query parameters of an address, decoded.
pub(crate) fn parameters(uri: &Uri) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned()
}

/// A command or a reply as JSON.
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
    fn a_preference_to_wait_is_found_among_other_preferences() {
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
    fn a_preference_that_cannot_be_read_counts_as_none() {
        for text in ["", "wait", "wait=", "wait=0", "wait=-1", "wait=soon", "waiting=3"] {
            assert_eq!(head(PREFER, text.as_bytes()).wait_secs(), None, "{text}");
        }
    }

    #[test]
    fn an_idempotency_key_has_1_to_255_visible_characters() {
        let longest = "x".repeat(255);
        let name = || HeaderName::from_static("idempotency-key");
        let good = head(name(), longest.as_bytes());
        assert_eq!(good.for_command(None).unwrap().idempotency_key, Some(longest.as_str()));
        for bad in [&b""[..], b"a b", "x".repeat(256).as_bytes(), "☃".as_bytes()] {
            let refused = head(name(), bad).for_command(None).unwrap_err();
            assert!(refused.is(codes::INVALID) && refused.extra["field"] == IDEMPOTENCY_KEY);
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
    fn a_header_that_has_one_value_may_not_have_two() {
        let keys = |values: [&'static str; 2]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("idempotency-key", HeaderValue::from_static(value));
                headers.append("authorization", HeaderValue::from_static(value));
            }
            Head(headers)
        };
        assert_eq!(keys(["a", "a"]).idempotency_key().unwrap(), Some("a"));
        assert!(keys(["a", "b"]).idempotency_key().unwrap_err().is(codes::INVALID));
        assert_eq!(keys(["Bearer a", "Bearer a"]).token().unwrap(), "a");
        let two = keys(["Bearer a", "Bearer b"]).token().unwrap_err();
        assert!(two.is(codes::UNAUTHENTICATED) && two.extra["field"] == AUTHORIZATION, "{two}");
    }

    #[test]
    fn a_parameter_that_is_stored_must_be_text() {
        #[derive(Debug, serde::Deserialize)]
        struct Reason {
            reason: Option<String>,
        }
        let read = |method, query: &str| {
            let uri: Uri = format!("/x?{query}").parse().unwrap();
            Params::<Reason>::of(&method, &uri).map(|Params(params)| params.reason)
        };
        assert_eq!(read(Method::DELETE, "reason=a+b%2B").unwrap().as_deref(), Some("a b+"));
        assert_eq!(read(Method::DELETE, "").unwrap(), None);
        assert!(read(Method::GET, "reason=%ff").is_ok());
        for (query, field) in [("reason=%ff", "reason"), ("reasons=x", "reasons"), ("x", "x")] {
            let refused = read(Method::DELETE, query).unwrap_err();
            assert!(refused.is(codes::BAD_REQUEST) && refused.extra["field"] == field, "{query}");
        }
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit_and_with_its_content_type() {
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
