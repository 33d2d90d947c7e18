//! [`Transaction`] on a service's database.

use std::collections::HashSet;

use events::UserId;
use sqlx::{PgPool, Postgres};
use uuid::Uuid;

use super::{outbox::LEASE_SECS, parked};
use crate::{
    batch::work::Answered,
    batch::{
        answers::KeptAnswer,
        closing::Parking,
        closing::{Closed, Closing},
        transaction::{Transaction, TransactionalStore},
    },
    parked::Parked,
    store::engine::Failure,
};

/// A row of `mesh.answers`: scope, body, status, answer.
type AnswerRow = (Vec<u8>, Vec<u8>, i16, Vec<u8>);

/// A transaction of a service's database.
pub(crate) type Tx = sqlx::Transaction<'static, Postgres>;

impl TransactionalStore for PgPool {
    type Tx = Tx;

    async fn begin(&self) -> Result<Self::Tx, Failure> {
        Ok(PgPool::begin(self).await?)
    }
}

impl Transaction for Tx {
    async fn savepoint(&mut self) -> Result<(), Failure> {
        sqlx::query("savepoint event").execute(&mut **self).await?;
        Ok(())
    }

    async fn release(&mut self) -> Result<(), Failure> {
        sqlx::query("release savepoint event").execute(&mut **self).await?;
        Ok(())
    }

    async fn roll_back(&mut self) -> Result<(), Failure> {
        sqlx::query("rollback to savepoint event").execute(&mut **self).await?;
        Ok(())
    }

    /// If the wait for another batch takes long, the `lock_timeout` fails the batch and its
    /// messages are tried again alone.
    async fn claim(&mut self, ids: Vec<Uuid>) -> Result<HashSet<Uuid>, Failure> {
        let claimed: Vec<Uuid> = sqlx::query_scalar(
            "insert into mesh.inbox (message_id) select unnest($1::uuid[])
             on conflict do nothing returning message_id",
        )
        .bind(ids)
        .fetch_all(&mut **self)
        .await?;
        Ok(claimed.into_iter().collect())
    }

    async fn answers(&mut self, scopes: Vec<[u8; 32]>) -> Result<Vec<KeptAnswer>, Failure> {
        let rows: Vec<AnswerRow> = sqlx::query_as(
            "select scope, body, status, answer from mesh.answers where scope = any($1)",
        )
        .bind(scopes.iter().map(|scope| &scope[..]).collect::<Vec<_>>())
        .fetch_all(&mut **self)
        .await?;
        let kept = |(scope, body, status, answer): AnswerRow| {
            let status = u16::try_from(status).unwrap_or(200);
            Some(KeptAnswer {
                scope: scope.try_into().ok()?,
                body: body.try_into().ok()?,
                answered: Answered { status, body: answer.into() },
            })
        };
        Ok(rows.into_iter().filter_map(kept).collect())
    }

    async fn is_any_held(&mut self) -> Result<bool, Failure> {
        parked::is_any_held(self).await
    }

    async fn held(&mut self, keys: Vec<String>) -> Result<HashSet<String>, Failure> {
        parked::held(self, keys).await
    }

    async fn close(&mut self, closing: &Closing<'_>) -> Result<Closed, Failure> {
        let Closing { claims, emitted, answers } = closing;
        if closing.is_empty() {
            return Ok(Closed::default());
        }
        let answers = answers.given_now();
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
        .bind(claims)
        .bind(LEASE_SECS)
        .bind(emitted.iter().map(|message| message.id).collect::<Vec<_>>())
        .bind(emitted.iter().map(|message| message.subject.as_str()).collect::<Vec<_>>())
        .bind(emitted.iter().map(|message| message.events as i32).collect::<Vec<_>>())
        .bind(emitted.iter().map(|message| &message.body[..]).collect::<Vec<_>>())
        .bind(answers.iter().map(|(scope, _)| &scope[..]).collect::<Vec<_>>())
        .bind(answers.iter().map(|(_, stored)| &stored.body[..]).collect::<Vec<_>>())
        .bind(answers.iter().map(|(_, stored)| stored.answered.status as i16).collect::<Vec<_>>())
        .bind(answers.iter().map(|(_, stored)| &stored.answered.body[..]).collect::<Vec<_>>())
        .fetch_one(&mut **self)
        .await?;
        if kept < answers.len() as i64 {
            return Err(Failure::Contended("it used the same idempotency key".into()));
        }
        Ok(Closed { claimed: claimed.unsigned_abs() as usize, has_parked })
    }

    async fn park(&mut self, events: Vec<Parking>) -> Result<Vec<Parked>, Failure> {
        parked::insert(self, events).await
    }

    async fn lock_parked(&mut self, number: u64) -> Result<bool, Failure> {
        parked::lock(self, number).await
    }

    async fn resolve(&mut self, parked: &Parked, by: Option<UserId>) -> Result<(), Failure> {
        parked::resolve(self, parked, by).await
    }

    async fn commit(self) -> Result<(), Failure> {
        sqlx::Transaction::commit(self).await.map_err(|error| match Failure::from(error) {
            Failure::Unavailable(cause) => Failure::Uncertain(cause),
            refused => refused,
        })
    }
}
