//! Requests to a provider: bounded in time and size, with errors that show no secrets.

use std::time::Duration;

use events::Timestamp;
use reqwest::{Client, RequestBuilder, StatusCode, Url, header::RETRY_AFTER, redirect::Policy};
use time::{PrimitiveDateTime, macros::format_description};

use super::unusable::Unusable;
use crate::domain::Delivery;

/// Bytes of an answer that are read at most.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Connections that are kept open for the next message.
const IDLE_MAX: usize = 4;

/// What a provider answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after_secs: Option<u64>,
    pub(super) body: Vec<u8>,
}

/// A client for one provider. It follows no redirect: messages are for the address that the
/// operator has named.
pub(super) fn client() -> Result<Client, Unusable> {
    mesh::tls::install();
    Client::builder()
        .redirect(Policy::none())
        .pool_max_idle_per_host(IDLE_MAX)
        .user_agent(concat!("onsale/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Unusable::NoClient(error.to_string()))
}

/// Parses the address of a provider, as an operator wrote it.
pub(super) fn address(url: &str) -> Result<Url, Unusable> {
    match Url::parse(url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err(Unusable::Address),
    }
}

/// Sends a request and reads the answer.
pub(super) async fn ask(
    request: RequestBuilder,
    within: Duration,
    now: Timestamp,
) -> Result<Answer, Delivery> {
    let unreachable = |error: reqwest::Error| Delivery::later(describe(error));
    let mut response = request.timeout(within).send().await.map_err(unreachable)?;
    let retry_after_secs = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| wait_secs(value, now));
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(unreachable)? {
        if body.len() + part.len() > ANSWER_BYTES_MAX {
            return Err(Delivery::later("the answer is too long"));
        }
        body.extend_from_slice(&part);
    }
    Ok(Answer { status: response.status(), retry_after_secs, body })
}

impl Answer {
    /// The delivery for an unexpected answer: a later try may succeed.
    pub(super) fn later(&self) -> Delivery {
        let reason = format!("answered {}", self.status.as_u16());
        Delivery::Later { reason, after_secs: self.retry_after_secs }
    }
}

/// Describes an error down to its cause, without the address: it may have a key in it.
fn describe(error: reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        return "no answer in time".to_owned();
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "no answer"
    };
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{kind}: {cause}")
}

/// `Retry-After` in seconds from now: a number, or a date.
fn wait_secs(value: &str, now: Timestamp) -> Option<u64> {
    let date = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let until = |text| PrimitiveDateTime::parse(text, date).ok().map(PrimitiveDateTime::assume_utc);
    value.trim().parse().ok().or_else(|| {
        let wait = until(value.trim())? - now.0;
        Some(wait.whole_seconds().max(0).unsigned_abs())
    })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_wait_is_read_as_a_number_or_as_a_date() {
        let now = Timestamp(datetime!(2027-03-10 10:00 UTC));
        assert_eq!(wait_secs("120", now), Some(120));
        assert_eq!(wait_secs("Wed, 10 Mar 2027 10:01:30 GMT", now), Some(90));
        assert_eq!(wait_secs("Wed, 10 Mar 2027 09:00:00 GMT", now), Some(0));
        for bad in ["", "soon", "-1", "10 Mar 2027"] {
            assert_eq!(wait_secs(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn an_address_needs_a_scheme_and_a_host() {
        assert!(address("https://example.com/hook?x=1").is_ok());
        for bad in ["", "example.com", "ftp://example.com", "http://", "file:///tmp/x"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
