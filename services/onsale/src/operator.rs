//! The gateway for the operator's tools: where it listens, and the operator's log-in.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use events::user::Session;

use crate::{
    config::Credentials,
    deployment::{self, DATA_FOLDER, Ready},
    http::{Ask, Http},
};

/// The variable that names the gateway of a deployment.
const URL: &str = "ONSALE_URL";

/// Where the operator's tools find a gateway: in the environment (ONSALE_URL with
/// ONSALE_OPERATOR_EMAIL and ONSALE_OPERATOR_PASSWORD), else a running `dev` or `demo`.
#[derive(Debug, Clone, Args)]
pub struct Where {
    /// Where a running `dev` or `demo` keeps its data; not used when ONSALE_URL is set
    #[arg(long, value_name = "DIR", default_value = DATA_FOLDER)]
    pub data: PathBuf,
}

/// The gateway that the environment names, else that of the `dev` or `demo` that runs on this data;
/// with the operator's account there.
///
/// # Errors
/// When there is neither.
pub(crate) fn gateway(at: &Where) -> Result<(String, Credentials)> {
    let (base, credentials) = match std::env::var(URL) {
        Ok(url) if !url.is_empty() => (url, deployment::operator_from_env()?),
        _ => {
            let ready = Ready::read(&at.data, URL)?;
            (format!("http://{}", ready.http_addr), ready.operator)
        }
    };
    Ok((base.trim_end_matches('/').to_owned(), credentials))
}

/// The operator, logged in.
pub struct Operator {
    http: Http,
    session: Session,
}

impl Operator {
    /// Logs in at the gateway that the environment names, else at the `dev` or `demo` that runs
    /// on this data.
    ///
    /// # Errors
    /// When there is neither, or the log-in is refused.
    pub async fn log_in(at: &Where) -> Result<Self> {
        let (base, credentials) = gateway(at)?;
        Self::at(Http::new(base), &credentials).await
    }

    /// Logs in at this gateway.
    ///
    /// # Errors
    /// When the gateway does not answer, or refuses.
    pub async fn at(http: Http, credentials: &Credentials) -> Result<Self> {
        let request = http.post("/v1/sessions").json(credentials);
        let answer =
            request.send().await.with_context(|| format!("no gateway at {}", http.base()))?;
        let session = answer.json().context("logging in as the operator")?;
        Ok(Self { http, session })
    }

    /// `GET path`, as the operator.
    pub fn get(&self, path: impl Into<String>) -> Ask<'_> {
        self.http.get(path).token(&self.session.access_token)
    }

    /// `POST path`, as the operator.
    pub fn post(&self, path: impl Into<String>) -> Ask<'_> {
        self.http.post(path).token(&self.session.access_token)
    }
}
