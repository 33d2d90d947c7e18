//! Passwords and keys: generated once per data folder, readable by our account only.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

use crate::identities::ISSUER;

/// The passwords of one data folder.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Passwords {
    pub(crate) postgres: String,
    pub(crate) valkey: String,
    /// The password of each service's database role.
    pub(crate) services: BTreeMap<String, String>,
}

impl Passwords {
    /// Reads the passwords of the folder, and generates those that are missing.
    pub(crate) fn open(folder: &Path, services: &[String]) -> io::Result<Self> {
        let path = folder.join("passwords.json");
        let mut passwords = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self { postgres: password(), valkey: password(), services: BTreeMap::new() }
            }
            Err(error) => return Err(error),
        };
        for service in services {
            passwords.services.entry(service.clone()).or_insert_with(password);
        }
        write(&path, &serde_json::to_vec_pretty(&passwords)?)?;
        Ok(passwords)
    }
}

/// 192 random bits as text that is safe in a URL, an SQL string and a configuration file.
fn password() -> String {
    rand::random::<[u8; 24]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The keys of the NATS users of one data folder, each seed in a file of its own.
#[derive(Debug)]
pub(crate) struct Nkeys {
    pub(crate) folder: PathBuf,
    pairs: BTreeMap<String, (String, String)>,
}

impl Nkeys {
    /// Reads the keys of the folder, and generates those that are missing.
    pub(crate) fn open(folder: &Path, identities: &[&str]) -> io::Result<Self> {
        private_folder(folder)?;
        let mut pairs = BTreeMap::new();
        for identity in identities.iter().copied().chain([ISSUER]) {
            let path = folder.join(format!("{identity}.nk"));
            let pair = match fs::read_to_string(&path) {
                Ok(seed) => KeyPair::from_seed(seed.trim()).map_err(io::Error::other)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let pair = key_of(identity);
                    write(&path, pair.seed().map_err(io::Error::other)?.as_bytes())?;
                    pair
                }
                Err(error) => return Err(error),
            };
            let seed = pair.seed().map_err(io::Error::other)?;
            pairs.insert(identity.to_owned(), (seed, pair.public_key()));
        }
        Ok(Self { folder: folder.to_owned(), pairs })
    }

    pub(crate) fn seed(&self, identity: &str) -> Option<&str> {
        self.pairs.get(identity).map(|(seed, _)| seed.as_str())
    }

    /// The variables that `nats.conf` reads: `ONSALE_NKEY_<IDENTITY>`, each public key.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (String, String)> {
        self.pairs.iter().map(|(identity, (_, public))| {
            let name = identity.to_uppercase().replace('-', "_");
            (format!("ONSALE_NKEY_{name}"), public.clone())
        })
    }
}

/// A new key of the type that the broker needs for an identity.
pub(crate) fn key_of(identity: &str) -> KeyPair {
    if identity == ISSUER { KeyPair::new_account() } else { KeyPair::new_user() }
}

/// Creates a folder that no other account may enter, unless it exists.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file that no other account may read. It appears complete or not at all.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let _ = fs::remove_file(&new);
    fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?.write_all(content)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn passwords_and_keys_of_a_folder_stay_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let services = vec!["point".to_owned()];
        let first = Passwords::open(folder.path(), &services).unwrap();
        let again = Passwords::open(folder.path(), &services).unwrap();
        assert_eq!(first.services, again.services);
        assert_eq!(first.postgres, again.postgres);
        let keys = folder.path().join("nkeys");
        let first = Nkeys::open(&keys, &["point"]).unwrap();
        let again = Nkeys::open(&keys, &["point", "payment"]).unwrap();
        assert_eq!(first.seed("point"), again.seed("point"));
        assert!(again.environment().any(|(name, _)| name == "ONSALE_NKEY_PAYMENT"));
    }

    #[test]
    fn a_secret_is_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        Passwords::open(folder.path(), &[]).unwrap();
        let metadata = fs::metadata(folder.path().join("passwords.json")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }
}
