//! Sending: due messages are leased, sent outside any transaction, and then recorded.
//!
//! A sender that dies while it has messages leased has not recorded them. Their lease runs out,
//! and they are sent again under the same id, by which the provider drops what it has.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use events::{
    ScheduleId, Timestamp, UserId,
    notification::{Locale, MessageKind},
};
use mesh::postgres::Postgres;
use sqlx::{PgPool, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    UnitOfWork,
    domain::{Delivery, Pace},
    handlers::{ACCOUNT_CLOSED, RecordDelivery},
    provider::{Parcel, Round},
    unit_of_work::named,
    words::{Details, Show, words},
};

/// How often due messages are looked for.
pub(crate) const TICK: Duration = Duration::from_millis(400);
/// Messages that one sender leases at most; it bounds the memory that a slow provider can take.
pub(crate) const LEASED_MAX: i64 = 500;
/// How long a sender may take to send and record before another one may try. Far more than a
/// round and its last request need.
const LEASE_SECS: i64 = 30;
/// No request begins later than this in a round: the remaining messages wait for the next one.
const ROUND: Duration = Duration::from_secs(5);
/// How long a message waits for the event about its show. Then it is sent without the title.
const SHOW_WITHIN_SECS: i64 = 10;
/// Why a message without a telephone number has failed.
const NO_PHONE_NUMBER: &str = "no_phone_number";

/// Sends due messages, and returns the commands that record how it went.
pub(crate) async fn send_due(
    engine: Arc<Postgres<UnitOfWork>>,
    now: Timestamp,
) -> sqlx::Result<Vec<RecordDelivery>> {
    let (pool, config) = (engine.pool(), engine.config());
    let closed = match config.provider.fingerprint() {
        Some(fingerprint) => is_closed(pool, fingerprint).await?,
        None => false,
    };
    let leased = lease(pool, now, &config.pace, closed).await?;
    if leased.is_empty() {
        return Ok(Vec::new());
    }
    let (mut deliveries, mut parcels) = (Vec::new(), Vec::new());
    for message in leased {
        match message.unsendable(now, &config.pace, config.provider.needs_phone()) {
            Some(delivery) => deliveries.push((message.id, delivery)),
            None => parcels.push(message.pack()?),
        }
    }
    let round = Round { now, until: Instant::now() + ROUND, within: config.try_within };
    let sent = config.provider.send(parcels, round).await;
    if let Some(fingerprint) = config.provider.fingerprint().filter(|_| sent.gone) {
        tracing::warn!(
            provider = ?config.provider,
            "the endpoint is gone; nothing is sent there until its address or secret changes"
        );
        close(pool, fingerprint, now).await?;
    }
    deliveries.extend(sent.deliveries);
    let record = |(message_id, outcome)| RecordDelivery { message_id, outcome };
    Ok(deliveries.into_iter().map(record).collect())
}

async fn is_closed(pool: &PgPool, fingerprint: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from closed_endpoints where fingerprint = $1)")
        .bind(fingerprint)
        .fetch_one(pool)
        .await
}

/// Records that an endpoint is gone. If this is lost, the answer to its next message repeats it.
async fn close(pool: &PgPool, fingerprint: &str, now: Timestamp) -> sqlx::Result<()> {
    sqlx::query("insert into closed_endpoints values ($1, $2) on conflict do nothing")
        .bind(fingerprint)
        .bind(now.0)
        .execute(pool)
        .await?;
    Ok(())
}

mesh::row! {
    /// A message that this sender has leased.
    pub(crate) struct Leased {
        pub(crate) id: Uuid,
        subject_id: Uuid,
        kind: String,
        user_id: Uuid,
        schedule_id: Uuid,
        details: Json<Details>,
        locale: String,
        show: Option<Json<Show>>,
        receipt: Option<String>,
        last_error: Option<String>,
        leases: i32,
        created_at: OffsetDateTime,
        phone: Option<String>,
        withdrawn: bool,
    }
}

/// Leases due messages, so that no other sender takes them. This is one statement with a commit
/// of its own: nothing is locked while messages are sent. For a closed endpoint, only messages
/// that are too old are taken.
pub(crate) async fn lease(
    pool: &PgPool,
    now: Timestamp,
    pace: &Pace,
    closed: bool,
) -> sqlx::Result<Vec<Leased>> {
    let keep_secs = i64::try_from(pace.keep.as_secs()).unwrap_or(i64::MAX / 4);
    sqlx::query_as(
        "with due as materialized (
             select m.id from messages m
             where m.state = 'PENDING' and m.next_at <= $1
               and (m.created_at <= $2
                    or exists (select from schedules s where s.schedule_id = m.schedule_id))
               and (not $3 or m.created_at <= $4)
             order by m.next_at limit $5
             for update of m skip locked)
         update messages m set
             next_at = $6,
             leases = m.leases + 1,
             locale = coalesce(m.locale, c.locale, 'en'),
             show = coalesce(m.show, case when s.schedule_id is null then 'null'::jsonb
                 else jsonb_build_object(
                     'title', s.title, 'venue', s.venue, 'starts_at', s.starts_at) end)
         from due
         join messages d on d.id = due.id
         left join contacts c on c.user_id = d.user_id
         left join schedules s on s.schedule_id = d.schedule_id
         where m.id = due.id
         returning m.id, m.subject_id, m.kind, m.user_id, m.schedule_id, m.details, m.locale,
             nullif(m.show, 'null'::jsonb) as show, m.receipt, m.last_error, m.leases,
             m.created_at, c.phone, coalesce(c.withdrawn, false) as withdrawn",
    )
    .bind(now.0)
    .bind(now.plus_secs(-SHOW_WITHIN_SECS).0)
    .bind(closed)
    .bind(now.plus_secs(-keep_secs.min(SECS_OF_A_CENTURY)).0)
    .bind(LEASED_MAX)
    .bind(now.plus_secs(LEASE_SECS).0)
    .fetch_all(pool)
    .await
}

/// A longer time could leave the calendar.
const SECS_OF_A_CENTURY: i64 = 100 * 366 * 86_400;

impl Leased {
    /// How it ends without being sent, when sending is of no use.
    fn unsendable(&self, now: Timestamp, pace: &Pace, needs_phone: bool) -> Option<Delivery> {
        if self.withdrawn {
            return Some(Delivery::Refused(ACCOUNT_CLOSED.into()));
        }
        if now > pace.deadline(Timestamp(self.created_at)) {
            let last = match (&self.receipt, &self.last_error) {
                (Some(_), _) => "the provider accepted it and never reported the outcome",
                (None, Some(error)) => error,
                (None, None) => "it was never tried",
            };
            return Some(Delivery::Refused(format!("too late to send: {last}")));
        }
        // A message with a receipt was sent before the number was removed.
        let lacks_phone = needs_phone && self.phone.is_none() && self.receipt.is_none();
        lacks_phone.then(|| Delivery::Refused(NO_PHONE_NUMBER.into()))
    }

    fn pack(self) -> sqlx::Result<Parcel> {
        let (kind, locale): (MessageKind, Locale) = (named(&self.kind)?, named(&self.locale)?);
        let show = self.show.as_ref().map(|show| &show.0);
        Ok(Parcel {
            id: self.id,
            subject_id: self.subject_id,
            kind,
            user_id: UserId(self.user_id),
            schedule_id: ScheduleId(self.schedule_id),
            words: words(kind, locale, &self.details, show),
            phone: self.phone,
            locale,
            created_at: Timestamp(self.created_at),
            again: self.leases > 1,
            receipt: self.receipt,
        })
    }
}
