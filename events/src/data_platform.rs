//! The export of sales facts to the data platform, and how far it has come.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Read how far the export has come (operator).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetExport {}

/// What the export is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ExportState {
    /// No target is configured; everything is kept for a later one.
    Idle,
    /// What is told is handed over.
    Running,
    /// A batch was not taken; it is tried again until it is.
    Stuck,
}

/// How far the export has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Export {
    /// What it is doing.
    pub state: ExportState,
    /// Every fact that was in the streams at this moment has been taken; absent before the
    /// end of the streams was first reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Timestamp>,
    /// One for each stream, once anything of it was taken.
    pub streams: Vec<ExportedStream>,
    /// Why the last batch was not taken; absent while batches are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<ExportTrouble>,
}

/// How far the export of one stream has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExportedStream {
    /// Whose facts.
    pub service: String,
    /// The sequence up to which everything was taken.
    pub sequence: u64,
    /// Facts that were taken.
    #[serde(rename = "facts")]
    pub events: u64,
    /// How many sequences the stream is ahead; absent when the broker does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
}

/// Why a batch is not taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExportTrouble {
    /// What the target said to the last attempt.
    pub cause: String,
    /// When the first attempt failed.
    pub since: Timestamp,
    /// How many have failed since.
    pub attempts: u64,
}

crate::commands! {
    GetExport = "data-platform.export", 200 => Export;
}
