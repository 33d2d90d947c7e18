//! Consumers that are stuck while events wait.
//!
//! A lag is no fault: listeners may lag under load. A consumer that makes no progress is at
//! fault, so every consumer with waiting events is looked at twice.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail};
use events::Timestamp;
use mesh::{ConsumerProgress, MeshClient, StreamError, Unread, postgres::Positions};
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::check::{Checked, Outcome, alone, link, skipped};
use crate::{
    config::{Config, OPERATOR},
    registry,
    retention::{self, Behind},
};

/// Between the two looks. A throttled listener pauses for less than this.
const WATCHED_FOR: Duration = Duration::from_secs(4);
/// A consumer that was active this recently is not stuck.
const STUCK_SECS: i64 = 15;
/// A reader by position is not stuck while its next message is younger than this; it is
/// throttled for longer than a consumer.
const UNREAD_SECS: i64 = 30;
/// An event that waits for longer than this is consumed late.
const LAG_SECS: i64 = 60;

/// A service and a stream.
type Pair = (&'static str, &'static str);

/// How far a service has come in a stream.
#[derive(Debug, Clone, PartialEq)]
enum Progress {
    Consumer(ConsumerProgress),
    /// A reader by position: how many messages wait, since when, and its position.
    Reader {
        waiting: u64,
        since: Option<Timestamp>,
        at: u64,
    },
}

impl Progress {
    fn waiting(&self) -> u64 {
        match self {
            Self::Consumer(progress) => progress.lag,
            Self::Reader { waiting, .. } => *waiting,
        }
    }
}

pub(super) async fn progress(config: &Config) -> Outcome {
    let Some(link) = link(config, OPERATOR).await? else {
        return skipped("the operator's seed is not configured");
    };
    let client = MeshClient::new(link.clone());
    let mut before = observe(config, &client).await?;
    before.retain(|_, progress| progress.waiting() > 0);
    let mut stuck = Vec::new();
    if !before.is_empty() {
        tokio::time::sleep(WATCHED_FOR).await;
        let after = observe(config, &client).await?;
        let now = mesh::clock::now().0;
        for ((consumer, producer), progress) in &before {
            if after
                .get(&(*consumer, *producer))
                .is_some_and(|after| is_stuck(progress, after, now))
            {
                stuck.push(describe(consumer, producer, progress));
            }
        }
    }
    link.drain().await;
    if !stuck.is_empty() {
        bail!("{}; check whether the service runs, and what its /readyz reports", stuck.join(", "));
    }
    let lags = before.iter().map(|((consumer, producer), progress)| {
        format!("{consumer} by {} messages of {producer}", progress.waiting())
    });
    let lags: Vec<String> = lags.collect();
    Ok(Checked::Good(match lags.as_slice() {
        [] => "no consumer lags".into(),
        lags => format!("every consumer makes progress; behind: {}", lags.join(", ")),
    }))
}

fn describe(consumer: &str, producer: &str, progress: &Progress) -> String {
    let waiting = progress.waiting();
    match progress {
        Progress::Consumer(progress) if progress.is_paused => {
            format!(
                "{consumer} is paused on the broker while {waiting} messages of {producer} wait"
            )
        }
        _ => format!("{consumer} is stuck while {waiting} messages of {producer} wait"),
    }
}

/// Whether nothing has moved between the two looks, and for a while before them.
fn is_stuck(before: &Progress, after: &Progress, now: time::OffsetDateTime) -> bool {
    match (before, after) {
        (Progress::Consumer(before), Progress::Consumer(after)) => {
            let is_quiet =
                after.active_at.is_none_or(|at| (now - at.0).whole_seconds() >= STUCK_SECS);
            after.lag > 0 && before.moved == after.moved && (is_quiet || after.is_paused)
        }
        (Progress::Reader { at: before, since, .. }, Progress::Reader { waiting, at, .. }) => {
            let is_old = since.is_none_or(|at| (now - at.0).whole_seconds() >= UNREAD_SECS);
            *waiting > 0 && before == at && is_old
        }
        _ => false,
    }
}

async fn observe(config: &Config, client: &MeshClient) -> Result<BTreeMap<Pair, Progress>> {
    let mut observed = BTreeMap::new();
    for wiring in registry::wirings() {
        for producer in wiring.consumed_streams() {
            let progress = client.consumer_progress(producer, wiring.service).await;
            // Another check reports a missing consumer.
            if let Some(progress) = progress.map_err(|problem| alone(problem.detail))? {
                observed.insert((wiring.service, producer), Progress::Consumer(progress));
            }
        }
        let Some(url) = config.database_urls.get(wiring.service) else { continue };
        if wiring.follows.is_empty() {
            continue;
        }
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(WATCHED_FOR);
        let pool = pool.connect_lazy(url).map_err(alone)?;
        observe_readers(client, &wiring, &pool, &mut observed).await?;
        pool.close().await;
    }
    Ok(observed)
}

