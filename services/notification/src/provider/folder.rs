//! Messages as lines of files in a folder, for development.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use events::notification::Channel;
use mesh::clock;
use serde_json::json;

use super::parcel::{Parcel, Round, Sent};
use crate::domain::Delivery;

/// One file for each day (UTC), with a line of JSON for each message. A message that is sent again
/// is a line again, with the same id, and between two writers there may be an empty line. A file
/// for each message would cost more than the message: creating them took 7 % of a busy machine.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) async fn send(&self, parcels: Vec<Parcel>, _: Round) -> Sent {
        let path = self.path.clone();
        let writing = tokio::task::spawn_blocking(move || write_all(&path, &parcels));
        // A panic gives no deliveries; the messages are sent again when their lease runs out.
        Sent { deliveries: writing.await.unwrap_or_default(), gone: false }
    }
}

fn write_all(folder: &Path, parcels: &[Parcel]) -> Vec<(uuid::Uuid, Delivery)> {
    let written = write(folder, parcels).map_err(|error| error.kind());
    let delivery = || match written {
        Ok(()) => Delivery::Taken(Channel::Folder),
        Err(kind) => Delivery::later(format!("the folder: {kind}")),
    };
    parcels.iter().map(|parcel| (parcel.id, delivery())).collect()
}

/// Appends the messages at once, so that lines of two instances do not mix. It is not synced to
/// disk; the loss of these messages in a power cut does not matter.
fn write(folder: &Path, parcels: &[Parcel]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let file = folder.join(format!("{}.jsonl", clock::now().0.date()));
    let mut file = File::options().read(true).append(true).create(true).open(file)?;
    let mut lines = Vec::new();
    if is_torn(&mut file)? {
        lines.push(b'\n');
    }
    for parcel in parcels {
        serde_json::to_writer(&mut lines, &line(parcel))?;
        lines.push(b'\n');
    }
    file.write_all(&lines)
}

/// Whether the last line has no end, because the disk was full.
fn is_torn(file: &mut File) -> io::Result<bool> {
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last != [b'\n'])
}

fn line(parcel: &Parcel) -> serde_json::Value {
    json!({
        "message_id": parcel.id,
        "user_id": parcel.user_id,
        "subject_id": parcel.subject_id,
        "kind": parcel.kind,
        "schedule_id": parcel.schedule_id,
        "phone": parcel.phone,
        "locale": parcel.locale,
        "title": parcel.words.title,
        "text": parcel.words.text,
        "created_at": parcel.created_at,
    })
}
