//! The PostgreSQL engine: inbox, book and outbox in one transaction.

mod deed;
mod memory;
mod outbox;
pub mod partitions;
mod positions;

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};

use events::{Command, Event, Problem, Timestamp, codes};
use sqlx::{
    ConnectOptions as _, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

use crate::{
    Allow, Answer, Book, Desk, Hear, Read, Service,
    dead_letter::key::NONE,
    engine::{Engine, Failure, Ran},
    failpoint::{Failpoint, Failpoints},
    service::{Asked, Followed, How, Timer, parse},
    trace::Span,
    turn::{Announcement, Told, Turn},
    work::{Answered, Delivery, Meta, Outcome, Work},
};

pub use deed::PgDeed;
use deed::{AskedCommand, HeardFact, Stop};
pub use outbox::{PgOutbox, backlog};
pub(crate) use positions::Place;
pub use positions::{Lead, Positions};

/// What every service remembers of the mesh.
pub static MESH_MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/mesh");

/// Connections of one service: two lanes, its reads, timers and housekeeping.
const CONNECTIONS_MAX: u32 = 8;
/// How long a message waits for a connection before the store counts as unreachable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(6);

/// A service's own database, as an engine.
pub struct Postgres<B: Book> {
    pool: PgPool,
    options: PgConnectOptions,
    rules: Arc<B::Rules>,
    failpoints: Arc<Failpoints>,
    book: PhantomData<fn() -> B>,
}

impl<B: Book> Postgres<B> {
    /// An engine on the database at `url`; it connects when first needed.
    ///
    /// # Errors
    /// When the address is malformed.
    pub fn new(url: &str, rules: B::Rules) -> Result<Self, sqlx::Error> {
        // Failures are logged where they are handled; logging each statement costs on its own.
        let options = url.parse::<PgConnectOptions>()?.disable_statement_logging().options([
            ("statement_timeout", "30s"),
            ("idle_in_transaction_session_timeout", "60s"),
            // Every statement of a batch names the keys it wants. A plan that was made and
            // cached while a table was still empty would scan and hash for ever after.
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone());
        let failpoints = Arc::new(Failpoints::default());
        Ok(Self { pool, options, rules: Arc::new(rules), failpoints, book: PhantomData })
    }

    /// The service's connections.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The service's configuration.
    pub fn rules(&self) -> &B::Rules {
        &self.rules
    }

    /// The places where this service can be made to fail.
    pub fn failpoints(&self) -> &Arc<Failpoints> {
        &self.failpoints
    }

    /// Brings the database up to date: the mesh's own tables, then the service's.
    ///
    /// # Errors
    /// When a migration fails, or one that was applied has been changed since.
    pub async fn migrate(&self, service: &Migrator) -> Result<(), sqlx::migrate::MigrateError> {
        migrate(&self.pool, service).await
    }
}

/// Brings one service's database up to date, partitions of the coming days included.
///
/// # Errors
/// When a migration fails, or one that was applied has been changed since.
pub async fn migrate(pool: &PgPool, service: &Migrator) -> Result<(), sqlx::migrate::MigrateError> {
    for migrator in [&MESH_MIGRATIONS, service] {
        // Both share one table of applied versions; each is blind to the other's.
        let mut migrator = Migrator::with_migrations(migrator.iter().cloned().collect());
        migrator.set_ignore_missing(true);
        migrator.run(pool).await?;
    }
    partitions::tidy(pool, crate::clock::now()).await?;
    Ok(())
}

impl<B: Book> Service<Postgres<B>> {
    /// Takes in the fact `E`; `tells` are the facts that may follow.
    pub fn hears<E: Event>(mut self, tells: &'static [&'static str]) -> Self
    where
        B: Hear<E>,
    {
        self.listen::<E>(<B as Hear<E>>::KEY, tells, |payload| {
            let fact: E = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
            Ok(PgDeed(Box::new(HeardFact(fact))))
        });
        self
    }

    /// Answers the command `C`; `tells` are the facts that may follow.
    pub fn answers<C: Command>(mut self, allow: Allow, tells: &'static [&'static str]) -> Self
    where
        B: Answer<C>,
    {
        let how = How::Decided(|body| Ok(PgDeed(Box::new(AskedCommand(parse::<C>(body)?)))));
        let (endpoint, status) = (C::ENDPOINT, C::STATUS);
        self.add(Asked { endpoint, allow, status, tells, how });
        self
    }

    /// Reads the streams of `facts` whole, each in its order, instead of hearing fact by fact:
    /// for a service that learns and decides nothing. `take` keeps what it learns of a
    /// [`Read`] and calls [`Read::settle`] in the same transaction, so that a fact has its
    /// effect once. It fails as a whole, and is called again with the same facts. When there
    /// is much to read it gets about `piece` facts of each stream at once.
    ///
    /// One instance reads at a time; the others stand by.
    pub fn follows<F, R>(mut self, facts: &'static [&'static str], piece: usize, take: F) -> Self
    where
        F: Fn(Desk<Postgres<B>>, Arc<Read>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let take = Arc::new(move |desk, read| Box::pin(take(desk, read)) as _);
        self.followed = Some(Followed { facts, piece, take });
        self
    }

    /// Looks for what is due each `interval` and decides it in batches, as command `C`.
    pub fn every<C, F, R>(self, name: &'static str, interval: Duration, due: F) -> Self
    where
        C: Command,
        B: Answer<C>,
        F: Fn(PgPool, Timestamp) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = sqlx::Result<Vec<C>>> + Send + 'static,
    {
        self.every_with(name, interval, move |engine, now| due(engine.pool.clone(), now))
    }

    /// The same for a timer that needs the service's rules as well. It has a task of its own
    /// and may take its time, in no transaction; a shutdown waits for it.
    pub fn every_with<C, F, R>(mut self, name: &'static str, interval: Duration, due: F) -> Self
    where
        C: Command,
        B: Answer<C>,
        F: Fn(Arc<Postgres<B>>, Timestamp) -> R + Send + Sync + 'static,
        R: Future<Output = sqlx::Result<Vec<C>>> + Send + 'static,
    {
        let tells = self.asked.get(C::ENDPOINT).map_or(&[][..], |asked| asked.tells);
        let due = Arc::new(move |engine: Arc<Postgres<B>>, now| {
            let due = due(engine, now);
            Box::pin(async move {
                let commands = due.await?;
                Ok(commands.into_iter().map(|c| PgDeed(Box::new(AskedCommand(c)) as _)).collect())
            }) as _
        });
        self.timers.push(Timer { name, every: interval, tells, due });
        self
    }
}

impl<B: Book> Desk<Postgres<B>> {
    /// Decides `command` in the next batch and returns what it was answered.
    ///
    /// # Errors
    /// The refusal, or `overloaded`/`unavailable` when it could not be decided.
    pub async fn decide<C: Command>(&self, command: C, meta: &Meta) -> Result<C::Reply, Problem>
    where
        B: Answer<C>,
    {
        self.submit::<C>(PgDeed(Box::new(AskedCommand(command))), meta).await
    }
}

impl<B: Book> Engine for Postgres<B> {
    type Deed = PgDeed<B>;
    type Outbox = PgOutbox;

    async fn run(&self, batch: &mut [Work<PgDeed<B>>]) -> Result<Ran, Failure> {
        let began = SystemTime::from(crate::clock::now().0);
        let mut tx = self.pool.begin().await?;
        let claimed = memory::claim(&mut tx, batch).await?;
        let mut answers = memory::answers(&mut tx, batch.iter()).await?;
        let spans: Vec<Span> = batch.iter().map(|work| work.transaction(began)).collect();
        let mut page = Page::new(batch, &self.rules, claimed);
        page.decide(&mut tx, &spans, &mut answers).await?;
        page.look_again(&mut tx).await?;
        outbox::append(&mut tx, &page.told).await?;
        memory::remember(&mut tx, &answers).await?;
        let names = batch.iter().map(|work| work.meta.name);
        if self.failpoints.strikes(Failpoint::BeforeCommit, names) {
            return Err(Failure::Unavailable("failpoint: before commit".into()));
        }
        tx.commit().await.map_err(|error| match Failure::from(error) {
            Failure::Unavailable(cause) => Failure::Uncertain(cause),
            refused => refused,
        })?;
        drop(spans);
        let Page { outcomes, announced, ends, .. } = page;
        for (index, (outcome, reason)) in ends {
            batch[index].span.outcome(outcome, reason);
        }
        Ok(Ran { outcomes, announced })
    }

    async fn outbox(&self) -> Result<PgOutbox, Failure> {
        PgOutbox::open(&self.options).await
    }

    async fn lead(&self) -> Result<Lead, Failure> {
        Lead::take(&self.options).await
    }

    async fn positions(&self) -> Result<Positions, Failure> {
        Positions::load(&self.pool).await
    }

    async fn check(&self) -> Result<(), Failure> {
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(())
    }

    async fn tidy(&self) -> Result<(), Failure> {
        partitions::tidy(&self.pool, crate::clock::now()).await?;
        Ok(())
    }

    fn failpoints(&self) -> Arc<Failpoints> {
        self.failpoints.clone()
    }
}

/// One batch while it is being decided.
struct Page<'a, B: Book> {
    batch: &'a [Work<PgDeed<B>>],
    rules: &'a B::Rules,
    claimed: HashSet<Uuid>,
    now: Timestamp,
    outcomes: Vec<Outcome>,
    told: Vec<(Told, Option<String>)>,
    announced: Vec<Announcement>,
    /// How a message ended its saga, and why: for its span.
    ends: Vec<(usize, (&'static str, Option<&'static str>))>,
}

