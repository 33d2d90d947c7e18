//! The service's configuration.

/// Days that events are kept for, unless configured otherwise.
const KEEP_DAYS: u16 = 30;
/// The variable with the days that events are kept for.
const KEEP_DAYS_VARIABLE: &str = "ONSALE_AUDIT_KEEP_DAYS";

/// The service's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Days that events are kept for.
    pub keep_days: u16,
}

/// A variable that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The days that events are kept for.
    #[error("{KEEP_DAYS_VARIABLE} must be a number from 1 to 3650, not `{0}`")]
    KeepDays(String),
}

impl Default for Config {
    fn default() -> Self {
        Self { keep_days: KEEP_DAYS }
    }
}

impl Config {
    /// The configuration from the environment: `ONSALE_AUDIT_KEEP_DAYS`, from 1 to 3650.
    ///
    /// # Errors
    /// When the variable cannot be read; the error names it.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_var(std::env::var(KEEP_DAYS_VARIABLE).ok())
    }

    fn from_var(days: Option<String>) -> Result<Self, ConfigError> {
        let Some(days) = days.filter(|days| !days.is_empty()) else { return Ok(Self::default()) };
        match days.parse() {
            Ok(keep_days @ 1..=3_650) => Ok(Self { keep_days }),
            _ => Err(ConfigError::KeepDays(days)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_kept_are_a_number_of_days() {
        let kept =
            |days: &str| Config::from_var(Some(days.to_owned())).map(|config| config.keep_days);
        assert_eq!(Config::from_var(None), Ok(Config { keep_days: 30 }));
        assert_eq!((kept(""), kept("7")), (Ok(30), Ok(7)));
        for bad in ["0", "-1", "3651", "a week", "7d"] {
            let error = kept(bad).expect_err(bad).to_string();
            assert!(error.starts_with("ONSALE_AUDIT_KEEP_DAYS must"), "{error}");
        }
    }
}
