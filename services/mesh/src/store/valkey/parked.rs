//! Parked events in Valkey; their Lua side is `parked.lua`.

use async_trait::async_trait;
use std::time::Duration;

use events::{
    Timestamp, UserId,
    dead_letter::{DeadLetterEvent, DeadLetterState},
};

use super::{
    call::Parts,
    keyspace::{Keyspace, NOTHING},
};
use crate::{
    clock,
    parked::{Parked, ParkedState, one_line},
    store::engine::{Failure, ParkedOpen, Parking, Show, Verdict, Which},
};

/// How long an ended row is kept.
pub(super) const ENDED_KEEP: Duration = Duration::from_secs(14 * 86_400);
/// Rows listed at most.
const SHOWN_MAX: usize = 10_000;

#[async_trait]
impl Parking for Keyspace {
    async fn lease(&self, which: Which, lease: Duration) -> Result<Vec<Parked>, Failure> {
        let (which, what) = match which {
            Which::Due(most) => ("due", most.to_string()),
            // A row is parked in the same step in which the row before it is seen, so none strands.
            Which::Missed(_) => return Ok(Vec::new()),
            Which::First(key) => ("first", key),
            Which::Number(number) => ("number", number.to_string()),
        };
        let millis = lease.as_millis() as u64;
        self.serve("lease", (which, what, millis)).await?.each(row)
    }

    async fn settle(&self, number: u64, verdict: Verdict) -> Result<(), Failure> {
        let (state, cause, counts, after, note) = match verdict {
            Verdict::Again { after, cause, counts } => {
                (ParkedState::Early, cause, counts, after, String::new())
            }
            Verdict::Dead { cause, by } => {
                let note = happened(DeadLetterState::Parked, by, Some(&one_line(&cause)));
                (ParkedState::Dead, cause, true, Duration::ZERO, note)
            }
        };
        let millis = after.as_millis() as u64;
        let cause = one_line(&cause);
        let args = (number, state.as_str(), cause, u8::from(counts), millis, note);
        self.serve("settle", args).await.map(drop)
    }

    async fn discard(&self, number: u64, by: UserId, why: &str) -> Result<bool, Failure> {
        let note = happened(DeadLetterState::Discarded, Some(by), Some(why));
        let mut parts = self.serve("discard", (number, note)).await?;
        Ok(parts.take::<u8>()? == 1)
    }

    async fn parked_open(&self) -> Result<ParkedOpen, Failure> {
        let mut parts = self.serve("parked_open", NOTHING).await?;
        Ok(ParkedOpen { waiting: parts.take()?, dead: parts.take()? })
    }

    async fn parked(&self, show: Show) -> Result<Vec<Parked>, Failure> {
        let (set, most) = match show {
            Show::All(false, most) => ("open".to_owned(), most),
            Show::All(true, most) => ("all".to_owned(), most),
            Show::Key(key) => (format!("of:{key}"), SHOWN_MAX),
            Show::Number(number) => {
                return self.serve("parked_one", number).await?.each(row);
            }
        };
        if most == 0 {
            return Ok(Vec::new());
        }
        let most = most.min(SHOWN_MAX);
        self.serve("parked", (set, most)).await?.each(row)
    }
}

/// An entry of a row's history.
pub(super) fn happened(became: DeadLetterState, by: Option<UserId>, why: Option<&str>) -> String {
    let event = DeadLetterEvent { at: Some(clock::now()), became, by, why: why.map(str::to_owned) };
    serde_json::to_string(&event).expect("a history is plain data")
}

fn row(mut parts: Parts) -> Result<Parked, Failure> {
    let (key, state): (String, String) = (parts.take()?, parts.take()?);
    let cause = one_line(&parts.lossy()?);
    let (attempts, unsettled) = (parts.take()?, parts.take()?);
    let envelope = parts.take::<Vec<u8>>()?.into();
    let (subject, stream, sequence) = (parts.take()?, parts.take()?, parts.take()?);
    let kept_at = Timestamp::from_unix_millis(parts.take()?)
        .ok_or_else(|| Failure::Refused("a parked row has no valid time".into()))?;
    let number = parts.take()?;
    let history: Vec<String> = parts.take()?;
    Ok(Parked {
        number,
        key,
        state: ParkedState::read(&state),
        cause,
        attempts,
        unsettled,
        envelope,
        subject,
        stream,
        sequence,
        kept_at,
        history: history.iter().filter_map(|event| serde_json::from_str(event).ok()).collect(),
    })
}
