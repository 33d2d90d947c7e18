//! Loads and saves the organizers of concerts, and the accounts that can become organizers.

use std::collections::{BTreeMap, BTreeSet};

use events::{
    ConcertId, Timestamp, UserId,
    concert::{Actor, Organizer},
    user::Role,
};
use mesh::postgres::{Rows, column, unknown};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::domain::Organizers;

/// What the events say of an account. They come in any order, and neither is ever undone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// It has the role `organizer`.
    pub(crate) is_organizer: bool,
    /// It was closed.
    pub(crate) is_gone: bool,
}

/// What the handlers need to know of a concert.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Entered {
    pub(crate) title: String,
    pub(crate) organizers: Organizers,
}

/// The actor in two columns: the account and its role.
pub(crate) fn actor(by: Option<Uuid>, role: Option<String>) -> sqlx::Result<Option<Actor>> {
    let (Some(by), Some(role)) = (by, role) else { return Ok(None) };
    let role = match role.as_str() {
        "organizer" => Role::Organizer,
        "operator" => Role::Operator,
        other => return Err(unknown("actor role", other)),
    };
    Ok(Some(Actor { user_id: UserId(by), role }))
}

/// A role as it is stored.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Fan => "fan",
        Role::Organizer => "organizer",
        Role::Operator => "operator",
    }
}

/// Loads and locks accounts.
pub(crate) async fn accounts(
    wanted: &BTreeSet<UserId>,
    tx: &mut PgConnection,
) -> sqlx::Result<Rows<UserId, Account>> {
    if wanted.is_empty() {
        return Ok(Rows::default());
    }
    let rows: Vec<(Uuid, bool, bool)> = sqlx::query_as(
        "select user_id, is_organizer, is_gone from accounts where user_id = any($1)
         order by user_id for update",
    )
    .bind(wanted.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    let account = |(id, is_organizer, is_gone)| (UserId(id), Account { is_organizer, is_gone });
    Ok(rows.into_iter().map(account).collect())
}

/// The concerts that these accounts are organizers of.
pub(crate) async fn concerts_of(
    users: &BTreeSet<UserId>,
    tx: &mut PgConnection,
) -> sqlx::Result<Vec<ConcertId>> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "select distinct concert_id from concert_organizers where user_id = any($1)",
    )
    .bind(users.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    Ok(ids.into_iter().map(ConcertId).collect())
}

/// Loads concerts with their organizers. When organizers may change, the concerts are locked
/// first; the organizers are read by a later statement.
pub(crate) async fn concerts(
    wanted: &BTreeSet<ConcertId>,
    may_change: bool,
    tx: &mut PgConnection,
) -> sqlx::Result<Rows<ConcertId, Entered>> {
    let wanted: Vec<Uuid> = wanted.iter().map(|id| id.0).collect();
    if wanted.is_empty() {
        return Ok(Rows::default());
    }
    let statement = match may_change {
        false => "select concert_id, title from concerts where concert_id = any($1)",
        true => {
            "select concert_id, title from concerts where concert_id = any($1)
             order by concert_id for no key update"
        }
    };
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as(statement).bind(&wanted).fetch_all(&mut *tx).await?;
    let entered = |(id, title)| (ConcertId(id), Entered { title, ..Entered::default() });
    let mut concerts: BTreeMap<_, _> = rows.into_iter().map(entered).collect();
    let rows = sqlx::query("select * from concert_organizers where concert_id = any($1)")
        .bind(wanted)
        .fetch_all(tx)
        .await?;
    for row in rows {
        let organizer = Organizer {
            user_id: UserId(row.try_get("user_id")?),
            since: Timestamp(row.try_get("since")?),
            added_by: actor(row.try_get("added_by")?, row.try_get("added_as")?)?,
        };
        if let Some(concert) = concerts.get_mut(&ConcertId(row.try_get("concert_id")?)) {
            concert.organizers.insert(organizer.user_id, organizer);
        }
    }
    Ok(concerts.into_iter().collect())
}

/// Saves changed accounts.
pub(crate) async fn save_accounts(
    dirty: &[(&UserId, &Account)],
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    if dirty.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into accounts (user_id, is_organizer, is_gone)
         select * from unnest($1::uuid[], $2::bool[], $3::bool[])
         on conflict (user_id) do update set
             is_organizer = accounts.is_organizer or excluded.is_organizer,
             is_gone = accounts.is_gone or excluded.is_gone",
    )
    .bind(column(dirty, |(id, _)| id.0))
    .bind(column(dirty, |(_, account)| account.is_organizer))
    .bind(column(dirty, |(_, account)| account.is_gone))
    .execute(tx)
    .await?;
    Ok(())
}

/// Saves the organizers of concerts. Each concert's row is locked, except one that this very
/// batch inserts.
pub(crate) async fn save(
    dirty: &[(&ConcertId, &Entered)],
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    if dirty.is_empty() {
        return Ok(());
    }
    let rows: Vec<(ConcertId, &Organizer)> = dirty
        .iter()
        .flat_map(|(id, entered)| entered.organizers.values().map(|organizer| (**id, organizer)))
        .collect();
    let (concerts, users) = (column(&rows, |row| row.0.0), column(&rows, |row| row.1.user_id.0));
    sqlx::query(
        "delete from concert_organizers as o
         where concert_id = any($1) and not exists (
             select from unnest($2::uuid[], $3::uuid[]) as k (concert_id, user_id)
             where k.concert_id = o.concert_id and k.user_id = o.user_id)",
    )
    .bind(column(dirty, |(id, _)| id.0))
    .bind(&concerts)
    .bind(&users)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into concert_organizers (concert_id, user_id, since, added_by, added_as)
         select * from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::uuid[], $5::text[])
         on conflict do nothing",
    )
    .bind(concerts)
    .bind(users)
    .bind(column(&rows, |row| row.1.since.0))
    .bind(column(&rows, |row| row.1.added_by.map(|by| by.user_id.0)))
    .bind(column(&rows, |row| row.1.added_by.map(|by| role_name(by.role))))
    .execute(tx)
    .await?;
    Ok(())
}
