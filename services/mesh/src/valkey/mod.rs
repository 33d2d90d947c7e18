//! The Valkey engine: inbox, state and outbox in one atomic function call for each message.
//!
//! A batch is one pipelined round trip of such calls. They take effect one by one, each of
//! them wholly: when the connection is lost half-way, facts come again and the inbox drops
//! those that were taken in, and commands are written to be harmless when run twice.

mod act;
mod call;
mod outbox;
mod rebuild;
mod replay;

use std::{
    future::Future,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};

use events::{Command, Event, Problem, Timestamp, codes};
use redis::{
    Client, IntoConnectionInfo, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};
use tracing::error;
use uuid::Uuid;

use crate::{
    Allow, Caller, Desk, Service,
    engine::{Backlog, Engine, Failure, Ran},
    failpoint::{Failpoint, Failpoints},
    service::{Asked, How, Timer, parse},
    trace::Span,
    work::{Answered, Meta, Outcome, Work},
};

pub use act::{Act, ActOn, At, Library, Reply, Texts, VkDeed};
use act::{AskedCommand, Deed, DueAct, Ended, HeardFact, texts};
use call::{Envelope, Names, arguments, is_away, is_missing, load, pipeline, quiet, serve};
pub use outbox::VkOutbox;
pub use rebuild::{Progress, Rebuilt, rebuild};
pub use replay::{Difference, Fed, Replay, StoredFact};

/// How long a pipeline may take; a batch of full ticks takes some 50 ms.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Calls queued for the one connection at most, reads included.
const PIPELINE_CALLS_MAX: usize = 1_024;
/// How long a told fact is kept for a broker that forgets.
const OUTBOX_KEEP_MILLIS: u64 = 60 * 60 * 1_000;
/// Told facts kept at most, once they are published.
const OUTBOX_FACTS_MAX: u64 = 500_000;

/// A service's own corner of a Valkey, as an engine.
pub struct Valkey<L: Library> {
    connection: ConnectionManager,
    names: Arc<Names>,
    rules: Arc<L::Rules>,
    failpoints: Arc<Failpoints>,
    library: PhantomData<fn() -> L>,
}

impl<L: Library> Clone for Valkey<L> {
    fn clone(&self) -> Self {
        Self {
            connection: self.connection.clone(),
            names: self.names.clone(),
            rules: self.rules.clone(),
            failpoints: self.failpoints.clone(),
            library: PhantomData,
        }
    }
}

