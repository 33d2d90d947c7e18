//! Addresses of the servers, and the keys of the services, from the environment.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::registry::{SERVICES, WITH_DATABASE, WITH_VALKEY};

/// The NATS user that may change streams and consumers.
pub const PROVISIONER: &str = "provisioner";
/// The NATS user that sees everything and changes nothing.
pub const OPERATOR: &str = "operator";
/// The NATS user of people with the `nats` command.
pub const CLIENT: &str = "client";
/// The NATS user that admits accounts, and the key that signs their credentials.
pub const CALLOUT: [&str; 2] = ["callout", "issuer"];
/// Where the gateway listens by default.
pub const HTTP_ADDR: &str = "127.0.0.1:8080";

/// The variable that names a folder of seeds.
const NKEY_DIR: &str = "ONSALE_NKEY_DIR";
/// How many nodes of the broker keep each stream.
const REPLICAS: &str = "ONSALE_NATS_REPLICAS";

/// The NATS user with which a service answers: `<service>-answers`. Its other one publishes.
pub fn answers(service: &str) -> String {
    format!("{service}-answers")
}

/// Every identity on the broker that a deployment uses: NATS users, and the issuer.
pub(crate) fn identities() -> impl Iterator<Item = String> {
    SERVICES.into_iter().chain([PROVISIONER, OPERATOR]).flat_map(keys_of)
}

/// The NATS users whose seeds a process needs to run `identity`.
fn keys_of(identity: &str) -> Vec<String> {
    let mut keys = vec![identity.to_owned()];
    if SERVICES.contains(&identity) && identity != gateway::NAME {
        keys.push(answers(identity));
    }
    if identity == user::NAME {
        keys.extend(CALLOUT.map(str::to_owned));
    }
    keys
}

/// E-mail and password of an account.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// The address.
    pub email: String,
    /// The password.
    pub password: String,
}

/// Addresses and secrets of one deployment.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Config {
    /// `ONSALE_NATS_URL`.
    pub nats_url: String,
    /// `ONSALE_VALKEY_URL`.
    pub valkey_url: String,
    /// `ONSALE_<SERVICE>_DATABASE_URL`, by service.
    pub database_urls: BTreeMap<String, String>,
    /// Seeds of the NATS users, by identity: `ONSALE_<IDENTITY>_NKEY_SEED`, or the file
    /// `<identity>.nk` in `ONSALE_NKEY_DIR`.
    pub nkey_seeds: BTreeMap<String, String>,
    /// `ONSALE_HTTP_ADDR`.
    pub http_addr: Option<SocketAddr>,
    /// `ONSALE_NATS_REPLICAS`: how many nodes of the broker keep each stream; `None` for what
    /// `jetstream/` says.
    #[serde(default)]
    pub replicas: Option<u8>,
}

impl Config {
    /// Reads what the named identities need from the environment.
    ///
    /// # Errors
    /// Names the first variable that is missing or malformed.
    pub fn from_env(identities: &[&str]) -> Result<Self> {
        let config = Self::named_in_env(identities)?;
        if config.nats_url.is_empty() {
            bail!("set ONSALE_NATS_URL, for example nats://127.0.0.1:4222");
        }
        let service = identities.iter().find(|identity| WITH_VALKEY.contains(identity));
        if let (Some(service), true) = (service, config.valkey_url.is_empty()) {
            bail!("set ONSALE_VALKEY_URL, for example redis://127.0.0.1:6379; {service} needs it");
        }
        for identity in identities {
            if WITH_DATABASE.contains(identity) {
                config.database_url(identity)?;
            }
            for key in keys_of(identity) {
                config.need_seed(identity, &key)?;
            }
        }
        Ok(config)
    }

    /// Reads what the environment names for these identities; anything may be missing.
    ///
    /// # Errors
    /// Names the first variable that is malformed.
    pub fn named_in_env(identities: &[&str]) -> Result<Self> {
        let mut config = Self {
            nats_url: optional("ONSALE_NATS_URL").unwrap_or_default(),
            valkey_url: optional("ONSALE_VALKEY_URL").unwrap_or_default(),
            http_addr: Some(http_addr()?),
            replicas: replicas()?,
            ..Self::default()
        };
        for identity in identities {
            if let Some(url) = optional(&database_variable(identity)) {
                config.database_urls.insert((*identity).to_owned(), url);
            }
            for key in keys_of(identity) {
                if let Some(seed) = nkey_seed(&key)? {
                    config.nkey_seeds.insert(key, seed);
                }
            }
        }
        Ok(config)
    }

