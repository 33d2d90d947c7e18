//! The service's configuration: where to export to.

use std::{fmt, path::PathBuf, time::Duration};

use crate::platform::{EndpointError, endpoint};

/// The address of the data platform.
pub const URL_VARIABLE: &str = "ONSALE_EXPORT_URL";
/// The bearer token it expects.
pub const TOKEN_VARIABLE: &str = "ONSALE_EXPORT_TOKEN";
/// The folder of Parquet files.
pub const FOLDER_VARIABLE: &str = "ONSALE_EXPORT_FOLDER";

/// How long the export waits at most before it retries a batch.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The address in [`URL_VARIABLE`] cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{URL_VARIABLE} cannot be used: {0}")]
pub struct ConfigError(#[from] EndpointError);

/// Where sales events are exported to: one target, both, or none.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The data platform.
    pub url: Option<String>,
    /// The bearer token it expects.
    pub token: Option<String>,
    /// The folder of Parquet files.
    pub folder: Option<PathBuf>,
    /// How long to wait at most before a batch is retried.
    pub retry_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { url: None, token: None, folder: None, retry_max: RETRY_MAX }
    }
}

impl Config {
    /// The configuration from the environment: `ONSALE_EXPORT_URL`, `ONSALE_EXPORT_TOKEN`,
    /// `ONSALE_EXPORT_FOLDER`.
    ///
    /// # Errors
    /// When a variable cannot be used; the error names it.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let url = set(URL_VARIABLE);
        if let Some(url) = &url {
            endpoint(url)?;
        }
        let folder = set(FOLDER_VARIABLE).map(PathBuf::from);
        Ok(Self { url, token: set(TOKEN_VARIABLE), folder, ..Self::default() })
    }

    /// Whether there is any target.
    pub fn has_target(&self) -> bool {
        self.url.is_some() || self.folder.is_some()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("has_url", &self.url.is_some())
            .field("has_token", &self.token.is_some())
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_vars(|wanted| {
            vars.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn there_may_be_no_target_one_target_or_both() {
        for (url, folder, has_target) in
            [("", "", false), ("http://a", "", true), ("", "/b", true), ("http://a", "/b", true)]
        {
            let config = config(&[(URL_VARIABLE, url), (FOLDER_VARIABLE, folder)]).expect("valid");
            assert_eq!(config.has_target(), has_target, "{url} {folder}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_without_showing_it() {
        let wrong = "http://user:hidden@";
        let error = config(&[(URL_VARIABLE, wrong)]).expect_err("refused");
        let error = error.to_string();
        assert!(error.contains(URL_VARIABLE) && !error.contains("hidden"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = config(&[(URL_VARIABLE, "http://hidden@a"), (TOKEN_VARIABLE, "hidden")]);
        assert!(!format!("{config:?}").contains("hidden"));
    }
}
