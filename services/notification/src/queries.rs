//! The queries of fans: where their messages go, and which messages there were; and the command
//! that sets where they go.

use events::{
    Page, Problem, Timestamp,
    notification::{Contact, FindMessages, GetContact, Locale, Message, SetContact},
};
use mesh::{
    Meta, QueryContext,
    page::Cut,
    postgres::{Postgres, read_failed},
};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    UnitOfWork, domain,
    handlers::KeepContact,
    unit_of_work::named,
    words::{Details, Show, words},
};

/// Sets where the caller's messages go.
pub(crate) async fn set_contact(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    command: SetContact,
    meta: Meta,
) -> Result<Contact, Problem> {
    let user_id = meta.caller.user_id()?;
    let SetContact { phone, locale } = command;
    let phone = phone.map(|typed| domain::phone(&typed, locale)).transpose()?;
    ctx.decide(KeepContact { phone: phone.clone(), locale }, &meta).await?;
    Ok(Contact { user_id, phone, locale })
}

/// Where the caller's messages go.
pub(crate) async fn contact(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    _: GetContact,
    meta: Meta,
) -> Result<Contact, Problem> {
    let user_id = meta.caller.user_id()?;
    let row: Option<(Option<String>, String)> =
        sqlx::query_as("select phone, locale from contacts where user_id = $1")
            .bind(user_id.0)
            .fetch_optional(ctx.pool())
            .await
            .map_err(read_failed)?;
    let (phone, locale) = match row {
        Some((phone, locale)) => (phone, named(&locale).map_err(read_failed)?),
        None => (None, Locale::default()),
    };
    Ok(Contact { user_id, phone, locale })
}

mesh::row! {
    struct MessageRow {
        listed_id: Uuid,
        id: Uuid,
        subject_id: Uuid,
        kind: String,
        state: String,
        channel: Option<String>,
        details: Json<Details>,
        locale: String,
        show: Option<Json<Show>>,
        attempts: i32,
        created_at: OffsetDateTime,
        ended_at: Option<OffsetDateTime>,
    }
}

/// The caller's messages, newest first. A pending message is shown as it would be sent now.
pub(crate) async fn messages(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    command: FindMessages,
    meta: Meta,
) -> Result<Page<Message>, Problem> {
    let user_id = meta.caller.user_id()?;
    let cut = Cut::new(command.cursor.as_deref(), command.limit)?;
    let rows: Vec<MessageRow> = sqlx::query_as(
        "select m.listed_id, m.id, m.subject_id, m.kind, m.state, m.channel, m.details,
             coalesce(m.locale, c.locale, 'en') as locale,
             nullif(coalesce(m.show, case when s.schedule_id is not null then jsonb_build_object(
                 'title', s.title, 'venue', s.venue, 'starts_at', s.starts_at) end),
                 'null'::jsonb) as show,
             m.attempts, m.created_at, m.ended_at
         from messages m
         left join contacts c on c.user_id = m.user_id
         left join schedules s on s.schedule_id = m.schedule_id
         where m.user_id = $1 and m.listed_id < $2
         order by m.listed_id desc limit $3",
    )
    .bind(user_id.0)
    .bind(cut.before)
    .bind(cut.rows())
    .fetch_all(ctx.pool())
    .await
    .map_err(read_failed)?;
    let page = cut.page(rows, |row| row.listed_id);
    let items = page.items.into_iter().map(MessageRow::into_message);
    let items = items.collect::<sqlx::Result<Vec<_>>>().map_err(read_failed)?;
    Ok(Page { items, next_cursor: page.next_cursor })
}

impl MessageRow {
    fn into_message(self) -> sqlx::Result<Message> {
        let (kind, locale) = (named(&self.kind)?, named(&self.locale)?);
        let text = words(kind, locale, &self.details, self.show.as_deref()).text;
        let channel = self.channel.as_deref().map(named).transpose()?;
        Ok(Message {
            message_id: self.id,
            subject_id: self.subject_id,
            kind,
            state: named(&self.state)?,
            sent_at: channel.and(self.ended_at).map(Timestamp),
            channel,
            text,
            attempts: self.attempts.cast_unsigned(),
            created_at: Timestamp(self.created_at),
        })
    }
}
