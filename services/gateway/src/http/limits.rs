//! Limits on how often one address may sign up or log in.
//!
//! Guessing passwords must be expensive and hashing them is, so each address has a budget that
//! refills steadily.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering},
};

use axum::http::HeaderMap;
use events::{Problem, codes};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};

use crate::settings::Settings;

/// Addresses with a full budget are removed once in so many checks.
const FORGET_EVERY_CHECKS: u32 = 1_024;

/// The budget of every address.
pub(crate) struct Limits {
    logins: Option<DefaultKeyedRateLimiter<IpAddr>>,
    checks: AtomicU32,
    trust_proxy: bool,
}

impl Limits {
    /// Budgets as the settings say; none at all when the rate is off.
    pub(crate) fn new(settings: &Settings) -> Self {
        let quota = settings
            .login_per_minute
            .map(|rate| Quota::per_minute(rate).allow_burst(settings.login_burst));
        Self {
            logins: quota.map(RateLimiter::keyed),
            checks: AtomicU32::new(0),
            trust_proxy: settings.trust_proxy,
        }
    }

    /// Counts a sign-up or log-in against the budget of its address.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after_secs`.
    pub(crate) fn check(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(logins) = &self.logins else { return Ok(()) };
        if self.checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(FORGET_EVERY_CHECKS) {
            logins.retain_recent();
        }
        let address = budget_of(client(peer, headers, self.trust_proxy));
        logins.check_key(&address).map_err(|early| {
            let wait = early.wait_time_from(logins.clock().now());
            let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            Problem::from(codes::RATE_LIMITED).with("retry_after_secs", secs.max(1))
        })
    }
}

/// The address that a request comes from. Any client can send `X-Forwarded-For`, so it counts
/// only behind a trusted proxy, and only the entry that the proxy itself has added: the last.
fn client(peer: IpAddr, headers: &HeaderMap, trust_proxy: bool) -> IpAddr {
    let forwarded = || {
        let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
        last.rsplit(',').next()?.trim().parse().ok()
    };
    trust_proxy.then(forwarded).flatten().unwrap_or(peer)
}

/// An IPv6 household has 2^64 addresses and one budget.
fn budget_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(forwarded: &'static str) -> HeaderMap {
        let value = axum::http::HeaderValue::from_static(forwarded);
        HeaderMap::from_iter([(axum::http::HeaderName::from_static("x-forwarded-for"), value)])
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_turned_away_when_its_budget_is_spent() {
        let limits = Limits::new(&Settings::default());
        for _ in 0..Settings::default().login_burst.get() {
            assert!(limits.check(ip("192.0.2.1"), &HeaderMap::new()).is_ok());
        }
        let refused = limits.check(ip("192.0.2.1"), &HeaderMap::new()).unwrap_err();
        assert!(refused.is(codes::RATE_LIMITED));
        assert!(refused.extra["retry_after_secs"].as_u64().is_some_and(|secs| secs >= 1));
        assert!(limits.check(ip("192.0.2.2"), &HeaderMap::new()).is_ok());
    }

    #[test]
    fn no_address_is_turned_away_when_limits_are_off() {
        let limits = Limits::new(&Settings { login_per_minute: None, ..Settings::default() });
        for _ in 0..1_000 {
            assert!(limits.check(ip("192.0.2.1"), &HeaderMap::new()).is_ok());
        }
    }

    #[test]
    fn a_forwarded_address_counts_only_behind_a_trusted_proxy() {
        let forged = headers("198.51.100.9, 203.0.113.7");
        assert_eq!(client(ip("192.0.2.1"), &forged, false), ip("192.0.2.1"));
        assert_eq!(client(ip("192.0.2.1"), &forged, true), ip("203.0.113.7"));
        assert_eq!(client(ip("192.0.2.1"), &headers("rubbish"), true), ip("192.0.2.1"));
    }

    #[test]
    fn one_household_has_one_budget() {
        assert_eq!(budget_of(ip("2001:db8::1")), budget_of(ip("2001:db8::ffff:2")));
        assert_ne!(budget_of(ip("2001:db8:0:1::1")), budget_of(ip("2001:db8::1")));
        assert_eq!(budget_of(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
    }
}
