//! The project's own files, read as data.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Folders with generated content.
const MADE: [&str; 3] = ["target", ".git", ".onsale"];

/// The top folder of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the project")
}

/// The text of one file, named from the top folder.
///
/// # Panics
/// When it cannot be read; the message names it.
pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One JSON file, named from the top folder.
///
/// # Panics
/// When it cannot be read or is no JSON; the message names it.
pub fn read_json(path: impl AsRef<Path>) -> serde_json::Value {
    let path = path.as_ref();
    serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file and folder below `folder` that is not generated, named from the top folder, in
/// order.
///
/// # Panics
/// When a folder cannot be listed.
pub fn tree(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap_or_else(|error| panic!("{}: {error}", at.display())) {
            let path = entry.expect("an entry of a folder that was just listed").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if MADE.contains(&&*name) {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                open.push(path.clone());
            }
            found.push(path.strip_prefix(root()).expect("it was found there").to_owned());
        }
    }
    found.sort();
    found
}

/// The names, without ending, of the files of one folder that end in `.extension`, in order.
pub fn names(folder: &str, extension: &str) -> Vec<String> {
    let ending = format!(".{extension}");
    tree(folder)
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.strip_suffix(&ending).map(str::to_owned))
        .collect()
}
