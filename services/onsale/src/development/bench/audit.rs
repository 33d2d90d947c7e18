//! `onsale bench audit`: how many events audit consumes, and what each costs.
//!
//! Made-up sagas are put into the outboxes of the services that would have emitted them, and
//! their publishers fill the streams. Then audit starts, with the whole backlog before it, and
//! reads until it has consumed all of it. The cost is counted in processor time, of this process
//! and of PostgreSQL, so that it does not matter what else the machine does.

use std::{sync::Arc, time::Duration};

use ::audit::rehearsal::{End, Visit};
use anyhow::{Context, Result, bail};
use auditor::Observed;
use clap::Args;
use events::{Envelope, ScheduleId};
use mesh::{
    Allow, Caller, Execute, Refusal, Running, Service, message::pack, postgres::Postgres,
    trace::Tracer,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;
use uuid::Uuid;

use super::procs::{parent_of, time_of, time_of_family};
use crate::{development::environment::Environment, fleet};

/// The services that emit what is read; all of them keep their outbox in PostgreSQL.
const PRODUCERS: [&str; 3] = ["payment", "point", "reservation"];
/// Events that one transaction of a full sale emits: a service of a payment handles so many.
const TRANSACTION_EVENTS: usize = 64;
/// Events that are put into an outbox at once.
const OUTBOX_EVENTS: usize = 5_000;
/// How long each step may take.
const WITHIN: Duration = Duration::from_secs(600);
/// How often progress is polled.
const PROBE: Duration = Duration::from_millis(50);

/// Options of `onsale bench audit`.
#[derive(Debug, Clone, Args)]
pub struct Audit {
    /// Events to consume
    #[arg(long, default_value_t = 200_000)]
    pub events: usize,
    /// Prints an object instead of text
    #[arg(long)]
    pub json: bool,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Taken {
    /// Events consumed.
    pub events: usize,
    /// Sagas they belong to.
    pub sagas: i64,
    /// Seconds from the first event to the last.
    pub secs: f64,
    /// Events a second by the clock.
    pub events_per_s: f64,
    /// Microseconds of processor time that this process spent on an event.
    pub audit_us_per_event: f64,
    /// Microseconds of processor time that PostgreSQL spent on an event.
    pub postgres_us_per_event: f64,
    /// Events a second that one core consumes, with its database on it.
    pub events_per_core_s: f64,
}

/// Runs `onsale bench audit`.
///
/// # Errors
/// When something cannot be started, or the events do not arrive.
pub async fn audit(options: Audit) -> Result<()> {
    let env = Environment::start(None, Arc::new(|line: &str| eprintln!("{line}"))).await?;
    let events = sale(options.events);
    eprintln!("publishing {} events to the streams …", events.len());
    fill_streams(&env, &events).await?;
    eprintln!("audit reads …");
    let taken = consume(&env, events.len()).await?;
    env.stop().await;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&taken)?);
        return Ok(());
    }
    println!("{} events of {} sagas in {:.1} s", taken.events, taken.sagas, taken.secs);
    println!("{:>10.0} events/s by the clock", taken.events_per_s);
    println!("{:>10.1} µs of processor time an event in audit", taken.audit_us_per_event);
    println!("{:>10.1} µs of processor time an event in PostgreSQL", taken.postgres_us_per_event);
    println!("{:>10.0} events/s on one core, the database included", taken.events_per_core_s);
    Ok(())
}

/// Visits of one sale: of twenty, one lacks points, and one loses its hold.
fn sale(count: usize) -> Vec<Observed> {
    let schedule_id = ScheduleId(Uuid::now_v7());
    let mut events = Vec::with_capacity(count);
    let began_at = mesh::clock::now().plus_secs(-60);
    for index in 0.. {
        let end = match index % 20 {
            7 => End::TooFewPoints,
            13 => End::HoldGone,
            _ => End::Paid,
        };
        let visit = Visit::new(schedule_id, index, began_at.plus_millis(index as i64));
        events.extend(
            visit
                .events(end)
                .into_iter()
                .filter(|observed| PRODUCERS.contains(&observed.service())),
        );
        if events.len() >= count {
            break;
        }
    }
    events.truncate(count);
    events
}

/// Fills the outbox of each producer and waits until its publisher has published everything.
async fn fill_streams(env: &Environment, events: &[Observed]) -> Result<()> {
    let mut producers = Vec::new();
    for name in PRODUCERS {
        let pool = PgPool::connect(env.config.database_url(name)?).await?;
        let own: Vec<&Observed> =
            events.iter().filter(|observed| observed.service() == name).collect();
        for piece in own.chunks(OUTBOX_EVENTS) {
            put_in_outbox(&pool, piece).await?;
        }
        producers.push((pool, start_producer(env, name).await?));
    }
    let until = Instant::now() + WITHIN;
    for (pool, running) in producers {
        let mut connection = pool.acquire().await?;
        while mesh::postgres::backlog(&mut connection).await?.events > 0 {
            if Instant::now() >= until {
                bail!("{} has not published everything within {WITHIN:?}", running.name());
            }
            tokio::time::sleep(PROBE).await;
        }
        running.stop().await;
    }
    Ok(())
}

