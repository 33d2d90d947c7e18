//! The log of a command.

mod ids;

use std::io::IsTerminal;

pub use ids::WithIds;
use tracing_subscriber::EnvFilter;

/// What commands log that print their own errors.
pub(crate) const ERRORS: &str = "error,sqlx=off,async_nats=off";
/// What services log.
const SERVICES: &str = "info,async_nats=warn,sqlx::postgres::notice=warn,sqlx::pool=error,\
    sqlx_core::pool=error";

/// Logs to standard error: text on a terminal, JSON lines elsewhere or as `ONSALE_LOG_FORMAT`
/// says; `RUST_LOG` chooses what. A `filter` of a command that runs no service keeps it text.
pub(crate) fn start(filter: Option<&str>) {
    let default = filter.unwrap_or(SERVICES);
    let wanted = EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    let log = tracing_subscriber::fmt().with_env_filter(wanted).with_writer(std::io::stderr);
    let as_json = match std::env::var("ONSALE_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok(_) => false,
        Err(_) => !std::io::stderr().is_terminal() && filter.is_none(),
    };
    if as_json {
        log.json().map_event_format(WithIds::json).init();
    } else {
        let log = log.with_target(false).with_ansi(std::io::stderr().is_terminal());
        log.map_event_format(WithIds::text).init();
    }
}
