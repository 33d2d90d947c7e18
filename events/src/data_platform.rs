//! The export of sales facts to the data platform, and how far it has come.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Read how far the export has come (operator).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetExport {}

/// How far the export has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Export {
    /// Every fact told before this moment has been taken by the data platform; absent before
    /// the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Timestamp>,
    /// One for each stream.
    pub streams: Vec<ExportedStream>,
    /// What the data platform said to the last batch that it did not take; absent while it
    /// takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// How far the export of one stream has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExportedStream {
    /// Whose facts.
    pub service: String,
    /// The sequence of the last fact that was taken; 0 before the first.
    pub sequence: u64,
    /// Facts that were taken.
    pub facts: u64,
}

crate::commands! {
    GetExport = "data-platform.export", 200 => Export;
}
