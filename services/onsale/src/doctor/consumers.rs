//! Who stands still while events wait.
//!
//! Being behind is no illness: under load those who only listen may be. Standing still is one,
//! so everybody who has something waiting is looked at twice.

use std::{collections::BTreeMap, time::Duration};

use events::Timestamp;
use mesh::{MeshClient, Standing, postgres::Positions};
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::{Look, Seen, link, nothing};
use crate::{
    config::{Config, OPERATOR},
    fleet, retention,
};

/// Between the two looks. A listener that leaves a busy machine to others rests shorter.
const WATCHED_FOR: Duration = Duration::from_secs(4);
/// A consumer that has done something this recently does not stand still.
const STILL_SECS: i64 = 15;
/// A reader does not either whose next message is younger than this; it leaves a busy machine
/// to others for longer.
const UNREAD_SECS: i64 = 30;

/// A service and a stream.
type Pair = (&'static str, &'static str);

/// How somebody stands in a stream.
#[derive(Debug, Clone, PartialEq)]
enum Seat {
    Consumer(Standing),
    /// A reader by position: what waits, since when, and where it is.
    Reader {
        waiting: u64,
        since: Option<Timestamp>,
        at: u64,
    },
}

impl Seat {
    fn waiting(&self) -> u64 {
        match self {
            Self::Consumer(standing) => standing.waiting,
            Self::Reader { waiting, .. } => *waiting,
        }
    }
}

pub(super) async fn move_on(config: &Config) -> Look {
    let Some(link) = link(config, OPERATOR).await? else {
        return nothing("the operator's seed is not at hand");
    };
    let client = MeshClient::new(link.clone());
    let mut before = look(config, &client).await?;
    before.retain(|_, seat| seat.waiting() > 0);
    let mut still = Vec::new();
    if !before.is_empty() {
        tokio::time::sleep(WATCHED_FOR).await;
        let after = look(config, &client).await?;
        let now = mesh::clock::now().0;
        for ((consumer, producer), seat) in &before {
            if after
                .get(&(*consumer, *producer))
                .is_some_and(|after| stands_still(seat, after, now))
            {
                still.push(said(consumer, producer, seat));
            }
        }
    }
    link.drain().await;
    if !still.is_empty() {
        return Err(format!(
            "{}; look whether the service runs, and what its /readyz says",
            still.join(", ")
        ));
    }
    let behind = before.iter().map(|((consumer, producer), seat)| {
        format!("{consumer} by {} messages of {producer}", seat.waiting())
    });
    let behind: Vec<String> = behind.collect();
    Ok(Seen::Good(match behind.as_slice() {
        [] => "nobody is behind".into(),
        behind => format!("everybody moves on; behind: {}", behind.join(", ")),
    }))
}

fn said(consumer: &str, producer: &str, seat: &Seat) -> String {
    let waiting = seat.waiting();
    match seat {
        Seat::Consumer(standing) if standing.is_paused => {
            format!(
                "{consumer} is paused on the broker while {waiting} messages of {producer} wait"
            )
        }
        _ => format!("{consumer} stands still while {waiting} messages of {producer} wait"),
    }
}

/// Whether nothing has moved from one look to the other, and a while before them.
fn stands_still(before: &Seat, after: &Seat, now: time::OffsetDateTime) -> bool {
    match (before, after) {
        (Seat::Consumer(before), Seat::Consumer(after)) => {
            let is_quiet =
                after.active_at.is_none_or(|at| (now - at.0).whole_seconds() >= STILL_SECS);
            after.waiting > 0 && before.moved == after.moved && (is_quiet || after.is_paused)
        }
        (Seat::Reader { at: before, since, .. }, Seat::Reader { waiting, at, .. }) => {
            let is_old = since.is_none_or(|at| (now - at.0).whole_seconds() >= UNREAD_SECS);
            *waiting > 0 && before == at && is_old
        }
        _ => false,
    }
}

