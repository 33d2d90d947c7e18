//! The commands and queries that are answered outside a batch, because passwords take long to
//! hash and keys are in memory; and the queries of timers.

use std::{collections::BTreeSet, sync::Arc};

use events::{
    AttemptId, Problem, Timestamp, UserId, codes,
    user::{
        Account as Card, GetWithdrawal, Jwks, LogIn, Refresh, Register, Role, Session,
        Withdrawal as Shown,
    },
};
use mesh::{
    Meta, QueryContext,
    auth::AccessClaims,
    clock,
    postgres::{Postgres, read_failed},
};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Config,
    domain::{self, Account, Email, Secret, State},
    inside::{
        AddAccount, BeginLogIn, GrantWish, OpenSession, RefuseWithdrawal, RotateRefresh, Rotated,
        Tidy,
    },
    ring::unsigned,
    secrets::{digest, refresh_token},
    unit_of_work::{AccountRow, UnitOfWork, WITHDRAWAL_COLUMNS, WithdrawalRow, role_names, roles},
};

type Ctx = QueryContext<Postgres<UnitOfWork>>;

/// Signs up: creates an account and opens a session.
///
/// With an `Idempotency-Key`, a repeat finds the account that it has created and opens another
/// session.
pub async fn register(ctx: Ctx, command: Register, meta: Meta) -> Result<Session, Problem> {
    let email = Email::parse(&command.email)?;
    let password = domain::password(&command.password)?;
    let password_hash = ctx.config().hashing.queue()?.hash(password).await?;
    let add = AddAccount { email: email.as_str().to_owned(), password_hash };
    let account = ctx.decide(add, &meta).await?;
    open_session(&ctx, account.user_id, None, &meta).await
}

/// Logs in. Every attempt counts as failed until it has succeeded. It takes as long for an
/// address without account, so neither time nor answer shows whether there is one.
pub async fn log_in(ctx: Ctx, command: LogIn, meta: Meta) -> Result<Session, Problem> {
    let wrong = || Problem::from(codes::BAD_CREDENTIALS);
    // Text that cannot be an address or a password has no account, and that is no secret.
    let email = Email::parse(&command.email).map_err(|_| wrong())?;
    let password = domain::password(&command.password).map_err(|_| wrong())?;
    let queued = ctx.config().hashing.queue()?;
    let email_hash = digest(email.as_str());
    ctx.decide(BeginLogIn { email_hash }, &once(&meta)).await?;
    let account = find_by_email(ctx.pool(), &email).await.map_err(read_failed)?;
    let (user_id, hash) = match account.map(|account| (account.user_id, account.state)) {
        Some((user_id, State::Active { password_hash, .. })) => {
            (Some(user_id), Some(password_hash))
        }
        _ => (None, None),
    };
    match (queued.verify(password, hash).await?, user_id) {
        (true, Some(user_id)) => open_session(&ctx, user_id, Some(email_hash), &meta).await,
        _ => Err(wrong()),
    }
}

/// Exchanges a refresh token, once.
///
/// With an `Idempotency-Key`, the successor is derived from the token and the key. So a repeat
/// whose first answer was lost gets the same successor and does not count as a theft.
pub async fn refresh(ctx: Ctx, command: Refresh, meta: Meta) -> Result<Session, Problem> {
    let now = clock::now();
    let ring = ctx.config().ring().get(ctx.pool(), now).await?;
    let bytes = match &meta.idempotency {
        Some(key) => {
            let text = [digest(&command.refresh_token), key.scope].concat();
            Some(ring.derive(&text, now).map_err(unsigned)?)
        }
        None => None,
    };
    let token = refresh_token(bytes);
    let rotate =
        RotateRefresh { presented: digest(&command.refresh_token), successor: digest(&token) };
    match ctx.decide(rotate, &meta).await? {
        Rotated::Session { account, successor } if successor == digest(&token) => {
            session(&ctx, account, token).await
        }
        Rotated::Session { .. } => {
            let detail = "This token was exchanged before; log in again.";
            Err(Problem::new(codes::UNAUTHENTICATED, detail).with("field", "refresh_token"))
        }
        Rotated::Stolen => Err(Problem::new(
            codes::UNAUTHENTICATED,
            "This token was used before; the session has ended. Log in again.",
        )
        .with("field", "refresh_token")),
    }
}

/// The public keys.
pub async fn jwks(ctx: Ctx, _: Jwks, _: Meta) -> Result<serde_json::Value, Problem> {
    Ok(ctx.config().ring().get(ctx.pool(), clock::now()).await?.jwks())
}

/// An attempt of the caller to close the account.
pub async fn withdrawal(ctx: Ctx, query: GetWithdrawal, meta: Meta) -> Result<Shown, Problem> {
    let sql =
        format!("select {WITHDRAWAL_COLUMNS} from withdrawals where attempt = $1 and user_id = $2");
    let row: Option<WithdrawalRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(query.attempt.0)
        .bind(meta.caller.user_id()?.0)
        .fetch_optional(ctx.pool())
        .await
        .map_err(read_failed)?;
    Ok(row.ok_or(codes::NOT_FOUND)?.0.view())
}

