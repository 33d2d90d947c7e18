//! The clocks of this machine, of the broker and of the stores: holds, passes and tokens end by
//! them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mesh::{
    MeshClient, clock, postgres,
    valkey::{Keyspace, Valkey},
};
use time::OffsetDateTime;

use super::check::{Checked, Outcome, alone, link, skipped};
use crate::{
    config::{Config, OPERATOR},
    registry::WITH_DATABASE,
};

/// Clocks that differ by more than this should be looked at …
const WARN_MILLIS: i64 = 1_000;
/// … and by more than this, holds end early or late.
const WRONG_MILLIS: i64 = 5_000;

/// The clock of a server, against ours.
#[derive(Debug, Clone)]
struct Offset {
    whose: String,
    /// By how much it is ahead, at least: what the way there may have taken is taken off.
    millis: i64,
}

impl Offset {
    fn new(whose: impl Into<String>, ahead_millis: i64, round_trip: Duration) -> Self {
        let unsure = i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX);
        let sure = (ahead_millis.abs() - unsure).max(0);
        Self { whose: whose.into(), millis: sure * ahead_millis.signum() }
    }

    fn in_words(&self) -> String {
        let secs = self.millis.abs() as f64 / 1_000.0;
        let way = if self.millis < 0 { "behind" } else { "ahead of" };
        format!("the clock of {} is {secs:.1} s {way} this machine's", self.whose)
    }
}

/// Compares the clocks.
pub(super) async fn agree(config: &Config) -> Outcome {
    let mut offsets = Vec::new();
    for service in WITH_DATABASE {
        // A database that cannot be reached is another check's finding.
        if let Some(url) = config.database_urls.get(service)
            && let Ok(offset) = of_database(service, url).await
        {
            offsets.push(offset);
        }
    }
    if !config.valkey_url.is_empty()
        && let Ok(room) = Valkey::<queue::Room>::new(&config.valkey_url, queue::Config::default())
        && let Ok(offset) = of_valkey(&room).await
    {
        offsets.push(offset);
    }
    if let Ok(Some(link)) = link(config, OPERATOR).await {
        let servers = MeshClient::new(link.clone()).broker_servers().await;
        link.drain().await;
        let servers = servers.unwrap_or_default().into_iter();
        offsets.extend(servers.map(|server| {
            let whose = format!("the broker {}", server.name);
            Offset::new(whose, server.ahead_millis, server.round_trip)
        }));
    }
    judge(&offsets)
}

async fn of_database(service: &str, url: &str) -> Result<Offset> {
    let mut database = postgres::connect(url).await.map_err(alone)?;
    let (asked_at, since) = (clock::now(), Instant::now());
    let theirs: OffsetDateTime =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut database).await?;
    let round_trip = since.elapsed();
    let millis = (theirs - asked_at.0 - round_trip / 2).whole_milliseconds();
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    Ok(Offset::new(format!("the database of {service}"), millis, round_trip))
}

async fn of_valkey(store: &Keyspace) -> Result<Offset> {
    let (asked_at, since) = (clock::now(), Instant::now());
    let theirs = store.clock().await.map_err(alone)?;
    let round_trip = since.elapsed();
    let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX);
    let millis = theirs.unix_millis() - asked_at.unix_millis() - half;
    Ok(Offset::new("Valkey", millis, round_trip))
}

fn judge(offsets: &[Offset]) -> Outcome {
    let Some(worst) = offsets.iter().max_by_key(|offset| offset.millis.abs()) else {
        return skipped("no server could be asked for its time");
    };
    let advice = "holds, passes and tokens end by these clocks: let each machine follow a time \
                  server (chrony, or the provider's)";
    match worst.millis.abs() {
        0..=WARN_MILLIS => Ok(Checked::Good(format!(
            "{} clocks differ from this machine's by {} ms at most",
            offsets.len(),
            worst.millis.abs()
        ))),
        ..=WRONG_MILLIS => Ok(Checked::Warning(format!("{}; {advice}", worst.in_words()))),
        _ => bail!("{}; {advice}", worst.in_words()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_only_by_what_a_slow_answer_does_not_explain() {
        let offset = |millis, trip| Offset::new("x", millis, Duration::from_millis(trip));
        assert!(matches!(judge(&[offset(900, 2)]), Ok(Checked::Good(_))));
        assert!(matches!(judge(&[offset(1_500, 2_000)]), Ok(Checked::Good(_))), "a slow answer");
        assert!(matches!(judge(&[offset(0, 0), offset(-1_500, 2)]), Ok(Checked::Warning(_))));
        assert!(judge(&[offset(5_500, 2)]).is_err());
        assert!(matches!(judge(&[]), Ok(Checked::Skipped(_))));
        assert!(offset(-1_500, 0).in_words().contains("1.5 s behind"));
    }
}
