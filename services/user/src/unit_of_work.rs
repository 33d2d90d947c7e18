//! The accounts, sessions, strikes and withdrawals that one batch touches.

#[cfg(feature = "sim")]
pub(crate) mod in_memory;
mod withdrawals;

use std::collections::BTreeSet;

use events::{
    AttemptId, Timestamp, UserId,
    user::{Role, WithdrawalState},
};
use mesh::postgres::{Rows, column, unknown};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Config,
    domain::{Account, Email, RefreshToken, Secret, State, Strikes},
    inside::Digest,
    withdrawal::Withdrawal,
};

pub use withdrawals::{COLUMNS as WITHDRAWAL_COLUMNS, WithdrawalRow};

/// Rows of each table that one [`crate::inside::Tidy`] deletes at most.
const TIDY_ROWS: i64 = 10_000;

/// The keys of what a batch loads.
#[derive(Debug, Default)]
pub struct Keys {
    /// Accounts by id.
    pub users: BTreeSet<UserId>,
    /// Accounts by address.
    pub emails: BTreeSet<Email>,
    /// Users whose running or successful attempt to close the account is loaded.
    pub leaving: BTreeSet<UserId>,
    /// Attempts to close an account, by id.
    pub attempts: BTreeSet<AttemptId>,
    /// Refresh tokens, with the accounts they belong to.
    pub tokens: BTreeSet<Digest>,
    /// Failed log-ins by address.
    pub strikes: BTreeSet<Digest>,
}

/// The state of this service that one batch touches.
#[derive(Debug, Default)]
pub struct UnitOfWork {
    /// Accounts.
    pub accounts: Rows<UserId, Account>,
    /// Refresh tokens by hash.
    pub tokens: Rows<Digest, RefreshToken>,
    /// Failed log-ins by the hash of the address.
    pub strikes: Rows<Digest, Strikes>,
    /// Attempts to close accounts.
    pub withdrawals: Rows<AttemptId, Withdrawal>,
    /// Families of tokens whose sessions end.
    pub ended_families: BTreeSet<Uuid>,
    /// Accounts that lose all their sessions.
    pub logged_out: BTreeSet<UserId>,
    /// Granted wishes, by address.
    pub granted: BTreeSet<String>,
    /// Set to delete expired rows.
    pub tidy: Option<Tidying>,
}

/// What a [`crate::inside::Tidy`] deletes.
#[derive(Debug, Clone, Copy)]
pub struct Tidying {
    /// The current time; refresh tokens that have expired by then are deleted.
    pub now: Timestamp,
    /// Strikes before this do not count any more.
    pub strikes_before: Timestamp,
}

impl UnitOfWork {
    /// The account of this address.
    pub fn by_email(&self, email: &Email) -> Option<&Account> {
        self.accounts.values().find(|account| account.email() == Some(email))
    }

    /// The attempt of this user that is running, or that has closed the account.
    pub fn standing_withdrawal(&self, user_id: UserId) -> Option<&Withdrawal> {
        let stands = |attempt: &&Withdrawal| {
            attempt.user_id == user_id && attempt.state != WithdrawalState::Refused
        };
        self.withdrawals.values().find(stands)
    }
}

impl mesh::UnitOfWork for UnitOfWork {
    type Keys = Keys;
    type Config = Config;
    const KEY: &'static str = "user_id";

    /// Accounts are locked first, in order, and guard all that belongs to them: a batch that
    /// changes a token holds the lock of its account.
    async fn load(keys: Keys, tx: &mut PgConnection) -> sqlx::Result<Self> {
        Ok(Self {
            accounts: accounts(&keys, tx).await?,
            tokens: tokens(&keys, tx).await?,
            strikes: strikes(&keys, tx).await?,
            withdrawals: withdrawals::load(&keys.attempts, &keys.leaving, tx).await?,
            ..Self::default()
        })
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        self.save_accounts(tx).await?;
        self.save_tokens(tx).await?;
        self.save_strikes(tx).await?;
        withdrawals::save(&self.withdrawals.dirty(), tx).await?;
        if !self.granted.is_empty() {
            let emails: Vec<String> = self.granted.into_iter().collect();
            sqlx::query("delete from account_wishes where email = any($1)")
                .bind(emails)
                .execute(&mut *tx)
                .await?;
        }
        match self.tidy {
            Some(tidying) => tidy(tidying, tx).await,
            None => Ok(()),
        }
    }
}