/// The attempts that were not answered in time.
pub async fn unanswered(
    engine: Arc<Postgres<UnitOfWork>>,
    now: Timestamp,
) -> sqlx::Result<Vec<RefuseWithdrawal>> {
    let since = now.plus_secs(-engine.config().withdrawal_secs);
    let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "select user_id, attempt from withdrawals
         where state = 'requested' and requested_at <= $1 order by requested_at limit 1000",
    )
    .bind(since.0)
    .fetch_all(engine.pool())
    .await?;
    let refuse = |(user_id, attempt)| RefuseWithdrawal {
        user_id: UserId(user_id),
        attempt: AttemptId(attempt),
    };
    Ok(rows.into_iter().map(refuse).collect())
}

async fn open_session(
    ctx: &Ctx,
    user_id: UserId,
    succeeded: Option<[u8; 32]>,
    meta: &Meta,
) -> Result<Session, Problem> {
    let token = refresh_token(None);
    let open =
        OpenSession { user_id, token_hash: digest(&token), family_id: Uuid::now_v7(), succeeded };
    let account = ctx.decide(open, &once(meta)).await?;
    session(ctx, account, token).await
}

/// The session of an account: signs its access token; the refresh token is stored already.
async fn session(ctx: &Ctx, account: Card, refresh_token: String) -> Result<Session, Problem> {
    let (config, now) = (ctx.config(), clock::now());
    let ring = config.ring().get(ctx.pool(), now).await?;
    let Card { user_id, roles } = account;
    let claims = AccessClaims::new(user_id, roles.clone(), now, config.access_secs());
    let access_token = ring.sign(&claims, now).map_err(unsigned)?;
    let expires_in_secs = config.access_secs().unsigned_abs();
    Ok(Session { user_id, roles, access_token, expires_in_secs, refresh_token })
}

/// The same message without its `Idempotency-Key`, which belongs to one decision only.
fn once(meta: &Meta) -> Meta {
    Meta { idempotency: None, ..meta.clone() }
}

async fn find_by_email(pool: &PgPool, email: &Email) -> sqlx::Result<Option<Account>> {
    let row: Option<AccountRow> = sqlx::query_as(
        "select user_id, email, password_hash, roles, created_at, withdrawn_at
         from accounts where email = $1",
    )
    .bind(email.as_str())
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|AccountRow(account)| account))
}

/// Requests an account with these roles. The service creates it as soon as it runs, in the same
/// way as any other account; an existing account keeps its password.
///
/// # Errors
/// `invalid` for an address or a password that a registration would refuse, or `unavailable`.
pub async fn request_account(
    pool: &PgPool,
    config: &Config,
    email: &str,
    password: &str,
    roles: &[Role],
) -> Result<(), Problem> {
    let email = Email::parse(email)?;
    let password = domain::password(password)?;
    let roles: BTreeSet<Role> = roles.iter().copied().collect();
    let account = find_by_email(pool, &email).await.map_err(read_failed)?;
    if account.is_some_and(|account| account.roles.is_superset(&roles)) {
        return Ok(());
    }
    let hash = config.hashing.queue()?.hash(password).await?;
    sqlx::query(
        "insert into account_wishes (email, password_hash, roles) values ($1, $2, $3)
         on conflict (email) do update set
             password_hash = excluded.password_hash, roles = excluded.roles",
    )
    .bind(email.as_str())
    .bind(hash.0)
    .bind(role_names(&roles))
    .execute(pool)
    .await
    .map_err(read_failed)?;
    Ok(())
}

/// Whether every wished account has been created.
///
/// # Errors
/// When the database does not answer.
pub async fn requests_are_granted(pool: &PgPool) -> sqlx::Result<bool> {
    sqlx::query_scalar("select not exists (select from account_wishes)").fetch_one(pool).await
}

/// The wishes that are not granted yet.
pub async fn wishes(pool: PgPool, _: Timestamp) -> sqlx::Result<Vec<GrantWish>> {
    let rows: Vec<(String, String, Vec<String>)> = sqlx::query_as(
        "select email, password_hash, roles from account_wishes order by email limit 100",
    )
    .fetch_all(&pool)
    .await?;
    rows.into_iter()
        .map(|(email, hash, names)| {
            Ok(GrantWish { email, password_hash: Secret(hash), roles: roles(names)? })
        })
        .collect()
}

/// One [`Tidy`] while there are expired rows.
pub async fn due_tidy(pool: PgPool, now: Timestamp) -> sqlx::Result<Vec<Tidy>> {
    let has_expired: bool = sqlx::query_scalar(
        "select exists (select from refresh_tokens where expires_at <= $1)
             or exists (select from log_in_failures where last_at <= $2)",
    )
    .bind(now.0)
    .bind(now.plus_secs(-domain::LOG_IN_WINDOW_SECS).0)
    .fetch_one(&pool)
    .await?;
    Ok(if has_expired { vec![Tidy {}] } else { Vec::new() })
}
