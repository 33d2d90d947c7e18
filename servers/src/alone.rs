//! Valkey without the other servers.

use std::path::Path;

use crate::{
    account::Account,
    binaries,
    cache::Cache,
    data::Folder,
    error::{Error, blocking},
    options::Options,
    secrets::Passwords,
    server::Server,
    valkey,
};

/// Valkey alone, for tests that need nothing else. Dropping it stops it.
pub struct Standalone {
    server: Server,
    // Last: a temporary folder is deleted after the server in it has stopped.
    _folder: Folder,
}

impl Standalone {
    /// Starts Valkey and returns when it answers.
    ///
    /// # Errors
    /// When the binary is missing, the server does not come up, or the data folder is in use.
    pub async fn valkey(options: Options) -> Result<Self, Error> {
        blocking(move || {
            let account = Account::for_postgres()
                .map_err(Error::io("cannot read accounts from", Path::new("/etc/passwd")))?;
            let cache = Cache::open(account.as_ref(), &options.say)?;
            let binary = binaries::find(&binaries::VALKEY, &cache, account.as_ref(), &options.say)?;
            let folder = Folder::open(&options.data, false)?;
            let failed = Error::io("cannot store secrets in", folder.path());
            let passwords = Passwords::open(folder.path(), &[]).map_err(failed)?;
            let port = options.ports.valkey;
            let server = valkey::start(&binary, folder.path(), &passwords.valkey, port)?;
            Ok(Self { server, _folder: folder })
        })
        .await
    }

    /// The server; its URL contains the password.
    pub fn server(&self) -> &Server {
        &self.server
    }
}
