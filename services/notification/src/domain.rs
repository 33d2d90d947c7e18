//! Decisions about a message: its id, when it is retried, when it is given up.

use std::time::Duration;

use events::{
    Problem, Timestamp, codes,
    notification::{Channel, Locale, MessageKind},
};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

/// Bytes of a reason at most; a provider's answer may be a page of HTML.
const REASON_BYTES_MAX: usize = 200;
/// A longer run of digits in a provider's answer may be a telephone number.
const DIGITS_SHOWN_MAX: usize = 6;
/// The longest wait that a provider may ask for. Anything longer is taken to be a mistake.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How long and how often a message is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// The wait after the first try; each further wait is twice as long.
    pub first: Duration,
    /// The longest wait between two tries.
    pub longest: Duration,
    /// The wait between two status requests for a message that the provider has accepted.
    pub status_every: Duration,
    /// The age at which a message that has not been sent is given up.
    pub keep: Duration,
}

impl Pace {
    /// For a provider that is expected back within minutes.
    pub const MINUTES: Self = Self {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(60),
        status_every: Duration::from_secs(5),
        keep: Duration::from_secs(6 * 3_600),
    };
    /// For an endpoint that a third party runs.
    pub const HOURS: Self = Self {
        first: Duration::from_secs(5),
        longest: Duration::from_secs(2 * 3_600),
        status_every: Duration::from_secs(5),
        keep: Duration::from_secs(24 * 3_600),
    };

    /// When a message written at `created_at` is given up.
    pub fn deadline(&self, created_at: Timestamp) -> Timestamp {
        later(created_at, self.keep)
    }
}

/// How one try to send a message ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// The provider has taken it, for good.
    Taken(Channel),
    /// The provider has it, and its outcome is not known yet: this receipt asks for the status.
    Accepted(String),
    /// It failed for now, and is retried.
    Later {
        /// Why.
        reason: String,
        /// The wait that the provider asks for, in seconds.
        after_secs: Option<u64>,
    },
    /// It failed for good.
    Refused(String),
    /// It was not tried: other messages took the time.
    Untried,
}

impl Delivery {
    /// A failure for now.
    pub(crate) fn later(reason: impl Into<String>) -> Self {
        Self::Later { reason: reason.into(), after_secs: None }
    }
}

/// What a decision needs of a pending message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) id: Uuid,
    pub(crate) created_at: Timestamp,
    pub(crate) attempts: u32,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// It was sent.
    Sent(Channel),
    /// It will not be sent.
    Failed(String),
    /// It is retried at `next_at`.
    Again { next_at: Timestamp, tried: bool, receipt: Option<String>, reason: Option<String> },
}

/// Decides what becomes of a message after a try.
pub(crate) fn after(
    delivery: &Delivery,
    standing: Standing,
    now: Timestamp,
    pace: &Pace,
) -> Verdict {
    let deadline = pace.deadline(standing.created_at);
    let again = |wait: Duration, tried, receipt, reason| Verdict::Again {
        next_at: later(now, wait).min(deadline.max(now)),
        tried,
        receipt,
        reason,
    };
    match delivery {
        Delivery::Taken(channel) => Verdict::Sent(*channel),
        Delivery::Refused(reason) => Verdict::Failed(plain(reason)),
        Delivery::Accepted(receipt) => {
            let receipt = Some(receipt.clone());
            again(spread(pace.status_every, standing.id, 0), false, receipt, None)
        }
        Delivery::Untried => again(pace.first, false, None, None),
        Delivery::Later { reason, .. } if now >= deadline => {
            Verdict::Failed(format!("{}; too late to try again", plain(reason)))
        }
        Delivery::Later { reason, after_secs } => {
            let asked = after_secs.map_or(Duration::ZERO, Duration::from_secs).min(WAIT_MAX);
            let wait = backoff(pace, standing.id, standing.attempts + 1).max(asked);
            again(wait, true, None, Some(plain(reason)))
        }
    }
}

/// How long to wait after this many tries. Messages that failed together are not retried
/// together: each waits a little more or less than the others.
fn backoff(pace: &Pace, id: Uuid, tries: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(tries.saturating_sub(1).min(20));
    spread(pace.first.saturating_mul(doubled).min(pace.longest), id, tries)
}

/// A wait between 80% and 120% of this one, the same each time for the same message.
fn spread(wait: Duration, id: Uuid, tries: u32) -> Duration {
    let (high, low) = id.as_u64_pair();
    let mixed = (high ^ low.rotate_left(tries)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let permille = 800 + (mixed >> 32) % 401;
    wait.mul_f64(permille as f64 / 1_000.0)
}

fn later(at: Timestamp, wait: Duration) -> Timestamp {
    at.plus_millis(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX / 1_000_000))
}

