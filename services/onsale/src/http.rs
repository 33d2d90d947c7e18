//! An HTTP client of the gateway: requests as values, answers with their problems.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use reqwest::{
    Client, ClientBuilder, Method, StatusCode,
    header::{self, HeaderMap},
    redirect::Policy,
};
use serde::{Serialize, de::DeserializeOwned};

/// How long a fan waits for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// A client of one gateway; cheap to clone, connections are shared and kept.
#[derive(Clone)]
pub struct Http {
    base: String,
    client: Client,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as it came.
    pub body: Bytes,
}

impl Answer {
    /// The body as `T`, when the request was granted.
    ///
    /// # Errors
    /// The problem as text, or why the body is no `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        if !self.status.is_success() {
            return Err(anyhow!("{}: {}", self.status, String::from_utf8_lossy(&self.body)));
        }
        serde_json::from_slice(&self.body).context("the answer is not of the documented shape")
    }

    /// The stable code of a refusal.
    pub fn code(&self) -> Option<String> {
        serde_json::from_slice::<events::Problem>(&self.body).ok().map(|problem| problem.code)
    }
}

/// A request that is being built.
pub struct Ask<'a> {
    http: &'a Http,
    method: Method,
    path: String,
    token: Option<&'a str>,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Http {
    /// A client of the gateway at `base`, for example `http://127.0.0.1:8080`.
    pub fn new(base: impl Into<String>) -> Self {
        let base = base.into();
        mesh::tls::install();
        let client = match base.starts_with("https:") {
            true => builder().build().unwrap_or_else(|error| {
                tracing::error!(%error, "the system's certificates cannot be read");
                without_roots()
            }),
            false => without_roots(),
        };
        Self { base, client }
    }

    /// The gateway's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET path`.
    pub fn get(&self, path: impl Into<String>) -> Ask<'_> {
        self.ask(Method::GET, path)
    }

    /// `POST path`.
    pub fn post(&self, path: impl Into<String>) -> Ask<'_> {
        self.ask(Method::POST, path)
    }

    /// `DELETE path`.
    pub fn delete(&self, path: impl Into<String>) -> Ask<'_> {
        self.ask(Method::DELETE, path)
    }

    /// Any method.
    pub fn ask(&self, method: Method, path: impl Into<String>) -> Ask<'_> {
        let (path, headers) = (path.into(), Vec::new());
        Ask { http: self, method, path, token: None, headers, body: Bytes::new() }
    }
}

/// Straight to the gateway and its own answers: no proxy of the environment, no redirects.
fn builder() -> ClientBuilder {
    Client::builder().no_proxy().redirect(Policy::none()).timeout(ANSWER_TIMEOUT)
}

/// A client that trusts no certificate. Plain HTTP needs none: reading the system's takes a while,
/// and a machine may have none at all.
fn without_roots() -> Client {
    builder().tls_certs_only([]).build().expect("nothing is read that could be malformed")
}

impl<'a> Ask<'a> {
    /// As the owner of this access token.
    pub fn token(mut self, token: &'a str) -> Self {
        self.token = Some(token);
        self
    }

    /// With one more header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With a JSON body.
    pub fn json(mut self, body: &impl Serialize) -> Self {
        self.body = serde_json::to_vec(body).expect("requests are plain data").into();
        self.header("content-type", "application/json")
    }

    /// With a body as it is.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it.
    ///
    /// # Errors
    /// When the gateway cannot be reached or does not answer in time.
    pub async fn send(&self) -> Result<Answer> {
        let url = format!("{}{}", self.http.base, self.path);
        let mut request = self.http.client.request(self.method.clone(), url);
        if let Some(token) = self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let answer = request.body(self.body.clone()).send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        Ok(Answer { status, headers, body: answer.bytes().await? })
    }

    /// Retries until the answer is something other than "try again", to ride out the restart of
    /// a part. Commands need an `Idempotency-Key` for that.
    ///
    /// # Errors
    /// The last failure, when `patience` is over.
    pub async fn send_patiently(&self, patience: Duration) -> Result<Answer> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let outcome = self.send().await;
            let again = match &outcome {
                Ok(answer) => matches!(answer.status.as_u16(), 429 | 502 | 503 | 504),
                Err(_) => true,
            };
            if !again || tokio::time::Instant::now() >= until {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
