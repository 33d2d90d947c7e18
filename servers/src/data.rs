//! The folder that the servers keep their data in.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::{Error, account::open_to_all, own_folder};

/// The names of temporary folders begin with this.
const PREFIX: &str = "onsale-servers-";
/// A temporary folder that is nobody's any more and older than this is swept away.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Where the servers keep their data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// In a folder of its own, gone when they stop.
    Temporary,
    /// In this folder, kept with its passwords and keys for the next time.
    Folder(PathBuf),
}

/// A data folder that is ours alone as long as this lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    // The lock goes before the folder does.
    _lock: fs::File,
    temporary: Option<TempDir>,
}

impl Folder {
    /// Opens the folder; `shared` with the account PostgreSQL runs as when that is not us.
    pub(crate) fn open(data: &Data, shared: bool) -> Result<Self, Error> {
        let (path, temporary) = match data {
            Data::Folder(folder) => {
                let failed = |error| Error::io("cannot make", folder)(error);
                own_folder(folder, shared).map_err(failed)?;
                (folder.canonicalize().map_err(failed)?, None)
            }
            Data::Temporary => {
                let above = temporary_folder(shared);
                sweep(&above);
                let failed = Error::io("cannot make a folder in", &above);
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
        let lock = fs::File::create(&lock).map_err(Error::io("cannot make", &lock))?;
        lock.try_lock().map_err(|_| Error::InUse(path.clone()))?;
        Ok(Self { path, _lock: lock, temporary })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it goes when the servers stop.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }
}

/// The machine's folder for temporary files, or the usual one when that is closed to the
/// account PostgreSQL runs as.
fn temporary_folder(shared: bool) -> PathBuf {
    let folder = env::temp_dir();
    if !shared || open_to_all(&folder) { folder } else { "/tmp".into() }
}

/// Removes what processes have left behind that were killed: folders whose lock is free.
/// A folder that was only just made may not have its lock yet; its age tells.
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
            // Somebody else's, or somebody else sweeps as well: either way not ours to mend.
            let _ = fs::remove_dir_all(&folder);
        }
    }
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
