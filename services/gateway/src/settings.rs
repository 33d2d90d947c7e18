//! What an operator may configure.

use std::num::NonZeroU32;

/// The default rate of sign-ups and log-ins of one address.
const LOGIN_PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();
/// How many of them may arrive at once.
const LOGIN_BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Payments that may run at once by default, however few have ended lately.
const PAYMENTS_AT_ONCE: NonZeroU32 = NonZeroU32::new(1_024).unwrap();

/// What an operator may configure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Sign-ups and log-ins of one address per minute; `None` for no limit.
    pub login_per_minute: Option<NonZeroU32>,
    /// How many of them may arrive at once.
    pub login_burst: NonZeroU32,
    /// Whether `X-Forwarded-For` is believed. Only behind a proxy that sets it.
    pub trust_proxy: bool,
    /// Payments that may run at once, however few have ended lately; more may run where more end.
    pub payments_at_once: NonZeroU32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            login_per_minute: Some(LOGIN_PER_MINUTE),
            login_burst: LOGIN_BURST,
            trust_proxy: false,
            payments_at_once: PAYMENTS_AT_ONCE,
        }
    }
}

impl Settings {
    /// Settings from the environment: `ONSALE_LOGIN_RATE_PER_MINUTE` (a number, or `off`),
    /// `ONSALE_LOGIN_BURST`, `ONSALE_TRUST_PROXY` (`1`), `ONSALE_PAYMENTS_AT_ONCE`.
    ///
    /// # Errors
    /// Names the variable that cannot be read.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let number = |variable: &'static str, text: &str| {
            text.parse().map_err(|_| SettingsError { variable, value: text.to_owned() })
        };
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let mut settings = Self::default();
        if let Some(text) = set("ONSALE_LOGIN_RATE_PER_MINUTE") {
            settings.login_per_minute = match text.as_str() {
                "off" | "0" => None,
                text => Some(number("ONSALE_LOGIN_RATE_PER_MINUTE", text)?),
            };
        }
        if let Some(text) = set("ONSALE_LOGIN_BURST") {
            settings.login_burst = number("ONSALE_LOGIN_BURST", &text)?;
        }
        if let Some(text) = set("ONSALE_PAYMENTS_AT_ONCE") {
            settings.payments_at_once = number("ONSALE_PAYMENTS_AT_ONCE", &text)?;
        }
        settings.trust_proxy = set("ONSALE_TRUST_PROXY").is_some_and(|value| value == "1");
        Ok(settings)
    }
}

/// A variable of the environment that must be a number from 1, and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} must be a number from 1, not `{value}`")]
pub struct SettingsError {
    /// Its name.
    pub variable: &'static str,
    /// Its value.
    pub value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str, value: &str) -> Result<Settings, SettingsError> {
        Settings::from_vars(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn the_login_rate_can_be_set_and_turned_off() {
        assert_eq!(settings("", ""), Ok(Settings::default()));
        for off in ["off", "0"] {
            let settings = settings("ONSALE_LOGIN_RATE_PER_MINUTE", off).unwrap();
            assert_eq!(settings.login_per_minute, None);
        }
        let set = settings("ONSALE_LOGIN_RATE_PER_MINUTE", "600").unwrap();
        assert_eq!(set.login_per_minute, NonZeroU32::new(600));
    }

    #[test]
    fn the_number_of_payments_can_be_set() {
        let set = settings("ONSALE_PAYMENTS_AT_ONCE", "64").unwrap();
        assert_eq!(set.payments_at_once.get(), 64);
        assert!(settings("ONSALE_PAYMENTS_AT_ONCE", "0").is_err());
    }

    #[test]
    fn a_setting_that_cannot_be_read_is_named() {
        let refused = settings("ONSALE_LOGIN_BURST", "many").unwrap_err();
        let words = "ONSALE_LOGIN_BURST must be a number from 1, not `many`";
        assert_eq!(refused.to_string(), words);
    }

    #[test]
    fn a_proxy_is_trusted_only_when_asked_for() {
        assert!(settings("ONSALE_TRUST_PROXY", "1").unwrap().trust_proxy);
        assert!(!settings("ONSALE_TRUST_PROXY", "0").unwrap().trust_proxy);
    }
}
