//! What the listeners made of the sale: rankings, messages, the audit, and one payment as its
//! saga.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use events::{
    PAGE_MAX, Page, ScheduleId,
    audit::{Saga, SagaLine, SagaState},
    notification::MessageState,
    ranking::{ConcertRanking, RankedConcert},
};
use mesh::postgres;
use tokio::time::Instant;

use crate::{
    config::Config,
    development::{environment::Environment, lag::Observer},
    http::Http,
    operator::Operator,
    registry::LISTENERS,
    saga::span,
    verify,
};

/// How long listeners may take to consume every event, and messages to go out.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(30);
/// How long the ranking may need to be built.
const RANKING_WITHIN: Duration = Duration::from_secs(10);
/// How often messages that wait to be sent are polled.
const PROBE: Duration = Duration::from_millis(100);
/// Pages of sagas that are searched for one to draw: enough for a demo, not for a year.
const PAGES_MAX: usize = 20;
/// The name of the flow of a payment.
const PAY: &str = "pay";

/// What the listeners know of a sale.
pub(super) struct Listened {
    /// Which listeners still lag, and by how much.
    pub(super) behind: Option<String>,
    sold: Vec<RankedConcert>,
    sell_out: Vec<RankedConcert>,
    messages: Messages,
    /// What the auditor found.
    pub(super) audit: verify::Report,
    /// A payment of the sale, if there is one.
    pub(super) saga: Option<Saga>,
}

/// Messages by kind and state.
type Messages = BTreeMap<String, BTreeMap<String, i64>>;

impl Listened {
    /// Waits for a while until every event is consumed and every message has gone out, and reads
    /// the result.
    pub(super) async fn of(schedule: ScheduleId, http: &Http, env: &Environment) -> Result<Self> {
        let until = Instant::now() + CATCH_UP_WITHIN;
        let observer = Observer::open(&env.config, &LISTENERS).await?;
        // A listener that is down or slow delays neither a sale nor its receipt.
        let wait_until_caught_up = observer.wait_until_caught_up(CATCH_UP_WITHIN).await;
        observer.close().await;
        let messages = messages_at_rest(&env.config, schedule, until).await?;
        let operator = Operator::at(http.clone(), &env.operator).await?;
        Ok(Self {
            behind: wait_until_caught_up.err().map(|error| error.to_string()),
            sold: ranking(http, "sold").await?,
            sell_out: ranking(http, "sell_out").await?,
            messages,
            audit: verify::run_over(&env.config).await.context("the audit")?,
            saga: saga_to_draw(&operator, schedule).await?,
        })
    }

    /// What the auditor found wrong, line by line.
    pub(super) fn wrong(&self) -> Vec<String> {
        if self.audit.is_clean() {
            return Vec::new();
        }
        let violations = self.audit.violations.iter().map(|found| {
            let violation = &found.violation;
            format!("{}: {}", violation.rule.as_str(), violation.detail)
        });
        let differences = self.audit.differences.iter().map(|difference| {
            let text = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".into());
            let (events, database) = (text(&difference.events), text(&difference.database));
            format!("{}: the events say {events}, the database {database}", difference.what)
        });
        let not_compared = self.audit.compared.is_none().then(|| {
            "events and databases were not compared: events are still in flight".to_owned()
        });
        violations.chain(differences).chain(not_compared).collect()
    }

    /// The ranking as a table: by seats sold, and how fast each of them sold out.
    pub(super) fn ranking(&self) -> Table {
        let mut table = table(["place", "concert", "seats sold in 24 h", "sold out in"]);
        for ranked in &self.sold {
            let fastest = self.sell_out.iter().find(|one| one.concert_id == ranked.concert_id);
            let sold_out = fastest.and_then(|one| one.sell_out_ms).map_or("-".into(), span);
            table.add_row([
                number(ranked.place),
                Cell::new(&ranked.title),
                number(ranked.seats_sold.unwrap_or_default()),
                number(sold_out),
            ]);
        }
        table
    }

    /// The messages as a table, one row a kind.
    pub(super) fn messages(&self) -> Table {
        let mut table = table(["message", "sent", "waiting", "failed"]);
        for (kind, counts) in &self.messages {
            let count = |state| counts.get(name_of(state)).copied().unwrap_or_default();
            table.add_row([
                Cell::new(kind.replace('_', " ")),
                number(count(MessageState::Sent)),
                number(count(MessageState::Pending)),
                number(count(MessageState::Failed)),
            ]);
        }
        table
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

fn number(value: impl ToString) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

async fn ranking(http: &Http, by: &str) -> Result<Vec<RankedConcert>> {
    let request = http.get(format!("/v1/rankings/concerts?by={by}&window=24h"));
    let ranking: ConcertRanking =
        request.send_patiently(RANKING_WITHIN).await?.json().context("the ranking")?;
    Ok(ranking.places)
}

/// The state of a message, as the database writes it.
fn name_of(state: MessageState) -> &'static str {
    match state {
        MessageState::Pending => "PENDING",
        MessageState::Sent => "SENT",
        MessageState::Failed => "FAILED",
    }
}

/// Counts the messages of a sale once none waits to be sent, or as they are at `until`.
async fn messages_at_rest(
    config: &Config,
    schedule: ScheduleId,
    until: Instant,
) -> Result<Messages> {
    let url = config.database_url(notification::NAME)?;
    let mut db = postgres::connect(url).await.context("the database of notification")?;
    loop {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "select kind, state, count(*) from messages where schedule_id = $1
             group by kind, state",
        )
        .bind(schedule.0)
        .fetch_all(&mut db)
        .await?;
        let are_waiting = rows.iter().any(|(_, state, _)| state == name_of(MessageState::Pending));
        if are_waiting && Instant::now() < until {
            tokio::time::sleep(PROBE).await;
            continue;
        }
        let mut messages = Messages::new();
        for (kind, state, count) in rows {
            messages.entry(kind).or_default().insert(state, count);
        }
        return Ok(messages);
    }
}

/// The most interesting payment: the slowest that had to be compensated, else the slowest that
/// was completed.
async fn saga_to_draw(operator: &Operator, schedule: ScheduleId) -> Result<Option<Saga>> {
    let took = |line: &SagaLine| line.last_at.unix_millis() - line.began_at.unix_millis();
    for state in [SagaState::Compensated, SagaState::Completed] {
        let slowest = payments(operator, schedule, state).await?.into_iter().max_by_key(took);
        if let Some(line) = slowest {
            let path = format!("/v1/sagas/{}", line.saga_id);
            let saga = operator.get(path).send().await?.json().context("the saga")?;
            return Ok(Some(saga));
        }
    }
    Ok(None)
}

async fn payments(
    operator: &Operator,
    schedule: ScheduleId,
    state: SagaState,
) -> Result<Vec<SagaLine>> {
    let base =
        format!("/v1/sagas?state={}&service={}&limit={PAGE_MAX}", state.as_str(), payment::NAME);
    let (mut found, mut next) = (Vec::new(), Some(base.clone()));
    for _ in 0..PAGES_MAX {
        let Some(path) = next.take() else { break };
        let page: Page<SagaLine> =
            operator.get(path).send().await?.json().context("the list of sagas")?;
        found.extend(page.items);
        next = page.next_cursor.map(|cursor| format!("{base}&cursor={cursor}"));
    }
    found.retain(|line| line.flow == PAY && line.schedule_id == Some(schedule));
    Ok(found)
}
