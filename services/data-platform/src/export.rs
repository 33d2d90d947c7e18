//! The export: hands over the events that were read, then records that they were taken.
//!
//! No transaction is open while it waits for a target. A process that is killed in between hands
//! the same events over again; none is skipped.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use events::Timestamp;
use mesh::{QueryContext, Read, clock, engine::Failure, postgres::Postgres};
use tracing::{info, warn};

use crate::{
    UnitOfWork,
    domain::Record,
    platform::Trouble,
    progress,
    targets::{Taken, Targets, retry_delay},
};

/// A pause between two hand-overs at the end of the streams: it makes batches larger, and a file
/// that fills is rewritten less often.
const PACE: Duration = Duration::from_secs(1);
/// How old a watermark becomes while no events come.
const QUIET_SECS: i64 = 10;

/// The exporter of one process; one instance of the service exports at a time.
#[derive(Default)]
pub(crate) struct Exporter(Mutex<State>);

#[derive(Default)]
struct State {
    targets: Option<Targets>,
    /// How much was taken of the events whose reading began at this time: all of them come again
    /// until all are taken.
    underway: Option<(Timestamp, Taken)>,
    /// Failures in a row.
    failures: u32,
    /// The last watermark that was handed over.
    watermark: Option<Timestamp>,
}

impl Exporter {
    /// Hands the events over and records that they were taken.
    ///
    /// # Errors
    /// When a target did not take them all. It waits before it returns; then they are retried.
    pub(crate) async fn take(
        &self,
        ctx: QueryContext<Postgres<UnitOfWork>>,
        read: &Read,
    ) -> Result<(), Failure> {
        if !ctx.config().has_target() {
            info!("no export target is configured; the position stays where it is for a later one");
            // This ends with the service: the position stays where it is.
            return std::future::pending().await;
        }
        let watermark = read.is_all.then_some(read.began_at);
        let is_quiet = self.with(|state| {
            let known = state.watermark.zip(watermark);
            known.is_some_and(|(known, new)| new < known.plus_secs(QUIET_SECS))
        });
        if read.events.is_empty() && (is_quiet || watermark.is_none()) && self.is_well() {
            return Ok(());
        }
        let (records, unreadable) = Record::of_all(&read.events);
        if unreadable > 0 {
            warn!(unreadable, "unreadable events are not exported");
        }
        let records: Arc<[Record]> = records.into();
        if let Err(trouble) = self.hand_over(&ctx, read.began_at, &records, watermark).await {
            let failure = self.wait(&ctx, trouble).await;
            // A watermark alone need not be retried: a later one says more.
            return if read.events.is_empty() { Ok(()) } else { Err(failure) };
        }
        ctx.unit(async {
            let mut tx = ctx.pool().begin().await?;
            progress::note_taken(&mut tx, &records, watermark).await?;
            read.settle(&mut tx).await?;
            Ok(tx.commit().await?)
        })
        .await?;
        self.with(|state| {
            state.underway = None;
            state.failures = 0;
            state.watermark = watermark.or(state.watermark);
        });
        if read.is_all {
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    }

    async fn hand_over(
        &self,
        ctx: &QueryContext<Postgres<UnitOfWork>>,
        began_at: Timestamp,
        records: &Arc<[Record]>,
        watermark: Option<Timestamp>,
    ) -> Result<(), Trouble> {
        let targets = match self.with(|state| state.targets.clone()) {
            Some(targets) => targets,
            None => Targets::open(ctx.config()).map_err(|error| Trouble::new(error.to_string()))?,
        };
        let underway = self.with(|state| {
            state.targets.get_or_insert_with(|| targets.clone());
            state.underway
        });
        let mut taken =
            underway.filter(|(of, _)| *of == began_at).map(|(_, taken)| taken).unwrap_or_default();
        let handed = targets.hand_over(records, watermark, &mut taken).await;
        self.with(|state| state.underway = Some((began_at, taken)));
        handed
    }

    /// Records the trouble, and waits.
    async fn wait(&self, ctx: &QueryContext<Postgres<UnitOfWork>>, trouble: Trouble) -> Failure {
        let failures = self.with(|state| {
            state.failures = state.failures.saturating_add(1);
            state.failures
        });
        let noted = progress::note_trouble(ctx.pool(), &trouble.cause, clock::now());
        if let Err(failure) = ctx.unit(noted).await {
            warn!(%failure, "the failure of the export could not be recorded");
        }
        let delay = retry_delay(failures, trouble.retry_after, ctx.config().retry_max);
        tokio::time::sleep(delay).await;
        Failure::Unavailable(trouble.cause)
    }

    fn is_well(&self) -> bool {
        self.with(|state| state.failures == 0)
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
