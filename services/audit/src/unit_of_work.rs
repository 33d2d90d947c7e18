//! The unit of work: the stalls and violations that one batch touches.

use std::collections::{BTreeMap, BTreeSet};

use auditor::timeline::Progress;
use events::audit::{SagaStalled, Violation};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    config::Config,
    sagas::progress,
    stalls::{cross_off, is_awaited, name},
};

/// What the messages of a batch need.
#[derive(Debug, Default)]
pub struct Keys {
    /// Stalls to be reported.
    pub(crate) stalls: Vec<SagaStalled>,
    /// Violations to be reported.
    pub(crate) violations: Vec<Uuid>,
}

/// A stall as it is stored: the saga, the event it should follow, the events awaited.
type StallName = (Uuid, Uuid, String);

fn name_of(stalled: &SagaStalled) -> StallName {
    (stalled.saga_id.0, stalled.after_id.0, name(stalled))
}

/// What was reported before, and what is now.
#[derive(Default)]
pub struct UnitOfWork {
    sagas: BTreeMap<Uuid, Progress>,
    known_stalls: BTreeSet<StallName>,
    known_violations: BTreeSet<Uuid>,
    requested: Vec<SagaStalled>,
    stalls: Vec<SagaStalled>,
    violations: Vec<(Uuid, Violation)>,
}

impl UnitOfWork {
    /// Notes a stall. Returns whether it is new and still true: the awaited event may have come
    /// since the watchdog looked.
    pub(crate) fn note_stall(&mut self, stalled: &SagaStalled) -> bool {
        let is_true =
            self.sagas.get(&stalled.saga_id.0).is_some_and(|saga| is_awaited(saga, stalled));
        let is_new = is_true && self.known_stalls.insert(name_of(stalled));
        if is_new {
            self.stalls.push(stalled.clone());
        }
        is_new
    }

    /// Notes a violation under an id that grows with time. Returns whether it is new.
    pub(crate) fn note_violation(&mut self, found_id: Uuid, violation: &Violation) -> bool {
        let is_new = self.known_violations.insert(violation.violation_id);
        if is_new {
            self.violations.push((found_id, violation.clone()));
        }
        is_new
    }

    async fn load_stalls(&mut self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let ids: Vec<Uuid> = self.requested.iter().map(|stalled| stalled.saga_id.0).collect();
        let known: Vec<StallName> =
            sqlx::query_as("select saga_id, after_id, awaited from stalls where saga_id = any($1)")
                .bind(&ids)
                .fetch_all(&mut *tx)
                .await?;
        self.known_stalls = known.into_iter().collect();
        let sagas: Vec<(Uuid, Vec<u8>)> =
            sqlx::query_as("select saga_id, progress from sagas where saga_id = any($1)")
                .bind(&ids)
                .fetch_all(tx)
                .await?;
        for (id, stored) in sagas {
            self.sagas.insert(id, progress(&stored)?);
        }
        Ok(())
    }

    async fn load_violations(&mut self, ids: &[Uuid], tx: &mut PgConnection) -> sqlx::Result<()> {
        let known: Vec<Uuid> =
            sqlx::query_scalar("select violation_id from violations where violation_id = any($1)")
                .bind(ids)
                .fetch_all(tx)
                .await?;
        self.known_violations = known.into_iter().collect();
        Ok(())
    }

    /// When two batches report the same stall at once, the second one fails here, is retried,
    /// and finds it reported.
    async fn save_stalls(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        if !self.stalls.is_empty() {
            let names: Vec<StallName> = self.stalls.iter().map(name_of).collect();
            sqlx::query(
                "insert into stalls (saga_id, after_id, awaited, due_at)
                 select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[])",
            )
            .bind(names.iter().map(|(saga_id, ..)| *saga_id).collect::<Vec<_>>())
            .bind(names.iter().map(|(_, after_id, _)| *after_id).collect::<Vec<_>>())
            .bind(names.iter().map(|(.., awaited)| awaited.as_str()).collect::<Vec<_>>())
            .bind(self.stalls.iter().map(|stalled| stalled.due_at.0).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
        }
        let looked_at = self.requested.iter().map(|stalled| (stalled.due_at.0, stalled.saga_id.0));
        cross_off(tx, &looked_at.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()).await
    }

    /// The same violation in two batches at once ends as with stalls.
    async fn save_violations(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        if self.violations.is_empty() {
            return Ok(());
        }
        let json = |violation| serde_json::to_vec(violation).expect("violations are plain data");
        sqlx::query(
            "insert into violations (violation_id, found_id, violation)
             select * from unnest($1::uuid[], $2::uuid[], $3::bytea[])",
        )
        .bind(self.violations.iter().map(|(_, v)| v.violation_id).collect::<Vec<_>>())
        .bind(self.violations.iter().map(|(found_id, _)| *found_id).collect::<Vec<_>>())
        .bind(self.violations.iter().map(|(_, v)| json(v)).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }
}

impl mesh::UnitOfWork for UnitOfWork {
    type Keys = Keys;
    type Config = Config;

    async fn load(keys: Keys, tx: &mut PgConnection) -> sqlx::Result<Self> {
        let mut unit = Self { requested: keys.stalls, ..Self::default() };
        if !unit.requested.is_empty() {
            unit.load_stalls(tx).await?;
        }
        if !keys.violations.is_empty() {
            unit.load_violations(&keys.violations, tx).await?;
        }
        Ok(unit)
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        self.save_stalls(tx).await?;
        self.save_violations(tx).await
    }
}
