//! `onsale bench audit`: facts that audit takes in, and what each costs.
//!
//! Made-up sagas are put into the outboxes of those who would have told them, and their
//! publishers fill the streams. Then audit starts, with everything before it, and reads until it
//! has all. What it costs is counted in processor time, of this process and of PostgreSQL,
//! so that it does not matter what else the machine does.

use std::{sync::Arc, time::Duration};

use ::audit::{
    Heard,
    rehearsal::{End, Visit},
};
use anyhow::{Context, Result, bail};
use clap::Args;
use events::{Envelope, ScheduleId};
use mesh::{
    Allow, Answer, Caller, Refusal, Running, Service, Turn, message::pack, postgres::Postgres,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;
use uuid::Uuid;

use super::procs::{parent_of, time_of, time_of_family};
use crate::{fleet, stage::Stage};

/// The services that tell what is read; all of them keep their outbox in PostgreSQL.
const TELLERS: [&str; 3] = ["payment", "point", "reservation"];
/// Events that one transaction of a full sale emits: a payment's service takes in so many.
const TRANSACTION_EVENTS: usize = 64;
/// Facts that are put into an outbox at once.
const OUTBOX_FACTS: usize = 5_000;
/// How long anything here may take.
const WITHIN: Duration = Duration::from_secs(600);
/// Between two looks at something that is on its way.
const PROBE: Duration = Duration::from_millis(50);

/// Options of `onsale bench audit`.
#[derive(Debug, Clone, Args)]
pub struct Audit {
    /// Facts to be taken in
    #[arg(long, default_value_t = 200_000)]
    pub facts: usize,
    /// Prints an object instead of text
    #[arg(long)]
    pub json: bool,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Taken {
    /// Facts taken in.
    pub facts: usize,
    /// Sagas they belong to.
    pub sagas: i64,
    /// Seconds from the first fact to the last.
    pub secs: f64,
    /// Facts a second, as the clock saw it.
    pub facts_per_s: f64,
    /// Microseconds of processor time that this process spent on a fact.
    pub audit_us_per_fact: f64,
    /// Microseconds of processor time that PostgreSQL spent on a fact.
    pub postgres_us_per_fact: f64,
    /// Facts a second that one core takes in, with its database on it.
    pub facts_per_core_s: f64,
}

/// Runs `onsale bench audit`.
///
/// # Errors
/// When something cannot be started, or the facts do not arrive.
pub async fn audit(options: Audit) -> Result<()> {
    let stage = Stage::set(None, Arc::new(|line: &str| eprintln!("{line}"))).await?;
    let facts = sale(options.facts);
    eprintln!("{} facts into the streams …", facts.len());
    fill_streams(&stage, &facts).await?;
    eprintln!("audit reads …");
    let taken = take_in(&stage, facts.len()).await?;
    stage.strike().await;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&taken)?);
        return Ok(());
    }
    println!("{} facts of {} sagas in {:.1} s", taken.facts, taken.sagas, taken.secs);
    println!("{:>10.0} facts/s by the clock", taken.facts_per_s);
    println!("{:>10.1} µs of processor time a fact in audit", taken.audit_us_per_fact);
    println!("{:>10.1} µs of processor time a fact in PostgreSQL", taken.postgres_us_per_fact);
    println!("{:>10.0} facts/s on one core, the database included", taken.facts_per_core_s);
    Ok(())
}

/// Visits of one sale: of twenty, one lacks points, and one loses its hold.
fn sale(count: usize) -> Vec<Heard> {
    let schedule_id = ScheduleId(Uuid::now_v7());
    let mut facts = Vec::with_capacity(count);
    let began_at = mesh::clock::now().plus_secs(-60);
    for index in 0.. {
        let end = match index % 20 {
            7 => End::TooFewPoints,
            13 => End::HoldGone,
            _ => End::Paid,
        };
        let visit = Visit::new(schedule_id, index, began_at.plus_millis(index as i64));
        facts.extend(
            visit.facts(end).into_iter().filter(|heard| TELLERS.contains(&heard.service())),
        );
        if facts.len() >= count {
            break;
        }
    }
    facts.truncate(count);
    facts
}

/// Has the publisher of each teller publish what its outbox was given.
async fn fill_streams(stage: &Stage, facts: &[Heard]) -> Result<()> {
    let mut tellers = Vec::new();
    for name in TELLERS {
        let pool = PgPool::connect(stage.config.database_url(name)?).await?;
        let own: Vec<&Heard> = facts.iter().filter(|heard| heard.service() == name).collect();
        for piece in own.chunks(OUTBOX_FACTS) {
            put_in_outbox(&pool, piece).await?;
        }
        tellers.push((pool, start_teller(stage, name).await?));
    }
    let until = Instant::now() + WITHIN;
    for (pool, running) in tellers {
        let mut connection = pool.acquire().await?;
        while mesh::postgres::backlog(&mut connection).await?.facts > 0 {
            if Instant::now() >= until {
                bail!("{} has not told everything within {WITHIN:?}", running.name());
            }
            tokio::time::sleep(PROBE).await;
        }
        running.stop().await;
    }
    Ok(())
}

