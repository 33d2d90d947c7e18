//! Whether what clients were answered is what the services know, once everything is at rest.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result};
use events::{ReservationId, payment::PaymentState};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::history::Answers;
use crate::{
    config::Config,
    databases::Databases,
    development::receipt::Receipt,
    verify::{self, Report},
};

/// What was compared, and what is wrong.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Answers that were compared with the databases, by kind.
    pub compared: BTreeMap<&'static str, usize>,
    /// Events that the auditor has read.
    pub events: u64,
    /// Everything that is wrong, in words.
    pub wrong: Vec<String>,
    /// The figures of all schedules.
    pub receipt: Receipt,
}

impl Verdict {
    /// Compares everything.
    ///
    /// # Errors
    /// When a database or stream cannot be read.
    pub(super) async fn of(
        answers: &Answers,
        config: &Config,
        databases: &Databases,
    ) -> Result<Self> {
        let schedules: Vec<Uuid> = answers.schedules.iter().map(|schedule| schedule.0).collect();
        let receipt = Receipt::of(databases, &schedules).await?;
        let mut verdict = Self { wrong: receipt.broken(), receipt, ..Self::default() };
        verdict.payments(answers, databases).await.context("comparing payments")?;
        verdict.holds(answers, databases).await.context("comparing holds")?;
        verdict.points(answers, databases).await.context("comparing points")?;
        let report = verify::run_over(config).await.context("the auditor")?;
        verdict.events = report.events as u64;
        verdict.wrong.extend(of_auditor(&report));
        Ok(verdict)
    }

    /// A payment that was answered with its end has that end, and each has one.
    async fn payments(&mut self, answers: &Answers, databases: &Databases) -> Result<()> {
        let ids: Vec<Uuid> = answers.payments.keys().copied().collect();
        let states = states(&databases.payment, "payments", &ids).await?;
        for (id, payment) in &answers.payments {
            let was_returned = answers.returned.contains(&payment.reservation_id);
            let state = states.get(id).map_or("none", String::as_str);
            let is_right = match (payment.state, was_returned) {
                (PaymentState::Completed | PaymentState::Refunded, true) => state == "REFUNDED",
                (PaymentState::Completed, false) => state == "COMPLETED",
                (PaymentState::Failed, _) => state == "FAILED",
                // The client has given up on it; it has ended all the same.
                (PaymentState::Requested, _) => {
                    ["COMPLETED", "FAILED", "REFUNDED"].contains(&state)
                }
                (PaymentState::Refunded, false) => false,
            };
            if !is_right {
                let answered = payment.state;
                self.wrong.push(format!("payment {id} was answered {answered:?} and is {state}"));
            }
        }
        self.compared.insert("payments", answers.payments.len());
        Ok(())
    }

    /// A hold that was answered exists, with its seats; one that was given back is over.
    async fn holds(&mut self, answers: &Answers, databases: &Databases) -> Result<()> {
        let ids: Vec<Uuid> = answers.holds.keys().map(|id| id.0).collect();
        let states = states(&databases.reservation, "reservations", &ids).await?;
        let sold: HashSet<ReservationId> = answers
            .payments
            .values()
            .filter(|payment| payment.state == PaymentState::Completed)
            .map(|payment| payment.reservation_id)
            .collect();
        for (id, hold) in &answers.holds {
            let state = states.get(&id.0).map_or("none", String::as_str);
            let is_sold = sold.contains(id);
            let was_returned = answers.returned.contains(id);
            let is_right = match (is_sold, was_returned) {
                (_, true) => state == "CANCELLED",
                (true, false) => state == "CONFIRMED",
                (false, false) => state != "none" && state != "PENDING",
            };
            if !is_right {
                let seat = hold.seats.first().map_or_else(String::new, |one| one.seat.to_string());
                self.wrong.push(format!(
                    "hold {id} of {seat} is {state} (sold: {is_sold}, returned: {was_returned})"
                ));
            }
        }
        self.compared.insert("holds", answers.holds.len());
        self.compared.insert("returns", answers.returned.len());
        Ok(())
    }

    /// A wallet has what was charged, less what is paid.
    async fn points(&mut self, answers: &Answers, databases: &Databases) -> Result<()> {
        let fans: Vec<Uuid> = answers.charged.keys().map(|fan| fan.0).collect();
        let charges: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "select user_id, count(*), sum(amount)::bigint from entries
             where user_id = any($1) and kind = 'charge' group by user_id",
        )
        .bind(&fans)
        .fetch_all(&databases.point)
        .await?;
        let balances: Vec<(Uuid, i64)> =
            sqlx::query_as("select user_id, balance from wallets where user_id = any($1)")
                .bind(&fans)
                .fetch_all(&databases.point)
                .await?;
        let spent: Vec<(Uuid, i64)> = sqlx::query_as(
            "select user_id, sum(amount)::bigint from payments
             where user_id = any($1) and state = 'COMPLETED' group by user_id",
        )
        .bind(&fans)
        .fetch_all(&databases.payment)
        .await?;
        let charges: HashMap<Uuid, (i64, i64)> =
            charges.into_iter().map(|(fan, count, sum)| (fan, (count, sum))).collect();
        let balances: HashMap<Uuid, i64> = balances.into_iter().collect();
        let spent: HashMap<Uuid, i64> = spent.into_iter().collect();
        for (fan, points) in &answers.charged {
            let (count, sum) = charges.get(&fan.0).copied().unwrap_or_default();
            let answered = answers.charges.get(fan).copied().unwrap_or_default() as i64;
            let unknown = answers.unknown.get(fan).copied().unwrap_or_default() as i64;
            if count < answered || count > answered + unknown || (unknown == 0 && sum != *points) {
                self.wrong.push(format!(
                    "fan {fan} was answered {answered} charges, {points} points; the ledger has {count}, {sum}"
                ));
            }
            let balance = balances.get(&fan.0).copied().unwrap_or_default();
            let left = sum - spent.get(&fan.0).copied().unwrap_or_default();
            if balance != left {
                self.wrong.push(format!("fan {fan} has {balance} points and should have {left}"));
            }
        }
        self.compared.insert("wallets", answers.charged.len());
        Ok(())
    }
}

/// The states of rows by id.
async fn states(
    pool: &PgPool,
    table: &'static str,
    ids: &[Uuid],
) -> sqlx::Result<HashMap<Uuid, String>> {
    let sql = format!("select id, state::text from {table} where id = any($1)");
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(ids).fetch_all(pool).await?;
    Ok(rows.into_iter().collect())
}

/// What the auditor has found.
fn of_auditor(report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    if report.compared.is_none() {
        wrong.push("events are still in flight".to_owned());
    }
    let violations = report.violations.iter();
    wrong.extend(violations.map(|found| format!("auditor: {:?}", found.violation)));
    wrong.extend(report.differences.iter().map(|difference| format!("{difference:?}")));
    wrong
}
