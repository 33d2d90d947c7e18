//! Answers and refusals as HTTP responses.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use events::{Problem, codes};
use mesh::Answered;
use serde::Deserialize;

use crate::live::{hub::NotJoined, seat_mirror::SeatsError};

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const A_SECOND: HeaderValue = HeaderValue::from_static("public, max-age=1");
const A_MINUTE: HeaderValue = HeaderValue::from_static("public, max-age=60");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// A refusal to be sent; `?` makes one from a [`Problem`] or a code.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Problem);

impl<P: Into<Problem>> From<P> for Refused {
    fn from(problem: P) -> Self {
        Self(problem.into())
    }
}

impl From<NotJoined> for Problem {
    fn from(_: NotJoined) -> Self {
        Self::new(codes::UNAVAILABLE, "Events cannot be followed right now.")
            .with("retry_after_secs", 2)
    }
}

impl From<SeatsError> for Problem {
    fn from(error: SeatsError) -> Self {
        match error {
            SeatsError::Away => {
                Self::new(codes::UNAVAILABLE, "The seat map cannot be read right now.")
                    .with("retry_after_secs", 1)
            }
            SeatsError::Stream(error) => error.into(),
            SeatsError::Refused(problem) => *problem,
            SeatsError::Malformed => codes::INTERNAL.into(),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        refuse(Answered::refused(&self.0))
    }
}

/// How an answer may be cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    /// Not at all: it is the caller's own.
    None,
    /// By any cache, for a second: the catalogue.
    Catalogue,
    /// By any cache, for a minute: public keys.
    Keys,
}

/// A service's answer as the response, be it granted or refused.
pub(crate) fn answer(answered: Answered, copies: Copies) -> Response {
    if !answered.is_granted() {
        return refuse(answered);
    }
    let mut response = response(answered.status, JSON, answered.body);
    let headers = response.headers_mut();
    match copies {
        Copies::None => headers.insert(header::CACHE_CONTROL, NO_STORE),
        Copies::Keys => headers.insert(header::CACHE_CONTROL, A_MINUTE),
        Copies::Catalogue => headers.insert(header::CACHE_CONTROL, A_SECOND),
    };
    response
}

/// The response with one more header; a value that no header can carry is left out.
pub(crate) fn with_header(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

fn refuse(answered: Answered) -> Response {
    let status = answered.status;
    let retry_after_secs = retry_after_secs(&answered);
    let mut response = response(status, PROBLEM_JSON, answered.body);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    if status == codes::UNAUTHENTICATED.status {
        headers.insert(header::WWW_AUTHENTICATE, BEARER);
    }
    if [codes::BODY_TOO_LARGE.status, codes::REQUEST_TOO_SLOW.status].contains(&status) {
        // The unread rest of the body would come before the next request.
        headers.insert(header::CONNECTION, CLOSE);
    }
    if let Some(secs) = retry_after_secs {
        headers.insert(header::RETRY_AFTER, secs.into());
    }
    response
}

fn retry_after_secs(answered: &Answered) -> Option<u64> {
    #[derive(Deserialize)]
    struct Retry {
        retry_after_secs: Option<u64>,
    }
    let stated = serde_json::from_slice::<Retry>(&answered.body).ok()?.retry_after_secs;
    let expected = [codes::RATE_LIMITED.status, codes::UNAVAILABLE.status];
    stated.or_else(|| expected.contains(&answered.status).then_some(1))
}

fn response(status: u16, content_type: HeaderValue, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use mesh::{BrokerError, StreamError};

    use super::*;

    fn header_of(response: &Response, name: HeaderName) -> Option<&str> {
        response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    #[test]
    fn a_refusal_is_problem_json_and_not_cached() {
        for code in codes::ALL {
            let response = Refused::from(*code).into_response();
            assert_eq!(response.status().as_u16(), code.status);
            assert_eq!(
                header_of(&response, header::CONTENT_TYPE),
                Some("application/problem+json")
            );
            assert_eq!(header_of(&response, header::CACHE_CONTROL), Some("no-store"));
        }
    }

    #[test]
    fn what_cannot_be_followed_or_read_is_unavailable_and_what_a_service_refuses_is_passed_on() {
        let unread = StreamError::unread(BrokerError::NotConnected);
        let away = [NotJoined.into(), SeatsError::Away.into(), unread.into()];
        let stream =
            SeatsError::Stream(StreamError::not_followed(BrokerError::NotConnected)).into();
        for problem in away.into_iter().chain([stream]) {
            let problem: Problem = problem;
            assert!(problem.is(codes::UNAVAILABLE), "{problem}");
            assert!(problem.extra["retry_after_secs"].is_u64(), "{problem}");
        }
        let refused = Problem::new(codes::NOT_FOUND, "There is no such schedule.");
        assert_eq!(Problem::from(SeatsError::Refused(Box::new(refused.clone()))), refused);
        assert!(Problem::from(SeatsError::Malformed).is(codes::INTERNAL));
    }

    #[test]
    fn retry_after_has_the_value_of_the_problem() {
        let limited = Problem::from(codes::RATE_LIMITED).with("retry_after_secs", 7);
        let response = answer(Answered::refused(&limited), Copies::Catalogue);
        assert_eq!(header_of(&response, header::RETRY_AFTER), Some("7"));
        let taken = Refused::from(codes::SEAT_TAKEN).into_response();
        assert_eq!(header_of(&taken, header::RETRY_AFTER), None);
        let away = Refused::from(codes::UNAVAILABLE).into_response();
        assert_eq!(header_of(&away, header::RETRY_AFTER), Some("1"));
    }

    #[test]
    fn an_answer_says_how_it_may_be_cached() {
        let granted = || Answered { status: 201, body: Bytes::from_static(b"{}") };
        let own = answer(granted(), Copies::None);
        assert_eq!(own.status(), StatusCode::CREATED);
        assert_eq!(header_of(&own, header::CACHE_CONTROL), Some("no-store"));
        let public = answer(granted(), Copies::Catalogue);
        assert_eq!(header_of(&public, header::CACHE_CONTROL), Some("public, max-age=1"));
    }
}
