//! The part of a batch that differs from service to service: its unit of work.
//!
//! A store loads and saves units of work of the type that its service declares. The batch itself
//! does not know this type, so it is compiled once and not for each service.

use async_trait::async_trait;
use bytes::Bytes;
use events::{Problem, Timestamp};

use super::work::Entry;
use crate::{
    metrics::Observed,
    service::context::{Announcement, Emitted, EndedSaga},
    store::engine::Failure,
    trace::TraceParent,
};

/// Loads units of work in transactions `Tx`.
#[async_trait]
pub(crate) trait Units<Tx>: Send + Sync {
    /// Loads and locks what these events and commands will need.
    async fn load(&self, tx: &mut Tx, entries: &[&Entry]) -> Result<Box<dyn Unit<Tx>>, Failure>;
}

/// A unit of work that has been loaded.
#[async_trait]
pub(crate) trait Unit<Tx>: Send {
    /// Runs the handler of one event or command on it.
    fn decide(&mut self, entry: &Entry, now: Timestamp) -> Decided;

    /// Writes what has changed.
    async fn save(self: Box<Self>, tx: &mut Tx) -> Result<(), Failure>;
}

/// What the handler of one event or command has decided.
pub(crate) struct Decided {
    /// A command's reply as JSON, or why there is none.
    pub(crate) result: Result<Bytes, Stop>,
    /// HTTP status of a granted command.
    pub(crate) status: u16,
    /// The events it emitted.
    pub(crate) emitted: Vec<Emitted>,
    /// The live messages it announced.
    pub(crate) announced: Vec<Announcement>,
    /// The sagas that it ends.
    pub(crate) ended: Vec<EndedSaga>,
    /// Spans of other traces that began what it is about.
    pub(crate) concerns: Vec<TraceParent>,
    /// What it counted and measured.
    pub(crate) observed: Vec<Observed>,
}

impl Decided {
    /// Nothing, for this reason.
    pub(crate) fn stopped(stop: Stop) -> Self {
        Self {
            result: Err(stop),
            status: 200,
            emitted: Vec::new(),
            announced: Vec::new(),
            ended: Vec::new(),
            concerns: Vec::new(),
            observed: Vec::new(),
        }
    }
}

/// Why an event or command did not take effect.
pub(crate) enum Stop {
    No(Problem),
    NotYet(Problem),
    Never(String),
    /// The state may be half changed: nothing of this attempt can be kept.
    Panicked(String),
}
