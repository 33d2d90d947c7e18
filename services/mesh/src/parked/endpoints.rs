//! The endpoints for operators: list, retry and discard dead letters.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use events::{
    Envelope, Problem, UserId, codes,
    dead_letter::{
        DeadLetterDetails, DeadLetterId, Discard, FindDeadLetters, FoundDeadLetters, LeftOpen,
        REASON_CHARS_MAX, Redrive, Retried, Stopped,
    },
    event_of_subject,
};
use tracing::info;

use super::{
    Parked, ParkedState,
    key::NONE,
    retry::{LEASE, Retrier, Tried},
};
use crate::{
    batch::work::Meta,
    inbound::input::parse,
    store::engine::{Failure, Show, Which},
};

/// Dead letters listed at most: together they fit into one message of the broker.
const DEAD_LETTERS_MAX: usize = 5_000;
/// How long one request may retry the dead letters of a key; the rest goes on in the background.
const BUDGET: Duration = Duration::from_secs(7);

/// The endpoints, on a service's retrier.
pub(crate) struct DeadLetterEndpoints(pub(crate) Arc<Retrier>);

/// The refusal to discard an event that a saga needs.
fn still_open(service: &str, open: &LeftOpen) -> Problem {
    let LeftOpen { event, would_follow, saga_id } = open;
    let lost = match would_follow[..] {
        [] => format!("{service} would go on as if it had never happened"),
        _ => format!("{service} would never emit {}", would_follow.join(" or ")),
    };
    let detail = format!(
        "{service} decides by {event}: without it {lost}, and what waits for that stays open. \
         Retry the dead letter once its cause is fixed, or set `leave_open`."
    );
    let mut problem = Problem::new(codes::SAGA_OPEN, detail)
        .with("event", event.as_str())
        .with("would_follow", would_follow.clone());
    if let Some(saga_id) = saga_id {
        problem = problem.with("saga_id", saga_id.0.to_string());
    }
    problem
}