async fn look(config: &Config, client: &MeshClient) -> Result<BTreeMap<Pair, Seat>, String> {
    let mut seats = BTreeMap::new();
    for wiring in fleet::wirings() {
        for (event, _) in &wiring.consumes {
            let producer = events::producer_of(event);
            if seats.contains_key(&(wiring.service, producer)) {
                continue;
            }
            let standing = client.standing(producer, wiring.service).await;
            // One that is missing is named elsewhere.
            if let Some(standing) = standing.map_err(|problem| problem.detail)? {
                seats.insert((wiring.service, producer), Seat::Consumer(standing));
            }
        }
        let Some(url) = config.database_urls.get(wiring.service) else { continue };
        if wiring.follows.is_empty() {
            continue;
        }
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(WATCHED_FOR);
        let pool = pool.connect_lazy(url).map_err(|error| error.to_string())?;
        readers(client, &wiring, &pool, &mut seats).await?;
        pool.close().await;
    }
    Ok(seats)
}

/// A reader that has never read anything has nobody to hand it to: an export without a target.
async fn readers(
    client: &MeshClient,
    wiring: &mesh::Wiring,
    pool: &PgPool,
    seats: &mut BTreeMap<Pair, Seat>,
) -> Result<(), String> {
    let positions = Positions::load(pool).await.map_err(|failure| failure.to_string())?;
    for event in &wiring.follows {
        let producer = events::producer_of(event);
        let at = positions.of(producer);
        if at == 0 || seats.contains_key(&(wiring.service, producer)) {
            continue;
        }
        let last = client.last_sequence(producer).await.map_err(|problem| problem.detail)?;
        let waiting = last.saturating_sub(at);
        let next = match waiting {
            0 => Vec::new(),
            _ => client.stored_messages(producer, at + 1, 1).await.map_err(|p| p.detail)?,
        };
        let since = next.first().and_then(|message| message.events.first()?.at());
        seats.insert((wiring.service, producer), Seat::Reader { waiting, since, at });
    }
    Ok(())
}

/// Whether somebody has left lying for so long what a stream will drop.
pub(super) async fn retained(config: &Config) -> Look {
    let Some(link) = link(config, OPERATOR).await? else {
        return nothing("the operator's seed is not at hand");
    };
    let looked = retention::untaken(config, &MeshClient::new(link.clone())).await;
    link.drain().await;
    match looked.map_err(|error| format!("{error:#}"))?.as_slice() {
        [] => Ok(Seen::Good("nobody is a day behind".into())),
        late => Err(late.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(waiting: u64, delivered: u64, quiet_secs: i64) -> Seat {
        let active_at = Some(mesh::clock::now().plus_secs(-quiet_secs));
        let moved = (delivered, delivered);
        Seat::Consumer(Standing { waiting, moved, active_at, is_paused: false })
    }

    #[test]
    fn who_moves_or_has_moved_just_now_does_not_stand_still() {
        let now = mesh::clock::now().0;
        let still = |before: Seat, after: Seat| stands_still(&before, &after, now);
        assert!(still(consumer(3, 7, 60), consumer(9, 7, 60)));
        assert!(!still(consumer(3, 7, 60), consumer(9, 8, 0)), "it was given something");
        assert!(!still(consumer(3, 7, 2), consumer(3, 7, 6)), "it rests");
        assert!(!still(consumer(3, 7, 60), consumer(0, 7, 60)), "nothing waits any more");
        let reader = |waiting, at, secs: i64| {
            let since = Some(mesh::clock::now().plus_secs(-secs));
            Seat::Reader { waiting, since, at }
        };
        assert!(still(reader(5, 10, 90), reader(6, 10, 94)));
        assert!(!still(reader(5, 10, 90), reader(4, 11, 1)), "it has read on");
        assert!(!still(reader(5, 10, 1), reader(5, 10, 5)), "it may rest");
    }
}
