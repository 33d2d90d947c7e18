//! The identities on the broker, as its configuration names them.

use std::sync::LazyLock;

/// The broker's configuration as the project ships it.
pub const NATS_CONF: &str = include_str!("../../jetstream/nats.conf");

/// The identities that have a user on the broker. A service has two: one publishes its events,
/// the other one answers.
pub static IDENTITIES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let keys = NATS_CONF.lines().filter_map(|line| line.trim().strip_prefix("nkey: $ONSALE_NKEY_"));
    // There are some dozens of them, as long as the process lives.
    keys.map(|key| &*key.to_lowercase().replace('_', "-").leak()).collect()
});

/// The identity that admits accounts: no user of the broker, but the key that signs their JWTs.
pub const ISSUER: &str = "issuer";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_with_a_name_of_two_words_has_both_of_its_users() {
        for identity in ["data-platform", "data-platform-answers", "gateway", "provisioner"] {
            assert!(IDENTITIES.contains(&identity), "{IDENTITIES:?}");
        }
        assert!(!IDENTITIES.contains(&ISSUER));
    }
}
