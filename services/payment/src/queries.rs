//! Queries: a fan's own payments, and the sales for services that rebuild their state.

use events::{
    Page, PaymentId, Problem, ScheduleId, Timestamp, codes,
    payment::{self, FindPayments, GetPayment},
    state::{SaleStated, StateSales, Stated},
};
use mesh::{
    Meta, QueryContext,
    page::Cut,
    postgres::{Postgres, read_failed},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{UnitOfWork, domain::Payment, rows::PaymentColumns};

/// One of the caller's payments.
pub(crate) async fn get(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    query: GetPayment,
    meta: Meta,
) -> Result<payment::Payment, Problem> {
    let row: Option<PaymentColumns> = sqlx::query_as(
        "select id, reservation_id, schedule_id, user_id, amount, seats, hold_version,
                state::text, reason::text, requested_at, ended_at
         from payments where id = $1 and user_id = $2",
    )
    .bind(query.payment_id.0)
    .bind(meta.caller.user_id()?.0)
    .fetch_optional(ctx.pool())
    .await
    .map_err(read_failed)?;
    view(row.ok_or(codes::NOT_FOUND)?)
}

/// The caller's payments, newest first.
pub(crate) async fn find(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    query: FindPayments,
    meta: Meta,
) -> Result<Page<payment::Payment>, Problem> {
    let cut = Cut::new(query.cursor.as_deref(), query.limit)?;
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
    .map_err(read_failed)?;
    let payments = rows.into_iter().map(view).collect::<Result<Vec<_>, _>>()?;
    Ok(cut.page(payments, |payment| payment.payment_id.0))
}

/// Payments read for one page of sales.
const STATED_MAX: i64 = 1_000;

/// A payment of such a page: id, schedule, seats, state, when it was requested and ended.
type StatedRow = (Uuid, Uuid, i32, String, OffsetDateTime, Option<OffsetDateTime>);

/// Every payment that was completed, for services that have lost their copy.
pub(crate) async fn stated(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    query: StateSales,
    _meta: Meta,
) -> Result<Stated<SaleStated, PaymentId>, Problem> {
    let rows: Vec<StatedRow> = sqlx::query_as(
        "select id, schedule_id, seats, state::text, requested_at, ended_at
         from payments where id > $1 order by id limit $2",
    )
    .bind(query.after.map_or(Uuid::nil(), |id| id.0))
    .bind(STATED_MAX)
    .fetch_all(ctx.pool())
    .await
    .map_err(read_failed)?;
    let last = rows.last().filter(|_| rows.len() as i64 == STATED_MAX);
    let next = last.map(|row| PaymentId(row.0));
    Ok(Stated { items: rows.into_iter().filter_map(sale).collect(), next })
}

/// The completion time of a refunded payment is not kept. The time of its request stands in
/// for it: the payment completed a moment later.
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
    Ok(Payment::try_from(row).map_err(read_failed)?.to_view())
}
