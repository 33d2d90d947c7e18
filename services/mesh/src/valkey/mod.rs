//! The Valkey engine: inbox, state and outbox in one atomic function call for each message.
//!
//! A batch is one pipelined round trip of such calls. They take effect one by one, each of
//! them wholly: when the connection is lost half-way, facts come again and the inbox drops
//! those that were taken in, and commands are written to be harmless when run twice.

mod act;
mod outbox;

use std::{
    future::Future,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};

use events::{Command, Event, Problem, Timestamp, codes};
use redis::{
    Client, ErrorKind, IntoConnectionInfo, RedisError, RedisResult,
    ServerErrorKind, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};
use sha2::{Digest, Sha256};
use tracing::error;
use uuid::Uuid;

use crate::{
    Allow, Caller, Desk, Service,
    engine::{Engine, Failure, Ran},
    failpoint::{Failpoint, Failpoints},
    service::{Asked, How, Timer, parse},
    trace::Span,
    work::{Answered, Meta, Outcome, Work},
};

pub use act::{Act, ActOn, At, Library, Reply, Texts, VkDeed};
use act::{AskedCommand, Deed, DueAct, Ended, HeardFact, texts};
pub use outbox::VkOutbox;

/// What every library begins with.
const MESH_LUA: &str = include_str!("mesh.lua");
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

/// The library as it is known to Valkey. Its name is made from its text, so two versions of
/// a service can run side by side, and a library once loaded never changes.
pub(super) struct Names {
    root: String,
    run: String,
    read: String,
    serve: String,
    lua: String,
}

impl Names {
    fn of<L: Library>() -> Self {
        let digest = Sha256::digest([MESH_LUA, L::LUA].concat());
        let edition: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{}_{edition}", L::NAME.replace('-', "_"));
        let (run, read, serve) =
            (format!("{name}_run"), format!("{name}_read"), format!("{name}_serve"));
        let lua = format!(
            "#!lua name={name}\n{MESH_LUA}\n{}\n\
             redis.register_function('{run}', run)\n\
             redis.register_function{{ function_name = '{read}', callback = read, \
             flags = {{ 'no-writes' }} }}\n\
             redis.register_function('{serve}', serve)\n",
            L::LUA
        );
        Self { root: format!("{{{}}}", L::NAME), run, read, serve, lua }
    }
}

/// What is known of a message beside its deed.
struct Envelope<'a> {
    meta: &'a Meta,
    traceparent: Option<String>,
}

impl<L: Library> Valkey<L> {
    /// An engine on the Valkey at `url`; it connects when first needed. Call it within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When the address is malformed.
    pub fn new(url: &str, rules: L::Rules) -> Result<Self, Failure> {
        let info = url
            .into_connection_info()?
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
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
        let at = At { now, rules: &*self.rules, caller: &Caller::Mesh, id: Uuid::now_v7() };
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

    /// Declares that the store knows all that it should; until then it takes nothing in.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn seal(&self) -> Result<(), Failure> {
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
        let mut outcomes = self.decide(&[(deed, envelope)], now).await?;
        outcomes.pop().ok_or_else(|| Failure::Refused("no outcome".into()))
    }

