//! The queries: operators may look at every saga, fans at their own.

use std::sync::Arc;

use auditor::{Observed, timeline};
use events::{
    Page, Problem, SagaId, Timestamp, UserId,
    audit::{FindSagas, FindViolations, GetSaga, Saga, SagaLine, SagaState, Violation},
    codes,
    user::Role,
};
use flows::Flows;
use mesh::{Meta, QueryContext, clock, page::Cut, postgres::Postgres};
use sqlx::{PgPool, Postgres as Pg, QueryBuilder};
use uuid::Uuid;

use crate::{
    UnitOfWork, event_table,
    keys::{Key, NoKey, user_of},
    listener::Listener,
    sagas::{outcome_of, progress},
    service_bits::bit_of,
};

/// The flow of a new account.
const SIGNING_UP: &str = "register";

/// The time by which states are judged: how far the streams have been read where this instance
/// reads them, else the clock.
fn now(listener: &Listener) -> Timestamp {
    listener.known().unwrap_or_else(clock::now)
}

/// One saga: any for an operator, a fan's own for a fan.
pub(crate) async fn saga(
    listener: Arc<Listener>,
    ctx: QueryContext<Postgres<UnitOfWork>>,
    command: GetSaga,
    meta: Meta,
) -> Result<Saga, Problem> {
    // An invalid key names nothing.
    let key: Key = command.id.parse().map_err(|_: NoKey| Problem::from(codes::NOT_FOUND))?;
    let owner = match meta.caller.has(Role::Operator) {
        true => None,
        false => Some(meta.caller.user_id()?),
    };
    let found = find(ctx.pool(), key, owner, now(&listener)).await.map_err(unavailable)?;
    found.ok_or_else(|| codes::NOT_FOUND.into())
}

/// The latest saga of this key; only `owner`'s when there is an owner.
pub(crate) async fn find(
    pool: &PgPool,
    key: Key,
    owner: Option<UserId>,
    now: Timestamp,
) -> sqlx::Result<Option<Saga>> {
    let found = find_one(pool, key, owner, now, true).await?;
    // A user's id is also the id of the saga of signing up, and it is the user who is meant.
    match found {
        Some(saga) if saga.line.flow == SIGNING_UP => {
            Ok(find_one(pool, key, owner, now, false).await?.or(Some(saga)))
        }
        found => Ok(found),
    }
}

/// The saga with this id, when `by_own_id`; else the saga of the event with this id; else the
/// latest saga with this key.
async fn find_one(
    pool: &PgPool,
    key: Key,
    owner: Option<UserId>,
    now: Timestamp,
    by_own_id: bool,
) -> sqlx::Result<Option<Saga>> {
    let found: Option<(Uuid, Uuid, Uuid)> = sqlx::query_as(
        "select s.saga_id, s.from_id, s.to_id from (
             select saga_id, 1 as rank from sagas where saga_id = $1 and $3
             union all
             select saga_id, 2 from facts where event_id = $1
             union all
             (select k.saga_id, 3 from saga_keys k where k.key = $1
              and ($2::uuid is null or exists
                  (select from saga_keys o where o.key = $2 and o.saga_id = k.saga_id))
              order by k.saga_id desc limit 1)
         ) as found join sagas s on s.saga_id = found.saga_id
         order by found.rank limit 1",
    )
    .bind(key.0)
    .bind(owner.map(|user_id| user_id.0))
    .bind(by_own_id)
    .fetch_optional(pool)
    .await?;
    let Some((saga_id, from, to)) = found else { return Ok(None) };
    let events = event_table::of_saga(pool, SagaId(saga_id), (from, to)).await?;
    if owner.is_some_and(|owner| !is_of(&events, owner)) {
        return Ok(None);
    }
    Ok(timeline::saga(Flows::shipped(), &events, now))
}

/// Whether events are about this fan, and about no other.
fn is_of(events: &[Observed], owner: UserId) -> bool {
    let mut users = events.iter().filter_map(user_of).peekable();
    users.peek().is_some() && users.all(|user_id| user_id == owner)
}