impl<L: Library> Valkey<L> {
    /// An engine on the Valkey at `url`; it connects when first needed. Call it within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When the address is malformed.
    pub fn new(url: &str, rules: L::Rules) -> Result<Self, Failure> {
        let info =
            url.into_connection_info()?.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(CONNECTION_TIMEOUT))
            .set_number_of_retries(1)
            .set_pipeline_buffer_size(PIPELINE_CALLS_MAX);
        let connection = ConnectionManager::new_lazy_with_config(Client::open(info)?, config)?;
        Ok(Self {
            connection,
            names: Arc::new(Names::of::<L>()),
            rules: Arc::new(rules),
            failpoints: Arc::new(Failpoints::default()),
            library: PhantomData,
        })
    }

    /// The service's configuration.
    pub fn rules(&self) -> &L::Rules {
        &self.rules
    }

    /// The places where this service can be made to fail.
    pub fn failpoints(&self) -> &Arc<Failpoints> {
        &self.failpoints
    }

    /// Calls `reads.<name>`, at once and outside any batch.
    ///
    /// # Errors
    /// The function's refusal, or `unavailable` when the store does not answer or is being
    /// rebuilt.
    pub async fn read(&self, act: Act, now: Timestamp) -> Result<Texts, Problem> {
        let arguments = quiet(&act, now);
        let ended = self
            .call(&self.names.read, vec![arguments])
            .await
            .map_err(|failure| Problem::new(codes::UNAVAILABLE, failure.to_string()))?
            .pop()
            .unwrap_or_else(|| Err("no answer".into()));
        match ended {
            Ok(Ended::Done { value, .. }) => Ok(value),
            Ok(Ended::No(problem) | Ended::NotYet(problem)) => Err(problem),
            Ok(Ended::Lost) => Err(Problem::new(codes::UNAVAILABLE, "It is being rebuilt.")
                .with("retry_after_secs", 1)),
            Ok(Ended::Repeat) => Err(codes::INTERNAL.into()),
            Err(cause) => {
                error!(service = L::NAME, act = act.name, %cause, "a read failed");
                Err(codes::INTERNAL.into())
            }
        }
    }

    /// Takes `fact` in as at `now`, outside any batch.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn hear<E: Event>(
        &self,
        fact: E,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<Outcome, Failure>
    where
        L: ActOn<E>,
    {
        self.one(&HeardFact(fact), meta, now).await
    }

    /// Decides `command` as at `now`, outside any batch.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn answer<C: Command>(
        &self,
        command: C,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<Outcome, Failure>
    where
        L: Reply<C>,
    {
        self.one(&AskedCommand(command), meta, now).await
    }

    /// Runs acts that no message asks for: what is due, or what rebuilds the store.
    ///
    /// # Errors
    /// When the store cannot be reached, or an act fails.
    pub async fn perform(&self, acts: &[Act], now: Timestamp) -> Result<(), Failure> {
        let calls = acts.iter().map(|act| quiet(act, now)).collect();
        for ended in self.call(&self.names.run, calls).await? {
            match ended {
                Ok(Ended::Lost) => return Err(lost()),
                Ok(_) => {}
                Err(cause) => return Err(Failure::Refused(cause)),
            }
        }
        Ok(())
    }

    /// What taking `fact` in would call, on a store that is being rebuilt.
    pub fn replaying<E: Event>(&self, fact: &E, now: Timestamp) -> Act
    where
        L: ActOn<E>,
    {
        let at = At { now, rules: self.rules(), caller: &Caller::Mesh, id: Uuid::now_v7() };
        L::act(fact, &at).restoring()
    }

    /// Whether the store knows all that it should; a new or emptied one does not.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn is_whole(&self) -> Result<bool, Failure> {
        let mut exists = redis::cmd("EXISTS");
        exists.arg(format!("{}:whole", self.names.root));
        let found: i64 = exists.query_async(&mut self.connection.clone()).await?;
        Ok(found == 1)
    }

    /// What has been told and is not published yet, counted up to some thousands.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn backlog(&self) -> Result<Backlog, Failure> {
        outbox::backlog(&mut self.connection.clone(), &self.names).await
    }

    /// Declares that the store knows all that it should; until then it takes nothing in.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn seal(&self) -> Result<(), Failure> {
        assert!(!L::IS_REPLAYABLE, "{} becomes whole by a replay", L::NAME);
        self.serve(Act::new("seal")).await.map(drop)
    }

    /// A value kept beside the service's state, empty when there is none.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn load(&self, name: &str) -> Result<String, Failure> {
        let mut get = redis::cmd("GET");
        get.arg(format!("{}:{name}", self.names.root));
        let found: Option<String> = get.query_async(&mut self.connection.clone()).await?;
        Ok(found.unwrap_or_default())
    }

    /// Writes such a value if it still is `seen`; whether it was.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn swap(&self, name: &str, seen: &str, new: &str) -> Result<bool, Failure> {
        let value = self.serve(Act::new("swap").arg(name).arg(seen).arg(new)).await?;
        Ok(texts(value).map_err(Failure::Refused)? == ["1"])
    }

    async fn serve(&self, act: Act) -> Result<Value, Failure> {
        let arguments = quiet(&act, crate::clock::now());
        serve(&mut self.connection.clone(), &self.names, arguments).await
    }

    async fn one(
        &self,
        deed: &dyn Deed<L>,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<Outcome, Failure> {
        let envelope = Envelope { meta, traceparent: meta.trace.to_header() };
        let mut ran = self.decide(&[(deed, envelope)], now).await?;
        ran.outcomes.pop().ok_or_else(|| Failure::Refused("no outcome".into()))
    }

    /// Runs a batch as one pipeline.
    async fn decide(
        &self,
        batch: &[(&dyn Deed<L>, Envelope<'_>)],
        now: Timestamp,
    ) -> Result<Ran, Failure> {
        let mut calls = Vec::with_capacity(batch.len());
        let mut refused = Vec::with_capacity(batch.len());
        for (deed, envelope) in batch {
            match deed.act(&self.at(envelope.meta, now)) {
                Ok(act) => {
                    calls.push(arguments(&act, envelope, now));
                    refused.push(None);
                }
                Err(problem) => refused.push(Some(Answered::refused(&problem))),
            }
        }
        let mut ended = self.call(&self.names.run, calls).await?.into_iter();
        let mut ran = Ran::default();
        for ((deed, envelope), refused) in batch.iter().zip(refused) {
            if let Some(answered) = refused {
                ran.outcomes.push(Outcome::Done(answered));
                continue;
            }
            let mut ended = ended.next().unwrap_or_else(|| Err("no answer".into()));
            if let Ok(Ended::Done { announced, .. }) = &mut ended {
                ran.announced.append(announced);
            }
            let at = self.at(envelope.meta, now);
            ran.outcomes.push(settle(*deed, envelope.meta, &at, ended)?);
        }
        Ok(ran)
    }

    fn at<'a>(&'a self, meta: &'a Meta, now: Timestamp) -> At<'a, L::Rules> {
        At { now, rules: &self.rules, caller: &meta.caller, id: meta.id }
    }

    /// Calls `function` once for each list of arguments, in one round trip. Where the
    /// library is missing (a new or emptied Valkey) it is loaded, and those calls, which
    /// had no effect, are made again.
    async fn call(
        &self,
        function: &str,
        mut calls: Vec<Vec<Vec<u8>>>,
    ) -> Result<Vec<Result<Ended, String>>, Failure> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connection.clone();
        let mut results = pipeline(&mut connection, function, &self.names, &calls).await?;
        let missing: Vec<usize> =
            (0..results.len()).filter(|&index| is_missing(&results[index])).collect();
        if !missing.is_empty() {
            load(&mut connection, &self.names).await?;
            let again: Vec<_> =
                missing.iter().map(|&index| std::mem::take(&mut calls[index])).collect();
            let answers = pipeline(&mut connection, function, &self.names, &again).await?;
            for (index, answer) in missing.into_iter().zip(answers) {
                results[index] = answer;
            }
        }
        results
            .into_iter()
            .map(|result| match result {
                Ok(value) => Ok(Ended::read(value)),
                Err(error) if is_away(&error) => Err(Failure::Unavailable(error.to_string())),
                Err(error) => Ok(Err(error.to_string())),
            })
            .collect()
    }
}

/// What a message's ending is for its sender.
fn settle<L: Library>(
    deed: &dyn Deed<L>,
    meta: &Meta,
    at: &At<'_, L::Rules>,
    ended: Result<Ended, String>,
) -> Result<Outcome, Failure> {
    Ok(match ended {
        Ok(Ended::Done { told, value, .. }) => {
            for fact in &told {
                let is_declared = meta.may_tell.iter().any(|may| may == fact);
                assert!(
                    is_declared || meta.may_tell.is_empty(),
                    "{fact} is not declared as a consequence of {}",
                    meta.name
                );
            }
            match deed.answer(&value, at) {
                Ok(answered) => Outcome::Done(answered),
                Err(problem) => Outcome::Done(Answered::refused(&problem)),
            }
        }
        Ok(Ended::Repeat) => Outcome::Repeat,
        Ok(Ended::No(problem)) => Outcome::Done(Answered::refused(&problem)),
        Ok(Ended::NotYet(problem)) => Outcome::NotYet(problem),
        Ok(Ended::Lost) => return Err(lost()),
        Err(cause) => Outcome::Never(cause),
    })
}

fn lost() -> Failure {
    Failure::Unavailable("it was emptied and is not rebuilt yet".into())
}

impl<L: Library> Service<Valkey<L>> {
    /// Takes in the fact `E`; `tells` are the facts that may follow.
    pub fn hears<E: Event>(mut self, tells: &'static [&'static str]) -> Self
    where
        L: ActOn<E>,
    {
        self.listen::<E>(<L as ActOn<E>>::KEY, tells, |payload| {
            let fact: E = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
            Ok(VkDeed(Box::new(HeardFact(fact))))
        });
        self
    }

    /// Answers the command `C`; `tells` are the facts that may follow.
    pub fn answers<C: Command>(mut self, allow: Allow, tells: &'static [&'static str]) -> Self
    where
        L: Reply<C>,
    {
        let how = How::Decided(|body| Ok(VkDeed(Box::new(AskedCommand(parse::<C>(body)?)))));
        let (endpoint, status) = (C::ENDPOINT, C::STATUS);
        self.add(Asked { endpoint, allow, status, tells, how });
        self
    }

    /// Looks for what is due each `interval` and runs it in batches; `tells` are the facts
    /// that may follow.
    pub fn every<F, R>(
        mut self,
        name: &'static str,
        interval: Duration,
        tells: &'static [&'static str],
        due: F,
    ) -> Self
    where
        F: Fn(Valkey<L>, Timestamp) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Vec<Act>, Failure>> + Send + 'static,
    {
        let due = Arc::new(move |engine: Arc<Valkey<L>>, now| {
            let due = due((*engine).clone(), now);
            Box::pin(async move {
                let acts = due.await?;
                Ok(acts.into_iter().map(|act| VkDeed(Box::new(DueAct(act)) as _)).collect())
            }) as _
        });
        self.timers.push(Timer { name, every: interval, tells, due });
        self
    }
}

