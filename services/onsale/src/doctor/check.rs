//! What a check needs, and its outcome.

use std::fmt::Display;

use anyhow::{Error, Result, anyhow, bail};
use mesh::{Link, LinkSettings, trace::Tracer};

use crate::config::Config;

/// The outcome of one check; the error says what is wrong.
pub(super) type Outcome = Result<Checked>;

/// Nothing is wrong, as far as that could be seen.
pub(super) enum Checked {
    Good(String),
    /// It works, but will not for long, or not well; in words.
    Warning(String),
    /// There was nothing to check, or no way to.
    Skipped(String),
}

/// Nothing was checked, and why.
pub(super) fn skipped(detail: impl Into<String>) -> Outcome {
    Ok(Checked::Skipped(detail.into()))
}

/// A connection as this identity; `None` when its seed is not configured.
pub(super) async fn link(config: &Config, identity: &'static str) -> Result<Option<Link>> {
    if config.nats_url.is_empty() {
        bail!("set ONSALE_NATS_URL");
    }
    let nkey_seed = config.nkey_seeds.get(identity).cloned();
    if nkey_seed.is_none() && !config.nkey_seeds.is_empty() {
        return Ok(None);
    }
    let nats_url = config.nats_url.clone();
    let settings = LinkSettings { service: identity, nats_url, nkey_seed };
    Link::connect_now(settings, Tracer::off()).await.map(Some).map_err(alone)
}

/// A finding of these words alone: some errors say in their own text what caused them.
pub(super) fn alone(error: impl Display) -> Error {
    anyhow!("{error}")
}
