//! Earlier payments, written as they would lie in the databases after some months.
//!
//! Ids are UUIDv7 of the moment, made of the number alone: so each database can be filled by
//! itself, and what belongs together has the same ids in all of them.

use std::time::Instant;

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use time::Duration as Days;

use crate::config::Config;

/// The time over which the earlier payments are spread: a quarter of a year.
const DAYS: u64 = 90;
/// Days that outboxes, and inboxes and answers, still have of it.
const OUTBOX_DAYS: u64 = 8;
const INBOX_DAYS: u64 = 15;
/// Payments of a fan.
const PAYMENTS_OF_A_FAN: u64 = 20;
/// Payments that are written in one statement.
const AT_ONCE: u64 = 250_000;
/// A message of an outbox for so many payments, as measured at full load, and its bytes.
const PAYMENTS_A_MESSAGE: u64 = 20;
const MESSAGE_BYTES: u64 = 12_000;

/// What every statement may name: `g` is the number of a payment, from 0. Its letter says what an
/// id belongs to.
const NAMES: &str = "
    with numbers as (select generate_series($1::bigint, $2::bigint - 1) as g),
    made as (
        select g, g % $3 as fan, g / 5000 as show, g % 5000 as place,
            to_timestamp($4 + g * $5) as at,
            lpad(to_hex((($4 + g * $5) * 1000)::bigint), 12, '0') || '7000'
                || '8' || lpad(to_hex(g), 14, '0') as id
        from numbers),
    named as (
        select *, (id || 'a')::uuid as payment, (id || 'b')::uuid as reservation,
            (id || 'c')::uuid as entry,
            ('018b000000007000a' || lpad(to_hex(fan), 15, '0'))::uuid as user_id,
            ('018b000000007000b' || lpad(to_hex(show), 15, '0'))::uuid as schedule
        from made)";

/// The statements of one database: over the payments, and afterwards.
struct Filling {
    service: &'static str,
    each: &'static [&'static str],
    tables: &'static str,
}

const FILLINGS: [Filling; 3] = [
    Filling {
        service: payment::NAME,
        each: &[
            "insert into holds (reservation_id, schedule_id, user_id, amount, seats, hold_version,
                 expires_at, ended)
             select reservation, schedule, user_id, 10, 1, 1, at + interval '1 hour', false
             from named",
            "insert into payments (id, reservation_id, schedule_id, user_id, amount, seats,
                 hold_version, requested_at, ended_at, state)
             select payment, reservation, schedule, user_id, 10, 1, 1, at, at, 'COMPLETED'
             from named",
        ],
        tables: "holds, payments",
    },
    Filling {
        service: reservation::NAME,
        each: &[
            "insert into schedules (id, state, opens_at, starts_at, hold_secs, seats_per_fan_max)
             select distinct on (schedule) schedule, 'open', at, at + interval '30 days', 300, 4
             from named order by schedule, g on conflict do nothing",
            "insert into seats (schedule_id, seat, price, reservation_id, hold_version)
             select schedule, 'A-' || place / 50 || '-' || place % 50, 10, reservation, 1
             from named",
            "insert into reservations (id, schedule_id, user_id, state, seats, amount,
                 hold_version, created_at, expires_at, hard_cap_at, payment_id)
             select reservation, schedule, user_id, 'CONFIRMED',
                 jsonb_build_array(jsonb_build_object(
                     'seat', 'A-' || place / 50 || '-' || place % 50, 'price', 10)),
                 10, 1, at, at + interval '5 minutes', at + interval '6 minutes', payment
             from named",
            "insert into places (schedule_id, user_id, ended_version)
             select schedule, user_id, 1 from named on conflict do nothing",
        ],
        tables: "schedules, seats, reservations, places",
    },
    Filling {
        service: point::NAME,
        each: &[
            "insert into wallets (user_id, balance, state)
             select distinct user_id, 0, 'open'::wallet_state from named on conflict do nothing",
            "insert into entries (user_id, id, payment_id, amount, balance, at, kind, house)
             select user_id, entry, payment, -10, 0, at, 'debit', 'sales' from named",
            // As much as is paid: the ledger and the balances agree.
            "insert into entries (user_id, id, payment_id, amount, balance, at, kind, house)
             select user_id, (id || 'd')::uuid, null, 10, 10, at, 'charge', 'cash' from named",
        ],
        tables: "wallets, entries",
    },
];

