//! Lines moved on: by operators, and by themselves.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID};
use bytes::Bytes;
use events::{
    Problem, UserId, codes,
    dead_letter::{Discard, LetterState, REASON_CHARS_MAX, Redrive, Redriven, Stopped},
};
use futures::{FutureExt, StreamExt};
use tokio::{
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    key,
    line::{Became, Letter, Pages, spelt},
    lot::{Freed, Lot},
};
use crate::{
    Asker, Link,
    consumer::{Received, decode},
    engine::Engine,
    link::headers,
    service::{Heard, parse},
    work::{Meta, Settle, Work},
};

/// How long one request may move a line on; what is left then goes on by itself.
const BUDGET: Duration = Duration::from_secs(7);
/// How long a letter may wait for what it depends on before it has failed again.
const EARLY_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries of such a letter, and between two looks at a line that is joined just now.
const PAUSE: Duration = Duration::from_millis(20);
/// How often lines are looked at though nothing was heard of them: what another instance
/// left behind when it was killed is found by this.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Lines looked at each time.
const LOOKS_MAX: usize = 200;

/// What moves the lines of one service on.
pub(crate) struct Redriver<E: Engine> {
    pub(crate) link: Link,
    pub(crate) lot: Arc<Lot>,
    /// How each fact of the service is decoded.
    pub(crate) heard: Arc<HashMap<&'static str, Heard<E>>>,
    pub(crate) intake: mpsc::Sender<Work<E::Deed>>,
    pub(crate) shutdown: CancellationToken,
}

/// How far a line is moved on.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    /// As far as it may go by itself: to the first letter that was tried and failed.
    Parked,
    /// To the first letter that fails again: this operator asks for it.
    Fails(UserId),
}

/// How a letter's try ended.
pub(crate) enum Tried {
    /// It is taken in, now or before.
    Done,
    /// What it depends on is not here yet.
    Early(String),
    /// It failed again.
    Failed(String),
}