async fn accounts(keys: &Keys, tx: &mut PgConnection) -> sqlx::Result<Rows<UserId, Account>> {
    if keys.users.is_empty() && keys.emails.is_empty() && keys.tokens.is_empty() {
        return Ok(Rows::default());
    }
    let rows: Vec<AccountRow> = sqlx::query_as(
        "select user_id, email, password_hash, roles, created_at, withdrawn_at from accounts
         where user_id in (
             select unnest($1::uuid[])
             union select user_id from accounts where email = any($2)
             union select user_id from refresh_tokens where token_hash = any($3)
         )
         order by user_id for update",
    )
    .bind(keys.users.iter().map(|id| id.0).collect::<Vec<_>>())
    .bind(keys.emails.iter().map(Email::as_str).collect::<Vec<_>>())
    .bind(keys.tokens.iter().map(|hash| &hash[..]).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|AccountRow(account)| (account.user_id, account)).collect())
}

type TokenColumns = (Vec<u8>, Uuid, Uuid, OffsetDateTime, Option<OffsetDateTime>);

async fn tokens(keys: &Keys, tx: &mut PgConnection) -> sqlx::Result<Rows<Digest, RefreshToken>> {
    if keys.tokens.is_empty() {
        return Ok(Rows::default());
    }
    let rows: Vec<TokenColumns> = sqlx::query_as(
        "select token_hash, user_id, family_id, expires_at, used_at from refresh_tokens
         where token_hash = any($1) order by token_hash for update",
    )
    .bind(keys.tokens.iter().map(|hash| &hash[..]).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|(hash, user_id, family_id, expires_at, used_at)| {
            let token = RefreshToken {
                user_id: UserId(user_id),
                family_id,
                expires_at: expires_at.into(),
                used_at: used_at.map(Timestamp::from),
            };
            Ok((digest(hash)?, token))
        })
        .collect()
}

/// Inserts each missing row before it locks it. Of two batches with the first strikes of an
/// address at once, the second waits here for the first, and then counts on from it.
async fn strikes(keys: &Keys, tx: &mut PgConnection) -> sqlx::Result<Rows<Digest, Strikes>> {
    if keys.strikes.is_empty() {
        return Ok(Rows::default());
    }
    let hashes: Vec<&[u8]> = keys.strikes.iter().map(|hash| &hash[..]).collect();
    sqlx::query(
        "insert into log_in_failures (email_hash, failed_at, last_at)
         select email_hash, '{}', 'epoch' from unnest($1::bytea[]) as row (email_hash)
         order by email_hash on conflict do nothing",
    )
    .bind(&hashes)
    .execute(&mut *tx)
    .await?;
    let rows: Vec<(Vec<u8>, Vec<OffsetDateTime>)> = sqlx::query_as(
        "select email_hash, failed_at from log_in_failures
         where email_hash = any($1) order by email_hash for update",
    )
    .bind(&hashes)
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|(hash, at)| {
            Ok((digest(hash)?, Strikes(at.into_iter().map(Timestamp::from).collect())))
        })
        .collect()
}

