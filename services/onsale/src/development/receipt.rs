//! What the databases say after a sale, and whether every invariant held.
//!
//! Nothing here trusts the driver: each figure is a query against the database of the
//! service that owns it, and what two services must agree on is compared.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::databases::Databases;

/// How often the databases are polled until everything is at rest.
const REST_PROBE: Duration = Duration::from_millis(100);
/// A hold is swept within a second of its end.
const SWEEP_SECS: i32 = 1;

/// The figures of one or more schedules.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Receipt {
    /// Seats of the plan.
    pub seats_total: i64,
    /// Seats in confirmed reservations.
    pub seats_sold: i64,
    /// Seats that two living reservations claim, or whose row names another owner than the
    /// reservation does.
    pub seats_with_two_owners: i64,
    /// Seats owned by a reservation that is over.
    pub seats_of_nobody: i64,
    /// Holds past their time by more than a second.
    pub holds_overdue: i64,
    /// Holds that ever ran out.
    pub holds_expired: i64,
    /// Payments by state.
    pub payments: BTreeMap<String, i64>,
    /// Payments without an end.
    pub payments_open: i64,
    /// Completed payments without a confirmed or forfeited reservation, or the other way round.
    pub payments_without_seats: i64,
    /// Points of completed payments.
    pub points_due: i64,
    /// Points of confirmed reservations, and of forfeited ones: nothing is returned for them.
    pub points_of_seats: i64,
    /// The forfeited ones of these: of fans who gave their tickets up with the account.
    pub points_of_forfeits: i64,
    /// Points taken and not given back, from the ledger.
    pub points_taken: i64,
    /// Payments whose ledger entries do not match their state.
    pub ledger_mismatches: i64,
    /// Sum of all balances less the sum of all ledger entries.
    pub ledger_gap: i64,
    /// Events that are emitted but not yet published, in all three databases.
    pub outbox_waiting: i64,
    /// Time from request to end of a completed payment, median, in ms.
    pub p50_ms: f64,
    /// The same for the slowest hundredth.
    pub p99_ms: f64,
}

