//! Messages as lines of files in a folder.

use std::fs;

use events::notification::Channel;
use serde_json::Value;

use super::*;
use crate::provider::Folder;

/// The one file of a folder.
fn file(folder: &std::path::Path) -> std::path::PathBuf {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[tokio::test]
async fn a_message_is_a_line_of_the_file_of_its_day() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not").join("there");
    let provider = Provider::Folder(Folder::new(path.clone()));
    let message = |low| parcel(low, MessageKind::PaymentCompleted);
    for low in [1, 2] {
        let delivery = send_one(&provider, message(low)).await;
        assert_eq!(delivery, Delivery::Taken(Channel::Folder));
    }
    let today = mesh::clock::now().0.date().to_string();
    assert_eq!(file(&path).file_stem().unwrap().to_str(), Some(today.as_str()));
    let lines = fs::read_to_string(file(&path)).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (line, parcel) in lines.iter().zip([1, 2].map(message)) {
        assert_eq!(line["message_id"], parcel.id.to_string());
        assert_eq!(line["kind"], "payment_completed");
        assert_eq!(line["text"], parcel.words.text);
    }
}

#[tokio::test]
async fn a_line_that_a_full_disk_has_cut_off_does_not_spoil_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let provider = Provider::Folder(Folder::new(folder.path().to_owned()));
    send_one(&provider, parcel(1, MessageKind::HoldExpired)).await;
    let mut written = fs::OpenOptions::new().append(true).open(file(folder.path())).unwrap();
    std::io::Write::write_all(&mut written, b"{\"message_id\":").unwrap();
    send_one(&provider, parcel(2, MessageKind::HoldExpired)).await;
    let lines = fs::read_to_string(file(folder.path())).unwrap();
    let is_whole = |line: &str| serde_json::from_str::<Value>(line).is_ok();
    assert_eq!(lines.lines().map(is_whole).collect::<Vec<_>>(), [true, false, true]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_to_is_retried() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a file");
    fs::write(&path, "in the way").unwrap();
    let provider = Provider::Folder(Folder::new(path));
    let delivery = send_one(&provider, parcel(1, MessageKind::HoldExpired)).await;
    assert!(reason(&delivery).starts_with("the folder:"), "{delivery:?}");
}
