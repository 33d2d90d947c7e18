//! Databases and Valkey: whether they can be used, and what lies in them undone.

use mesh::{
    MeshClient,
    engine::{Backlog, Engine, Outbox, Parking, Show},
    parked::ParkedState,
    postgres,
    valkey::{LuaModule, Valkey},
};
use sqlx::{PgConnection, PgPool};

use super::{Look, Seen, link, nothing};
use crate::{
    config::{Config, OPERATOR},
    fleet, retention,
    verify::outboxes,
};

/// Facts wait a moment to be published; longer than this they are stuck.
const STUCK_SECS: i64 = 10;
/// Parked events of a Valkey that are counted at most.
const PARKED_MAX: usize = 10_000;

async fn open(config: &Config, service: &str) -> Result<Option<PgConnection>, String> {
    let Some(url) = config.database_urls.get(service) else { return Ok(None) };
    postgres::connect(url).await.map(Some).map_err(|failure| failure.to_string())
}

/// Whether it takes writes, is the service's own, and up to date.
pub(super) async fn database(config: &Config, service: &str) -> Look {
    let Some(mut database) = open(config, service).await? else { return nothing("not named") };
    let own = fleet::migrations(service);
    postgres::check(&mut database, own).await.map_err(|failure| failure.to_string())?;
    let rest = postgres::default_partitions(&mut database).await.map_err(|e| e.to_string())?;
    if let Some((table, rows)) = rest.first() {
        return Err(format!(
            "{rows} rows lie in the default partition of {table}: a clock was wrong, or \
             housekeeping stands still; it moves them while the service runs"
        ));
    }
    Ok(Seen::Good("can be written to, and has every migration".into()))
}

/// Whether everything is published, and what counts as published is in the stream.
pub(super) async fn outbox(config: &Config, service: &'static str) -> Look {
    let Some(mut database) = open(config, service).await? else { return nothing("not named") };
    let backlog = postgres::backlog(&mut database).await.map_err(|error| error.to_string())?;
    let link = link(config, OPERATOR).await?;
    if let (Some(link), true) = (&link, backlog.events > 0) {
        let oldest: Option<i32> = sqlx::query_scalar(
            "select octet_length(body) from mesh.outbox where stream_seq is null
             order by id limit 1",
        )
        .fetch_optional(&mut database)
        .await
        .map_err(|error| error.to_string())?;
        retention::has_room(link, service, &backlog, oldest.unwrap_or(0).unsigned_abs()).await?;
    }
    judge(backlog)?;
    let Some(link) = link else {
        return nothing("published, but the operator's seed is not at hand to compare it");
    };
    let pool = PgPool::connect_lazy(config.database_url(service).map_err(|e| e.to_string())?)
        .map_err(|error| error.to_string())?;
    let compared = outboxes::compare(&MeshClient::new(link.clone()), service, &pool).await;
    link.drain().await;
    let (compared, lost) = compared.map_err(|error| format!("{error:#}"))?;
    match lost.as_slice() {
        [] => Ok(Seen::Good(format!("{} messages are in the stream", compared.rows))),
        lost => Err(format!(
            "{} of {} messages that count as published are not in the stream; the service \
             publishes them again while it runs",
            lost.len(),
            compared.rows
        )),
    }
}

fn judge(backlog: Backlog) -> Look {
    let Backlog { events, since } = backlog;
    let age_secs = since.map_or(0, |since| (mesh::clock::now().0 - since.0).whole_seconds());
    match events {
        0 => Ok(Seen::Good("everything told is published".into())),
        _ if age_secs <= STUCK_SECS => Ok(Seen::Good(format!("{events} facts on their way"))),
        _ => Err(format!("{events} facts wait to be published, the oldest for {age_secs} s")),
    }
}

/// Whether an operator is waited for.
pub(super) async fn parked(config: &Config, service: &str) -> Look {
    let Some(mut database) = open(config, service).await? else { return nothing("not named") };
    let (dead, early): (i64, i64) = sqlx::query_as(
        "select count(*) filter (where state = 'dead'), count(*) filter (where state = 'early')
         from mesh.parked where ended_at is null",
    )
    .fetch_one(&mut database)
    .await
    .map_err(|error| error.to_string())?;
    judge_parked(dead as usize, early as usize)
}

fn judge_parked(dead: usize, early: usize) -> Look {
    match (dead, early) {
        (0, 0) => Ok(Seen::Good("nothing".into())),
        (0, early) => Ok(Seen::Good(format!("{early} events wait for what they depend on"))),
        (dead, _) => {
            Err(format!("{dead} dead letters wait for an operator; onsale dead-letters ls"))
        }
    }
}

/// What a service keeps in Valkey.
pub(super) async fn valkey(config: &Config, service: &str) -> Look {
    let url = config.valkey_url.as_str();
    if url.is_empty() {
        return nothing("not named");
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
            // What maps are drawn from is not asked for here.
            let nowhere = PgPool::connect_lazy("postgres://nobody@127.0.0.1/none")
                .map_err(|e| e.to_string())?;
            let configs = concert::MapConfig::new(nowhere);
            examine(Valkey::<concert::SeatMaps>::new(url, configs)).await
        }
    }
}

/// Whether the stream of the waiting room takes what waits.
async fn has_room(config: &Config, room: &Valkey<queue::Room>) -> Result<(), String> {
    let said = |failure: mesh::engine::Failure| failure.to_string();
    let backlog = room.backlog().await.map_err(said)?;
    if backlog.events == 0 {
        return Ok(());
    }
    let Some(link) = link(config, OPERATOR).await? else { return Ok(()) };
    let oldest = room.unpublished(1).await.map_err(said)?;
    let bytes = oldest.first().map_or(0, |message| message.body.len() as u32);
    let has_room = retention::has_room(&link, queue::NAME, &backlog, bytes).await;
    link.drain().await;
    has_room
}

async fn examine<L: LuaModule>(valkey: Result<Valkey<L>, mesh::engine::Failure>) -> Look {
    let said = |failure: mesh::engine::Failure| failure.to_string();
    let valkey = valkey.map_err(said)?;
    valkey.check().await.map_err(said)?;
    judge(valkey.backlog().await.map_err(said)?)?;
    let open = valkey.parked(Show::All(false, PARKED_MAX)).await.map_err(said)?;
    let count = |state| open.iter().filter(|parked| parked.state == state).count();
    judge_parked(count(ParkedState::Dead), count(ParkedState::Early))?;
    Ok(Seen::Good("can be written to, knows all, and has nothing undone".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_on_their_way_are_no_illness_but_events_that_stay_are() {
        assert!(judge(Backlog::default()).is_ok());
        for (secs, is_well) in [(1, true), (STUCK_SECS + 60, false)] {
            let since = Some(mesh::clock::now().plus_secs(-secs));
            assert_eq!(judge(Backlog { events: 1, since }).is_ok(), is_well, "{secs} s");
        }
    }
}
