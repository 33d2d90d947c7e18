//! `onsale secrets`: generates every password and key of a deployment, as a `.env`.
//!
//! The values are hexadecimal or base 32, so they need no quotes in a URL, in YAML, in an
//! SQL string or in the broker's configuration.

use anyhow::{Context, Result};
use nkeys::KeyPair;

use crate::{
    config::{CALLOUT, CLIENT, identities},
    registry::WITH_DATABASE,
};

/// What has a password of its own, besides the database roles.
const WITH_PASSWORD: [&str; 4] = ["POSTGRES", "VALKEY", "OPERATOR", "GRAFANA"];
/// Random bytes of a password.
const PASSWORD_BYTES: usize = 24;

/// Generates every variable of a `.env`, in the order in which they are written.
///
/// # Errors
/// When the machine has no randomness.
pub fn make() -> Result<Vec<(String, String)>> {
    let mut made: Vec<(String, String)> =
        WITH_PASSWORD.map(|of| (format!("ONSALE_{of}_PASSWORD"), password())).into();
    let databases = WITH_DATABASE.map(upper);
    made.extend(databases.map(|of| (format!("ONSALE_{of}_DATABASE_PASSWORD"), password())));
    for identity in identities().chain([CLIENT.to_owned()]) {
        let (pair, identity) = (key_of(&identity), upper(&identity));
        let seed = pair.seed().context("a new key has a seed")?;
        made.push((format!("ONSALE_NKEY_{identity}"), pair.public_key()));
        made.push((format!("ONSALE_{identity}_NKEY_SEED"), seed));
    }
    Ok(made)
}

/// The `.env` that `compose.yaml` reads.
///
/// # Errors
/// When the machine has no randomness.
pub fn env_file() -> Result<String> {
    let mut text = String::from(
        "# Made by `onsale secrets`. Every password and key of one deployment: keep it to\n\
         # yourself (chmod 600) and out of the repository. A volume of PostgreSQL keeps the\n\
         # passwords that it was made with.\n",
    );
    for (name, value) in make()? {
        text.push_str(&format!("{name}={value}\n"));
    }
    Ok(text)
}

/// How a service or identity is written in the name of a variable.
fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// A new key of an identity: the issuer signs as an account.
fn key_of(identity: &str) -> KeyPair {
    let [_, issuer] = CALLOUT;
    if identity == issuer { KeyPair::new_account() } else { KeyPair::new_user() }
}

fn password() -> String {
    rand::random::<[u8; PASSWORD_BYTES]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_belongs_to_the_public_key_beside_it() {
        let made: std::collections::BTreeMap<_, _> = make().unwrap().into_iter().collect();
        for identity in identities().map(|identity| upper(&identity)) {
            let pair = KeyPair::from_seed(&made[&format!("ONSALE_{identity}_NKEY_SEED")]).unwrap();
            assert_eq!(made[&format!("ONSALE_NKEY_{identity}")], pair.public_key());
        }
    }

    #[test]
    fn no_two_secrets_are_the_same_and_none_needs_quotes() {
        let made = make().unwrap();
        let values: BTreeSet<_> =
            made.iter().chain(&make().unwrap()).map(|v| v.1.clone()).collect();
        assert_eq!(values.len(), 2 * made.len());
        assert!(values.iter().all(|value| value.chars().all(|c| c.is_ascii_alphanumeric())));
    }
}
