//! Why a store could not do its work.

use crate::deadline::Late;

/// Why a batch could not be run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The store does not answer, or has no room; the batch is retried until it does.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// The store answers, but this instance cannot use it: a wrong password or database, a
    /// missing migration, a read-only replica. It is retried; other instances may do better.
    #[error("the store cannot be used: {0}")]
    Unusable(String),
    /// The store has lost its state; it is being rebuilt, for all instances alike.
    #[error("the store was emptied and is not rebuilt yet")]
    Emptied,
    /// The store was lost while committing: it is unknown whether the batch took effect.
    #[error("the store was lost while committing: {0}")]
    Uncertain(String),
    /// Another batch was faster, and nothing of this one took effect: decided again, it sees
    /// what the other did.
    #[error("another batch was faster: {0}")]
    Contended(String),
    /// A unique violation: a lost race, or, when it comes again, poison.
    #[error("it exists already: {0}")]
    Duplicate(String),
    /// The store refuses something in the batch, or a handler panicked: its messages are run
    /// one by one.
    #[error("the store refuses the batch: {0}")]
    Refused(String),
}

impl Failure {
    /// Its kind in one word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Unusable(_) => "unusable",
            Self::Emptied => "emptied",
            Self::Uncertain(_) => "uncertain",
            Self::Contended(_) => "contended",
            Self::Duplicate(_) => "duplicate",
            Self::Refused(_) => "refused",
        }
    }

    /// Whether the store is unavailable or unusable, so that retrying at once is of no use.
    pub fn is_lost(&self) -> bool {
        use Failure::{Emptied, Unavailable, Uncertain, Unusable};
        matches!(self, Unavailable(_) | Uncertain(_) | Unusable(_) | Emptied)
    }
}

impl From<Late> for Failure {
    fn from(late: Late) -> Self {
        Self::Unavailable(late.to_string())
    }
}

/// The failure behind an SQLSTATE. Only an error in the data counts against an event; a fault of
/// the store does not.
fn of_state(code: &str, text: String) -> Failure {
    match code {
        // Statement timeout: as if another batch had been faster.
        "57014" => Failure::Contended(text),
        "23505" => Failure::Duplicate(text),
        // Insufficient privilege; read-only transaction.
        "42501" | "25006" => Failure::Unusable(text),
        _ => match code.get(..2).unwrap_or_default() {
            // Connection lost, out of resources, shutting down or starting up, internal error.
            "08" | "53" | "57" | "58" | "F0" | "XX" => Failure::Unavailable(text),
            // Wrong password, database or schema.
            "28" | "3D" | "3F" => Failure::Unusable(text),
            // Serialization failure, deadlock, lock timeout.
            "40" | "55" => Failure::Contended(text),
            _ => Failure::Refused(text),
        },
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match &error {
            sqlx::Error::Database(database) => {
                of_state(database.code().as_deref().unwrap_or_default(), text)
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => Self::Unavailable(text),
            _ => Self::Refused(text),
        }
    }
}

/// The failure behind an error of Valkey, where nothing can have taken effect.
impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        let text = error.to_string();
        if is_unusable(&error) {
            Self::Unusable(text)
        } else if is_away(&error)
            || error.is_io_error()
            || error.is_timeout()
            || error.is_connection_dropped()
        {
            Self::Unavailable(text)
        } else {
            Self::Refused(text)
        }
    }
}

/// Whether Valkey answers, but this instance cannot use it.
pub(crate) fn is_unusable(error: &redis::RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
        || error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::ReadOnly)
}

/// Whether Valkey cannot serve any request right now.
pub(crate) fn is_away(error: &redis::RedisError) -> bool {
    use redis::ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, TryAgain};
    let kinds = [BusyLoading, ClusterDown, MasterDown, TryAgain];
    matches!(error.kind(), redis::ErrorKind::Server(kind) if kinds.contains(&kind))
        || matches!(error.code(), Some("OOM" | "MISCONF" | "BUSY" | "NOREPLICAS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_in_the_data_counts_against_an_event() {
        for code in ["22001", "22P02", "23502", "23514", "54000", "P0001", "42P01"] {
            assert!(matches!(of_state(code, String::new()), Failure::Refused(_)), "{code}");
        }
        for code in ["08006", "53100", "57P03", "58030", "XX001", "28P01", "3D000", "42501"] {
            assert!(of_state(code, String::new()).is_lost(), "{code}");
        }
        for code in ["40001", "40P01", "55P03", "57014"] {
            assert!(matches!(of_state(code, String::new()), Failure::Contended(_)), "{code}");
        }
    }

    #[test]
    fn an_unusable_store_is_distinguished_from_an_unavailable_one() {
        for code in ["28P01", "28000", "3D000", "3F000", "42501", "25006"] {
            assert!(matches!(of_state(code, String::new()), Failure::Unusable(_)), "{code}");
        }
    }
}