impl<'a, B: Book> Page<'a, B> {
    fn new(batch: &'a [Work<PgDeed<B>>], rules: &'a B::Rules, claimed: HashSet<Uuid>) -> Self {
        Self {
            batch,
            rules,
            claimed,
            now: crate::clock::now(),
            outcomes: Vec::with_capacity(batch.len()),
            told: Vec::new(),
            announced: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Loads the book, lets every message decide on it in order, and saves it.
    async fn decide(
        &mut self,
        tx: &mut PgConnection,
        spans: &[Span],
        answers: &mut memory::Answers,
    ) -> Result<(), Failure> {
        let mut keys = B::Keys::default();
        let mut fresh = Vec::with_capacity(self.batch.len());
        for work in self.batch {
            let is_fresh = match work.meta.event_id {
                // Taking the id out makes a repeat within the batch a repeat too.
                Some(event_id) => self.claimed.remove(&event_id.0),
                None => !answers.knows(&work.meta),
            };
            fresh.push(is_fresh);
            if is_fresh {
                work.deed.0.keys(&work.meta.caller, &mut keys);
            }
        }
        if !fresh.contains(&true) {
            self.outcomes = self.batch.iter().map(|work| stored(work, answers)).collect();
            return Ok(());
        }
        let mut book = B::load(keys, tx).await?;
        let mut undone = Vec::new();
        // The keys of what can never succeed: what depends on them must not run.
        let mut stopped: Vec<String> = Vec::new();
        let key = |work: &Work<_>| work.delivery().map(Delivery::key);
        for (index, work) in self.batch.iter().enumerate() {
            // A key used twice within the batch finds the first one's answer.
            let outcome = if !fresh[index] || answers.knows(&work.meta) {
                stored(work, answers)
            } else if !stopped.is_empty() && key(work).is_some_and(|key| stopped.contains(&key)) {
                Outcome::Behind
            } else {
                self.take_turn(&mut book, work, &spans[index], answers)?
            };
            if matches!(outcome, Outcome::Never(_)) {
                stopped.extend(key(work).filter(|key| key != NONE));
            }
            if matches!(outcome, Outcome::NotYet(_) | Outcome::Never(_) | Outcome::Behind) {
                undone.extend(work.meta.event_id.map(|id| id.0));
            }
            self.outcomes.push(outcome);
        }
        book.save(tx).await?;
        memory::forget(tx, &undone).await
    }

    /// The same key in two lanes at once, where the first to commit is the very reason why
    /// the second is refused (seats held, a payment running): the key's answer is there now,
    /// and it is what the second is answered too.
    async fn look_again(&mut self, tx: &mut PgConnection) -> Result<(), Failure> {
        let refused = |(_, outcome): &(&Work<_>, &Outcome)| matches!(outcome, Outcome::Done(answered) if !answered.is_granted());
        let messages = || self.batch.iter().zip(&self.outcomes);
        let answers = memory::answers(tx, messages().filter(refused).map(|(work, _)| work)).await?;
        for (work, outcome) in self.batch.iter().zip(&mut self.outcomes) {
            if answers.knows(&work.meta) {
                *outcome = stored(work, &answers);
            }
        }
        Ok(())
    }

    /// One message on the book.
    fn take_turn(
        &mut self,
        book: &mut B,
        work: &Work<PgDeed<B>>,
        span: &Span,
        answers: &mut memory::Answers,
    ) -> Result<Outcome, Failure> {
        let meta = &work.meta;
        let mut turn = Turn {
            now: self.now,
            rules: self.rules,
            caller: &meta.caller,
            attempt: meta.delivered,
            id: meta.id,
            saga_id: meta.saga_id,
            cause_id: Some(meta.event_id.map_or(meta.id, |id| id.0)),
            may_tell: meta.may_tell,
            told: Vec::new(),
            announced: Vec::new(),
            outcome: None,
        };
        let decided = deed::perform(&*work.deed.0, book, &mut turn);
        let Turn { told, announced, outcome, .. } = turn;
        self.announced.extend(announced);
        if span.is_on() {
            self.ends.extend(outcome.map(|outcome| (self.outcomes.len(), outcome)));
        }
        Ok(match decided {
            Ok(body) => {
                let trace = (!told.is_empty()).then(|| span.to_outbox(&meta.trace)).flatten();
                self.told.extend(told.into_iter().map(|fact| (fact, trace.clone())));
                let answered = Answered { status: work.deed.0.status(), body };
                answers.given(meta, &answered);
                Outcome::Done(answered)
            }
            Err(Stop::No(problem)) => Outcome::Done(Answered::refused(&problem)),
            Err(Stop::NotYet(problem)) => Outcome::NotYet(problem),
            Err(Stop::Never(cause)) => Outcome::Never(cause),
            // The book may be half changed: nothing of this batch can be kept.
            Err(Stop::Panicked(cause)) if self.batch.len() == 1 => Outcome::Never(cause),
            Err(Stop::Panicked(cause)) => return Err(Failure::Refused(cause)),
        })
    }
}

/// What a message that was seen before is answered.
fn stored<D>(work: &Work<D>, answers: &memory::Answers) -> Outcome {
    match work.meta.event_id {
        Some(_) => Outcome::Repeat,
        None => Outcome::Done(answers.stored(&work.meta).unwrap_or_else(|| {
            Answered::refused(&Problem::new(
                codes::IDEMPOTENCY_KEY_REUSED,
                "Use a new key for a new request.",
            ))
        })),
    }
}

/// The answers to commands, by scope.
pub(crate) type ByScope = HashMap<[u8; 32], memory::Stored>;
