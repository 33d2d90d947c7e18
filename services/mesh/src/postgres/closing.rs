//! The last statement of a batch: what it has taken in, emitted and answered.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{memory::Answers, outbox::LEASE_SECS};
use crate::{engine::Failure, message::Message};

/// What a batch leaves behind beside the service's own rows.
pub(super) struct Closing<'a> {
    /// Messages that are claimed now, in the order of their ids.
    pub(super) claims: &'a [Uuid],
    pub(super) emitted: &'a [Message],
    pub(super) answers: &'a Answers,
}

/// What was found on writing it.
#[derive(Debug, Default)]
pub(super) struct Closed {
    /// How many of the messages were never taken in before.
    pub(super) claimed: usize,
    /// Whether a parked event holds its key. The batch holds its locks by now, so none of its
    /// keys can come to be held behind its back.
    pub(super) has_parked: bool,
}

impl Closing<'_> {
    /// Writes it, if there is anything.
    ///
    /// The same message in two batches at once: the second waits for the first to commit, and
    /// then finds it claimed. The same idempotency key in two batches: both have found no
    /// answer and both have granted; the second conflicts here, is rolled back as a whole, and
    /// finds the answer when run again.
    pub(super) async fn write(&self, tx: &mut PgConnection) -> Result<Closed, Failure> {
        let (emitted, answers) = (self.emitted, self.answers.given_now());
        if self.claims.is_empty() && emitted.is_empty() && answers.is_empty() {
            return Ok(Closed::default());
        }
        let (claimed, kept, has_parked): (i64, i64, bool) = sqlx::query_as(
            "with claimed as (
                 insert into mesh.inbox (message_id) select unnest($1::uuid[])
                 on conflict do nothing returning 1),
             emitted as (
                 insert into mesh.outbox (id, subject, events, body, leased_until)
                 select *, clock_timestamp() + make_interval(secs => $2)
                 from unnest($3::uuid[], $4::text[], $5::integer[], $6::bytea[])),
             kept as (
                 insert into mesh.answers (scope, body, status, answer)
                 select * from unnest($7::bytea[], $8::bytea[], $9::smallint[], $10::bytea[])
                 on conflict do nothing returning 1)
             select (select count(*) from claimed), (select count(*) from kept),
                    exists (select from mesh.parked where ended_at is null and state <> 'early')",
        )
        .bind(self.claims)
        .bind(LEASE_SECS)
        .bind(emitted.iter().map(|message| message.id).collect::<Vec<_>>())
        .bind(emitted.iter().map(|message| message.subject.as_str()).collect::<Vec<_>>())
        .bind(emitted.iter().map(|message| message.events as i32).collect::<Vec<_>>())
        .bind(emitted.iter().map(|message| &message.body[..]).collect::<Vec<_>>())
        .bind(answers.iter().map(|(scope, _)| &scope[..]).collect::<Vec<_>>())
        .bind(answers.iter().map(|(_, stored)| &stored.body[..]).collect::<Vec<_>>())
        .bind(answers.iter().map(|(_, stored)| stored.answered.status as i16).collect::<Vec<_>>())
        .bind(answers.iter().map(|(_, stored)| &stored.answered.body[..]).collect::<Vec<_>>())
        .fetch_one(tx)
        .await?;
        if kept < answers.len() as i64 {
            return Err(Failure::Contended("it used the same key".into()));
        }
        Ok(Closed { claimed: claimed.unsigned_abs() as usize, has_parked })
    }
}