impl UnitOfWork {
    async fn save_accounts(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let dirty = self.accounts.dirty();
        if dirty.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into accounts
                 (user_id, email, password_hash, roles, state, created_at, withdrawn_at)
             select user_id, email, password_hash, string_to_array(roles, ','),
                    case when withdrawn_at is null then 'active' else 'withdrawn' end,
                    created_at, withdrawn_at
             from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[],
                         $6::timestamptz[])
                 as row (user_id, email, password_hash, roles, created_at, withdrawn_at)
             on conflict (user_id) do update set
                 email = excluded.email, password_hash = excluded.password_hash,
                 roles = excluded.roles, state = excluded.state,
                 withdrawn_at = excluded.withdrawn_at",
        )
        .bind(column(&dirty, |(id, _)| id.0))
        .bind(column(&dirty, |(_, account)| account.email().map(Email::as_str)))
        .bind(column(&dirty, |(_, account)| hash_in(&account.state)))
        .bind(column(&dirty, |(_, account)| role_names(&account.roles).join(",")))
        .bind(column(&dirty, |(_, account)| account.created_at.0))
        .bind(column(&dirty, |(_, account)| withdrawn_in(&account.state)))
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn save_tokens(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let dirty = self.tokens.dirty();
        if !dirty.is_empty() {
            sqlx::query(
                "insert into refresh_tokens (token_hash, user_id, family_id, expires_at, used_at)
                 select * from unnest($1::bytea[], $2::uuid[], $3::uuid[], $4::timestamptz[],
                                      $5::timestamptz[])
                 on conflict (token_hash) do update set used_at = excluded.used_at",
            )
            .bind(column(&dirty, |(hash, _)| &hash[..]))
            .bind(column(&dirty, |(_, token)| token.user_id.0))
            .bind(column(&dirty, |(_, token)| token.family_id))
            .bind(column(&dirty, |(_, token)| token.expires_at.0))
            .bind(column(&dirty, |(_, token)| token.used_at.map(|at| at.0)))
            .execute(&mut *tx)
            .await?;
        }
        // After the insert, so that a session which this batch opens and ends does not stay.
        if !self.ended_families.is_empty() || !self.logged_out.is_empty() {
            sqlx::query(
                "delete from refresh_tokens where family_id = any($1) or user_id = any($2)",
            )
            .bind(self.ended_families.iter().copied().collect::<Vec<_>>())
            .bind(self.logged_out.iter().map(|id| id.0).collect::<Vec<_>>())
            .execute(tx)
            .await?;
        }
        Ok(())
    }

    /// A row without strikes stays, empty, until [`tidy`] deletes it.
    async fn save_strikes(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let dirty = self.strikes.dirty();
        if dirty.is_empty() {
            return Ok(());
        }
        let listed = |strikes: &Strikes| {
            strikes.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        let last =
            |strikes: &Strikes| strikes.0.last().map_or(OffsetDateTime::UNIX_EPOCH, |at| at.0);
        sqlx::query(
            "insert into log_in_failures (email_hash, failed_at, last_at)
             select email_hash, string_to_array(failed_at, ',')::timestamptz[], last_at
             from unnest($1::bytea[], $2::text[], $3::timestamptz[])
                 as row (email_hash, failed_at, last_at)
             on conflict (email_hash) do update set
                 failed_at = excluded.failed_at, last_at = excluded.last_at",
        )
        .bind(column(&dirty, |(hash, _)| &hash[..]))
        .bind(column(&dirty, |(_, strikes)| listed(strikes)))
        .bind(column(&dirty, |(_, strikes)| last(strikes)))
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// Deletes some expired rows of each table; rows that another batch has locked are left for the
/// next time.
async fn tidy(tidying: Tidying, tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query(
        "delete from refresh_tokens where token_hash in (
             select token_hash from refresh_tokens where expires_at <= $1
             order by expires_at limit $2 for update skip locked)",
    )
    .bind(tidying.now.0)
    .bind(TIDY_ROWS)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "delete from log_in_failures where email_hash in (
             select email_hash from log_in_failures where last_at <= $1
             order by last_at limit $2 for update skip locked)",
    )
    .bind(tidying.strikes_before.0)
    .bind(TIDY_ROWS)
    .execute(tx)
    .await?;
    Ok(())
}

/// An account as a row.
pub struct AccountRow(pub Account);

impl FromRow<'_, PgRow> for AccountRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let email: Option<String> = row.try_get("email")?;
        let password_hash: Option<String> = row.try_get("password_hash")?;
        let withdrawn_at: Option<OffsetDateTime> = row.try_get("withdrawn_at")?;
        let state = match (email, password_hash, withdrawn_at) {
            (_, _, Some(at)) => State::Withdrawn { at: at.into() },
            (Some(email), Some(hash), None) => {
                State::Active { email: Email::stored(email), password_hash: Secret(hash) }
            }
            _ => return Err(sqlx::Error::Decode("an open account without an address".into())),
        };
        Ok(Self(Account {
            user_id: UserId(row.try_get("user_id")?),
            roles: roles(row.try_get("roles")?)?,
            created_at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
            state,
        }))
    }
}

fn hash_in(state: &State) -> Option<&str> {
    match state {
        State::Active { password_hash, .. } => Some(&password_hash.0),
        State::Withdrawn { .. } => None,
    }
}

fn withdrawn_in(state: &State) -> Option<OffsetDateTime> {
    match state {
        State::Active { .. } => None,
        State::Withdrawn { at } => Some(at.0),
    }
}

/// The names of roles as they are stored.
pub fn role_names(roles: &BTreeSet<Role>) -> Vec<&'static str> {
    let name = |role: &Role| match role {
        Role::Fan => "fan",
        Role::Organizer => "organizer",
        Role::Operator => "operator",
    };
    roles.iter().map(name).collect()
}

/// The roles for stored names.
pub fn roles(names: Vec<String>) -> sqlx::Result<BTreeSet<Role>> {
    let role = |name: String| match name.as_str() {
        "fan" => Ok(Role::Fan),
        "organizer" => Ok(Role::Organizer),
        "operator" => Ok(Role::Operator),
        other => Err(unknown("role", other)),
    };
    names.into_iter().map(role).collect()
}

fn digest(bytes: Vec<u8>) -> sqlx::Result<Digest> {
    bytes.try_into().map_err(|_| sqlx::Error::Decode("a hash of another length".into()))
}
