//! Everything that is told, taken in: facts and sagas in one transaction, then the auditor.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use events::{
    Timestamp,
    audit::{ReportViolation, Violation},
};
use mesh::{
    Meta, QueryContext, Read,
    engine::Failure,
    postgres::{Postgres, partitions},
};
use sqlx::PgPool;
use time::{Date, Duration};
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    Observed, UnitOfWork, auditor::Auditor, event_table, flows::Flows, forgetting, kept, sagas,
};

/// Violations that are reported at once.
const REPORTS_AT_ONCE: usize = 100;
/// How much later than the streams' ends a deadline is judged: a fact that was told in time
/// is on its way from its outbox for so long at most.
pub(crate) const ON_ITS_WAY_MILLIS: i64 = 250;
/// How often what is too old is looked for.
const FORGET_EVERY_SECS: i64 = 10;

/// What the instance that reads has in memory.
pub(crate) struct Listener {
    /// This instance, as it signs for what it took in.
    instance: Uuid,
    flows: &'static Flows,
    /// Up to when everything that was told is known; `None` before all was read once.
    known: Mutex<Option<Timestamp>>,
    /// Taken out while a read is taken in: there is one at a time.
    memory: Mutex<Memory>,
}

/// What is made anew when it is lost.
#[derive(Default)]
struct Memory {
    auditor: Option<Auditor>,
    /// Found and not reported yet.
    found: Vec<Violation>,
    /// Days that have a partition.
    days: BTreeSet<Date>,
    /// When what is too old was looked for last.
    forgot_at: Option<Timestamp>,
}

impl Listener {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            instance: Uuid::now_v7(),
            flows: Flows::shipped(),
            known: Mutex::default(),
            memory: Mutex::default(),
        })
    }

    /// The time by which deadlines are judged: whatever was told before is known, so what is
    /// missing then has not been told. It stands still while audit itself is behind.
    pub(crate) fn known(&self) -> Option<Timestamp> {
        *self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn set_known(&self, at: Timestamp) {
        *self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(at);
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes in what was read. What fails is tried again with the same facts; those that are
    /// in the database by then are no news, and what was found is still in memory.
    pub(crate) async fn take(
        &self,
        ctx: QueryContext<Postgres<UnitOfWork>>,
        read: Arc<Read>,
    ) -> Result<(), Failure> {
        let mut memory = std::mem::take(&mut *self.memory());
        let taken = self.take_with(&mut memory, &ctx, &read).await;
        *self.memory() = memory;
        taken
    }

    async fn take_with(
        &self,
        memory: &mut Memory,
        ctx: &QueryContext<Postgres<UnitOfWork>>,
        read: &Read,
    ) -> Result<(), Failure> {
        let (pool, keep_days) = (ctx.pool(), ctx.config().keep_days);
        let observed: Vec<Observed> = read.events.iter().filter_map(Observed::of).collect();
        if observed.len() < read.events.len() {
            let strange = read.events.len() - observed.len();
            warn!(events = strange, "facts without the headers that every fact has are left out");
        }
        if !observed.is_empty() || memory.auditor.is_none() {
            self.prepare(memory, pool, &observed, read.began_at, keep_days).await?;
        }
        if !observed.is_empty() {
            let settle = async |tx: &mut _| read.settle(tx).await;
            let new = match ctx.unit(keep(pool, self.flows, observed, settle)).await {
                Ok(new) => new,
                Err(failure) => {
                    // If they are in, they will be no news, and it would never hear them.
                    if matches!(failure, Failure::Uncertain(_)) {
                        memory.auditor = None;
                    }
                    return Err(failure);
                }
            };
            if let Some(auditor) = &mut memory.auditor {
                memory
                    .found
                    .extend(new.iter().flat_map(|observed| auditor.handle(self.flows, observed)));
            }
        }
        if read.is_all {
            let known = read.began_at.plus_millis(-ON_ITS_WAY_MILLIS);
            self.set_known(known);
            if let Some(auditor) = &mut memory.auditor {
                memory.found.extend(auditor.settled(known));
            }
        }
        report(ctx, &mut memory.found).await?;
        let again_at = memory.forgot_at.map(|at| at.plus_secs(FORGET_EVERY_SECS));
        if read.is_all && again_at.is_none_or(|at| at <= read.began_at) {
            let forgotten = forgetting::forget_old(pool, read.began_at, keep_days);
            ctx.unit(async { Ok(forgotten.await?) }).await?;
            memory.forgot_at = Some(read.began_at);
        }
        Ok(())
    }

    /// Makes the days of new facts, and an auditor that has heard all the others.
    async fn prepare(
        &self,
        memory: &mut Memory,
        pool: &PgPool,
        observed: &[Observed],
        now: Timestamp,
        keep_days: u16,
    ) -> Result<(), Failure> {
        make_days(&mut memory.days, pool, observed, now, keep_days).await?;
        if self.is_another_reader(pool).await? {
            memory.auditor = None;
        }
        if memory.auditor.is_none() {
            let (auditor, found) = kept::auditor(pool).await?;
            info!(violations = found.len(), "the auditor has observed all that is kept");
            memory.auditor = Some(auditor);
            memory.found = found;
        }
        Ok(())
    }

    /// Whether another instance took facts in since this one did.
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

/// Makes the partitions of the days of these facts, and of the coming ones.
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
        // A clock that was ahead has left facts of this day in the partition for the rest;
        // there they stay, and the others of the day with them.
        if let Err(error) = partitions::make_day(pool, event_table::TABLE, day).await {
            let refused = Failure::from(error);
            let Failure::Refused(cause) = &refused else { return Err(refused) };
            warn!(%day, cause, "the day has no partition of its own");
        }
        made.insert(day);
    }
    Ok(())
}

/// Keeps facts and makes their sagas hear them, all in one transaction with what `settle`
/// writes; the facts that were new.
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

/// Has everything that was found told, before anything else is read.
async fn report(
    ctx: &QueryContext<Postgres<UnitOfWork>>,
    found: &mut Vec<Violation>,
) -> Result<(), Failure> {
    while !found.is_empty() {
        let some = &found[..found.len().min(REPORTS_AT_ONCE)];
        let emitting = some.iter().map(|violation| {
            let meta = Meta::inside(violation.saga_id);
            let command = ReportViolation { violation: violation.clone() };
            async move { ctx.decide(command, &meta).await }
        });
        futures::future::try_join_all(emitting)
            .await
            .map_err(|problem| Failure::Unavailable(problem.to_string()))?;
        found.drain(..some.len());
    }
    Ok(())
}