impl<L: Library> Desk<Valkey<L>> {
    /// Decides `command` in the next batch and returns what it was answered.
    ///
    /// # Errors
    /// The refusal, or `overloaded`/`unavailable` when it could not be decided.
    pub async fn decide<C: Command>(&self, command: C, meta: &Meta) -> Result<C::Reply, Problem>
    where
        L: Reply<C>,
    {
        self.submit::<C>(VkDeed(Box::new(AskedCommand(command))), meta).await
    }
}

impl<L: Library> Engine for Valkey<L> {
    type Deed = VkDeed<L>;
    type Outbox = VkOutbox;

    async fn run(&self, batch: &mut [Work<VkDeed<L>>]) -> Result<Ran, Failure> {
        let names = batch.iter().map(|work| work.meta.name);
        if self.failpoints.strikes(Failpoint::BeforeCommit, names) {
            return Err(Failure::Unavailable("failpoint: before commit".into()));
        }
        let now = crate::clock::now();
        let began = SystemTime::from(now.0);
        let spans: Vec<Span> = batch.iter().map(|work| work.transaction(began)).collect();
        let deeds: Vec<_> = batch
            .iter()
            .zip(&spans)
            .map(|(work, span)| {
                let traceparent = span.to_outbox(&work.meta.trace);
                (&*work.deed.0, Envelope { meta: &work.meta, traceparent })
            })
            .collect();
        self.decide(&deeds, now).await
    }

    async fn outbox(&self) -> Result<VkOutbox, Failure> {
        VkOutbox::open(self.connection.clone(), self.names.clone()).await
    }

    async fn check(&self) -> Result<(), Failure> {
        if self.is_whole().await? { Ok(()) } else { Err(lost()) }
    }

    async fn tidy(&self) -> Result<(), Failure> {
        let trim = Act::new("trim").arg(OUTBOX_KEEP_MILLIS).arg(OUTBOX_FACTS_MAX);
        self.serve(trim).await?;
        if L::IS_REPLAYABLE { self.sweep().await } else { Ok(()) }
    }

    fn failpoints(&self) -> Arc<Failpoints> {
        self.failpoints.clone()
    }
}
