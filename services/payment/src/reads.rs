//! What a fan may look at: their own payments.

use events::{
    Page, PaymentId, Problem, ScheduleId, Timestamp, codes,
    payment::{self, FindPayments, GetPayment},
    state::{SaleStated, StateSales, Stated},
};
use mesh::{Meta, QueryContext, page::Cut, postgres::Postgres};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{UnitOfWork, domain::Payment, rows::PaymentColumns};

/// One payment of the caller's.
pub(crate) async fn get(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    command: GetPayment,
    meta: Meta,
) -> Result<payment::Payment, Problem> {
    let row: Option<PaymentColumns> = sqlx::query_as(
        "select id, reservation_id, schedule_id, user_id, amount, seats, hold_version,
                state::text, reason::text, requested_at, ended_at
         from payments where id = $1 and user_id = $2",
    )
    .bind(command.payment_id.0)
    .bind(meta.caller.user_id()?.0)
    .fetch_optional(ctx.pool())
    .await
    .map_err(unavailable)?;
    view(row.ok_or(codes::NOT_FOUND)?)
}

/// The caller's payments, newest first.
pub(crate) async fn find(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    command: FindPayments,
    meta: Meta,
) -> Result<Page<payment::Payment>, Problem> {
    let cut = Cut::new(command.cursor.as_deref(), command.limit)?;
    let rows: Vec<PaymentColumns> = sqlx::query_as(
        "select id, reservation_id, schedule_id, user_id, amount, seats, hold_version,
                state::text, reason::text, requested_at, ended_at
         from payments where user_id = $1 and id < $2 order by id desc limit $3",
    )
    .bind(meta.caller.user_id()?.0)
    .bind(cut.before)
    .bind(cut.rows())
    .fetch_all(ctx.pool())
    .await
    .map_err(unavailable)?;
    let payments = rows.into_iter().map(view).collect::<Result<Vec<_>, _>>()?;
    Ok(cut.page(payments, |payment| payment.payment_id.0))
}

/// Payments looked at for one page of what is stated.
const STATED_MAX: i64 = 1_000;

/// A payment as it is stated: id, schedule, seats, state, when it was asked for and ended.
type StatedRow = (Uuid, Uuid, i32, String, OffsetDateTime, Option<OffsetDateTime>);

/// Every payment that was completed, for those who have lost what they knew of it.
pub(crate) async fn stated(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    command: StateSales,
    _meta: Meta,
) -> Result<Stated<SaleStated, PaymentId>, Problem> {
    let rows: Vec<StatedRow> = sqlx::query_as(
        "select id, schedule_id, seats, state::text, requested_at, ended_at
         from payments where id > $1 order by id limit $2",
    )
    .bind(command.after.map_or(Uuid::nil(), |id| id.0))
    .bind(STATED_MAX)
    .fetch_all(ctx.pool())
    .await
    .map_err(unavailable)?;
    let last = rows.last().filter(|_| rows.len() as i64 == STATED_MAX);
    let next = last.map(|row| PaymentId(row.0));
    Ok(Stated { items: rows.into_iter().filter_map(sale).collect(), next })
}

/// When a payment that was refunded had been completed is not kept; it was a moment after it
/// was asked for.
fn sale((id, schedule, seats, state, requested_at, ended_at): StatedRow) -> Option<SaleStated> {
    let (sold_at, returned_at) = match state.as_str() {
        "COMPLETED" => (ended_at?, None),
        "REFUNDED" => (requested_at, ended_at),
        _ => return None,
    };
    Some(SaleStated {
        payment_id: PaymentId(id),
        schedule_id: ScheduleId(schedule),
        seats: seats.unsigned_abs(),
        sold_at: Timestamp(sold_at),
        returned_at: returned_at.map(Timestamp),
    })
}

fn view(row: PaymentColumns) -> Result<payment::Payment, Problem> {
    Ok(Payment::try_from(row).map_err(unavailable)?.to_view())
}

fn unavailable(error: sqlx::Error) -> Problem {
    tracing::warn!(%error, "a read failed");
    codes::UNAVAILABLE.into()
}