/// The id of the one message of this kind about this subject.
pub(crate) fn message_id(subject_id: Uuid, kind: MessageKind) -> Uuid {
    let named = [subject_id.as_bytes().as_slice(), kind.as_str().as_bytes()].concat();
    let hash = digest(&SHA256, &named);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// A provider's answer on one line, not too long, and without telephone numbers.
pub(crate) fn plain(answer: &str) -> String {
    let mut plain = String::new();
    let mut digits = 0;
    for c in answer.chars() {
        if plain.len() >= REASON_BYTES_MAX {
            plain.push('…');
            break;
        }
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        match c {
            _ if digits > DIGITS_SHOWN_MAX => {
                while plain.ends_with(|c: char| c.is_ascii_digit()) {
                    plain.pop();
                }
                if !plain.ends_with('#') {
                    plain.push('#');
                }
            }
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain.trim().to_owned()
}

/// A telephone number as it is kept: E.164. One without a country code belongs to the country of
/// the fan's language, if that has one.
pub(crate) fn phone(typed: &str, locale: Locale) -> Result<String, Problem> {
    let home = match locale {
        Locale::Ko => text::Home::Korea,
        Locale::En => text::Home::Unknown,
    };
    text::phone(typed, home).map_err(|flaw| Problem::about(codes::INVALID, "phone", flaw))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: Timestamp = Timestamp(datetime!(2027-03-10 10:00 UTC));

    fn standing(attempts: u32) -> Standing {
        Standing { id: Uuid::from_u128(7), created_at: NOW, attempts }
    }

    fn wait(delivery: &Delivery, attempts: u32, pace: &Pace) -> f64 {
        match after(delivery, standing(attempts), NOW, pace) {
            Verdict::Again { next_at, .. } => (next_at.0 - NOW.0).as_seconds_f64(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_taken_message_is_sent_and_a_refused_one_has_failed() {
        let taken = Delivery::Taken(Channel::Sms);
        assert_eq!(after(&taken, standing(0), NOW, &Pace::MINUTES), Verdict::Sent(Channel::Sms));
        let refused = Delivery::Refused("no such number".into());
        assert_eq!(
            after(&refused, standing(0), NOW, &Pace::MINUTES),
            Verdict::Failed("no such number".into())
        );
    }

    #[test]
    fn each_wait_is_about_twice_the_one_before_up_to_the_longest() {
        let down = Delivery::later("down");
        for (attempts, about) in [(0, 1.0), (1, 2.0), (4, 16.0), (6, 60.0), (4_000_000_000, 60.0)] {
            let wait = wait(&down, attempts, &Pace::MINUTES);
            assert!((about * 0.8..=about * 1.2).contains(&wait), "{wait} after {attempts}");
        }
    }

    #[test]
    fn messages_that_failed_together_are_retried_apart() {
        let waits: std::collections::BTreeSet<_> =
            (0..100).map(|n| backoff(&Pace::MINUTES, Uuid::from_u128(n << 70 | n), 5)).collect();
        assert!(waits.len() > 50, "{}", waits.len());
    }

    #[test]
    fn a_provider_that_asks_for_a_wait_gets_it_up_to_a_day() {
        let asked = |after_secs| Delivery::Later { reason: "busy".into(), after_secs };
        assert!((wait(&asked(Some(1_800)), 0, &Pace::MINUTES) - 1_800.0).abs() < 1.0);
        let endless = wait(&asked(Some(u64::MAX)), 0, &Pace::HOURS);
        assert!((endless - 24.0 * 3_600.0).abs() < 1.0, "{endless}");
    }

    #[test]
    fn the_last_try_is_at_the_deadline_and_none_comes_after_it() {
        let down = Delivery::later("connection refused");
        let old = Standing { created_at: NOW.plus_secs(-6 * 3_600 + 2), ..standing(30) };
        let Verdict::Again { next_at, .. } = after(&down, old, NOW, &Pace::MINUTES) else {
            panic!("it has two seconds left");
        };
        assert_eq!(next_at, NOW.plus_secs(2));
        let failed = after(&down, old, next_at, &Pace::MINUTES);
        assert_eq!(failed, Verdict::Failed("connection refused; too late to try again".into()));
    }

    #[test]
    fn an_untried_message_counts_no_try_and_neither_does_an_accepted_one() {
        for delivery in [Delivery::Untried, Delivery::Accepted("a-1".into())] {
            let Verdict::Again { tried, .. } = after(&delivery, standing(3), NOW, &Pace::MINUTES)
            else {
                panic!("not over yet");
            };
            assert!(!tried, "{delivery:?}");
        }
    }

    #[test]
    fn the_same_subject_and_kind_give_the_same_message_id_and_others_do_not() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let id = message_id(one, MessageKind::PaymentFailed);
        assert_eq!(id, message_id(one, MessageKind::PaymentFailed));
        assert_ne!(id, message_id(two, MessageKind::PaymentFailed));
        assert_ne!(id, message_id(one, MessageKind::PaymentCompleted));
        assert_eq!(id.get_version_num(), 8);
    }

    #[test]
    fn a_reason_is_one_short_line_without_telephone_numbers() {
        assert_eq!(plain("code 3016: no\ntemplate "), "code 3016: no template");
        assert_eq!(plain("no user 01012345678!"), "no user #!");
        assert_eq!(plain("+821012345678"), "+#");
        let long = plain(&"많다 ".repeat(1_000));
        assert!(long.len() < 210, "{}", long.len());
    }

    #[test]
    fn a_number_is_kept_as_it_can_be_dialled_from_anywhere() {
        for (typed, locale) in [
            ("+821012345678", Locale::En),
            ("+8201012345678", Locale::En),
            ("+82 10-1234-5678", Locale::Ko),
            ("010-1234-5678", Locale::Ko),
        ] {
            assert_eq!(phone(typed, locale).as_deref(), Ok("+821012345678"), "{typed}");
        }
    }

    #[test]
    fn an_invalid_number_is_refused_with_the_name_of_its_field() {
        for (typed, locale) in [
            ("", Locale::Ko),
            ("01012345678", Locale::En),
            ("+0821012345678", Locale::Ko),
            ("+8210123456789012", Locale::En),
        ] {
            let problem = phone(typed, locale).expect_err("refused");
            assert!(problem.is(codes::INVALID), "{typed}");
            assert_eq!(problem.extra["field"], "phone");
            assert!(problem.detail.contains("+821012345678"), "{problem}");
        }
    }
}
