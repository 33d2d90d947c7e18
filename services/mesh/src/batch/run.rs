//! One batch in one transaction: claim, load, decide, save, close, commit.
//!
//! It is the same for every unit of work and for every store: a database or, in the simulation,
//! memory.
//!
//! A batch is first run optimistically. That assumes that no message of it was taken in before,
//! no command was answered, and no parked event holds a key, which is nearly always so. The
//! closing statement verifies it. If it was wrong, the transaction is rolled back and the batch
//! runs once more, checked: this time it claims its messages and looks for answers and held keys
//! before it decides.

use events::{Problem, Timestamp, UserId, event_of_subject, producer_of};

use super::{
    answers::Answers,
    closing::Closing,
    inbox,
    outlook::Outlook,
    parking::Parkings,
    transaction::{Transaction, TransactionalStore},
    unit::{Decided, Stop, Unit, Units},
    work::{Answered, Entry, Outcome, Work},
};
use crate::{
    failpoint::{
        Failpoint, Failpoints,
        crash::{self, reach},
    },
    metrics::Observed,
    outbound::message::pack,
    parked::{Parked, ParkedState},
    service::context::{Announcement, Emitted, EndedSaga},
    store::engine::{Care, Failure, Ran, Retried},
    trace::{LINKS_MAX, Messaging, Span, TraceParent},
};

/// What runs the batches of one engine.
pub(crate) struct Runner<'a, L: TransactionalStore> {
    pub(crate) store: &'a L,
    pub(crate) units: &'a dyn Units<L::Tx>,
    pub(crate) failpoints: &'a Failpoints,
    pub(crate) outlook: &'a Outlook,
}

/// Runs a batch in a transaction of its own.
pub(crate) async fn run<L: TransactionalStore>(
    runner: &Runner<'_, L>,
    batch: &mut [Work],
    care: Care,
) -> Result<Ran, Failure> {
    let is_again = |work: &Work| work.delivery().is_some_and(|delivery| delivery.delivered > 1);
    let is_optimistic =
        care == Care::Together && runner.outlook.is_clear() && !batch.iter().any(is_again);
    if is_optimistic {
        match attempt(runner, batch, care, true).await {
            Ok(Some(ran)) => return Ok(ran),
            Err(failure) if failure.is_lost() => return Err(failure),
            // A repeat may be the reason why a handler or the store refused.
            Ok(None) | Err(_) => {}
        }
    }
    let ran = attempt(runner, batch, care, false).await?;
    ran.ok_or_else(|| Failure::Refused("a checked run ended as an optimistic one".into()))
}

/// One run; `None` when its optimistic assumption was wrong.
async fn attempt<L: TransactionalStore>(
    runner: &Runner<'_, L>,
    batch: &mut [Work],
    care: Care,
    is_optimistic: bool,
) -> Result<Option<Ran>, Failure> {
    let mut run = Run::<L>::new(runner.units, is_optimistic);
    let ran = run.run(runner, batch, care).await;
    run.close_spans(matches!(ran, Ok(Some(_))));
    ran
}

/// Retries a parked event in a transaction of its own.
pub(crate) async fn retry<L: TransactionalStore>(
    runner: &Runner<'_, L>,
    parked: &Parked,
    entry: &mut Entry,
    by: Option<UserId>,
) -> Result<Retried, Failure> {
    let mut run = Run::<L>::new(runner.units, false);
    let retried = run.retry(runner, parked, entry, by).await;
    run.close_spans(matches!(retried, Ok(Retried::Done(_))));
    retried
}

/// One batch while it is being decided.
pub(super) struct Run<'a, L: TransactionalStore> {
    units: &'a dyn Units<L::Tx>,
    /// Whether it assumes that every message is new and no event is parked; the close checks it.
    is_optimistic: bool,
    now: Timestamp,
    /// Encoded events with their subjects, in the order of emission.
    emitted: Vec<(String, Vec<u8>)>,
    announced: Vec<Announcement>,
    observed: Vec<Observed>,
    parkings: Parkings,
    /// Spans of published events and of links to other traces, open until the commit.
    spans: Vec<Span>,
}

/// The outcome of one event or command.
enum Step {
    Done(Answered),
    No(Problem),
    NotYet(Problem),
    Never(String),
    /// The state may be half changed: nothing of this attempt can be kept.
    Panicked(String),
}

impl<'a, L: TransactionalStore> Run<'a, L> {
    pub(super) fn new(units: &'a dyn Units<L::Tx>, is_optimistic: bool) -> Self {
        let now = crate::clock::now();
        Self {
            units,
            is_optimistic,
            now,
            emitted: Vec::new(),
            announced: Vec::new(),
            observed: Vec::new(),
            parkings: Parkings::default(),
            spans: Vec::new(),
        }
    }

