//! Queries: a fan's own wallet.

use std::time::Duration;

use events::{
    Page, Problem, UserId, codes,
    point::{self, Balance, FindEntries, GetBalance},
};
use mesh::{
    Meta, QueryContext,
    page::Cut,
    postgres::{Postgres, read_failed},
};
use sqlx::PgPool;

use crate::{
    UnitOfWork,
    unit_of_work::{EntryColumns, entry},
};

/// How long a fan who has just signed up waits for the wallet to be opened.
const OPENING_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the wallet is looked up meanwhile.
const OPENING_POLL: Duration = Duration::from_millis(50);

/// The balance of the caller's wallet.
pub(crate) async fn balance(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    _: GetBalance,
    meta: Meta,
) -> Result<Balance, Problem> {
    let user_id = meta.caller.user_id()?;
    let opened = async {
        loop {
            if let Some(balance) = stored_balance(ctx.pool(), user_id).await? {
                return Ok(Balance { user_id, balance });
            }
            tokio::time::sleep(OPENING_POLL).await;
        }
    };
    tokio::time::timeout(OPENING_TIMEOUT, opened)
        .await
        .unwrap_or_else(|_| Err(codes::NOT_FOUND.into()))
}

async fn stored_balance(pool: &PgPool, user_id: UserId) -> Result<Option<i64>, Problem> {
    sqlx::query_scalar("select balance from wallets where user_id = $1")
        .bind(user_id.0)
        .fetch_optional(pool)
        .await
        .map_err(read_failed)
}

/// The entries of the caller's wallet, newest first.
pub(crate) async fn entries(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    query: FindEntries,
    meta: Meta,
) -> Result<Page<point::Entry>, Problem> {
    let user_id = meta.caller.user_id()?;
    let cut = Cut::new(query.cursor.as_deref(), query.limit)?;
    let rows: Vec<EntryColumns> = sqlx::query_as(
        "select id, kind::text, amount, balance, payment_id, at
         from entries where user_id = $1 and id < $2 order by id desc limit $3",
    )
    .bind(user_id.0)
    .bind(cut.before)
    .bind(cut.rows())
    .fetch_all(ctx.pool())
    .await
    .map_err(read_failed)?;
    let entries = rows
        .into_iter()
        .map(|row| Ok(entry(user_id, row).map_err(read_failed)?.to_view()))
        .collect::<Result<Vec<_>, Problem>>()?;
    Ok(cut.page(entries, |entry| entry.entry_id.0))
}