    /// A broker that requires keys requires all of them. A missing one is reported at the start,
    /// and not when the first answer is refused.
    fn need_seed(&self, identity: &str, key: &str) -> Result<()> {
        match (self.nkey_seeds.get(key), optional(NKEY_DIR)) {
            (Some(_), _) => Ok(()),
            (None, Some(folder)) => bail!("the seed of {key} is not in {NKEY_DIR}={folder}"),
            (None, None) if !self.nkey_seeds.contains_key(identity) => Ok(()),
            (None, None) => bail!(
                "set {} as well: {identity} needs it beside its own; `onsale secrets` makes it",
                seed_variable(key)
            ),
        }
    }

    /// Whether the environment names servers to be used instead of our own.
    pub fn names_servers() -> bool {
        optional("ONSALE_NATS_URL").is_some()
    }

    /// This configuration as environment variables, for a child process that runs one service.
    pub fn to_env(&self) -> Vec<(String, String)> {
        let mut env = vec![
            ("ONSALE_NATS_URL".to_owned(), self.nats_url.clone()),
            ("ONSALE_VALKEY_URL".to_owned(), self.valkey_url.clone()),
        ];
        env.extend(self.database_urls.iter().map(|(s, url)| (database_variable(s), url.clone())));
        env.extend(self.nkey_seeds.iter().map(|(s, seed)| (seed_variable(s), seed.clone())));
        if let Some(addr) = self.http_addr {
            env.push(("ONSALE_HTTP_ADDR".to_owned(), addr.to_string()));
        }
        env
    }

    /// The database of `service`.
    ///
    /// # Errors
    /// When it is not configured.
    pub fn database_url(&self, service: &str) -> Result<&str> {
        self.database_urls.get(service).map(String::as_str).with_context(|| {
            let own = format!("onsale_{}", service.replace('-', "_"));
            let name = database_variable(service);
            format!("set {name}, for example postgres://{own}:password@127.0.0.1/{own}")
        })
    }
}

/// `ONSALE_HTTP_ADDR`, or the default.
///
/// # Errors
/// When it is not an address with a port.
pub fn http_addr() -> Result<SocketAddr> {
    let addr = optional("ONSALE_HTTP_ADDR").unwrap_or_else(|| HTTP_ADDR.to_owned());
    addr.parse().with_context(|| format!("ONSALE_HTTP_ADDR={addr} is not an address with a port"))
}

/// `ONSALE_NATS_REPLICAS`.
fn replicas() -> Result<Option<u8>> {
    optional(REPLICAS).map(|text| replicas_of(&text)).transpose()
}

fn replicas_of(text: &str) -> Result<u8> {
    let count = text.parse().ok().filter(|count| (1..=5).contains(count));
    count.with_context(|| format!("{REPLICAS}={text} is not a number from 1 to 5"))
}

/// `ONSALE_HEALTH_ADDR`: where `/healthz` and `/readyz` of a single service are served.
///
/// # Errors
/// When it is not an address with a port.
pub fn health_addr() -> Result<Option<SocketAddr>> {
    let Some(addr) = optional("ONSALE_HEALTH_ADDR") else { return Ok(None) };
    let parsed = addr.parse();
    parsed
        .map(Some)
        .with_context(|| format!("ONSALE_HEALTH_ADDR={addr} is not an address with a port"))
}

fn database_variable(service: &str) -> String {
    format!("ONSALE_{}_DATABASE_URL", service.to_uppercase().replace('-', "_"))
}

fn seed_variable(identity: &str) -> String {
    format!("ONSALE_{}_NKEY_SEED", identity.to_uppercase().replace('-', "_"))
}

fn nkey_seed(identity: &str) -> Result<Option<String>> {
    if let Some(seed) = optional(&seed_variable(identity)) {
        return Ok(Some(seed));
    }
    let Some(folder) = optional(NKEY_DIR) else { return Ok(None) };
    let file = Path::new(&folder).join(format!("{identity}.nk"));
    match std::fs::read_to_string(&file) {
        Ok(seed) => Ok(Some(seed.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!("the seed of {identity} cannot be read from {}", file.display())
        }),
    }
}

fn optional(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_keeps_a_stream_on_one_to_five_nodes() {
        assert_eq!(replicas_of("3").unwrap(), 3);
        for text in ["0", "6", "-1", "three"] {
            assert!(replicas_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_database_is_reported_with_its_variable() {
        let error = Config::default().database_url("point").unwrap_err().to_string();
        assert!(error.starts_with("set ONSALE_POINT_DATABASE_URL"), "{error}");
    }
}