    /// Runs a batch as one pipeline.
    async fn decide(
        &self,
        batch: &[(&dyn Deed<L>, Envelope<'_>)],
        now: Timestamp,
    ) -> Result<Vec<Outcome>, Failure> {
        let at = |meta: &'_ Meta| (meta.caller.clone(), meta.id);
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(batch.len());
        let mut calls = Vec::with_capacity(batch.len());
        for (deed, envelope) in batch {
            let (caller, id) = at(envelope.meta);
            match deed.act(&At { now, rules: &*self.rules, caller: &caller, id }) {
                Ok(act) => {
                    calls.push(arguments(&act, envelope, now));
                    outcomes.push(None);
                }
                Err(problem) => outcomes.push(Some(Outcome::Done(Answered::refused(&problem)))),
            }
        }
        let mut ended = self.call(&self.names.run, calls).await?.into_iter();
        let mut all = Vec::with_capacity(batch.len());
        for ((deed, envelope), outcome) in batch.iter().zip(outcomes) {
            all.push(match outcome {
                Some(refused) => refused,
                None => {
                    let (caller, id) = at(envelope.meta);
                    let at = At { now, rules: &*self.rules, caller: &caller, id };
                    let ended = ended.next().unwrap_or_else(|| Err("no answer".into()));
                    settle(*deed, envelope.meta, &at, ended)?
                }
            });
        }
        Ok(all)
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
        Ok(Ended::Done { told, value }) => {
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

/// The arguments of a call that comes from a message; `mesh.lua` reads them in `begin`.
fn arguments(act: &Act, envelope: &Envelope<'_>, now: Timestamp) -> Vec<Vec<u8>> {
    let meta = envelope.meta;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (scope, body) = match &meta.idempotency {
        Some(key) => (hex(&key.scope), hex(&key.body)),
        None => Default::default(),
    };
    let mut all = vec![
        act.name.into(),
        now.unix_millis().to_string().into_bytes(),
        seed(),
        meta.event_id.map(|id| id.0.as_bytes().to_vec()).unwrap_or_default(),
        meta.saga_id.to_string().into_bytes(),
        meta.event_id.map_or(meta.id, |id| id.0).to_string().into_bytes(),
        envelope.traceparent.clone().unwrap_or_default().into_bytes(),
        scope.into_bytes(),
        body.into_bytes(),
        if act.is_restoring { b"1".to_vec() } else { Vec::new() },
    ];
    all.extend(act.args.iter().map(|arg| arg.clone().into_bytes()));
    all
}

/// The arguments of a call that no message asks for: a saga of its own, from no cause.
fn quiet(act: &Act, now: Timestamp) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new(); 10];
    all[0] = act.name.into();
    all[1] = now.unix_millis().to_string().into_bytes();
    all[2] = seed();
    all[4] = Uuid::now_v7().to_string().into_bytes();
    if act.is_restoring {
        all[9] = b"1".to_vec();
    }
    all.extend(act.args.iter().map(|arg| arg.clone().into_bytes()));
    all
}

/// The random half of the ids of one act's facts: `bxxx-xxxxxxxxxxxx`.
fn seed() -> Vec<u8> {
    Uuid::now_v7().to_string()[19..].into()
}

async fn pipeline(
    connection: &mut ConnectionManager,
    function: &str,
    names: &Names,
    calls: &[Vec<Vec<u8>>],
) -> Result<Vec<RedisResult<Value>>, Failure> {
    let mut pipe = redis::pipe();
    pipe.ignore_errors();
    for arguments in calls {
        pipe.cmd("FCALL").arg(function).arg(1).arg(&names.root).arg(arguments);
    }
    pipe.query_async(connection).await.map_err(|error: RedisError| {
        if error.is_connection_refusal() {
            Failure::Unavailable(error.to_string())
        } else {
            Failure::Uncertain(error.to_string())
        }
    })
}

/// Calls one of the relay's functions.
async fn serve(
    connection: &mut ConnectionManager,
    names: &Names,
    arguments: Vec<Vec<u8>>,
) -> Result<Value, Failure> {
    let calls = [arguments];
    let mut results = pipeline(connection, &names.serve, names, &calls).await?;
    if results.first().is_some_and(is_missing) {
        load(connection, names).await?;
        results = pipeline(connection, &names.serve, names, &calls).await?;
    }
    let result = results.pop().ok_or_else(|| Failure::Refused("no answer".into()))?;
    result.map_err(|error| {
        if is_away(&error) {
            Failure::Unavailable(error.to_string())
        } else {
            Failure::Refused(error.to_string())
        }
    })
}

/// Loads the library; another instance may have done so a moment ago.
async fn load(connection: &mut ConnectionManager, names: &Names) -> Result<(), Failure> {
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg(&names.lua);
    match load.query_async::<Value>(connection).await {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("already exists") => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_missing(result: &RedisResult<Value>) -> bool {
    result.as_ref().is_err_and(|error| error.to_string().contains("Function not found"))
}

/// Whether a server answered that it cannot work right now, whatever it was asked.
fn is_away(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    let kinds = [BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain];
    matches!(error.kind(), ErrorKind::Server(kind) if kinds.contains(&kind))
        || matches!(error.code(), Some("OOM" | "MISCONF" | "BUSY" | "NOREPLICAS"))
}

impl<L: Library> Service<Valkey<L>> {
    /// Takes in the fact `E`; `tells` are the facts that may follow.
    pub fn hears<E: Event>(mut self, tells: &'static [&'static str]) -> Self
    where
        L: ActOn<E>,
    {
        self.listen::<E>(tells, |payload| {
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
        if self.failpoints.strikes(Failpoint::BeforeCommit) {
            return Err(Failure::Unavailable("failpoint: before commit".into()));
        }
        let now = crate::clock::now();
        let began = SystemTime::from(now.0);
        let spans: Vec<Span> =
            batch.iter().map(|work| work.span.child("transaction", Some(began))).collect();
        let deeds: Vec<_> = batch
            .iter()
            .zip(&spans)
            .map(|(work, span)| {
                let traceparent = span.parent().to_header();
                (&*work.deed.0, Envelope { meta: &work.meta, traceparent })
            })
            .collect();
        let outcomes = self.decide(&deeds, now).await?;
        Ok(Ran { outcomes, announced: Vec::new() })
    }

    async fn outbox(&self) -> Result<VkOutbox, Failure> {
        VkOutbox::open(self.connection.clone(), self.names.clone()).await
    }

    async fn check(&self) -> Result<(), Failure> {
        if self.is_whole().await? { Ok(()) } else { Err(lost()) }
    }

    async fn tidy(&self) -> Result<(), Failure> {
        let trim = Act::new("trim").arg(OUTBOX_KEEP_MILLIS).arg(OUTBOX_FACTS_MAX);
        self.serve(trim).await.map(drop)
    }

    fn failpoints(&self) -> Arc<Failpoints> {
        self.failpoints.clone()
    }
}
