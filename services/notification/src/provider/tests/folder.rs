//! Messages as files in a folder.

use std::fs;

use events::notification::Channel;
use serde_json::Value;

use super::*;
use crate::provider::Folder;

fn files(folder: &std::path::Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_message_is_one_whole_file_however_often_it_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not").join("there");
    let provider = Provider::Folder(Folder::new(path.clone()));
    for _ in 0..3 {
        let delivery = send_one(&provider, parcel(1, MessageKind::PaymentCompleted)).await;
        assert_eq!(delivery, Delivery::Taken(Channel::Folder));
    }
    send_one(&provider, parcel(2, MessageKind::PaymentCompleted)).await;
    assert_eq!(files(&path).len(), 2, "{:?}", files(&path));
    let sent = parcel(1, MessageKind::PaymentCompleted);
    let file = fs::read(path.join(format!("{}.json", sent.id))).unwrap();
    let content: Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(content["kind"], "payment_completed");
    assert_eq!(content["text"], sent.words.text);
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