/// Adds the streams that a service reads by position. One that it has never read from is left
/// out: an export without a target reads nothing.
async fn observe_readers(
    client: &MeshClient,
    wiring: &mesh::Wiring,
    pool: &PgPool,
    observed: &mut BTreeMap<Pair, Progress>,
) -> Result<()> {
    let unread = |error: StreamError| alone(error.with_cause());
    let positions = Positions::load(pool).await.map_err(alone)?;
    for producer in wiring.read_streams() {
        let at = positions.of(producer);
        if at == 0 {
            continue;
        }
        let Unread { messages: waiting, since } =
            client.unread(producer, at).await.map_err(unread)?;
        observed.insert((wiring.service, producer), Progress::Reader { waiting, since, at });
    }
    Ok(())
}

/// For how long the oldest event has waited for each consumer that is behind: after a minute that
/// is a warning, and after a day a stream will soon drop events before they are consumed.
pub(super) async fn lag(config: &Config) -> Outcome {
    let Some(link) = link(config, OPERATOR).await? else {
        return skipped("the operator's seed is not configured");
    };
    let behind = retention::behind(config, &MeshClient::new(link.clone())).await;
    link.drain().await;
    judge_lag(behind?, mesh::clock::now())
}

fn judge_lag(mut behind: Vec<Behind>, now: Timestamp) -> Outcome {
    behind.sort_by_key(|one| one.since);
    let late: Vec<String> = behind.iter().filter(|one| one.is_late(now)).map(too_late).collect();
    if !late.is_empty() {
        bail!("{}; check whether it runs, and what its /readyz reports", late.join(", "));
    }
    let Some(oldest) = behind.first() else {
        return Ok(Checked::Good("no event waits to be consumed".into()));
    };
    let Behind { consumer, emitter, .. } = oldest;
    let said = format!(
        "the oldest event that waits is one of {emitter} for {consumer}, for {} s",
        oldest.secs(now).max(0)
    );
    Ok(match oldest.secs(now) {
        ..=LAG_SECS => Checked::Good(said),
        _ => Checked::Warning(format!(
            "{said}: {consumer} is slow or does not run; run more instances of it, or see what \
             its /readyz reports"
        )),
    })
}

fn too_late(one: &Behind) -> String {
    let Behind { consumer, emitter, since } = one;
    format!("{consumer} has not taken in events of {emitter} since {since}; they will be dropped")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(waiting: u64, delivered: u64, quiet_secs: i64) -> Progress {
        let active_at = Some(mesh::clock::now().plus_secs(-quiet_secs));
        let moved = (delivered, delivered);
        Progress::Consumer(ConsumerProgress { lag: waiting, moved, active_at, is_paused: false })
    }

    #[test]
    fn a_minute_of_lag_is_a_warning_and_a_day_is_wrong() {
        let now = mesh::clock::now();
        let behind = |secs: i64| {
            let since = now.plus_secs(-secs);
            Behind { consumer: "point".into(), emitter: "payment", since }
        };
        assert!(matches!(judge_lag(vec![], now), Ok(Checked::Good(_))));
        assert!(matches!(judge_lag(vec![behind(5)], now), Ok(Checked::Good(_))));
        assert!(matches!(judge_lag(vec![behind(5), behind(90)], now), Ok(Checked::Warning(_))));
        let late = judge_lag(vec![behind(5), behind(2 * 86_400)], now).err().expect("too late");
        assert!(late.to_string().contains("point has not taken in events of payment since"));
    }

    #[test]
    fn a_consumer_that_moves_or_has_just_moved_is_not_stuck() {
        let now = mesh::clock::now().0;
        let stuck = |before: Progress, after: Progress| is_stuck(&before, &after, now);
        assert!(stuck(consumer(3, 7, 60), consumer(9, 7, 60)));
        assert!(!stuck(consumer(3, 7, 60), consumer(9, 8, 0)), "a message was delivered");
        assert!(!stuck(consumer(3, 7, 2), consumer(3, 7, 6)), "it pauses");
        assert!(!stuck(consumer(3, 7, 60), consumer(0, 7, 60)), "nothing waits any more");
        let reader = |waiting, at, secs: i64| {
            let since = Some(mesh::clock::now().plus_secs(-secs));
            Progress::Reader { waiting, since, at }
        };
        assert!(stuck(reader(5, 10, 90), reader(6, 10, 94)));
        assert!(!stuck(reader(5, 10, 90), reader(4, 11, 1)), "it has read on");
        assert!(!stuck(reader(5, 10, 1), reader(5, 10, 5)), "it may pause");
    }
}
