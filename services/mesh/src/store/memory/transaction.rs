//! A transaction in memory: it holds the store's lock until it ends.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use events::UserId;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::{
    Database, InMemory, Kept,
    fuse::Fuse,
    mistakes::{Mistake, Mistakes},
    rows::Row,
};
use crate::{
    batch::{
        answers::KeptAnswer,
        closing::Parking,
        closing::{Closed, Closing},
        transaction::{Transaction, TransactionalStore},
    },
    outbound::message::Message,
    parked::Parked,
    store::engine::Failure,
};

/// A running transaction; its changes are kept aside until the commit.
pub struct Tx<B: InMemory> {
    kept: OwnedMutexGuard<Kept<B>>,
    pub(super) tables: B::Tables,
    before: Option<B::Tables>,
    claimed: HashSet<Uuid>,
    emitted: Vec<Message>,
    answers: Vec<KeptAnswer>,
    parking: Vec<Parked>,
    resolved: Option<(u64, Option<UserId>)>,
    cuts: Arc<AtomicU64>,
    fuse: Arc<Fuse>,
    mistakes: Arc<Mistakes>,
    begun_at: u64,
}

impl<B: InMemory> TransactionalStore for Database<B> {
    type Tx = Tx<B>;

    async fn begin(&self) -> Result<Tx<B>, Failure> {
        let begun_at = self.cuts.load(SeqCst);
        let kept = self.kept.clone().lock_owned().await;
        let tables = kept.tables.clone();
        Ok(Tx {
            kept,
            tables,
            before: None,
            claimed: HashSet::new(),
            emitted: Vec::new(),
            answers: Vec::new(),
            parking: Vec::new(),
            resolved: None,
            cuts: self.cuts.clone(),
            fuse: self.fuse.clone(),
            mistakes: self.mistakes.clone(),
            begun_at,
        })
    }
}

impl<B: InMemory> Transaction for Tx<B> {
    async fn savepoint(&mut self) -> Result<(), Failure> {
        if !self.mistakes.has(Mistake::ForgetsSavepoints) {
            self.before = Some(self.tables.clone());
        }
        Ok(())
    }

    async fn release(&mut self) -> Result<(), Failure> {
        self.before = None;
        Ok(())
    }

    async fn roll_back(&mut self) -> Result<(), Failure> {
        self.tables = self.before.take().unwrap_or_else(|| self.kept.tables.clone());
        Ok(())
    }

    async fn claim(&mut self, ids: Vec<Uuid>) -> Result<HashSet<Uuid>, Failure> {
        let is_new = |id: &Uuid| !self.kept.inbox.contains(id);
        let new: HashSet<Uuid> = ids.into_iter().filter(is_new).collect();
        self.claimed.extend(&new);
        Ok(new)
    }

    async fn answers(&mut self, scopes: Vec<[u8; 32]>) -> Result<Vec<KeptAnswer>, Failure> {
        let answers = &self.kept.answers;
        Ok(scopes.iter().filter_map(|scope| answers.get(scope).cloned()).collect())
    }

    async fn is_any_held(&mut self) -> Result<bool, Failure> {
        Ok(self.kept.parked.is_any_held())
    }

    async fn held(&mut self, keys: Vec<String>) -> Result<HashSet<String>, Failure> {
        if self.mistakes.has(Mistake::IgnoresHeldKeys) {
            return Ok(HashSet::new());
        }
        Ok(keys.into_iter().filter(|key| self.kept.parked.first(key).is_some()).collect())
    }

    async fn close(&mut self, closing: &Closing<'_>) -> Result<Closed, Failure> {
        let claimed = self.claim(closing.claims.to_vec()).await?.len();
        self.emitted.extend_from_slice(closing.emitted);
        for (scope, stored) in closing.answers.given_now() {
            if self.kept.answers.contains_key(scope) {
                return Err(Failure::Contended("it used the same idempotency key".into()));
            }
            let (scope, body, answered) = (*scope, stored.body, stored.answered.clone());
            self.answers.push(KeptAnswer { scope, body, answered });
        }
        Ok(Closed { claimed, has_parked: self.kept.parked.is_any_held() })
    }

    async fn park(&mut self, events: Vec<Parking>) -> Result<Vec<Parked>, Failure> {
        self.parking = self.kept.parked.numbered(events);
        Ok(self.parking.clone())
    }

    async fn lock_parked(&mut self, number: u64) -> Result<bool, Failure> {
        Ok(self.kept.parked.is_open(number))
    }

    async fn resolve(&mut self, parked: &Parked, by: Option<UserId>) -> Result<(), Failure> {
        self.resolved = Some((parked.number, by));
        Ok(())
    }

    async fn commit(mut self) -> Result<(), Failure> {
        if self.cuts.load(SeqCst) != self.begun_at {
            return Err(Failure::Unavailable("the connection was cut off".into()));
        }
        let (now, has) = (crate::clock::now(), |mistake| self.mistakes.has(mistake));
        let kept = &mut *self.kept;
        if has(Mistake::ClaimBeforeCommit) {
            kept.inbox.extend(&self.claimed);
        }
        self.fuse.spend()?;
        kept.tables = self.tables;
        if !has(Mistake::ForgetsMessages) {
            kept.inbox.extend(self.claimed);
        }
        if has(Mistake::ForgetsAnswers) {
            self.answers.clear();
        }
        if has(Mistake::OutboxAfterCommit) {
            self.fuse.spend()?;
        }
        kept.outbox.extend(self.emitted.into_iter().map(|new| (new.id, Row::new(new, now))));
        kept.answers.extend(self.answers.into_iter().map(|answer| (answer.scope, answer)));
        kept.parked.insert(self.parking, now);
        if let Some((number, by)) = self.resolved {
            kept.parked.resolve(number, by, now);
        }
        Ok(())
    }
}