/// As transactions of a sale would emit them: the events of one transaction share messages.
async fn put_in_outbox(pool: &PgPool, events: &[&Observed]) -> Result<()> {
    let mut messages = Vec::new();
    for emitted in events.chunks(TRANSACTION_EVENTS) {
        let events = emitted.iter().map(|observed| Ok((subject(observed), encode(observed)?)));
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

fn subject(observed: &Observed) -> String {
    format!("onsale.{}.v1.-", observed.event)
}

fn encode(observed: &Observed) -> Result<Vec<u8>> {
    let trace = observed.trace_id.as_deref().map(|id| format!("00-{id}-00f067aa0ba902b7-01"));
    let envelope = Envelope {
        specversion: Default::default(),
        id: observed.event_id,
        source: format!("/onsale/{}", observed.service()).into(),
        kind: format!("onsale.{}.v1", observed.event).into(),
        time: observed.at,
        subject: observed.about.to_string().into(),
        sagaid: observed.saga_id,
        causationid: observed.cause_id,
        traceparent: trace.map(Into::into),
        attempt: None,
        data: serde_json::from_slice(&observed.payload)?,
    };
    let mut body = Vec::new();
    envelope.encode(&mut body);
    Ok(body)
}

/// Starts audit and waits until it has consumed all events; returns what that took.
async fn consume(env: &Environment, events: usize) -> Result<Taken> {
    let pool = PgPool::connect(env.config.database_url(::audit::NAME)?).await?;
    let postgres = Postgres::<::audit::UnitOfWork>::new(
        env.config.database_url(::audit::NAME)?,
        ::audit::Config::default(),
    )?;
    let link = fleet::link(&env.config, ::audit::NAME, Tracer::off()).await?;
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&pool).await?;
    let postmaster = parent_of(backend).context("PostgreSQL runs on another machine")?;
    let (own, others) = (time_of(std::process::id() as i32), time_of_family(postmaster));
    let began = Instant::now();
    let running = mesh::start(::audit::service(), Arc::new(postgres), link);
    let mut last = (0, began);
    while last.0 < events as i64 {
        tokio::time::sleep(PROBE).await;
        let count = running.health().counts().handled as i64;
        let now = Instant::now();
        if count > last.0 {
            last = (count, now);
        }
        if now > last.1 + WITHIN {
            bail!("audit has consumed {count} events, and no more within {WITHIN:?}");
        }
    }
    let secs = (last.1 - began).as_secs_f64();
    let own = time_of(std::process::id() as i32).saturating_sub(own);
    let others = time_of_family(postmaster).saturating_sub(others);
    running.stop().await;
    let sagas = sqlx::query_scalar("select count(*) from sagas").fetch_one(&pool).await?;
    let us = |time: Duration| time.as_secs_f64() * 1e6 / events as f64;
    Ok(Taken {
        events,
        sagas,
        secs,
        events_per_s: events as f64 / secs,
        audit_us_per_event: us(own),
        postgres_us_per_event: us(others),
        events_per_core_s: 1e6 / (us(own) + us(others)),
    })
}

/// A service that only publishes what is in its outbox.
struct Silent;

/// A command that no caller sends; without a command, a service would have no publisher.
#[derive(Debug, Serialize, Deserialize)]
struct Emit {}

events::commands! { Emit = "bench.emit", 200 => (); }

impl mesh::UnitOfWork for Silent {
    type Keys = ();
    type Config = ();

    async fn load(_: (), _: &mut PgConnection) -> sqlx::Result<Self> {
        Ok(Self)
    }

    async fn save(self, _: &mut PgConnection) -> sqlx::Result<()> {
        Ok(())
    }
}

impl Execute<Emit> for Silent {
    fn keys(_: &Emit, _: &Caller, _: &mut ()) {}

    fn execute(&mut self, _: &Emit, _: &mut mesh::Context<'_, ()>) -> Result<(), Refusal> {
        Ok(())
    }
}

async fn start_producer(env: &Environment, name: &'static str) -> Result<Running> {
    let engine = Postgres::<Silent>::new(env.config.database_url(name)?, ())?;
    let link = fleet::link(&env.config, name, Tracer::off()).await?;
    let service = Service::<Postgres<Silent>>::new(name)
        .executes::<Emit>(Allow::Inside, &["payment.requested"]);
    Ok(mesh::start(service, Arc::new(engine), link))
}