impl DeadLetterEndpoints {
    fn service(&self) -> &'static str {
        self.0.link.service()
    }

    /// Lists the dead letters of the service, or shows one in full.
    pub(crate) async fn find(&self, body: &Bytes) -> Result<Bytes, Problem> {
        let FindDeadLetters { letter, ended } = parse(body)?;
        let mut found = FoundDeadLetters::default();
        match letter {
            None => {
                let show = Show::All(ended, DEAD_LETTERS_MAX);
                found.letters = self.dead_letters(show, ended).await?;
            }
            Some(letter) => {
                let parked = self.open(&letter).await?;
                let show = match parked.key.as_str() {
                    NONE => Show::Number(parked.number),
                    key => Show::Key(key.to_owned()),
                };
                let deliveries = self.dead_letters(show, true).await?;
                let itself = deliveries.iter().find(|one| one.letter == letter).cloned();
                let payload = String::from_utf8_lossy(&parked.envelope).into_owned();
                let letter = itself.unwrap_or_else(|| parked.to_dead_letter(self.service(), None));
                found.opened = Some(DeadLetterDetails { letter, payload, deliveries });
            }
        }
        Ok(serde_json::to_vec(&found).expect("dead letters are plain data").into())
    }

    /// Dead letters, each with the event it waits behind: the first that holds its key. Early
    /// events, and events that will be tried without an operator, are left out unless `all`.
    async fn dead_letters(
        &self,
        show: Show,
        all: bool,
    ) -> Result<Vec<events::dead_letter::DeadLetter>, Problem> {
        let rows = self.0.engine.store().parked(show).await.map_err(away)?;
        let mut first: HashMap<&str, &Parked> = HashMap::new();
        for row in rows.iter().filter(|row| row.state.holds_key() && row.key != NONE) {
            first.entry(&row.key).or_insert(row);
        }
        let mut dead_letters = Vec::with_capacity(rows.len());
        for row in &rows {
            let waits = matches!(row.state, ParkedState::Behind | ParkedState::Early);
            let before = first.get(row.key.as_str());
            let before = before.filter(|first| waits && first.number < row.number);
            let is_transient = match row.state {
                ParkedState::Early => true,
                ParkedState::Behind => before.is_none_or(|first| first.state != ParkedState::Dead),
                _ => false,
            };
            if all || !is_transient {
                dead_letters
                    .push(row.to_dead_letter(self.service(), before.map(|first| first.number)));
            }
        }
        Ok(dead_letters)
    }

    /// Retries a dead letter, together with all events before and behind it under its key.
    pub(crate) async fn redrive(&self, body: &Bytes, meta: &Meta) -> Result<Bytes, Problem> {
        let Redrive { letter } = parse(body)?;
        let by = meta.caller.user_id()?;
        let parked = self.open_one(&letter).await?;
        let done = self.drive(letter.clone(), &parked, by).await?;
        info!(service = self.service(), %letter, key = parked.key, %by,
            resolved = done.resolved.len(), left = done.left, "a dead letter was retried");
        Ok(serde_json::to_vec(&done).expect("plain data").into())
    }

    /// Discards a dead letter; the events behind it go on in the background.
    pub(crate) async fn discard(&self, body: &Bytes, meta: &Meta) -> Result<Bytes, Problem> {
        let Discard { letter, reason, leave_open } = parse(body)?;
        let by = meta.caller.user_id()?;
        let reason = text::line(&reason, 1..=REASON_CHARS_MAX)
            .map_err(|flaw| Problem::about(codes::INVALID, "reason", flaw.to_string()))?;
        let parked = self.open_one(&letter).await?;
        let open = self.leaves_open(&parked);
        if let Some(open) = open.as_ref().filter(|_| !leave_open) {
            return Err(still_open(self.service(), open));
        }
        let ended =
            self.0.engine.store().discard(parked.number, by, &reason).await.map_err(away)?;
        if !ended {
            return Err(gone(&letter));
        }
        self.0.parked.notify_one();
        info!(service = self.service(), %letter, key = parked.key, %by,
            "a dead letter was discarded");
        let left = self.left(&parked.key).await?;
        let done = Retried { letter, left_open: open, ..self.nothing(&parked.key, left) };
        Ok(serde_json::to_vec(&done).expect("plain data").into())
    }

    /// What stays open if the event is never taken in; `None` for a listener, which decides nothing.
    fn leaves_open(&self, parked: &Parked) -> Option<LeftOpen> {
        if self.0.only_listens {
            return None;
        }
        let event = event_of_subject(&parked.subject).unwrap_or("an unknown event");
        let follows = self.0.consumed.get(event).map_or(&[][..], |consumed| consumed.emits);
        let saga_id = Envelope::decode(&parked.envelope).ok().map(|envelope| envelope.sagaid);
        let would_follow = follows.iter().map(|&event| event.to_owned()).collect();
        Some(LeftOpen { event: event.to_owned(), would_follow, saga_id })
    }

    /// Retries the events that hold a key, in order, until one fails. An early event holds no
    /// key: it is tried alone, unless an event before it holds its key.
    async fn drive(
        &self,
        letter: DeadLetterId,
        target: &Parked,
        by: UserId,
    ) -> Result<Retried, Problem> {
        let began = Instant::now();
        let mut done = Retried { letter, ..self.nothing(&target.key, 0) };
        while began.elapsed() < BUDGET && !self.0.shutdown.is_cancelled() {
            let which = match (target.key.as_str(), target.state) {
                (NONE, _) | (_, ParkedState::Early) => Which::Number(target.number),
                (key, _) => Which::First(key.to_owned()),
            };
            let leased = self.0.engine.store().lease(which, LEASE).await.map_err(away)?;
            // Nothing is left, or another instance is trying it right now.
            let Some(parked) = leased.first() else { break };
            match self.0.attempt(parked, Some(by)).await.map_err(away)? {
                Tried::Done => done.resolved.push(DeadLetterId::new(self.service(), parked.number)),
                Tried::Stopped(cause) => {
                    let letter = DeadLetterId::new(self.service(), parked.number);
                    done.stopped = Some(Stopped { letter, cause, attempts: parked.attempts });
                    break;
                }
            }
        }
        done.left = self.left(&target.key).await?;
        Ok(done)
    }

    async fn left(&self, key: &str) -> Result<u64, Problem> {
        if key == NONE {
            return Ok(0);
        }
        let rows = self.0.engine.store().parked(Show::Key(key.to_owned())).await.map_err(away)?;
        Ok(rows.iter().filter(|row| row.state.holds_key()).count() as u64)
    }

    fn nothing(&self, key: &str, left: u64) -> Retried {
        Retried {
            letter: DeadLetterId::new(self.service(), 0),
            service: self.service().to_owned(),
            key: key.to_owned(),
            resolved: Vec::new(),
            stopped: None,
            left,
            left_open: None,
        }
    }

    async fn open(&self, letter: &DeadLetterId) -> Result<Parked, Problem> {
        let mine = (letter.service() == self.service()).then_some(letter.number());
        let rows = match mine {
            Some(number) => {
                self.0.engine.store().parked(Show::Number(number)).await.map_err(away)?
            }
            None => Vec::new(),
        };
        rows.into_iter().next().ok_or_else(|| gone(letter))
    }

    async fn open_one(&self, letter: &DeadLetterId) -> Result<Parked, Problem> {
        let parked = self.open(letter).await?;
        if parked.state.is_open() {
            return Ok(parked);
        }
        let detail = format!("Dead letter {letter} is already {}.", parked.state.as_str());
        Err(Problem::new(codes::NOT_FOUND, detail))
    }
}

fn gone(letter: &DeadLetterId) -> Problem {
    Problem::new(codes::NOT_FOUND, format!("There is no dead letter {letter}."))
}

fn away(failure: Failure) -> Problem {
    crate::away("The dead letters cannot be read or changed right now.", failure)
}
