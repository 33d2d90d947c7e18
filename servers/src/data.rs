//! The folder in which the servers keep their data.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::{account::open_to_all, error::Error};

/// The names of temporary folders begin with this.
const PREFIX: &str = "onsale-servers-";
/// An abandoned temporary folder that is older than this is removed.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Where the servers keep their data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// In a folder of its own, deleted when they stop.
    Temporary,
    /// In this folder, kept with its passwords and keys for the next start.
    Folder(PathBuf),
}

/// A data folder, locked for this process as long as this value lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    // The lock is released before the folder is deleted.
    _lock: fs::File,
    temporary: Option<TempDir>,
}

impl Folder {
    /// Opens the folder; `shared` when PostgreSQL runs as another account and must enter it.
    pub(crate) fn open(data: &Data, shared: bool) -> Result<Self, Error> {
        let (path, temporary) = match data {
            Data::Folder(folder) => {
                let failed = |error| Error::io("cannot create", folder)(error);
                own_folder(folder, shared).map_err(failed)?;
                (folder.canonicalize().map_err(failed)?, None)
            }
            Data::Temporary => {
                let above = temporary_folder(shared);
                sweep(&above);
                let failed = Error::io("cannot create a folder in", &above);
                let folder = TempDir::with_prefix_in(PREFIX, &above).map_err(failed)?;
                if shared {
                    let mode = fs::Permissions::from_mode(0o711);
                    fs::set_permissions(folder.path(), mode)
                        .map_err(Error::io("cannot open to others", folder.path()))?;
                }
                (folder.path().to_owned(), Some(folder))
            }
        };
        let lock = path.join("lock");
        let lock = fs::File::create(&lock).map_err(Error::io("cannot create", &lock))?;
        lock.try_lock().map_err(|_| Error::InUse(path.clone()))?;
        Ok(Self { path, _lock: lock, temporary })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is deleted when the servers stop.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }
}

/// The machine's folder for temporary files, or `/tmp` when that is closed to the account that
/// PostgreSQL runs as.
fn temporary_folder(shared: bool) -> PathBuf {
    let folder = env::temp_dir();
    if !shared || open_to_all(&folder) { folder } else { "/tmp".into() }
}

/// Removes the folders of killed processes: those whose lock is free. A folder that was only
/// just created may not be locked yet, so only old ones are removed.
fn sweep(above: &Path) {
    for entry in fs::read_dir(above).into_iter().flatten().flatten() {
        let folder = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let lock = folder.join("lock");
        let old = || {
            let changed = fs::metadata(&lock).and_then(|metadata| metadata.modified()).ok();
            changed.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > ABANDONED_AFTER)
        };
        if ours && old() && fs::File::open(&lock).is_ok_and(|lock| lock.try_lock().is_ok()) {
            // It fails for another account's folder, or while another process removes it as well.
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

/// Creates a folder for this account alone; when `passable`, other accounts may pass through it
/// to what is theirs.
fn own_folder(folder: &Path, passable: bool) -> io::Result<()> {
    let mode = if passable { 0o711 } else { 0o700 };
    fs::DirBuilder::new().recursive(true).mode(mode).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_not_opened_twice() {
        let above = tempfile::tempdir().unwrap();
        let data = Data::Folder(above.path().join("data"));
        let first = Folder::open(&data, false).unwrap();
        assert!(matches!(Folder::open(&data, false), Err(Error::InUse(_))));
        drop(first);
        Folder::open(&data, false).unwrap();
    }
}
