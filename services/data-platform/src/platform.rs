//! The data platform: batches over HTTP to one endpoint.
//!
//! `POST <url>` with newline-delimited JSON. Any 2xx means taken for good; after anything else,
//! or no answer, the same batch is retried. The platform may see a batch twice: when its answer
//! was lost, and when this process was killed before it recorded the answer.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use events::Timestamp;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect,
};

use crate::domain::Batch;

/// How long the platform may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Characters of its answer that are kept when it does not take a batch.
const CAUSE_CHARS_MAX: usize = 200;
/// Bytes of such an answer that are read at most.
const CAUSE_BYTES_MAX: usize = 4_096;

/// The header that names the batch by what is in it.
pub const BATCH_ID: &str = "onsale-batch-id";
/// The header with the watermark: once this batch is taken, every event that was in the streams
/// at this moment has come.
pub const WATERMARK: &str = "onsale-watermark";

/// Why an endpoint can never be used. The address is not shown: it may carry a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is not a URL.
    #[error("it is not a URL: {0}")]
    NoUrl(<Url as FromStr>::Err),
    /// It is not an HTTP address, but of this scheme.
    #[error("it must begin with http:// or https://, not {0}:")]
    Scheme(String),
    /// No HTTP client can be made.
    #[error("{0}")]
    NoClient(String),
}

/// Why a batch was not taken, and when to retry if the target says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The cause in words, without secrets.
    pub cause: String,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Trouble {
    /// A trouble of which only the cause is known.
    pub fn new(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), retry_after: None }
    }
}

/// The endpoint of a data platform; cheap to clone.
#[derive(Clone)]
pub struct Platform {
    url: Url,
    token: Option<String>,
    client: Client,
}

impl Platform {
    /// The platform at `url`, which expects this bearer token or none.
    ///
    /// # Errors
    /// When it is not an HTTP address, or no client can be made.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self, EndpointError> {
        let url = endpoint(url)?;
        // A redirected POST becomes a GET, and its 200 would count as taken.
        mesh::tls::install();
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|error| EndpointError::NoClient(in_words(&error)))?;
        Ok(Self { url, token: token.map(ToOwned::to_owned), client })
    }

    /// Hands a batch over; it is taken when this returns.
    ///
    /// # Errors
    /// When it was not taken, or the outcome is unknown.
    pub async fn send(&self, batch: &Batch, watermark: Option<Timestamp>) -> Result<(), Trouble> {
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/x-ndjson")
            .header(BATCH_ID, &batch.id)
            .body(Bytes::copy_from_slice(&batch.body));
        if let Some(watermark) = watermark {
            request = request.header(WATERMARK, watermark.to_string());
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await;
        let answer = answer.map_err(|error| Trouble::new(in_words(&error.without_url())))?;
        if answer.status().is_success() { Ok(()) } else { Err(refused(answer).await) }
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the token nor secrets that an address may carry.
        f.debug_struct("Platform").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// Parses the address of an endpoint.
///
/// # Errors
/// When it is not an HTTP address.
pub fn endpoint(url: &str) -> Result<Url, EndpointError> {
    let parsed = Url::parse(url).map_err(EndpointError::NoUrl)?;
    match parsed.scheme() {
        "http" | "https" => Ok(parsed),
        other => Err(EndpointError::Scheme(other.to_owned())),
    }
}

async fn refused(mut answer: Response) -> Trouble {
    let status: StatusCode = answer.status();
    let retry_after = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|secs| Some(Duration::from_secs(secs.to_str().ok()?.trim().parse().ok()?)));
    let mut body = Vec::new();
    while body.len() < CAUSE_BYTES_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            _ => break,
        }
    }
    let body = String::from_utf8_lossy(&body);
    let words: Vec<&str> = body.split_whitespace().collect();
    let body: String = words.join(" ").chars().take(CAUSE_CHARS_MAX).collect();
    let cause = match body.as_str() {
        "" => format!("the data platform answers {status}"),
        body => format!("the data platform answers {status}: {body}"),
    };
    Trouble { cause, retry_after }
}

/// An error with its causes.
fn in_words(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        words = format!("{words}: {source}");
        next = source.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::HeaderMap, routing::post};
    use tokio::net::TcpListener;

    use super::*;

    const SECRET: &str = "hidden-token";

    fn batch() -> Batch {
        Batch { id: "payment.1-1".into(), body: b"{}\n".to_vec(), records: 1 }
    }

    async fn platform(router: Router) -> Platform {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/events", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Platform::new(&url, Some(SECRET)).expect("a client")
    }

    #[tokio::test]
    async fn a_batch_comes_with_its_name_watermark_and_token() {
        let take = |headers: HeaderMap, body: String| async move {
            let right = headers[CONTENT_TYPE] == "application/x-ndjson"
                && headers["authorization"] == format!("Bearer {SECRET}")
                && headers[BATCH_ID] == "payment.1-1"
                && headers[WATERMARK] == "2026-11-21T10:00:00Z"
                && body == "{}\n";
            if right { StatusCode::NO_CONTENT } else { StatusCode::BAD_REQUEST }
        };
        let platform = platform(Router::new().route("/events", post(take))).await;
        let watermark = "2026-11-21T10:00:00Z".parse().ok();
        assert_eq!(platform.send(&batch(), watermark).await, Ok(()));
    }

    #[tokio::test]
    async fn a_refusal_says_why_and_when_to_retry() {
        let refuse = || async {
            (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "7")], "closed\n for the night")
        };
        let platform = platform(Router::new().route("/events", post(refuse))).await;
        let trouble = platform.send(&batch(), None).await.expect_err("refused");
        assert_eq!(trouble.retry_after, Some(Duration::from_secs(7)));
        let cause = "the data platform answers 503 Service Unavailable: closed for the night";
        assert_eq!(trouble.cause, cause);
    }

    #[tokio::test]
    async fn a_redirect_does_not_count_as_taken() {
        let elsewhere = || async { axum::response::Redirect::to("/elsewhere") };
        let router = Router::new()
            .route("/events", post(elsewhere))
            .route("/elsewhere", axum::routing::get(|| async { "hello" }));
        let trouble = platform(router).await.send(&batch(), None).await.expect_err("refused");
        assert!(trouble.cause.contains("303"), "{trouble:?}");
    }

    #[tokio::test]
    async fn neither_token_nor_address_is_ever_shown() {
        let url = "http://user:hidden-password@127.0.0.1:1/hidden-path";
        let platform = Platform::new(url, Some(SECRET)).expect("a client");
        let trouble = platform.send(&batch(), None).await.expect_err("nothing listens there");
        let shown = format!("{platform:?} {trouble:?}");
        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.to_lowercase().contains("refused"), "{shown}");
    }

    #[test]
    fn an_invalid_address_is_refused() {
        for wrong in ["", "platform", "ftp://platform/events", "http://"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }
}
