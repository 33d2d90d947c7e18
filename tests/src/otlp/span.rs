//! A span, as the tests look at it.

use std::collections::BTreeMap;

/// One span, with what the tests look at. Ids are lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The saga it belongs to.
    pub trace_id: String,
    /// Its own id.
    pub span_id: String,
    /// The span that caused it; `None` for a root.
    pub parent_id: Option<String>,
    /// Its links: the traces and spans it refers to.
    pub links: Vec<(String, String)>,
    /// `service.name` of the resource, without the `onsale-` in front.
    pub service: String,
    /// The name of the operation.
    pub name: String,
    /// When it began, in nanoseconds since 1970.
    pub began_nanos: u64,
    /// When it ended, in nanoseconds since 1970.
    pub ended_nanos: u64,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Why it failed, when it did.
    pub error: Option<String>,
}
