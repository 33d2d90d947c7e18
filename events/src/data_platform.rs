//! The progress of the export of sales events to the data platform.

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
    /// No target is configured; events are kept for a later one.
    Idle,
    /// Events are exported as they are emitted.
    Running,
    /// The target did not accept a batch; it is retried until it does.
    Stuck,
}

/// How far the export has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Export {
    /// What it is doing.
    pub state: ExportState,
    /// Every event that was in the streams at this time has been exported; absent until the
    /// end of the streams is reached for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Timestamp>,
    /// One entry for each stream from which an event was exported.
    pub streams: Vec<ExportedStream>,
    /// Why the last batch was not accepted; absent while batches are accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<ExportTrouble>,
}

/// How far the export of one stream has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExportedStream {
    /// The service whose events these are.
    pub service: String,
    /// The sequence up to which everything was exported.
    pub sequence: u64,
    /// How many events were exported.
    #[serde(rename = "facts")]
    pub events: u64,
    /// The lag behind the stream, in sequences; absent when the broker does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
}

/// Why a batch is not accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExportTrouble {
    /// The target's answer to the last attempt.
    pub cause: String,
    /// When the first attempt failed.
    pub since: Timestamp,
    /// How many attempts have failed since.
    pub attempts: u64,
}

crate::commands! {
    GetExport = "data-platform.export", 200 => Export;
}
