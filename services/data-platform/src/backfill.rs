//! The backfill: exports a range of what the streams keep again, beside the service.

use std::{sync::Arc, time::Duration};

use events::Timestamp;
use mesh::{EVENTS_A_SEQUENCE, MeshClient, STORED_MESSAGES_MAX, StreamError, clock};

use crate::{
    Config,
    domain::{EVENTS, Range, Record, Totals},
    platform::{EndpointError, Trouble},
    targets::{Taken, Targets, retry_delay},
};

/// Attempts to hand over the same events before a backfill gives up; what it did stays done.
const ATTEMPTS_MAX: u32 = 8;

/// Why a backfill has stopped.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// A target can never be used.
    #[error(transparent)]
    Unusable(#[from] EndpointError),
    /// The streams cannot be read.
    #[error("{}", .0.with_cause())]
    Unread(#[from] StreamError),
    /// A target does not take what it is given, for this reason.
    #[error("{0}")]
    Refused(String),
}

/// How far a backfill has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Sequences read so far.
    pub read: u64,
    /// Sequences to read in all.
    pub of: u64,
    /// What was handed over.
    pub totals: Totals,
    /// Events that cannot be read; they are not exported.
    pub unreadable: usize,
    /// Why the last attempt failed, while it is retried.
    pub trouble: Option<String>,
}

/// Exports what the streams keep of a range, stream after stream, each in its order, up to where
/// the streams end when this begins. The service's own position stays where it is.
///
/// The last batch carries a watermark only when the range is unbounded: a bounded range says
/// nothing of what was emitted before it.
///
/// # Errors
/// When the streams cannot be read, or a target does not take what it is given.
pub async fn backfill(
    client: &MeshClient,
    config: &Config,
    range: Range,
    say: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Progress, BackfillError> {
    let targets = Targets::open(config)?;
    let began_at = clock::now();
    let mut ends = Vec::new();
    for stream in streams() {
        let last = client.last_position(stream).await?;
        ends.push((stream, last));
    }
    let of = ends.iter().map(|(_, last)| last / EVENTS_A_SEQUENCE).sum();
    let backfill = Backfill { client, config, targets, range, say };
    let mut progress = Progress { of, ..Progress::default() };
    let mut before = 0;
    for (stream, last) in ends {
        backfill.stream(stream, last, before, &mut progress).await?;
        before += last / EVENTS_A_SEQUENCE;
        progress.read = before;
    }
    if range == Range::default() {
        backfill.hand_over(Arc::default(), Some(began_at), &mut progress).await?;
    }
    Ok(progress)
}

/// The streams with events to export.
fn streams() -> Vec<&'static str> {
    let mut streams: Vec<&str> = EVENTS.iter().map(|event| events::producer_of(event)).collect();
    streams.dedup();
    streams
}

struct Backfill<'a> {
    client: &'a MeshClient,
    config: &'a Config,
    targets: Targets,
    range: Range,
    say: &'a (dyn Fn(&Progress) + Send + Sync),
}

impl Backfill<'_> {
    /// Exports one stream up to `last`.
    async fn stream(
        &self,
        stream: &str,
        last: u64,
        before: u64,
        progress: &mut Progress,
    ) -> Result<(), BackfillError> {
        let mut seq = 0;
        while seq < last {
            let events = self.client.stored_since(stream, seq, STORED_MESSAGES_MAX).await;
            let events = events?;
            let Some(end) = events.last().map(mesh::StoredEvent::position) else { break };
            let wanted = events.iter().filter(|event| event.position() <= last);
            let (mut records, unreadable) = Record::of_all(wanted);
            records.retain(|record| self.range.has(record.at));
            progress.unreadable += unreadable;
            seq = end.min(last);
            if !records.is_empty() {
                self.hand_over(records.into(), None, progress).await?;
            }
            progress.read = before + seq / EVENTS_A_SEQUENCE;
            (self.say)(progress);
        }
        Ok(())
    }

    async fn hand_over(
        &self,
        records: Arc<[Record]>,
        watermark: Option<Timestamp>,
        progress: &mut Progress,
    ) -> Result<(), BackfillError> {
        let (mut taken, mut failures) = (Taken::default(), 0);
        while let Err(Trouble { cause, retry_after }) =
            self.targets.hand_over(&records, watermark, &mut taken).await
        {
            failures += 1;
            if failures == ATTEMPTS_MAX {
                return Err(BackfillError::Refused(cause));
            }
            progress.trouble = Some(cause);
            (self.say)(progress);
            let delay: Duration = retry_delay(failures, retry_after, self.config.retry_max);
            tokio::time::sleep(delay).await;
        }
        progress.trouble = None;
        records.iter().for_each(|record| progress.totals.add(record));
        Ok(())
    }
}
