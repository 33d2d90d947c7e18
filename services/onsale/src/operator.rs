//! The operator's HTTP client: finds the gateway, logs in, asks.

use std::path::Path;

use anyhow::{Context, Result};
use events::user::Session;
use hyper::StatusCode;
use serde::de::DeserializeOwned;

use crate::{
    box_office::Credentials,
    http::{Answer, Http},
    stage,
};

/// Names the gateway of a deployment.
const URL: &str = "ONSALE_URL";

/// An operator at a gateway.
pub struct Operator {
    http: Http,
    credentials: Credentials,
    token: Option<String>,
}

impl Operator {
    /// The gateway that `ONSALE_URL` names, else that of a running `dev` or `demo` on these
    /// data.
    ///
    /// # Errors
    /// When there is neither.
    pub fn find(data: &Path) -> Result<Self> {
        if let Some(url) = std::env::var(URL).ok().filter(|url| !url.is_empty()) {
            return Ok(Self::at(url.trim_end_matches('/'), stage::operator_from_env()?));
        }
        let ready = stage::ready_of(data)
            .with_context(|| format!("set {URL} and ONSALE_OPERATOR_EMAIL and _PASSWORD"))?;
        Ok(Self::at(format!("http://{}", ready.http_addr), ready.operator))
    }

    /// This account at this gateway.
    pub fn at(url: impl Into<String>, credentials: Credentials) -> Self {
        Self { http: Http::new(url), credentials, token: None }
    }

    /// `GET path`, as the operator.
    ///
    /// # Errors
    /// When the gateway cannot be reached or refuses the log-in.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        let token = self.token().await?;
        let answer = self.http.get(path).token(&token).send().await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        // Tokens are short-lived, and whoever follows something outlives theirs.
        self.token = None;
        let token = self.token().await?;
        self.http.get(path).token(&token).send().await
    }

    /// `GET path`, as the operator, read as `T`.
    ///
    /// # Errors
    /// As [`Self::get`], and when the request is refused.
    pub async fn read<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        self.get(path).await?.json()
    }

    async fn token(&mut self) -> Result<String> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        let session: Session = self
            .http
            .post("/v1/sessions")
            .json(&self.credentials)
            .send()
            .await
            .with_context(|| format!("no gateway at {}", self.http.base()))?
            .json()
            .context("logging in as the operator")?;
        Ok(self.token.insert(session.access_token).clone())
    }
}

/// One part of a path or query, with everything escaped that could end it.
pub fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte| {
        if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_one_part_of_a_path() {
        assert_eq!(escaped("019a/A-12-7"), "019a%2FA-12-7");
        assert_eq!(escaped("2026-11-20T10:00:00Z"), "2026-11-20T10%3A00%3A00Z");
        assert_eq!(escaped("가&b=c"), "%EA%B0%80%26b%3Dc");
    }
}
