//! How long something lasts, as an option.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Seconds, or a number with `s`, `m` or `h`.
pub(super) fn duration(text: &str) -> Result<Duration> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let number: u64 = number.parse().context("a whole number, as in 90s, 30m or 2h")?;
    let secs = match unit {
        "s" => number,
        "m" => number * 60,
        "h" => number * 3_600,
        _ => bail!("`{unit}` is no unit; use s, m or h"),
    };
    Ok(Duration::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_seconds_or_has_a_unit() {
        for (text, secs) in [("90", 90), ("90s", 90), ("30m", 1_800), ("2h", 7_200)] {
            assert_eq!(duration(text).unwrap(), Duration::from_secs(secs));
        }
        for text in ["", "m", "3d", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
