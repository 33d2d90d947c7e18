//! The unit of work: the contacts and messages that one batch touches.
//!
//! A new message is written without a lookup: its id is made of subject and kind, and the table
//! drops the second message with an id.

use std::collections::{BTreeMap, BTreeSet};

use events::{
    SagaId, ScheduleId, Timestamp, UserId,
    notification::{Channel, Locale, MessageKind},
};
use mesh::postgres::{Rows, column};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{PgConnection, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Config,
    words::{Details, Show},
};

/// What the messages of a batch need.
#[derive(Debug, Default)]
pub struct Keys {
    /// Users whose contact is needed.
    pub(crate) contacts: BTreeSet<Uuid>,
    /// Messages that were tried.
    pub(crate) tried: BTreeSet<Uuid>,
    /// Users all of whose pending messages are needed.
    pub(crate) leaving: BTreeSet<Uuid>,
}

/// Where a fan's messages go.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) phone: Option<String>,
    pub(crate) locale: Locale,
    pub(crate) withdrawn: bool,
}

// A telephone number must not reach any log.
impl std::fmt::Debug for Contact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contact").field("withdrawn", &self.withdrawn).finish_non_exhaustive()
    }
}

/// A message that an event causes.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) id: Uuid,
    pub(crate) subject_id: Uuid,
    pub(crate) kind: MessageKind,
    pub(crate) user_id: UserId,
    pub(crate) schedule_id: ScheduleId,
    pub(crate) listed_id: Uuid,
    pub(crate) saga_id: SagaId,
    pub(crate) cause_id: Option<Uuid>,
    pub(crate) details: Details,
    pub(crate) at: Timestamp,
    /// The span that caused it, for the trace of sending it.
    pub(crate) traceparent: Option<String>,
}

/// How a message ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    Sent(Channel),
    Failed(String),
}

/// A pending message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) subject_id: Uuid,
    pub(crate) kind: MessageKind,
    pub(crate) user_id: UserId,
    pub(crate) schedule_id: ScheduleId,
    pub(crate) saga_id: SagaId,
    pub(crate) cause_id: Option<Uuid>,
    pub(crate) created_at: Timestamp,
    pub(crate) attempts: u32,
    pub(crate) next_at: Timestamp,
    pub(crate) receipt: Option<String>,
    pub(crate) last_error: Option<String>,
    pub(crate) end: Option<(End, Timestamp)>,
    pub(crate) traceparent: Option<String>,
}

/// The contacts and messages that one batch touches.
#[derive(Debug, Default)]
pub struct UnitOfWork {
    contacts: Rows<UserId, Contact>,
    pub(crate) waiting: Rows<Uuid, Waiting>,
    pub(crate) drafts: BTreeMap<Uuid, Draft>,
    pub(crate) shows: BTreeMap<ScheduleId, Show>,
}

impl UnitOfWork {
    /// Where a fan's messages go; the default when the fan has not set it.
    pub(crate) fn contact(&self, user_id: UserId) -> Contact {
        self.contacts.get(&user_id).cloned().unwrap_or_default()
    }

    /// Sets where a fan's messages go from now on.
    pub(crate) fn set_contact(&mut self, user_id: UserId, contact: Contact) {
        self.contacts.put(user_id, contact);
    }

    async fn load_contacts(&mut self, keys: &Keys, tx: &mut PgConnection) -> sqlx::Result<()> {
        if keys.contacts.is_empty() {
            return Ok(());
        }
        let rows: Vec<(Uuid, Option<String>, String, bool)> = sqlx::query_as(
            "select user_id, phone, locale, withdrawn from contacts
             where user_id = any($1) order by user_id for update",
        )
        .bind(keys.contacts.iter().copied().collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
        for (user_id, phone, locale, withdrawn) in rows {
            let contact = Contact { phone, locale: named(&locale)?, withdrawn };
            self.contacts.load(UserId(user_id), contact);
        }
        Ok(())
    }

    /// Loads those messages that are still pending.
    async fn load_waiting(&mut self, keys: &Keys, tx: &mut PgConnection) -> sqlx::Result<()> {
        if keys.tried.is_empty() && keys.leaving.is_empty() {
            return Ok(());
        }
        let rows: Vec<WaitingColumns> = sqlx::query_as(
            "select id, subject_id, kind, user_id, schedule_id, saga_id, cause_id, created_at,
                    attempts, next_at, receipt, last_error, traceparent
             from messages
             where id in (
                     select unnest($1::uuid[])
                     union
                     select id from messages where user_id = any($2) and state = 'PENDING')
               and state = 'PENDING'
             order by id for update",
        )
        .bind(keys.tried.iter().copied().collect::<Vec<_>>())
        .bind(keys.leaving.iter().copied().collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
        for row in rows {
            self.waiting.load(row.id, row.into_waiting()?);
        }
        Ok(())
    }

    /// Two batches that meet here write one after the other, and a withdrawn fan stays withdrawn.
    async fn save_contacts(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let changed = self.contacts.dirty();
        if changed.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into contacts (user_id, phone, locale, withdrawn)
             select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bool[])
             on conflict (user_id) do update set
                 phone = case when not contacts.withdrawn then excluded.phone end,
                 locale = excluded.locale,
                 withdrawn = contacts.withdrawn or excluded.withdrawn",
        )
        .bind(column(&changed, |(id, _)| id.0))
        .bind(column(&changed, |(_, contact)| contact.phone.as_deref()))
        .bind(column(&changed, |(_, contact)| contact.locale.as_str()))
        .bind(column(&changed, |(_, contact)| contact.withdrawn))
        .execute(tx)
        .await?;
        Ok(())
    }