    pub(super) async fn run(
        &mut self,
        runner: &Runner<'_, L>,
        batch: &mut [Work],
        care: Care,
    ) -> Result<Option<Ran>, Failure> {
        let mut tx = runner.store.begin().await?;
        let (fresh, mut answers) = match self.is_optimistic {
            true => (vec![true; batch.len()], Answers::default()),
            false => inbox::claim(&mut tx, batch).await?,
        };
        runner.outlook.note_repeats(inbox::has_repeats(batch, &fresh));
        reach(crash::Step::Claimed);
        let mut outcomes = match care {
            Care::Together => self.run_together(&mut tx, batch, &fresh, &mut answers).await?,
            Care::Alone | Care::AloneFinal => {
                self.run_alone(&mut tx, batch, &fresh, &mut answers, care).await?
            }
            Care::ParkUnrun => self.park_unrun(batch, &fresh),
        };
        inbox::repeat_answers(&mut tx, batch, &mut outcomes).await?;
        reach(crash::Step::Decided);
        let emitted = pack(std::mem::take(&mut self.emitted));
        let claims = if self.is_optimistic { inbox::message_ids(batch) } else { Vec::new() };
        let closing = Closing { claims: &claims, emitted: &emitted, answers: &answers };
        let closed = tx.close(&closing).await?;
        let messages = batch.iter().filter(|work| work.delivery().is_some()).count();
        if self.is_optimistic && (closed.claimed < messages || messages > 0 && closed.has_parked) {
            runner.outlook.note_parked(closed.has_parked);
            runner.outlook.note_repeats(closed.claimed < messages);
            return Ok(None);
        }
        let parked = self.parkings.insert(&mut tx).await?;
        let names = batch.iter().flat_map(Work::names);
        if runner.failpoints.should_fail(Failpoint::BeforeCommit, names) {
            return Err(Failure::Unavailable("failpoint: before commit".into()));
        }
        reach(crash::Step::Closed);
        tx.commit().await?;
        runner.outlook.note_parked(closed.has_parked || !parked.is_empty());
        let announced = std::mem::take(&mut self.announced);
        let observed = std::mem::take(&mut self.observed);
        Ok(Some(Ran { outcomes, emitted, announced, parked, observed }))
    }