/// Sagas in one line each, the latest first.
pub(crate) async fn sagas(
    listener: Arc<Listener>,
    ctx: QueryContext<Postgres<UnitOfWork>>,
    command: FindSagas,
    _: Meta,
) -> Result<Page<SagaLine>, Problem> {
    list(ctx.pool(), &command, now(&listener)).await
}

/// The page that `command` asks for.
pub(crate) async fn list(
    pool: &PgPool,
    command: &FindSagas,
    now: Timestamp,
) -> Result<Page<SagaLine>, Problem> {
    let cut = Cut::new(command.cursor.as_deref(), command.limit)?;
    let mut query = selection(command, now)?;
    query.push(" and saga_id < ").push_bind(cut.before);
    query.push(" order by saga_id desc limit ").push_bind(cut.rows());
    let rows: Vec<(Uuid, Vec<u8>)> =
        query.build_query_as().fetch_all(pool).await.map_err(unavailable)?;
    let line = |(id, stored): (Uuid, Vec<u8>)| {
        let progress = progress(&stored).map_err(unavailable)?;
        Ok(progress.line(Flows::shipped(), SagaId(id), now))
    };
    let lines = rows.into_iter().map(line).collect::<Result<Vec<_>, Problem>>()?;
    Ok(cut.page(lines, |line| line.saga_id.0))
}

/// The sagas that `command` asks for, before the cut.
fn selection(command: &FindSagas, now: Timestamp) -> Result<QueryBuilder<Pg>, Problem> {
    let mut query = QueryBuilder::new("select saga_id, progress from sagas where true");
    match command.state {
        None => {}
        Some(SagaState::Running) => {
            query.push(" and next_due_at >= ").push_bind(now.0);
        }
        Some(SagaState::Stalled) => {
            query.push(" and next_due_at < ").push_bind(now.0);
        }
        Some(ended) => {
            query.push(" and outcome = ").push_bind(outcome_of(ended));
        }
    }
    if let Some(service) = &command.service {
        let bit = bit_of(service);
        if bit == 0 {
            let what = format!("must be a service that emits events, not `{service:.40}`");
            return Err(Problem::about(codes::INVALID, "service", what));
        }
        query.push(" and (took_part | awaited) & ").push_bind(bit).push(" <> 0");
    }
    if let Some(since) = command.since {
        query.push(" and last_at >= ").push_bind(since.0);
    }
    if let Some(about) = &command.about {
        let key: Key =
            about.parse().map_err(|error: NoKey| Problem::about(codes::INVALID, "about", error))?;
        query.push(" and saga_id in (select ").push_bind(key.0);
        query.push(" union all select saga_id from saga_keys where key = ").push_bind(key.0);
        query.push(" union all select saga_id from facts where event_id = ").push_bind(key.0);
        query.push(")");
    }
    Ok(query)
}

/// The violations that the auditor has found, the latest first.
pub(crate) async fn violations(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    command: FindViolations,
    _: Meta,
) -> Result<Page<Violation>, Problem> {
    let cut = Cut::new(command.cursor.as_deref(), command.limit)?;
    let rows: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(
        "select found_id, violation from violations
         where found_id < $1 order by found_id desc limit $2",
    )
    .bind(cut.before)
    .bind(cut.rows())
    .fetch_all(ctx.pool())
    .await
    .map_err(unavailable)?;
    let page = cut.page(rows, |(found_id, _)| *found_id);
    let read = |(_, stored): (Uuid, Vec<u8>)| serde_json::from_slice(&stored);
    let items = page.items.into_iter().map(read).collect::<Result<Vec<_>, _>>();
    let items = items.map_err(|error| unavailable(sqlx::Error::Decode(error.into())))?;
    Ok(Page { items, next_cursor: page.next_cursor })
}

fn unavailable(error: sqlx::Error) -> Problem {
    let cause = mesh::engine::Failure::from(error);
    match cause.is_lost() {
        // Housekeeping reports a store that is away, once and not for each query.
        true => tracing::debug!(%cause, "a query failed"),
        false => tracing::warn!(%cause, "a query failed"),
    }
    codes::UNAVAILABLE.into()
}