    /// A show is put on sale once, so its first event is the last.
    async fn insert_shows(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        if self.shows.is_empty() {
            return Ok(());
        }
        let shows = &self.shows;
        sqlx::query(
            "insert into schedules (schedule_id, title, venue, starts_at)
             select * from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[])
             on conflict do nothing",
        )
        .bind(shows.keys().map(|id| id.0).collect::<Vec<_>>())
        .bind(shows.values().map(|show| show.title.as_str()).collect::<Vec<_>>())
        .bind(shows.values().map(|show| show.venue.as_str()).collect::<Vec<_>>())
        .bind(shows.values().map(|show| show.starts_at.0).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }

    /// Inserts in the order of ids, so that two batches with the same messages do not deadlock.
    async fn insert_drafts(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        if self.drafts.is_empty() {
            return Ok(());
        }
        let drafts: Vec<&Draft> = self.drafts.values().collect();
        sqlx::query(
            "insert into messages
                 (id, subject_id, kind, user_id, schedule_id, listed_id, saga_id, cause_id,
                  details, state, attempts, created_at, next_at, traceparent)
             select i, s, k, u, sc, l, sa, c, d, 'PENDING', 0, at, at, tp
             from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::uuid[], $6::uuid[],
                         $7::uuid[], $8::uuid[], $9::jsonb[], $10::timestamptz[], $11::text[])
                  as drafted (i, s, k, u, sc, l, sa, c, d, at, tp)
             on conflict do nothing",
        )
        .bind(column(&drafts, |d| d.id))
        .bind(column(&drafts, |d| d.subject_id))
        .bind(column(&drafts, |d| d.kind.as_str()))
        .bind(column(&drafts, |d| d.user_id.0))
        .bind(column(&drafts, |d| d.schedule_id.0))
        .bind(column(&drafts, |d| d.listed_id))
        .bind(column(&drafts, |d| d.saga_id.0))
        .bind(column(&drafts, |d| d.cause_id))
        .bind(column(&drafts, |d| Json(&d.details)))
        .bind(column(&drafts, |d| d.at.0))
        .bind(column(&drafts, |d| d.traceparent.as_deref()))
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn update_waiting(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let changed = self.waiting.changed();
        if changed.is_empty() {
            return Ok(());
        }
        let end = |row: &Waiting| row.end.as_ref().map(|(end, at)| (end.clone(), at.0));
        let state = |row: &Waiting| match end(row) {
            None => "PENDING",
            Some((End::Sent(_), _)) => "SENT",
            Some((End::Failed(_), _)) => "FAILED",
        };
        let channel = |row: &Waiting| match end(row) {
            Some((End::Sent(channel), _)) => Some(channel.as_str()),
            _ => None,
        };
        sqlx::query(
            "update messages m set state = c.state, channel = c.channel, attempts = c.attempts,
                 next_at = c.next_at, receipt = c.receipt, last_error = c.last_error,
                 ended_at = c.ended_at
             from unnest($1::uuid[], $2::text[], $3::text[], $4::int4[], $5::timestamptz[],
                         $6::text[], $7::text[], $8::timestamptz[])
                  as c (id, state, channel, attempts, next_at, receipt, last_error, ended_at)
             where m.id = c.id",
        )
        .bind(column(&changed, |(id, _)| **id))
        .bind(column(&changed, |(_, row)| state(row)))
        .bind(column(&changed, |(_, row)| channel(row)))
        .bind(column(&changed, |(_, row)| row.attempts.cast_signed()))
        .bind(column(&changed, |(_, row)| row.next_at.0))
        .bind(column(&changed, |(_, row)| row.receipt.as_deref()))
        .bind(column(&changed, |(_, row)| row.last_error.as_deref()))
        .bind(column(&changed, |(_, row)| end(row).map(|(_, at)| at)))
        .execute(tx)
        .await?;
        Ok(())
    }
}

impl mesh::UnitOfWork for UnitOfWork {
    type Keys = Keys;
    type Config = Config;

    async fn load(keys: Keys, tx: &mut PgConnection) -> sqlx::Result<Self> {
        let mut unit = Self::default();
        unit.load_contacts(&keys, tx).await?;
        unit.load_waiting(&keys, tx).await?;
        Ok(unit)
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        self.save_contacts(tx).await?;
        self.insert_shows(tx).await?;
        self.insert_drafts(tx).await?;
        self.update_waiting(tx).await
    }
}

mesh::row! {
    struct WaitingColumns {
        id: Uuid,
        subject_id: Uuid,
        kind: String,
        user_id: Uuid,
        schedule_id: Uuid,
        saga_id: Uuid,
        cause_id: Option<Uuid>,
        created_at: OffsetDateTime,
        attempts: i32,
        next_at: OffsetDateTime,
        receipt: Option<String>,
        last_error: Option<String>,
        traceparent: Option<String>,
    }
}

impl WaitingColumns {
    fn into_waiting(self) -> sqlx::Result<Waiting> {
        Ok(Waiting {
            subject_id: self.subject_id,
            kind: named(&self.kind)?,
            user_id: UserId(self.user_id),
            schedule_id: ScheduleId(self.schedule_id),
            saga_id: SagaId(self.saga_id),
            cause_id: self.cause_id,
            created_at: Timestamp(self.created_at),
            attempts: self.attempts.cast_unsigned(),
            next_at: Timestamp(self.next_at),
            receipt: self.receipt,
            last_error: self.last_error,
            end: None,
            traceparent: self.traceparent,
        })
    }
}

/// Decodes a value that is stored under its name on the wire.
pub(crate) fn named<T: DeserializeOwned + Serialize>(name: &str) -> sqlx::Result<T> {
    serde_json::from_value(name.into()).map_err(|error| sqlx::Error::Decode(error.into()))
}