/// As transactions of a sale would emit them: those of one moment share their messages.
async fn put_in_outbox(pool: &PgPool, facts: &[&Heard]) -> Result<()> {
    let mut messages = Vec::new();
    for moment in facts.chunks(TRANSACTION_EVENTS) {
        let events = moment.iter().map(|heard| Ok((subject(heard), encode(heard)?)));
        messages.extend(pack(events.collect::<Result<Vec<_>>>()?));
    }
    sqlx::query(
        "insert into mesh.outbox (id, subject, events, body, leased_until)
         select *, now() from unnest($1::uuid[], $2::text[], $3::integer[], $4::bytea[])",
    )
    .bind(messages.iter().map(|message| message.id).collect::<Vec<_>>())
    .bind(messages.iter().map(|message| message.subject.as_str()).collect::<Vec<_>>())
    .bind(messages.iter().map(|message| message.events as i32).collect::<Vec<_>>())
    .bind(messages.iter().map(|message| &message.body[..]).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(())
}

fn subject(heard: &Heard) -> String {
    format!("onsale.{}.v1.-", heard.fact)
}

fn encode(heard: &Heard) -> Result<Vec<u8>> {
    let trace = heard.trace_id.as_deref().map(|id| format!("00-{id}-00f067aa0ba902b7-01"));
    let envelope = Envelope {
        specversion: Default::default(),
        id: heard.event_id,
        source: format!("/onsale/{}", heard.service()).into(),
        kind: format!("onsale.{}.v1", heard.fact).into(),
        time: heard.at,
        subject: heard.about.to_string().into(),
        sagaid: heard.saga_id,
        causationid: heard.cause_id,
        traceparent: trace.map(Into::into),
        attempt: None,
        data: serde_json::from_slice(&heard.payload)?,
    };
    let mut body = Vec::new();
    envelope.encode(&mut body);
    Ok(body)
}

/// Starts audit and waits until it has all; what that took.
async fn take_in(stage: &Stage, facts: usize) -> Result<Taken> {
    let pool = PgPool::connect(stage.config.database_url(::audit::NAME)?).await?;
    let postgres = Postgres::<::audit::Book>::new(
        stage.config.database_url(::audit::NAME)?,
        ::audit::Rules::default(),
    )?;
    let link = fleet::link_of(&stage.config, ::audit::NAME).await?;
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&pool).await?;
    let postmaster = parent_of(backend).context("PostgreSQL runs on another machine")?;
    let (own, others) = (time_of(std::process::id() as i32), time_of_family(postmaster));
    let began = Instant::now();
    let running = mesh::start(::audit::service(), Arc::new(postgres), link);
    let mut last = (0, began);
    while last.0 < facts as i64 {
        tokio::time::sleep(PROBE).await;
        let count = running.health().counts().handled as i64;
        let now = Instant::now();
        if count > last.0 {
            last = (count, now);
        }
        if now > last.1 + WITHIN {
            bail!("audit has taken in {count} facts, and no more within {WITHIN:?}");
        }
    }
    let secs = (last.1 - began).as_secs_f64();
    let own = time_of(std::process::id() as i32).saturating_sub(own);
    let others = time_of_family(postmaster).saturating_sub(others);
    running.stop().await;
    let sagas = sqlx::query_scalar("select count(*) from sagas").fetch_one(&pool).await?;
    let us = |time: Duration| time.as_secs_f64() * 1e6 / facts as f64;
    Ok(Taken {
        facts,
        sagas,
        secs,
        facts_per_s: facts as f64 / secs,
        audit_us_per_fact: us(own),
        postgres_us_per_fact: us(others),
        facts_per_core_s: 1e6 / (us(own) + us(others)),
    })
}

/// A service that has nothing to do but to tell what is in its outbox.
struct Silent;

/// Nobody asks this; without a command, a service would have no publisher.
#[derive(Debug, Serialize, Deserialize)]
struct Tell {}

events::commands! { Tell = "bench.tell", 200 => (); }

impl mesh::Book for Silent {
    type Keys = ();
    type Rules = ();

    async fn load(_: (), _: &mut PgConnection) -> sqlx::Result<Self> {
        Ok(Self)
    }

    async fn save(self, _: &mut PgConnection) -> sqlx::Result<()> {
        Ok(())
    }
}

impl Answer<Tell> for Silent {
    fn keys(_: &Tell, _: &Caller, _: &mut ()) {}

    fn answer(&mut self, _: &Tell, _: &mut Turn<'_, ()>) -> Result<(), Refusal> {
        Ok(())
    }
}

async fn start_teller(stage: &Stage, name: &'static str) -> Result<Running> {
    let engine = Postgres::<Silent>::new(stage.config.database_url(name)?, ())?;
    let link = fleet::link_of(&stage.config, name).await?;
    let service = Service::<Postgres<Silent>>::new(name)
        .answers::<Tell>(Allow::Inside, &["payment.requested"]);
    Ok(mesh::start(service, Arc::new(engine), link))
}
