//! Messages as files in a folder, for development.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use events::notification::Channel;
use serde_json::json;

use super::parcel::{Parcel, Round, Sent};
use crate::domain::Delivery;

/// One JSON file per message, named by its id: a repeat writes the same file again.
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
    let made = fs::create_dir_all(folder).map_err(|error| error.kind());
    let write = |parcel: &Parcel| match made
        .and_then(|()| write(folder, parcel).map_err(|error| error.kind()))
    {
        Ok(()) => (parcel.id, Delivery::Taken(Channel::Folder)),
        Err(kind) => (parcel.id, Delivery::later(format!("the folder: {kind}"))),
    };
    parcels.iter().map(write).collect()
}

/// Writes the file whole or not at all: a reader of the folder sees no half file. It is not
/// synced to disk; the loss of these messages in a power cut does not matter.
fn write(folder: &Path, parcel: &Parcel) -> io::Result<()> {
    let content = json!({
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
    });
    let half = folder.join(format!(".{}.part", parcel.id));
    fs::write(&half, serde_json::to_vec_pretty(&content)?)?;
    fs::rename(&half, folder.join(format!("{}.json", parcel.id)))
}