impl<E: Engine> Redriver<E> {
    /// Reads which keys are parked, then follows the log and moves on what may move.
    pub(crate) async fn run(&self) -> Result<(), String> {
        let service = self.link.service();
        // Subscribed before the log is read: what is kept in between is seen twice at worst.
        let subject = format!("dlq.{service}.>");
        let live = self.link.client().subscribe(subject).await;
        let mut live = live.map_err(|error| error.to_string())?;
        let mut reconnects = self.link.reconnects();
        self.load().await.map_err(|problem| format!("the dead letters: {problem}"))?;
        self.lot.set_ready();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked_at = String::new();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                message = live.next() => match message {
                    Some(message) => self.follow(&message.subject, message.headers.as_ref()),
                    None => return Err("the subscription to the dead letters ended".into()),
                },
                // What was kept while the connection was down has passed unseen.
                Ok(()) = reconnects.changed() => {
                    self.load().await.map_err(|problem| format!("the dead letters: {problem}"))?;
                }
                _ = ticks.tick(), if self.lot.is_any() => {
                    self.lot.look_around(&looked_at, LOOKS_MAX);
                }
                () = self.lot.woken() => {
                    while let Some(key) = self.lot.next_look() {
                        // What is heard meanwhile parks its key before this line is done.
                        while let Some(Some(message)) = live.next().now_or_never() {
                            self.follow(&message.subject, message.headers.as_ref());
                        }
                        if let Err(problem) = self.drive(&key, None, Until::Parked).await {
                            warn!(service, key, %problem, "a line cannot be moved on yet");
                        }
                        looked_at = key;
                        if self.shutdown.is_cancelled() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    /// Parks the keys of all letters that have no end, and has their lines looked at.
    async fn load(&self) -> Result<(), Problem> {
        let open = Asker::new(self.link.clone());
        let open = open.dead_letters(Some(self.link.service()), false).await?;
        for letter in &open {
            self.lot.park(&letter.key);
            if letter.state == LetterState::Waiting && letter.behind.is_none() {
                self.lot.look_at(&letter.key);
            }
        }
        if !open.is_empty() {
            info!(service = self.link.service(), letters = open.len(), "dead letters are kept");
        }
        Ok(())
    }

    /// What another instance has just written into the log.
    fn follow(&self, subject: &str, written: Option<&HeaderMap>) {
        let Some(key) = subject.rsplit('.').next() else { return };
        let header = |name: &str| Some(written?.get(name)?.as_str());
        if header(headers::DEAD_BY) == Some(&self.lot.instance) {
            return;
        }
        if header(headers::DEAD_LETTER).is_some() {
            // A line has moved; this may have been its last letter.
            if self.lot.edition(key).is_some() {
                self.lot.look_at(key);
            }
        } else if self.lot.hear(key, Instant::now()) && header(headers::DEAD_WAITS).is_some() {
            // It waits there for a line that has ended since; found soon, or by a later look.
            self.lot.look_at(key);
        }
    }

    /// Answers an operator who has a letter tried again.
    pub(crate) async fn redrive(&self, body: &Bytes, meta: &Meta) -> Result<Bytes, Problem> {
        let Redrive { letter } = parse(body)?;
        let by = meta.caller.user_id()?;
        let key = self.open_letter(letter).await?.about.key;
        let done = self.drive(&key, Some(letter), Until::Fails(by)).await?;
        info!(service = self.link.service(), letter, key, %by, resolved = done.resolved.len(),
            left = done.left, "a dead letter was tried again");
        Ok(serde_json::to_vec(&Redriven { letter, ..done }).expect("plain data").into())
    }

    /// Answers an operator who gives a letter up. The line moves on without it.
    pub(crate) async fn discard(&self, body: &Bytes, meta: &Meta) -> Result<Bytes, Problem> {
        let Discard { letter, reason } = parse(body)?;
        let by = meta.caller.user_id()?;
        let chars = reason.trim().chars().count();
        if chars == 0 || chars > REASON_CHARS_MAX || reason.chars().any(char::is_control) {
            let detail = format!("A reason is one line of 1 to {REASON_CHARS_MAX} characters.");
            return Err(Problem::new(codes::INVALID, detail));
        }
        let given_up = self.open_letter(letter).await?;
        let said = Became {
            by: Some(by),
            why: Some(reason.trim().to_owned()),
            attempts: given_up.about.attempts,
        };
        self.record(&given_up, LetterState::Discarded, &said).await?;
        let key = given_up.about.key;
        info!(service = self.link.service(), letter, key, %by, "a dead letter was discarded");
        let done = self.drive(&key, Some(letter), Until::Parked).await?;
        Ok(serde_json::to_vec(&Redriven { letter, ..done }).expect("plain data").into())
    }

    async fn open_letter(&self, letter: u64) -> Result<Letter, Problem> {
        let line = Asker::new(self.link.clone()).line_of(letter).await?;
        let found = line.into_iter().find(|one| one.about.letter == letter);
        let found = found.filter(|found| found.about.service == self.link.service());
        let found = found.ok_or_else(|| {
            let detail = format!("{} has no letter {letter}.", self.link.service());
            Problem::new(codes::NOT_FOUND, detail)
        })?;
        if !found.about.state.is_open() {
            let detail = format!("Letter {letter} is {} already.", spelt(found.about.state));
            return Err(Problem::new(codes::NOT_FOUND, detail));
        }
        Ok(found)
    }

    /// Takes the letters of a key in, in order. Two may do so at once, here or in two
    /// instances: each takes a letter only after the one before it is taken in, whoever did
    /// that, and the inbox lets each take effect once.
    async fn drive(
        &self,
        key: &str,
        asked: Option<u64>,
        until: Until,
    ) -> Result<Redriven, Problem> {
        let began = Instant::now();
        let mut done = Redriven {
            letter: asked.unwrap_or_default(),
            service: self.link.service().to_owned(),
            key: key.to_owned(),
            resolved: Vec::new(),
            stopped: None,
            left: 0,
        };
        loop {
            let edition = self.lot.edition(key);
            let line = self.line(key, asked).await?;
            if line.is_empty() {
                let freed = edition.map(|edition| self.lot.free(key, edition, Instant::now()));
                match freed {
                    // In doubt, it is looked at again.
                    None | Some(Freed::Yes | Freed::InDoubt) => return Ok(done),
                    Some(Freed::Joined) => tokio::time::sleep(PAUSE).await,
                }
            }
            let mut left = line.len() as u64;
            for letter in line {
                done.left = left;
                if began.elapsed() > BUDGET || self.shutdown.is_cancelled() {
                    self.lot.look_at(key);
                    return Ok(done);
                }
                if letter.about.state == LetterState::Parked && until == Until::Parked {
                    return Ok(done);
                }
                if let Some(stopped) = self.try_again(&letter, until).await? {
                    done.stopped = Some(stopped);
                    return Ok(done);
                }
                done.resolved.push(letter.about.letter);
                left -= 1;
                done.left = left;
            }
            if began.elapsed() > BUDGET {
                self.lot.look_at(key);
                return Ok(done);
            }
        }
    }

    /// The open letters of a key; of what has no key, only the one that is asked for.
    async fn line(&self, key: &str, asked: Option<u64>) -> Result<Vec<Letter>, Problem> {
        let asker = Asker::new(self.link.clone());
        let mut line = asker.line(self.link.service(), key, Pages::brief()).await?;
        if key == key::NONE {
            line.retain(|letter| Some(letter.about.letter) == asked);
        }
        Ok(line)
    }

    /// Tries one letter and records what became of it. A crash between the two is harmless:
    /// it is tried again and found to be taken in.
    async fn try_again(&self, letter: &Letter, until: Until) -> Result<Option<Stopped>, Problem> {
        let by = match until {
            Until::Parked => None,
            Until::Fails(by) => Some(by),
        };
        let (attempts, tried) = self.run_letter(letter).await?;
        match tried {
            Tried::Done => {
                let said = Became { by, why: None, attempts };
                self.record(letter, LetterState::Resolved, &said).await?;
                Ok(None)
            }
            Tried::Early(cause) | Tried::Failed(cause) => {
                let said = Became { by, why: Some(cause.clone()), attempts };
                self.record(letter, LetterState::Parked, &said).await?;
                Ok(Some(Stopped { letter: letter.about.letter, cause, attempts }))
            }
        }
    }

    /// Runs a letter through the lanes like any message, under the same event id, saga,
    /// cause and trace. What is early is given a moment.
    async fn run_letter(&self, letter: &Letter) -> Result<(u64, Tried), Problem> {
        let until = Instant::now() + EARLY_PATIENCE;
        let mut attempts = letter.about.attempts;
        loop {
            attempts += 1;
            let received = Received {
                subject: &letter.about.subject,
                headers: letter.message.headers(),
                payload: letter.payload(),
                delivered: attempts,
            };
            let (deed, meta) = match decode(&self.heard, received) {
                Ok(work) => work,
                Err(cause) => return Ok((attempts, Tried::Failed(cause))),
            };
            let (sender, receiver) = oneshot::channel();
            let settle = Settle::Redrive(sender);
            let work = Work { deed, meta, settle, span: Default::default() };
            self.intake.send(work).await.map_err(|_| unavailable())?;
            match receiver.await.map_err(|_| unavailable())? {
                Tried::Early(_) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                tried => return Ok((attempts, tried)),
            }
        }
    }

    /// Writes into the log what became of a letter.
    async fn record(
        &self,
        letter: &Letter,
        became: LetterState,
        said: &Became,
    ) -> Result<(), Problem> {
        let about = &letter.about;
        let mut map = HeaderMap::new();
        map.insert(headers::DEAD_LETTER, about.letter.to_string());
        map.insert(headers::DEAD_BY, self.lot.instance.as_str());
        map.insert(headers::DEAD_BECAME, spelt(became));
        if !became.is_open() {
            // Of two that end it at once, the first has.
            map.insert(NATS_MESSAGE_ID, format!("dlq-end-{}", about.letter));
        }
        let subject = format!("dlq.{}.{}.{}", about.service, about.fact, about.key);
        let body = serde_json::to_vec(said).expect("records are plain data");
        let jetstream = self.link.jetstream();
        let sent = jetstream.publish_with_headers(subject, map, body.into()).await;
        let lost = |error: &dyn std::fmt::Display| {
            Problem::new(codes::UNAVAILABLE, error.to_string()).with("retry_after_secs", 1)
        };
        sent.map_err(|error| lost(&error))?.await.map(drop).map_err(|error| lost(&error))
    }
}

fn unavailable() -> Problem {
    Problem::new(codes::UNAVAILABLE, "The service could not try it; try again.")
        .with("retry_after_secs", 1)
}
