//! What a fan may look at: their own payments.

use events::{
    Page, Problem, codes,
    payment::{self, FindPayments, GetPayment},
};
use mesh::{Desk, Meta, page::Cut, postgres::Postgres};

use crate::{Book, domain::Payment, rows::PaymentColumns};

/// One payment of the caller's.
pub(crate) async fn get(
    desk: Desk<Postgres<Book>>,
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
    .fetch_optional(desk.pool())
    .await
    .map_err(unavailable)?;
    view(row.ok_or(codes::NOT_FOUND)?)
}

/// The caller's payments, newest first.
pub(crate) async fn find(
    desk: Desk<Postgres<Book>>,
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
    .fetch_all(desk.pool())
    .await
    .map_err(unavailable)?;
    let payments = rows.into_iter().map(view).collect::<Result<Vec<_>, _>>()?;
    Ok(cut.page(payments, |payment| payment.payment_id.0))
}

fn view(row: PaymentColumns) -> Result<payment::Payment, Problem> {
    Ok(Payment::try_from(row).map_err(unavailable)?.to_view())
}

fn unavailable(error: sqlx::Error) -> Problem {
    tracing::warn!(%error, "a read failed");
    codes::UNAVAILABLE.into()
}
