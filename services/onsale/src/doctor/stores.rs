//! Databases and Valkey: whether they can be used, their outboxes, and their dead letters.

use anyhow::{Result, bail};
use mesh::{
    MeshClient,
    engine::{Backlog, Engine, Show},
    parked::ParkedState,
    postgres,
    valkey::{LuaModule, Valkey},
};
use sqlx::{PgConnection, PgPool};

use super::check::{Checked, Outcome, alone, link, skipped};
use crate::{
    config::{Config, OPERATOR},
    registry, retention,
    verify::outboxes,
};

/// Events wait a moment to be published; when they wait longer than this they are stuck.
const STUCK_SECS: i64 = 10;
/// Parked events in Valkey that are counted at most.
const PARKED_MAX: usize = 10_000;

async fn open(config: &Config, service: &str) -> Result<Option<PgConnection>> {
    let Some(url) = config.database_urls.get(service) else { return Ok(None) };
    postgres::connect(url).await.map(Some).map_err(alone)
}

/// Whether it accepts writes, belongs to the service, and has the migrations of this program and
/// no others.
pub(super) async fn database(config: &Config, service: &str) -> Outcome {
    let Some(mut database) = open(config, service).await? else {
        return skipped("not configured");
    };
    let own = registry::migrations(service);
    postgres::check(&mut database, own).await.map_err(alone)?;
    let rest = postgres::default_partitions(&mut database).await.map_err(alone)?;
    if let Some((table, rows)) = rest.first() {
        bail!(
            "{rows} rows are in the default partition of {table}: a clock was wrong, or \
             housekeeping is stuck; it moves them while the service runs"
        );
    }
    let newer = postgres::newer_migrations(&mut database, own).await.map_err(alone)?;
    let last = own.and_then(|own| own.iter().map(|one| one.version).max()).unwrap_or_default();
    match newer.last() {
        None => Ok(Checked::Good(format!("can be written to, and is at migration {last:04}"))),
        Some(newest) => bail!(
            "it is at migration {newest:04} and this program at {last:04}: a newer version has \
             migrated it; run that version"
        ),
    }
}

/// Whether every event is published, and what is marked as published is in the stream.
pub(super) async fn outbox(config: &Config, service: &'static str) -> Outcome {
    let Some(mut database) = open(config, service).await? else {
        return skipped("not configured");
    };
    let backlog = postgres::backlog(&mut database).await.map_err(alone)?;
    let link = link(config, OPERATOR).await?;
    if let (Some(link), true) = (&link, backlog.events > 0) {
        let oldest: Option<i32> = sqlx::query_scalar(
            "select octet_length(body) from mesh.outbox where stream_seq is null
             order by id limit 1",
        )
        .fetch_optional(&mut database)
        .await
        .map_err(alone)?;
        retention::has_room(link, service, &backlog, oldest.unwrap_or(0).unsigned_abs()).await?;
    }
    judge(backlog)?;
    let Some(link) = link else {
        return skipped("published; without the operator's seed it was not compared");
    };
    let pool = PgPool::connect_lazy(config.database_url(service)?).map_err(alone)?;
    let compared = outboxes::compare(&MeshClient::new(link.clone()), service, &pool).await;
    link.drain().await;
    let (compared, lost) = compared?;
    match lost.as_slice() {
        [] => Ok(Checked::Good(format!("{} messages are in the stream", compared.rows))),
        lost => bail!(
            "{} of {} messages that are marked as published are not in the stream; the service \
             publishes them again while it runs",
            lost.len(),
            compared.rows
        ),
    }
}

fn judge(backlog: Backlog) -> Outcome {
    let Backlog { events, since } = backlog;
    let age_secs = since.map_or(0, |since| (mesh::clock::now().0 - since.0).whole_seconds());
    match events {
        0 => Ok(Checked::Good("every event is published".into())),
        _ if age_secs <= STUCK_SECS => {
            Ok(Checked::Good(format!("{events} events are about to be published")))
        }
        _ => bail!(
            "{events} events wait to be published, the oldest for {age_secs} s: check whether the \
             service runs, and what its /readyz reports of the broker"
        ),
    }
}

/// Whether dead letters wait for an operator.
pub(super) async fn parked(config: &Config, service: &str) -> Outcome {
    let Some(mut database) = open(config, service).await? else {
        return skipped("not configured");
    };
    let (dead, early): (i64, i64) = sqlx::query_as(
        "select count(*) filter (where state = 'dead'), count(*) filter (where state = 'early')
         from mesh.parked where ended_at is null",
    )
    .fetch_one(&mut database)
    .await
    .map_err(alone)?;
    judge_parked(dead as usize, early as usize)
}

fn judge_parked(dead: usize, early: usize) -> Outcome {
    match (dead, early) {
        (0, 0) => Ok(Checked::Good("nothing".into())),
        (0, early) => Ok(Checked::Good(format!("{early} events wait for what they depend on"))),
        (dead, _) => {
            bail!("{dead} dead letters wait for an operator; onsale dead-letters ls")
        }
    }
}

/// What a service keeps in Valkey.
pub(super) async fn valkey(config: &Config, service: &str) -> Outcome {
    let url = config.valkey_url.as_str();
    if url.is_empty() {
        return skipped("not configured");
    }
    match service {
        "queue" => {
            let room = Valkey::<queue::Room>::new(url, queue::Config::default());
            if let Ok(room) = &room {
                has_room(config, room).await?;
            }
            examine(room).await
        }
        "ranking" => examine(Valkey::<ranking::Charts>::new(url, ranking::Config::default())).await,
        _ => {
            // This check does not read the database that maps are made from.
            let nowhere =
                PgPool::connect_lazy("postgres://nobody@127.0.0.1/none").map_err(alone)?;
            let configs = concert::MapConfig::new(nowhere);
            examine(Valkey::<concert::SeatMaps>::new(url, configs)).await
        }
    }
}

/// Whether the stream of the waiting room has room for its backlog.
async fn has_room(config: &Config, room: &Valkey<queue::Room>) -> Result<()> {
    let backlog = room.store().backlog().await.map_err(alone)?;
    if backlog.events == 0 {
        return Ok(());
    }
    let Some(link) = link(config, OPERATOR).await? else { return Ok(()) };
    let oldest = room.unpublished(1).await.map_err(alone)?;
    let bytes = oldest.first().map_or(0, |message| message.body.len() as u32);
    let has_room = retention::has_room(&link, queue::NAME, &backlog, bytes).await;
    link.drain().await;
    has_room
}

async fn examine<L: LuaModule>(valkey: Result<Valkey<L>, mesh::engine::Failure>) -> Outcome {
    let valkey = valkey.map_err(alone)?;
    valkey.store().check().await.map_err(alone)?;
    judge(valkey.store().backlog().await.map_err(alone)?)?;
    let open = valkey.store().parked(Show::All(false, PARKED_MAX)).await.map_err(alone)?;
    let count = |state| open.iter().filter(|parked| parked.state == state).count();
    judge_parked(count(ParkedState::Dead), count(ParkedState::Early))?;
    Ok(Checked::Good("can be written to, is complete, and has nothing stuck or dead".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_is_wrong_only_when_its_events_are_stuck() {
        assert!(judge(Backlog::default()).is_ok());
        for (secs, is_well) in [(1, true), (STUCK_SECS + 60, false)] {
            let since = Some(mesh::clock::now().plus_secs(-secs));
            assert_eq!(judge(Backlog { events: 1, since }).is_ok(), is_well, "{secs} s");
        }
    }
}
