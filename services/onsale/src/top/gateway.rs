//! What the gateway answers the operator: whether it is ready, stalled sagas, dead letters.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use events::{
    Page, Problem,
    audit::SagaLine,
    dead_letter::{DeadLetterState, DeadLetters},
};
use reqwest::StatusCode;
use serde::de::DeserializeOwned;

use super::look::{DeadLetterLine, Part, Stall};
use crate::{
    http::Http,
    operator::{self, Operator, Where},
};

/// How many stalls and dead letters are shown.
pub(super) const LAST: usize = 5;
/// The pause after a log-in that failed: each costs the user service a hash of a password.
const LOG_IN_AGAIN: Duration = Duration::from_secs(10);

/// What the gateway has answered.
pub(super) struct Answered {
    /// What keeps it, and the services in its process, from their work.
    pub(super) faults: Part<Vec<String>>,
    pub(super) stalls: Part<Vec<Stall>>,
    pub(super) dead_letters: Part<Vec<DeadLetterLine>>,
}

/// The gateway, as the operator.
pub(super) struct Gateway {
    at: Where,
    operator: Option<Operator>,
    /// When the last log-in failed, and why.
    failed: Option<(Instant, String)>,
}

impl Gateway {
    pub(super) fn new(at: Where) -> Self {
        Self { at, operator: None, failed: None }
    }

    pub(super) async fn look(&mut self) -> Answered {
        let faults = Part::from(faults(&self.at).await);
        let lists = match faults.why() {
            Some(why) => Err(why.to_owned()),
            None => self.lists().await.map_err(|error| format!("{error:#}")),
        };
        let (stalls, dead_letters) =
            lists.unwrap_or_else(|why| (Part::NotReachable(why.clone()), Part::NotReachable(why)));
        Answered { faults, stalls, dead_letters }
    }

    async fn lists(&mut self) -> Result<(Part<Vec<Stall>>, Part<Vec<DeadLetterLine>>)> {
        let operator = self.logged_in().await?;
        let (stalls, dead_letters) = tokio::join!(stalls(operator), dead_letters(operator));
        let has_expired = [stalls.as_ref().err(), dead_letters.as_ref().err()]
            .into_iter()
            .flatten()
            .any(|error| error.is::<Expired>());
        if has_expired {
            self.operator = None;
        }
        Ok((stalls.into(), dead_letters.into()))
    }

    async fn logged_in(&mut self) -> Result<&Operator> {
        if let Some((at, why)) = &self.failed
            && at.elapsed() < LOG_IN_AGAIN
        {
            bail!("{why}");
        }
        self.failed = None;
        if self.operator.is_none() {
            match Operator::log_in(&self.at).await {
                Ok(operator) => self.operator = Some(operator),
                Err(error) => {
                    self.failed = Some((Instant::now(), format!("{error:#}")));
                    return Err(error);
                }
            }
        }
        self.operator.as_ref().context("logged in above")
    }
}

/// The access token is not valid any more.
#[derive(Debug)]
struct Expired;

impl std::fmt::Display for Expired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the operator is logged in again")
    }
}

impl std::error::Error for Expired {}

/// What keeps the gateway from its work.
async fn faults(at: &Where) -> Result<Vec<String>> {
    let (base, _) = operator::gateway(at)?;
    let http = Http::new(base);
    let answer = http.get("/readyz").send().await;
    let answer = answer.with_context(|| format!("no gateway at {}", http.base()))?;
    if answer.status.is_success() {
        return Ok(Vec::new());
    }
    let problem: Problem = serde_json::from_slice(&answer.body)
        .with_context(|| format!("the gateway answers {}", answer.status))?;
    let ails: Option<Vec<String>> =
        problem.extra.get("ails").and_then(|ails| serde_json::from_value(ails.clone()).ok());
    Ok(ails.unwrap_or_else(|| vec![problem.detail]))
}

async fn get<T: DeserializeOwned>(operator: &Operator, path: String) -> Result<T> {
    let answer = operator.get(path).send().await?;
    match answer.status {
        StatusCode::UNAUTHORIZED => Err(Expired.into()),
        _ => answer.json(),
    }
}

async fn stalls(operator: &Operator) -> Result<Vec<Stall>> {
    let page: Page<SagaLine> =
        get(operator, format!("/v1/sagas?state=stalled&limit={LAST}")).await?;
    let stall = |line: SagaLine| Stall {
        saga_id: line.saga_id,
        flow: line.flow,
        last_event: line.last_event,
        last_at: line.last_at,
        awaited: line.awaited,
    };
    Ok(page.items.into_iter().map(stall).collect())
}

async fn dead_letters(operator: &Operator) -> Result<Vec<DeadLetterLine>> {
    let page: DeadLetters = get(operator, format!("/v1/dead-letters?limit={LAST}")).await?;
    let dead = page.items.into_iter().filter(|one| one.state == DeadLetterState::Parked);
    let line = |one: events::dead_letter::DeadLetter| DeadLetterLine {
        letter: one.letter,
        event: one.event,
        cause: one.cause,
        parked_at: one.kept_at,
    };
    Ok(dead.map(line).collect())
}
