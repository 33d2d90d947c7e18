//! The service's configuration: the provider that sends messages, and how long they are retried.

use std::{path::PathBuf, time::Duration};

use crate::{
    domain::Pace,
    provider::{Alimtalk, Folder, Provider, Relay, Unusable, Webhook},
};

/// How long one request to a provider may take.
const TRY_WITHIN: Duration = Duration::from_secs(5);
/// The folder of messages when none is named, in the machine's folder for temporary files.
const FOLDER: &str = "onsale-messages";

/// Why the environment gives no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A variable is missing.
    #[error("{0} is not set")]
    Unset(&'static str),
    /// There is no provider of this name.
    #[error("ONSALE_NOTIFY must be folder, alimtalk or webhook, not `{0}`")]
    UnknownProvider(String),
    /// The provider cannot be used as it is configured.
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

/// The service's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The provider that messages are sent by.
    pub provider: Provider,
    /// When a message is retried, and when it is given up.
    pub pace: Pace,
    /// How long one request to a provider may take.
    pub try_within: Duration,
}

impl Default for Config {
    /// Files in a temporary folder.
    fn default() -> Self {
        Self::folder(temporary())
    }
}

impl Config {
    /// Files in this folder; it is created when there is something to write.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        let provider = Provider::Folder(Folder::new(path.into()));
        Self { provider, pace: Pace::MINUTES, try_within: TRY_WITHIN }
    }

    /// A signed webhook. `secret` is `whsec_` and base64, or the secret as it is.
    ///
    /// # Errors
    /// When the address or the secret cannot be used.
    pub fn webhook(url: &str, secret: &str) -> Result<Self, Unusable> {
        let provider = Provider::Webhook(Webhook::new(url, secret)?);
        Ok(Self { provider, pace: Pace::HOURS, try_within: TRY_WITHIN })
    }

    /// AlimTalk through a relay.
    ///
    /// # Errors
    /// When the address or a key cannot be used.
    pub fn alimtalk(relay: Relay) -> Result<Self, Unusable> {
        let provider = Provider::Alimtalk(Alimtalk::new(relay)?);
        Ok(Self { provider, pace: Pace::MINUTES, try_within: TRY_WITHIN })
    }

    /// As [`Config::from_env`], with this folder for files unless the environment names another.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_env_or(folder: PathBuf) -> Result<Self, ConfigError> {
        Self::from_vars(|name| std::env::var(name).ok(), folder)
    }

    /// The configuration from the environment: `ONSALE_NOTIFY` is `folder` (the default),
    /// `alimtalk` or `webhook`, and each has variables of its own:
    ///
    /// - `ONSALE_NOTIFY_FOLDER`
    /// - `ONSALE_ALIMTALK_URL`, `…_APP_KEY`, `…_SECRET`, `…_SENDER`, and `…_SMS_FROM` for the
    ///   fallback
    /// - `ONSALE_WEBHOOK_URL`, `…_SECRET`
    ///
    /// # Errors
    /// When a variable is missing or cannot be used; the error names it.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_env_or(temporary())
    }

    fn from_vars(
        var: impl Fn(&str) -> Option<String>,
        folder: PathBuf,
    ) -> Result<Self, ConfigError> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let needed = |name: &'static str| set(name).ok_or(ConfigError::Unset(name));
        let config = match set("ONSALE_NOTIFY").as_deref() {
            None | Some("folder") => {
                Ok(Self::folder(set("ONSALE_NOTIFY_FOLDER").map_or(folder, PathBuf::from)))
            }
            Some("webhook") => {
                Self::webhook(&needed("ONSALE_WEBHOOK_URL")?, &needed("ONSALE_WEBHOOK_SECRET")?)
            }
            Some("alimtalk") => Self::alimtalk(Relay {
                url: needed("ONSALE_ALIMTALK_URL")?,
                app_key: needed("ONSALE_ALIMTALK_APP_KEY")?,
                secret: needed("ONSALE_ALIMTALK_SECRET")?,
                sender: needed("ONSALE_ALIMTALK_SENDER")?,
                sms_from: set("ONSALE_ALIMTALK_SMS_FROM"),
            }),
            Some(other) => return Err(ConfigError::UnknownProvider(other.to_owned())),
        };
        Ok(config?)
    }
}

fn temporary() -> PathBuf {
    std::env::temp_dir().join(FOLDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let find = |name: &str| vars.iter().find(|(known, _)| *known == name);
        Config::from_vars(
            |name| find(name).map(|(_, value)| (*value).to_owned()),
            "messages".into(),
        )
    }

    const RELAY: [(&str, &str); 5] = [
        ("ONSALE_NOTIFY", "alimtalk"),
        ("ONSALE_ALIMTALK_URL", "https://relay.example.com"),
        ("ONSALE_ALIMTALK_APP_KEY", "the-app-key"),
        ("ONSALE_ALIMTALK_SECRET", "the-secret"),
        ("ONSALE_ALIMTALK_SENDER", "the-sender"),
    ];

    #[test]
    fn each_provider_is_chosen_by_its_name_and_files_are_the_default() {
        assert!(matches!(config(&[]).unwrap().provider, Provider::Folder(_)));
        assert!(matches!(config(&RELAY).unwrap().provider, Provider::Alimtalk(_)));
        let webhook = config(&[
            ("ONSALE_NOTIFY", "webhook"),
            ("ONSALE_WEBHOOK_URL", "https://example.com/hook"),
            ("ONSALE_WEBHOOK_SECRET", "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="),
        ]);
        assert!(matches!(webhook.unwrap().provider, Provider::Webhook(_)));
    }

    #[test]
    fn what_is_missing_or_cannot_be_used_is_named() {
        let refused = |vars: &[(&str, &str)]| config(vars).unwrap_err().to_string();
        assert!(refused(&[("ONSALE_NOTIFY", "pigeon")]).contains("pigeon"));
        assert!(refused(&[("ONSALE_NOTIFY", "webhook")]).contains("ONSALE_WEBHOOK_URL"));
        assert!(refused(&RELAY[..4]).contains("ONSALE_ALIMTALK_SENDER"));
        let mut relay = RELAY;
        relay[1].1 = "relay.example.com";
        assert!(refused(&relay).contains("http"));
    }

    #[test]
    fn no_secret_is_shown() {
        let shown = format!("{:?}", config(&RELAY).unwrap());
        assert!(!shown.contains("the-"), "{shown}");
        let shown =
            format!("{:?}", Config::webhook("https://example.com", "secret-12345").unwrap());
        assert!(!shown.contains("secret-12345"), "{shown}");
    }
}
