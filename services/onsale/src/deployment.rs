//! How the tools reach a deployment: as environment variables name it, else as a running `dev` or
//! `demo` has written it down.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, Credentials, OPERATOR, PROVISIONER},
    registry::SERVICES,
};

/// Where `dev` and `demo` keep their data by default.
pub const DATA_FOLDER: &str = ".onsale";
/// The file beside its data in which a running `dev` or `demo` says how to reach it.
pub const READY_FILE: &str = "ready.json";

/// What another process needs to reach a running environment. It holds secrets.
#[derive(Serialize, Deserialize)]
pub struct Ready {
    /// The gateway.
    pub http_addr: SocketAddr,
    /// How to reach the servers.
    pub config: Config,
    /// The account that may grant roles.
    pub operator: Credentials,
}

impl Ready {
    /// Reads the ready file beside this data; `variables` is what could be set instead.
    ///
    /// # Errors
    /// When nothing runs on this data.
    pub fn read(data: &Path, variables: &str) -> Result<Self> {
        let file = data.join(READY_FILE);
        let text = fs::read(&file).with_context(|| {
            let file = file.display();
            format!("set {variables}, or start `onsale dev` ({file} does not exist)")
        })?;
        serde_json::from_slice(&text).context("the ready file")
    }
}

/// How to reach a deployment: as the environment names it, else as the ready file of a running
/// `dev` or `demo` says.
///
/// # Errors
/// When there is neither.
pub fn find(data: &Path) -> Result<Config> {
    let identities: Vec<&str> = SERVICES.into_iter().chain([PROVISIONER, OPERATOR]).collect();
    let named = Config::named_in_env(&identities)?;
    let has_servers = !named.nats_url.is_empty() || !named.valkey_url.is_empty();
    if has_servers || !named.database_urls.is_empty() {
        return Ok(named);
    }
    let ready = Ready::read(data, "ONSALE_NATS_URL and the others")?;
    Ok(Config { http_addr: Some(ready.http_addr), ..ready.config })
}

/// `ONSALE_OPERATOR_EMAIL` and `ONSALE_OPERATOR_PASSWORD`.
///
/// # Errors
/// When one of them is missing.
pub fn operator_from_env() -> Result<Credentials> {
    let read = |name: &str| {
        std::env::var(name).with_context(|| format!("set {name}: the account that grants roles"))
    };
    Ok(Credentials {
        email: read("ONSALE_OPERATOR_EMAIL")?,
        password: read("ONSALE_OPERATOR_PASSWORD")?,
    })
}
