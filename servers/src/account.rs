//! The account that PostgreSQL runs as, and which folders it can enter.
//!
//! PostgreSQL refuses to run as root. As root we therefore run it as `postgres` or `nobody`, and
//! everything it needs must be where that account can go: root's home, where the cache and the
//! checkout often are, is usually closed to others.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// The account that PostgreSQL must run as: `None` means our own.
    pub(crate) fn for_postgres() -> io::Result<Option<Self>> {
        if fs::metadata("/proc/self")?.uid() != 0 {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd")?;
        let account = ["postgres", "nobody"].iter().find_map(|name| Self::listed(&passwd, name));
        account.map(Some).ok_or_else(|| {
            io::Error::other("root cannot run PostgreSQL, and there is no user `nobody`")
        })
    }

    fn listed(passwd: &str, wanted: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == wanted && uid != 0).then(|| Self { name: name.into(), uid, gid })
        })
    }
}

/// Whether every account may enter this folder, or the nearest one above that exists.
pub(crate) fn open_to_all(folder: &Path) -> bool {
    let Some(existing) = folder.ancestors().find_map(|folder| folder.canonicalize().ok()) else {
        return false;
    };
    existing.ancestors().all(|folder| {
        fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_parsed_from_its_line_in_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:n:/:/bin/false\n";
        let nobody = Account { name: "nobody".into(), uid: 65534, gid: 65533 };
        assert_eq!(Account::listed(passwd, "nobody"), Some(nobody));
        assert_eq!(Account::listed(passwd, "root"), None, "root is never an answer");
    }

    #[test]
    fn a_folder_below_a_closed_one_is_not_open() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!open_to_all(&folder.path().join("a/b")));
        assert!(open_to_all(Path::new("/usr/no-such-folder")));
    }
}
