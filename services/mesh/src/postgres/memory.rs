//! What a service has taken in (inbox) and answered (idempotency keys).

use std::collections::{HashMap, HashSet};

use events::{Problem, codes};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    engine::Failure,
    work::{Answered, Meta, Outcome, Work},
};

/// Claims the messages of a batch; what is returned was never taken in before.
///
/// Two batches that claim the same id at once: the second waits for the first to commit and
/// then finds it taken; when that takes long, its `lock_timeout` lets it try again alone.
/// Ids are sorted, so that two such batches cannot deadlock.
pub(super) async fn claim<D>(
    tx: &mut PgConnection,
    batch: &[Work<D>],
) -> Result<HashSet<Uuid>, Failure> {
    let mut ids: Vec<Uuid> =
        batch.iter().filter_map(|work| work.delivery().map(|delivery| delivery.id)).collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    ids.sort_unstable();
    ids.dedup();
    let claimed: Vec<Uuid> = sqlx::query_scalar(
        "insert into mesh.inbox (message_id) select unnest($1::uuid[])
         on conflict do nothing returning message_id",
    )
    .bind(ids)
    .fetch_all(tx)
    .await?;
    Ok(claimed.into_iter().collect())
}

/// An answer under an `Idempotency-Key`.
struct Stored {
    body: [u8; 32],
    answered: Answered,
    is_new: bool,
}

/// The answers under the keys of one batch, by scope.
#[derive(Default)]
pub(super) struct Answers(HashMap<[u8; 32], Stored>);

impl Answers {
    /// Whether there is an answer under the command's key.
    pub(super) fn knows(&self, meta: &Meta) -> bool {
        meta.idempotency.as_ref().is_some_and(|key| self.0.contains_key(&key.scope))
    }

    /// The answer to the same request, if it is the same.
    pub(super) fn stored(&self, meta: &Meta) -> Option<Answered> {
        let key = meta.idempotency.as_ref()?;
        let stored = self.0.get(&key.scope)?;
        (stored.body == key.body).then(|| stored.answered.clone())
    }

    /// Notes what a command was granted.
    pub(super) fn given(&mut self, meta: &Meta, answered: &Answered) {
        if let Some(key) = &meta.idempotency {
            let stored = Stored { body: key.body, answered: answered.clone(), is_new: true };
            self.0.insert(key.scope, stored);
        }
    }
}

/// A row of `mesh.answers`: scope, body, status, answer.
type AnswerRow = (Vec<u8>, Vec<u8>, i16, Vec<u8>);

/// Loads the answers under the keys of commands.
pub(super) async fn answers<'a, D: 'a>(
    tx: &mut PgConnection,
    batch: impl Iterator<Item = &'a Work<D>>,
) -> Result<Answers, Failure> {
    let scopes: Vec<&[u8]> = batch
        .flat_map(|work| &work.entries)
        .filter_map(|entry| entry.meta.idempotency.as_ref().map(|key| &key.scope[..]))
        .collect();
    if scopes.is_empty() {
        return Ok(Answers::default());
    }
    let rows: Vec<AnswerRow> = sqlx::query_as(
        "select scope, body, status, answer from mesh.answers where scope = any($1)",
    )
    .bind(scopes)
    .fetch_all(tx)
    .await?;
    let mut answers = Answers::default();
    for (scope, body, status, answer) in rows {
        let (Ok(scope), Ok(body)) = (scope.try_into(), body.try_into()) else { continue };
        let status = u16::try_from(status).unwrap_or(200);
        let answered = Answered { status, body: answer.into() };
        answers.0.insert(scope, Stored { body, answered, is_new: false });
    }
    Ok(answers)
}

/// Keeps the answers given in this batch.
///
/// The same key in two batches at once: both find no answer and both grant; the second to
/// commit conflicts here, is rolled back as a whole, and finds the answer when run again.
pub(super) async fn remember(tx: &mut PgConnection, answers: &Answers) -> Result<(), Failure> {
    let mut new: Vec<_> = answers.0.iter().filter(|(_, stored)| stored.is_new).collect();
    if new.is_empty() {
        return Ok(());
    }
    new.sort_unstable_by_key(|(scope, _)| **scope);
    let kept = sqlx::query(
        "insert into mesh.answers (scope, body, status, answer)
         select * from unnest($1::bytea[], $2::bytea[], $3::smallint[], $4::bytea[])
         on conflict do nothing",
    )
    .bind(new.iter().map(|(scope, _)| &scope[..]).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, stored)| &stored.body[..]).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, stored)| stored.answered.status as i16).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, stored)| &stored.answered.body[..]).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    if kept.rows_affected() < new.len() as u64 {
        return Err(Failure::Contended("it used the same key".into()));
    }
    Ok(())
}

/// What a message or command that was seen before is answered.
pub(super) fn stored<D>(work: &Work<D>, answers: &Answers) -> Outcome {
    if work.delivery().is_some() {
        return Outcome::Repeat;
    }
    let known = work.entries.first().and_then(|entry| answers.stored(&entry.meta));
    Outcome::Done(known.unwrap_or_else(|| {
        Answered::refused(&Problem::new(
            codes::IDEMPOTENCY_KEY_REUSED,
            "Use a new key for a new request.",
        ))
    }))
}

/// The same key in two batches at once, where the first to commit is the very reason why the
/// second is refused (seats held, a payment running): the key's answer is there now, and it
/// is what the second is answered too.
pub(super) async fn look_again<D>(
    tx: &mut PgConnection,
    batch: &[Work<D>],
    outcomes: &mut [Outcome],
) -> Result<(), Failure> {
    let refused = |(work, outcome): &(&Work<D>, &mut Outcome)| {
        work.delivery().is_none()
            && matches!(outcome, Outcome::Done(answered) if !answered.is_granted())
    };
    let again: Vec<_> = batch.iter().zip(outcomes).filter(refused).collect();
    let known = answers(tx, again.iter().map(|(work, _)| *work)).await?;
    for (work, outcome) in again {
        if work.entries.iter().any(|entry| known.knows(&entry.meta)) {
            *outcome = stored(work, &known);
        }
    }
    Ok(())
}