impl Receipt {
    /// Reads the receipt of `schedules`.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub async fn of(databases: &Databases, schedules: &[Uuid]) -> Result<Self> {
        let mut receipt = Self::default();
        receipt.read_seats(databases, schedules).await.context("reading reservations")?;
        receipt.read_payments(databases, schedules).await.context("reading payments")?;
        receipt.compare(databases, schedules).await.context("comparing the services")?;
        for (_, pool) in databases.named() {
            receipt.outbox_waiting += scalar(
                pool,
                // Unpublished events of other sales do not count.
                "select coalesce(sum(events), 0)::bigint from mesh.outbox where stream_seq is null
                     and split_part(subject, '.', 5) = any($1::uuid[]::text[])",
                schedules,
            )
            .await?;
        }
        Ok(receipt)
    }

    /// Reads the receipt once nothing is in flight any more, or `patience` is over.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub async fn at_rest(
        databases: &Databases,
        schedules: &[Uuid],
        patience: Duration,
    ) -> Result<Self> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let receipt = Self::of(databases, schedules).await;
            let at_rest = receipt.as_ref().is_ok_and(Self::is_at_rest);
            if at_rest && holds_pending(databases, schedules).await? == 0
                || tokio::time::Instant::now() >= until
            {
                return receipt;
            }
            tokio::time::sleep(REST_PROBE).await;
        }
    }

    async fn read_seats(&mut self, databases: &Databases, schedules: &[Uuid]) -> sqlx::Result<()> {
        let pool = &databases.reservation;
        self.seats_total =
            scalar(pool, "select count(*) from seats where schedule_id = any($1)", schedules)
                .await?;
        // `seats` of a reservation is a list of {seat, price}.
        let claims = "with claims as (
                select r.id, r.schedule_id, r.state, r.hold_version, s->>'seat' as seat
                from reservations r, jsonb_array_elements(r.seats) s
                where r.schedule_id = any($1) and r.state in ('PENDING', 'CONFIRMED'))";
        self.seats_sold = scalar(
            pool,
            &format!("{claims} select count(*) from claims where state = 'CONFIRMED'"),
            schedules,
        )
        .await?;
        self.seats_with_two_owners = scalar(
            pool,
            &format!(
                "{claims} select
                     (select count(*) from (select 1 from claims group by schedule_id, seat
                         having count(*) > 1) twice)
                   + (select count(*) from claims c left join seats s using (schedule_id, seat)
                      where s.reservation_id is distinct from c.id
                         or s.hold_version <> c.hold_version)"
            ),
            schedules,
        )
        .await?;
        self.seats_of_nobody = scalar(
            pool,
            "select count(*) from seats s left join reservations r on r.id = s.reservation_id
             where s.schedule_id = any($1) and s.reservation_id is not null
               and r.state is distinct from 'PENDING' and r.state is distinct from 'CONFIRMED'",
            schedules,
        )
        .await?;
        self.holds_overdue = scalar(
            pool,
            &format!(
                "select count(*) from reservations where schedule_id = any($1)
                 and state = 'PENDING' and expires_at < now() - make_interval(secs => {SWEEP_SECS})"
            ),
            schedules,
        )
        .await?;
        self.holds_expired = scalar(
            pool,
            "select count(*) from reservations where schedule_id = any($1) and state = 'EXPIRED'",
            schedules,
        )
        .await?;
        self.points_of_forfeits = scalar(
            pool,
            "select coalesce(sum(amount), 0)::bigint from reservations
             where schedule_id = any($1) and refund = 'forfeited'",
            schedules,
        )
        .await?;
        self.points_of_seats = scalar(
            pool,
            "select coalesce(sum(amount), 0)::bigint from reservations
             where schedule_id = any($1) and (state = 'CONFIRMED' or refund = 'forfeited')",
            schedules,
        )
        .await?;
        Ok(())
    }

    async fn read_payments(
        &mut self,
        databases: &Databases,
        schedules: &[Uuid],
    ) -> sqlx::Result<()> {
        let pool = &databases.payment;
        let states: Vec<(String, i64)> = sqlx::query_as(
            "select state::text, count(*) from payments where schedule_id = any($1) group by 1",
        )
        .bind(schedules)
        .fetch_all(pool)
        .await?;
        self.payments = states.into_iter().collect();
        self.payments_open = self.payments.get("REQUESTED").copied().unwrap_or(0);
        self.points_due = scalar(
            pool,
            "select coalesce(sum(amount), 0)::bigint from payments
             where schedule_id = any($1) and state = 'COMPLETED'",
            schedules,
        )
        .await?;
        let quantiles: (Option<f64>, Option<f64>) = sqlx::query_as(
            "select percentile_cont(0.5) within group (order by ms),
                    percentile_cont(0.99) within group (order by ms)
             from (select (extract(epoch from ended_at - requested_at) * 1000)::float8 as ms
                   from payments
                   where schedule_id = any($1) and state in ('COMPLETED', 'REFUNDED')) t",
        )
        .bind(schedules)
        .fetch_one(pool)
        .await?;
        self.p50_ms = quantiles.0.unwrap_or(0.0);
        self.p99_ms = quantiles.1.unwrap_or(0.0);
        Ok(())
    }

    /// What two services must agree on.
    async fn compare(&mut self, databases: &Databases, schedules: &[Uuid]) -> sqlx::Result<()> {
        let payments: Vec<(Uuid, Uuid, String, i64)> = sqlx::query_as(
            "select id, reservation_id, state::text, amount from payments
             where schedule_id = any($1)",
        )
        .bind(schedules)
        .fetch_all(&databases.payment)
        .await?;
        let confirmed: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "select payment_id, id from reservations
             where schedule_id = any($1) and (state = 'CONFIRMED' or refund = 'forfeited')",
        )
        .bind(schedules)
        .fetch_all(&databases.reservation)
        .await?;
        let confirmed: BTreeMap<Uuid, Uuid> = confirmed.into_iter().collect();
        let completed: BTreeMap<Uuid, Uuid> = payments
            .iter()
            .filter(|(_, _, state, _)| state == "COMPLETED")
            .map(|(id, reservation, _, _)| (*id, *reservation))
            .collect();
        let only_in = |a: &BTreeMap<Uuid, Uuid>, b: &BTreeMap<Uuid, Uuid>| {
            a.iter().filter(|(payment, seat)| b.get(*payment) != Some(*seat)).count() as i64
        };
        self.payments_without_seats =
            only_in(&completed, &confirmed) + only_in(&confirmed, &completed);

        let ids: Vec<Uuid> = payments.iter().map(|(id, ..)| *id).collect();
        let ledger: Vec<(Uuid, i64, i64, i64)> = sqlx::query_as(
            "select payment_id, count(*) filter (where kind = 'debit'),
                    count(*) filter (where kind = 'refund'), (-sum(amount))::bigint
             from entries where payment_id = any($1) group by payment_id",
        )
        .bind(&ids)
        .fetch_all(&databases.point)
        .await?;
        self.points_taken = ledger.iter().map(|(.., taken)| taken).sum();
        let ledger: BTreeMap<Uuid, (i64, i64, i64)> =
            ledger.into_iter().map(|(id, d, r, taken)| (id, (d, r, taken))).collect();
        self.ledger_mismatches = payments
            .iter()
            .filter(|(id, _, state, amount)| {
                let found = ledger.get(id).copied().unwrap_or((0, 0, 0));
                !match state.as_str() {
                    "COMPLETED" => found == (1, 0, *amount),
                    "REFUNDED" => found == (1, 1, 0),
                    "FAILED" => found == (0, 0, 0) || found == (1, 1, 0),
                    _ => true,
                }
            })
            .count() as i64;
        self.ledger_gap = sqlx::query_scalar(
            "select ((select coalesce(sum(balance), 0) from wallets)
                   - (select coalesce(sum(amount), 0) from entries))::bigint",
        )
        .fetch_one(&databases.point)
        .await?;
        Ok(())
    }
}

