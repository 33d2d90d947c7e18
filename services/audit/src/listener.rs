//! Takes in every event: events and sagas in one transaction, then the auditor.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use auditor::{Auditor, Observed};
use events::{
    Timestamp,
    audit::{ReportViolation, Violation},
};
use flows::Flows;
use mesh::{
    Meta, QueryContext, Read,
    engine::Failure,
    postgres::{Postgres, partitions},
};
use sqlx::PgPool;
use time::{Date, Duration};
use tracing::{info, warn};
use uuid::Uuid;

use crate::{UnitOfWork, event_table, forgetting, kept, observe::observe, sagas};

/// Violations that are reported at once.
const REPORTS_AT_ONCE: usize = 100;
/// How much later than the streams' ends a deadline is judged: an event that was emitted in time
/// takes at most this long from its outbox to its stream.
pub(crate) const ON_ITS_WAY_MILLIS: i64 = 250;
/// How often what is too old is deleted.
const FORGET_EVERY_SECS: i64 = 10;

/// The listener: reads the streams, and keeps in memory what one instance needs for that.
pub(crate) struct Listener {
    /// The id under which this instance signs for what it took in.
    instance: Uuid,
    flows: &'static Flows,
    /// The time up to which every emitted event is known; `None` before all was read once.
    known: Mutex<Option<Timestamp>>,
    /// Taken out while a read is taken in: there is one read at a time.
    state: Mutex<State>,
}

/// State in memory; it is rebuilt when it is lost.
#[derive(Default)]
struct State {
    auditor: Option<Auditor>,
    /// Found and not reported yet.
    found: Vec<Violation>,
    /// Days that have a partition.
    days: BTreeSet<Date>,
    /// When what is too old was last deleted.
    forgot_at: Option<Timestamp>,
}