/// Fills the databases with so many earlier payments.
///
/// # Errors
/// When a database refuses.
pub(super) async fn fill(config: &Config, earlier: u64) -> Result<()> {
    for Filling { service, each, tables } in &FILLINGS {
        let began = Instant::now();
        let url = config.database_url(service)?;
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
        // What is lost in a crash is written again with the next run.
        sqlx::query("set synchronous_commit = off").execute(&pool).await?;
        let span = Span::of(earlier);
        let mut from = 0;
        while from < earlier {
            let to = (from + AT_ONCE).min(earlier);
            for statement in *each {
                sqlx::query(AssertSqlSafe(format!("{NAMES} {statement}")))
                    .bind(from as i64)
                    .bind(to as i64)
                    .bind(earlier.div_ceil(PAYMENTS_OF_A_FAN) as i64)
                    .bind(span.begin_secs)
                    .bind(span.step_secs)
                    .execute(&pool)
                    .await
                    .with_context(|| format!("filling {service}: {statement}"))?;
            }
            from = to;
            eprintln!("{service}: {from} of {earlier} earlier payments");
        }
        messages(&pool, service, earlier).await.with_context(|| format!("filling {service}"))?;
        for table in tables.split(", ").chain(["mesh.outbox", "mesh.inbox", "mesh.answers"]) {
            let tidied = format!("vacuum (analyze) {table}");
            sqlx::query(AssertSqlSafe(tidied)).execute(&pool).await?;
        }
        let bytes: i64 = sqlx::query_scalar("select pg_database_size(current_database())")
            .fetch_one(&pool)
            .await?;
        let (gb, secs) = (bytes as f64 / 1e9, began.elapsed().as_secs_f64());
        eprintln!("{service}: {gb:.2} GB after {secs:.0} s");
    }
    Ok(())
}

/// When the payments were, evenly.
struct Span {
    begin_secs: f64,
    step_secs: f64,
}

impl Span {
    fn of(earlier: u64) -> Self {
        let now = mesh::clock::now().unix_millis() as f64 / 1_000.0;
        let secs = (DAYS * 24 * 3_600) as f64;
        Self { begin_secs: now - secs, step_secs: secs / earlier.max(1) as f64 }
    }
}

/// What outbox, inbox and answers still have: the last days of it, in their partitions.
async fn messages(pool: &PgPool, service: &str, earlier: u64) -> Result<()> {
    let now = mesh::clock::now();
    let a_day = earlier / DAYS;
    for back in 1..INBOX_DAYS {
        let day = now.0.date() - Days::days(back as i64);
        mesh::postgres::partitions::make_day(pool, "mesh.inbox", day).await?;
        let first = mesh::postgres::partitions::first_id(day);
        let id = "('' || lpad(to_hex((('x' || left(replace($1::uuid::text, '-', ''), 12))::bit(48)::bigint)
            + g * $3), 12, '0') || '7000' || '8' || lpad(to_hex(g), 15, '0'))::uuid";
        let count = (a_day / PAYMENTS_A_MESSAGE).max(1);
        let step_ms = (24 * 3_600 * 1_000 / count) as i64;
        let inbox = format!(
            "insert into mesh.inbox (message_id) select {id} from generate_series(0, $2 - 1) g
             on conflict do nothing"
        );
        let made = sqlx::query(AssertSqlSafe(inbox)).bind(first).bind(count as i64).bind(step_ms);
        made.execute(pool).await?;
        if back < OUTBOX_DAYS {
            mesh::postgres::partitions::make_day(pool, "mesh.outbox", day).await?;
            // They were published long ago, in a stream that no longer has them: below any number
            // of the new one.
            let outbox = format!(
                "insert into mesh.outbox (id, subject, events, body, stream_seq, leased_until)
                 select {id}, 'onsale.{service}.earlier.v1.-', {PAYMENTS_A_MESSAGE},
                     decode(repeat('5b', {MESSAGE_BYTES}), 'hex'), -(g + 1 + $2 * {back}), now()
                 from generate_series(0, $2 - 1) g on conflict do nothing"
            );
            let made = sqlx::query(AssertSqlSafe(outbox)).bind(first).bind(count as i64);
            made.bind(step_ms).execute(pool).await?;
        }
        if service == payment::NAME {
            let answers = "insert into mesh.answers (scope, body, status, answer, at)
                 select sha256(('earlier ' || $2 || ' ' || g)::bytea), sha256(g::text::bytea), 202,
                     decode(repeat('7b', 360), 'hex'), now() - make_interval(days => $2::integer)
                 from generate_series(1, $1::bigint) g on conflict do nothing";
            sqlx::query(answers).bind(a_day as i64).bind(back as i64).execute(pool).await?;
        }
    }
    Ok(())
}
