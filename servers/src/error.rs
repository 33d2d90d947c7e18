//! Why the servers do not run.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why the servers do not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A binary is missing; the text says how to fix that.
    #[error("{0}")]
    Missing(String),
    /// A server does not come up.
    #[error("{name} does not start: {why}\n{said}")]
    NotStarted {
        /// Which one.
        name: &'static str,
        /// The reason, as far as it is known.
        why: String,
        /// The end of its log.
        said: String,
    },
    /// Another process runs its servers on this folder.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The folder's database was created by another major version of PostgreSQL.
    #[error(
        "{} was made by PostgreSQL {made_by} and this is PostgreSQL {major}: delete it, \
         or set ONSALE_BIN_DIR to a PostgreSQL {made_by}",
        folder.display()
    )]
    OtherVersion {
        /// The data folder.
        folder: PathBuf,
        /// The version that created it.
        made_by: String,
        /// The version of the binary that was found.
        major: u32,
    },
    /// A database or a role could not be created.
    #[error("PostgreSQL refuses: {0}")]
    Database(#[from] sqlx::Error),
    /// The operating system refuses an operation.
    #[error("{what}: {source}")]
    Io {
        /// The operation, and the file or folder.
        what: String,
        /// The reason.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{what} {}", path.display());
        move |source| Self::Io { what, source }
    }
}

/// Runs blocking work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|gone| {
        let source = io::Error::other(gone);
        Err(Error::Io { what: "starting the servers was interrupted".into(), source })
    })
}