impl Listener {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            instance: Uuid::now_v7(),
            flows: Flows::shipped(),
            known: Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// The time by which deadlines are judged: every event emitted before is known, so one that
    /// is missing has not been emitted. It stands still while audit itself lags behind.
    pub(crate) fn known(&self) -> Option<Timestamp> {
        *self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn set_known(&self, at: Timestamp) {
        *self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(at);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes in what was read. A failure is retried with the same events; those that are in the
    /// database by then are not new, and what was found is still in memory.
    pub(crate) async fn take(
        &self,
        ctx: QueryContext<Postgres<UnitOfWork>>,
        read: Arc<Read>,
    ) -> Result<(), Failure> {
        let mut state = std::mem::take(&mut *self.state());
        let taken = self.take_with(&mut state, &ctx, &read).await;
        *self.state() = state;
        taken
    }

    async fn take_with(
        &self,
        state: &mut State,
        ctx: &QueryContext<Postgres<UnitOfWork>>,
        read: &Read,
    ) -> Result<(), Failure> {
        let (pool, keep_days) = (ctx.pool(), ctx.config().keep_days);
        let observed: Vec<Observed> = read.events.iter().filter_map(observe).collect();
        if observed.len() < read.events.len() {
            let unreadable = read.events.len() - observed.len();
            warn!(events = unreadable, "events with missing attributes are left out");
        }
        if read.has_moved() || state.auditor.is_none() {
            self.prepare(state, pool, &observed, read.began_at, keep_days).await?;
        }
        if read.has_moved() {
            let settle = async |tx: &mut _| read.settle(tx).await;
            let new = match ctx.unit(keep(pool, self.flows, observed, settle)).await {
                Ok(new) => new,
                Err(failure) => {
                    // If the commit took effect, the retry has no new events, and this auditor
                    // would never see them.
                    if matches!(failure, Failure::Uncertain(_)) {
                        state.auditor = None;
                    }
                    return Err(failure);
                }
            };
            if let Some(auditor) = &mut state.auditor {
                state
                    .found
                    .extend(new.iter().flat_map(|observed| auditor.handle(self.flows, observed)));
            }
        }
        if read.is_all {
            let known = read.began_at.plus_millis(-ON_ITS_WAY_MILLIS);
            self.set_known(known);
            if let Some(auditor) = &mut state.auditor {
                state.found.extend(auditor.settled(known));
            }
        }
        report(ctx, &mut state.found).await?;
        let again_at = state.forgot_at.map(|at| at.plus_secs(FORGET_EVERY_SECS));
        if read.is_all && again_at.is_none_or(|at| at <= read.began_at) {
            let forgotten = forgetting::forget_old(pool, read.began_at, keep_days);
            ctx.unit(async { Ok(forgotten.await?) }).await?;
            state.forgot_at = Some(read.began_at);
        }
        Ok(())
    }

    /// Makes the partitions for new events, and an auditor that has taken in all the others.
    async fn prepare(
        &self,
        state: &mut State,
        pool: &PgPool,
        observed: &[Observed],
        now: Timestamp,
        keep_days: u16,
    ) -> Result<(), Failure> {
        make_days(&mut state.days, pool, observed, now, keep_days).await?;
        if self.is_another_reader(pool).await? {
            state.auditor = None;
        }
        if state.auditor.is_none() {
            let (auditor, found) = kept::auditor(pool).await?;
            info!(violations = found.len(), "the auditor has taken in all kept events");
            state.auditor = Some(auditor);
            state.found = found;
        }
        Ok(())
    }

    /// Whether another instance has taken in events since this one did.
    async fn is_another_reader(&self, pool: &PgPool) -> Result<bool, Failure> {
        let signed = sqlx::query(
            "insert into reader (instance) values ($1)
             on conflict (one) do update set instance = excluded.instance
             where reader.instance <> excluded.instance",
        )
        .bind(self.instance)
        .execute(pool)
        .await?;
        Ok(signed.rows_affected() > 0)
    }
}

/// Makes the partitions of the days of these events, and of the coming days.
async fn make_days(
    made: &mut BTreeSet<Date>,
    pool: &PgPool,
    observed: &[Observed],
    now: Timestamp,
    keep_days: u16,
) -> Result<(), Failure> {
    let coming = (0..=partitions::DAYS_AHEAD).map(|ahead| now.0.date() + Duration::days(ahead));
    let days: BTreeSet<Date> =
        event_table::days_of(observed, now, keep_days).into_iter().chain(coming).collect();
    for day in days {
        if made.contains(&day) {
            continue;
        }
        // A clock that was ahead has put events of this day into the default partition. They
        // stay there, and the other events of the day join them.
        if let Err(error) = partitions::make_day(pool, event_table::TABLE, day).await {
            let refused = Failure::from(error);
            let Failure::Refused(cause) = &refused else { return Err(refused) };
            warn!(%day, cause, "the day has no partition of its own");
        }
        made.insert(day);
    }
    Ok(())
}

/// Stores events and lets their sagas handle them, in one transaction with what `settle` writes.
/// Returns the events that were new.
pub(crate) async fn keep(
    pool: &PgPool,
    flows: &Flows,
    observed: Vec<Observed>,
    settle: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<(), Failure>,
) -> Result<Vec<Observed>, Failure> {
    let mut tx = pool.begin().await?;
    let new = event_table::insert(&mut tx, observed).await?;
    if !new.is_empty() {
        sagas::handle(&mut tx, flows, &new).await?;
    }
    settle(&mut tx).await?;
    tx.commit().await.map_err(|error| Failure::Uncertain(error.to_string()))?;
    Ok(new)
}

/// Reports everything that was found, before anything else is read.
async fn report(
    ctx: &QueryContext<Postgres<UnitOfWork>>,
    found: &mut Vec<Violation>,
) -> Result<(), Failure> {
    while !found.is_empty() {
        let some = &found[..found.len().min(REPORTS_AT_ONCE)];
        let reports = some.iter().map(|violation| {
            let meta = Meta::inside(violation.saga_id);
            let command = ReportViolation { violation: violation.clone() };
            async move { ctx.decide(command, &meta).await }
        });
        futures::future::try_join_all(reports)
            .await
            .map_err(|problem| Failure::Unavailable(problem.to_string()))?;
        found.drain(..some.len());
    }
    Ok(())
}