    /// Runs the batch as one unit of work: one load, every decision in order and in memory, one
    /// save.
    async fn run_together(
        &mut self,
        tx: &mut L::Tx,
        batch: &mut [Work],
        fresh: &[bool],
        answers: &mut Answers,
    ) -> Result<Vec<Outcome>, Failure> {
        let is_any = fresh.contains(&true);
        let mut unit = match is_any {
            true => Some(self.units.load(tx, &fresh_entries(batch, fresh)).await?),
            false => None,
        };
        if !self.is_optimistic {
            self.parkings.load(tx, batch, fresh).await?;
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        for (work, fresh) in batch.iter_mut().zip(fresh) {
            let (true, Some(unit)) = (*fresh, unit.as_deref_mut()) else {
                outcomes.push(inbox::stored(work, answers));
                continue;
            };
            if work.delivery().is_none() {
                outcomes.push(self.command(unit, work, answers)?);
                continue;
            }
            for at in 0..work.entries.len() {
                if self.parkings.is_parked_unrun(work, at) {
                    continue;
                }
                match self.step(unit, &mut work.entries[at]) {
                    Step::Panicked(cause) => return Err(Failure::Refused(cause)),
                    step => self.park_unhandled(work, at, step),
                }
            }
            outcomes.push(Outcome::Done(Answered::default()));
        }
        if let Some(unit) = unit {
            unit.save(tx).await?;
        }
        Ok(outcomes)
    }

    /// Runs a command on the unit of work. A command whose idempotency key was used earlier in
    /// this batch gets that answer.
    fn command(
        &mut self,
        unit: &mut dyn Unit<L::Tx>,
        work: &mut Work,
        answers: &mut Answers,
    ) -> Result<Outcome, Failure> {
        if answers.knows(&work.entries[0].meta) {
            return Ok(inbox::stored(work, answers));
        }
        match self.step(unit, &mut work.entries[0]) {
            Step::Panicked(cause) => Err(Failure::Refused(cause)),
            step => Ok(answered(step, &work.entries[0], answers)),
        }
    }

    /// Runs one message or command, event by event under savepoints, so that a poison event
    /// parks only itself.
    async fn run_alone(
        &mut self,
        tx: &mut L::Tx,
        batch: &mut [Work],
        fresh: &[bool],
        answers: &mut Answers,
        care: Care,
    ) -> Result<Vec<Outcome>, Failure> {
        let mut outcomes = Vec::with_capacity(batch.len());
        // Lock all keys first, once and in order, so that no two such runs deadlock.
        drop(self.units.load(tx, &fresh_entries(batch, fresh)).await?);
        self.parkings.load(tx, batch, fresh).await?;
        for (work, fresh) in batch.iter_mut().zip(fresh) {
            if !fresh {
                outcomes.push(inbox::stored(work, answers));
                continue;
            }
            let is_message = work.delivery().is_some();
            let mut outcome = Outcome::Done(Answered::default());
            for at in 0..work.entries.len() {
                if is_message && self.parkings.is_parked_unrun(work, at) {
                    continue;
                }
                let step = self.savepoint(tx, &mut work.entries[at], care).await?;
                if is_message {
                    self.park_unhandled(work, at, step);
                } else {
                    outcome = answered(step, &work.entries[at], answers);
                }
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// Runs one event or command under a savepoint.
    async fn savepoint(
        &mut self,
        tx: &mut L::Tx,
        entry: &mut Entry,
        care: Care,
    ) -> Result<Step, Failure> {
        tx.savepoint().await?;
        let before = (self.emitted.len(), self.announced.len(), self.spans.len());
        let observed = self.observed.len();
        let step = match self.load_step_save(tx, entry).await {
            Ok(step) => step,
            Err(Failure::Refused(cause)) => Step::Never(cause),
            Err(Failure::Duplicate(cause)) if care == Care::AloneFinal => Step::Never(cause),
            Err(failure) => return Err(failure),
        };
        if matches!(step, Step::Done(_)) {
            tx.release().await?;
            return Ok(step);
        }
        tx.roll_back().await?;
        self.emitted.truncate(before.0);
        self.announced.truncate(before.1);
        self.spans.drain(before.2..).for_each(Span::discard);
        self.observed.truncate(observed);
        entry.span.rewind();
        Ok(match step {
            Step::Panicked(cause) => Step::Never(cause),
            step => step,
        })
    }

    async fn load_step_save(&mut self, tx: &mut L::Tx, entry: &mut Entry) -> Result<Step, Failure> {
        let mut unit = self.units.load(tx, &[&*entry]).await?;
        let step = self.step(&mut *unit, entry);
        if matches!(step, Step::Done(_)) {
            unit.save(tx).await?;
        }
        Ok(step)
    }

    pub(super) async fn retry(
        &mut self,
        runner: &Runner<'_, L>,
        parked: &Parked,
        entry: &mut Entry,
        by: Option<UserId>,
    ) -> Result<Retried, Failure> {
        let mut tx = runner.store.begin().await?;
        if !tx.lock_parked(parked.number).await? {
            return Ok(Retried::Gone);
        }
        match self.load_step_save(&mut tx, entry).await {
            Ok(Step::Done(_)) => {}
            Ok(Step::No(problem) | Step::NotYet(problem)) => {
                return Ok(Retried::Early(problem.detail));
            }
            Ok(Step::Never(cause) | Step::Panicked(cause)) => return Ok(Retried::Failed(cause)),
            Err(Failure::Refused(cause) | Failure::Duplicate(cause)) => {
                return Ok(Retried::Failed(cause));
            }
            Err(failure) => return Err(failure),
        }
        let emitted = pack(std::mem::take(&mut self.emitted));
        let answers = Answers::default();
        let closing = Closing { claims: &[], emitted: &emitted, answers: &answers };
        tx.close(&closing).await?;
        tx.resolve(parked, by).await?;
        if runner.failpoints.should_fail(Failpoint::BeforeCommit, [entry.meta.name].into_iter()) {
            return Err(Failure::Unavailable("failpoint: before commit".into()));
        }
        tx.commit().await?;
        let announced = std::mem::take(&mut self.announced);
        let observed = std::mem::take(&mut self.observed);
        Ok(Retried::Done(Ran { emitted, announced, observed, ..Ran::default() }))
    }

    /// Parks every event of messages that seem to kill the process.
    fn park_unrun(&mut self, batch: &[Work], fresh: &[bool]) -> Vec<Outcome> {
        for (work, _) in batch.iter().zip(fresh).filter(|(_, fresh)| **fresh) {
            let tries = work.delivery().map_or(0, |delivery| delivery.delivered);
            for at in 0..work.entries.len() {
                let cause = format!("it was delivered {tries} times and never came to an end");
                self.parkings.park(work, at, ParkedState::Dead, cause);
            }
        }
        batch.iter().map(|_| Outcome::Done(Answered::default())).collect()
    }

    /// Parks an event unless it was handled.
    fn park_unhandled(&mut self, work: &mut Work, at: usize, step: Step) {
        let span = &mut work.entries[at].span;
        match step {
            Step::Done(_) => {}
            Step::No(problem) | Step::NotYet(problem) => {
                span.note("onsale.parked", || "early");
                self.parkings.park(work, at, ParkedState::Early, problem.detail);
            }
            Step::Never(cause) | Step::Panicked(cause) => {
                span.fail("dead_letter", || cause.clone());
                self.parkings.park(work, at, ParkedState::Dead, cause);
            }
        }
    }

    /// Runs the handler of one event or command on the unit of work.
    fn step(&mut self, unit: &mut dyn Unit<L::Tx>, entry: &mut Entry) -> Step {
        // An earlier run of the same batch was rolled back.
        entry.span.rewind();
        let here = entry.here().enter();
        let decided = unit.decide(entry, self.now);
        drop(here);
        let Decided { result, status, emitted, announced, ended, concerns, observed } = decided;
        match result {
            Ok(body) => {
                self.announced.extend(announced);
                self.link(entry, &concerns);
                self.observe(entry, observed);
                self.emit(entry, emitted, ended);
                Step::Done(Answered { status, body })
            }
            Err(Stop::No(problem)) => {
                self.announced.extend(announced);
                Step::No(problem)
            }
            Err(Stop::NotYet(problem)) => Step::NotYet(problem),
            Err(Stop::Never(cause)) => Step::Never(cause),
            Err(Stop::Panicked(cause)) => Step::Panicked(cause),
        }
    }

    /// Keeps what a handler has observed; each belongs to the trace of its event or command.
    fn observe(&mut self, entry: &Entry, observed: Vec<Observed>) {
        self.observed.extend(observed.into_iter().map(|mut one| {
            one.trace_id = entry.span.exported_trace_id();
            one
        }));
    }

    /// Links the span of a message and the spans of other traces that began what it is about.
    /// What has a trace of its own only because a timer made it is recorded when they are.
    fn link(&mut self, entry: &mut Entry, concerns: &[TraceParent]) {
        let sampled = concerns.iter().filter(|began| began.is_sampled()).take(LINKS_MAX);
        for began in sampled {
            if !entry.span.is_on() && entry.is_of_timer() {
                entry.span = entry.tracer.timer(entry.meta.name, &[*began]);
            }
            if entry.span.is_on() && !entry.span.is_in_trace_of(began) {
                let name = entry.meta.name;
                self.spans.push(entry.tracer.leads_to(began, name, &mut entry.span));
            }
        }
    }

    /// Encodes the emitted events; each carries the span that publishes it.
    fn emit(&mut self, entry: &mut Entry, emitted: Vec<Emitted>, ended: Vec<EndedSaga>) {
        let mut sagas = emitted.iter().map(|event| event.saga_id);
        if entry.span.is_on()
            && entry.is_of_timer()
            && let Some(saga_id) = sagas.next()
            && sagas.all(|other| other == saga_id)
        {
            entry.span.saga(saga_id);
        }
        for event in emitted {
            let name = event_of_subject(&event.subject).unwrap_or_default();
            let about = Messaging {
                operation: "publish",
                event: name,
                subject: &event.subject,
                event_id: event.event_id,
                saga_id: event.saga_id,
                data: &event.payload,
            };
            let mut span = entry.span.publishing(name, about);
            if entry.meta.event_id.is_none() {
                entry.span.ids(&event.payload);
            }
            let source = format!("/onsale/{}", producer_of(name));
            let body = event.encode(&source, span.parent().to_header());
            let is_of = |end: &&EndedSaga| end.saga_id == event.saga_id;
            let is_other = |end: &&EndedSaga| end.saga_id != entry.meta.saga_id;
            if let Some(end) = ended.iter().find(is_of).filter(is_other) {
                span.ends_saga(end.outcome, end.reason);
            }
            self.emitted.push((event.subject, body));
            if span.is_on() {
                self.spans.push(span);
            }
        }
        if let Some(end) = ended.iter().find(|end| end.saga_id == entry.meta.saga_id) {
            entry.span.ends_saga(end.outcome, end.reason);
        }
    }

    /// Ends the spans of a batch; what was rolled back was never published.
    pub(super) fn close_spans(&mut self, is_committed: bool) {
        let spans = self.spans.drain(..);
        match is_committed {
            true => spans.for_each(drop),
            false => spans.for_each(Span::discard),
        }
    }
}

/// The events and commands that are new.
fn fresh_entries<'a>(batch: &'a [Work], fresh: &[bool]) -> Vec<&'a Entry> {
    let fresh = batch.iter().zip(fresh).filter(|(_, fresh)| **fresh);
    fresh.flat_map(|(work, _)| &work.entries).collect()
}

/// The outcome of a command.
fn answered(step: Step, entry: &Entry, answers: &mut Answers) -> Outcome {
    match step {
        Step::Done(answered) => {
            answers.given(&entry.meta, &answered);
            Outcome::Done(answered)
        }
        Step::No(problem) => Outcome::Done(Answered::refused(&problem)),
        Step::NotYet(problem) => Outcome::NotYet(problem),
        Step::Never(cause) | Step::Panicked(cause) => Outcome::Never(cause),
    }
}
