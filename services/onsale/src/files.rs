//! The project's data files, carried inside the binary.

use include_dir::{Dir, include_dir};

/// Streams, consumers, accounts and permissions.
pub static JETSTREAM: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../jetstream");

/// The files of one folder below `jetstream/` as (name without ending, content).
pub fn jetstream(folder: &str) -> Vec<(String, &'static [u8])> {
    let mut files: Vec<_> = JETSTREAM
        .get_dir(folder)
        .into_iter()
        .flat_map(Dir::files)
        .filter_map(|file| {
            let name = file.path().file_stem()?.to_str()?.to_owned();
            Some((name, file.contents()))
        })
        .collect();
    files.sort();
    files
}