async fn holds_pending(databases: &Databases, schedules: &[Uuid]) -> Result<i64> {
    let sql = "select count(*) from reservations
               where schedule_id = any($1) and state = 'PENDING'";
    Ok(scalar(&databases.reservation, sql, schedules).await?)
}

async fn scalar(pool: &PgPool, sql: &str, schedules: &[Uuid]) -> sqlx::Result<i64> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(schedules).fetch_one(pool).await
}

impl Receipt {
    /// Whether nothing is in flight any more.
    pub fn is_at_rest(&self) -> bool {
        self.payments_open == 0 && self.outbox_waiting == 0
    }

    /// Every invariant that is broken, in words.
    pub fn broken(&self) -> Vec<String> {
        let zero = [
            ("seats with two owners", self.seats_with_two_owners),
            ("seats owned by a reservation that is over", self.seats_of_nobody),
            ("holds past their time", self.holds_overdue),
            ("payments without an end", self.payments_open),
            ("payments without seats, or seats without payment", self.payments_without_seats),
            ("payments whose ledger entries do not match", self.ledger_mismatches),
            ("points between ledger and balances", self.ledger_gap),
            ("events emitted but not published", self.outbox_waiting),
            ("points between payments and ledger", self.points_due - self.points_taken),
            ("points between seats and ledger", self.points_of_seats - self.points_taken),
        ];
        zero.iter()
            .filter(|(_, count)| *count != 0)
            .map(|(what, count)| format!("{what}: {count}, must be 0"))
            .collect()
    }

    /// The receipt as a table.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        let count = |state: &str| self.payments.get(state).copied().unwrap_or(0).to_string();
        let rows = [
            ("seats sold", format!("{} of {}", self.seats_sold, self.seats_total)),
            ("seats with two owners", self.seats_with_two_owners.to_string()),
            ("payments completed", count("COMPLETED")),
            ("payments failed", count("FAILED")),
            ("payments refunded", count("REFUNDED")),
            ("payments without an end", self.payments_open.to_string()),
            ("points taken", self.points_taken.to_string()),
            ("points of confirmed seats", self.points_of_seats.to_string()),
            ("holds that ran out", self.holds_expired.to_string()),
            ("holds past their time", self.holds_overdue.to_string()),
            ("a payment took (p50)", format!("{:.1} ms", self.p50_ms)),
            ("a payment took (p99)", format!("{:.1} ms", self.p99_ms)),
        ];
        for (name, value) in rows {
            table.add_row([Cell::new(name), Cell::new(value).set_alignment(CellAlignment::Right)]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean() -> Receipt {
        Receipt { points_taken: 100, points_due: 100, points_of_seats: 100, ..Receipt::default() }
    }

    #[test]
    fn a_clean_receipt_breaks_nothing() {
        assert!(clean().broken().is_empty());
    }

    #[test]
    fn money_without_a_seat_is_named() {
        let receipt = Receipt { points_of_seats: 90, ..clean() };
        assert_eq!(receipt.broken(), ["points between seats and ledger: -10, must be 0"]);
    }

    #[test]
    fn a_payment_without_an_end_is_not_at_rest() {
        assert!(!Receipt { payments_open: 1, ..clean() }.is_at_rest());
    }
}
