//! What the suite needs of an engine, and the harness of a case.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use events::{Envelope, Event, EventId, SagaId};
use mesh::{
    Idempotency, Outcome, Service, Work,
    engine::{Care, Engine, Failure, Ran, Show, Verdict, Which},
    message::Message,
    parked::{Parked, ParkedState},
    testkit::{Delivered, Kit},
};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::counter::{Add, Added, Bumped, How, Moved, Opened};

/// A lease longer than any case.
pub const LONG: Duration = Duration::from_secs(60);
/// How long `eventually` waits: far more than is needed on a shared machine.
const SOON: Duration = Duration::from_secs(40);
/// The pause between two probes of `eventually`.
const PROBE: Duration = Duration::from_millis(20);
/// Runs of a contended batch at most.
const RUNS_MAX: u32 = 100;

/// The service of these tests on an engine.
pub trait Store: Sized + Send + Sync + 'static {
    /// The engine.
    type Engine: Engine;

    /// A store of its own, empty and complete.
    fn open() -> impl Future<Output = Self> + Send;

    /// What the service consumes and answers.
    fn service() -> Service<Self::Engine>;

    /// An engine on the store, as in a process that has just started.
    fn engine(&self) -> Arc<Self::Engine>;

    /// Cuts off the store's connections, in the middle of what they do.
    fn lose(&self) -> impl Future<Output = ()> + Send;

    /// Value and version of a counter.
    fn counter(&self, id: Uuid) -> impl Future<Output = Option<(i64, i64)>> + Send;
}

/// A store with an engine, and the kit that makes works for it.
pub struct Harness<S: Store> {
    pub store: S,
    pub kit: Kit,
    pub engine: Arc<S::Engine>,
}

/// Works of a batch.
pub type Works = Vec<Work>;

impl<S: Store> Harness<S> {
    pub async fn open() -> Self {
        let store = S::open().await;
        let engine = store.engine();
        Self { kit: Kit::of(S::service()).await, engine, store }
    }

    /// Restarts the process: a new engine on the same store.
    pub fn restart(&mut self) {
        self.engine = self.store.engine();
    }

    /// The works of messages.
    pub fn works(&self, messages: &[&Delivered]) -> Works {
        messages.iter().map(|message| self.kit.message(message)).collect()
    }

    /// Takes messages in as one batch.
    pub async fn take(&self, messages: &[&Delivered]) -> Ran {
        drive(&*self.engine, self.works(messages)).await.unwrap()
    }

    /// Takes in one event in a message of its own.
    pub async fn bump(&self, counter: Uuid, amount: i64, how: How) -> Ran {
        self.take(&[&message([bumped(counter, amount, how)])]).await
    }

    pub async fn open_counter(&self, counter: Uuid) {
        self.take(&[&message([Opened { counter, by: Uuid::now_v7() }])]).await;
    }

    /// Runs a command.
    pub async fn add(&self, add: &Add, key: Option<&Idempotency>) -> Outcome {
        let works = vec![self.kit.command(add, key.cloned())];
        drive(&*self.engine, works).await.unwrap().outcomes.remove(0)
    }

    /// An event that waited for its counter in vain: a dead letter that succeeds once the
    /// counter is there.
    pub async fn dead(&self, counter: Uuid, amount: i64) -> Parked {
        self.bump(counter, amount, How::Late).await;
        let parked = self.due().await;
        let in_vain = Verdict::Dead { cause: "in vain".into(), by: None };
        self.engine.store().settle(parked.number, in_vain).await.unwrap();
        parked
    }

    /// Leases the first event that holds a key.
    pub async fn first(&self, key: Uuid) -> Parked {
        let mut leased = self.lease(Which::First(key.to_string())).await;
        assert_eq!(leased.len(), 1, "{leased:?}");
        leased.remove(0)
    }

    /// Value and version of a counter that exists.
    pub async fn value(&self, counter: Uuid) -> (i64, i64) {
        self.store.counter(counter).await.expect("a counter")
    }

    pub async fn lease(&self, which: Which) -> Vec<Parked> {
        self.engine.store().lease(which, LONG).await.unwrap()
    }

    /// Waits until events are due, and leases them.
    pub async fn all_due(&self) -> Vec<Parked> {
        eventually("a parked event is due", || async {
            let leased = self.lease(Which::Due(100)).await;
            (!leased.is_empty()).then_some(leased)
        })
        .await
    }

    /// Waits until one event is due, and leases it.
    pub async fn due(&self) -> Parked {
        let mut leased = self.all_due().await;
        assert_eq!(leased.len(), 1, "{leased:?}");
        leased.remove(0)
    }

    pub async fn attempt(&self, parked: &Parked) -> bool {
        self.kit.attempt(self.engine.clone(), parked).await.unwrap()
    }

    /// All open parked events.
    pub async fn open_parked(&self) -> Vec<Parked> {
        self.engine.store().parked(Show::All(false, 1_000)).await.unwrap()
    }

    /// The states of all parked events of a key, including those that have ended.
    pub async fn states(&self, key: Uuid) -> Vec<ParkedState> {
        let rows = self.engine.store().parked(Show::Key(key.to_string())).await.unwrap();
        rows.iter().map(|row| row.state).collect()
    }

    /// Events in the outbox that are not published.
    pub async fn waiting(&self) -> u64 {
        self.engine.store().backlog().await.unwrap().events
    }

    /// Emits so many messages of one event each. Returns their ids, in no particular order.
    pub async fn emit(&self, count: usize) -> Vec<Uuid> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let spread = (count - ids.len()).min(250) as u32;
            let ran = self.bump(Uuid::now_v7(), 1, How::Spreads(spread)).await;
            ids.extend(ran.emitted.iter().map(|message| message.id));
        }
        ids
    }

    /// Sweeps until messages are found.
    pub async fn swept(&self, most: usize) -> Vec<Message> {
        eventually("something is swept", || async {
            let swept = self.engine.store().sweep(most).await.unwrap();
            (!swept.is_empty()).then_some(swept)
        })
        .await
    }
}

/// Runs a batch as a batch worker does: as a whole and, when that fails, work by work.
pub async fn drive<E: Engine>(engine: &E, mut batch: Vec<Work>) -> Result<Ran, Failure> {
    match run_with_retries(engine, &mut batch, Care::Together).await {
        Ok(ran) => return Ok(ran),
        Err(lost) if lost.is_lost() => return Err(lost),
        Err(_) => {}
    }
    let mut all = Ran::default();
    for at in 0..batch.len() {
        let ran = alone(engine, &mut batch[at..=at]).await?;
        all.outcomes.extend(ran.outcomes);
        all.emitted.extend(ran.emitted);
        all.announced.extend(ran.announced);
        all.parked.extend(ran.parked);
    }
    Ok(all)
}

/// Runs one message or command with ever more care.
pub async fn alone<E: Engine>(engine: &E, work: &mut [Work]) -> Result<Ran, Failure> {
    let mut last = None;
    for care in [Care::Alone, Care::AloneFinal, Care::ParkUnrun] {
        match run_with_retries(engine, work, care).await {
            Err(Failure::Refused(cause) | Failure::Duplicate(cause)) => last = Some(cause),
            ended => return ended,
        }
    }
    Err(Failure::Refused(last.unwrap_or_default()))
}

async fn run_with_retries<E: Engine>(
    engine: &E,
    batch: &mut [Work],
    care: Care,
) -> Result<Ran, Failure> {
    let mut runs = 1;
    loop {
        match engine.run(batch, care).await {
            Err(Failure::Contended(_)) if runs < RUNS_MAX => runs += 1,
            Err(Failure::Duplicate(_)) if runs < 5 => runs += 1,
            ran => return ran,
        }
    }
}

pub fn bumped(counter: Uuid, amount: i64, how: How) -> Bumped {
    Bumped { counter, amount, how }
}

/// A message of these events, delivered for the first time.
pub fn message<T: Event>(events: impl IntoIterator<Item = T>) -> Delivered {
    Delivered {
        id: Uuid::now_v7(),
        subject: events::subject(T::NAME, T::VERSION, None),
        sequence: 1,
        times: 1,
        events: events.into_iter().map(|event| envelope(&event, SagaId(Uuid::now_v7()))).collect(),
    }
}

/// An event as it is on the wire.
pub fn envelope<T: Event>(event: &T, saga: SagaId) -> Bytes {
    let data = RawValue::from_string(serde_json::to_string(event).unwrap()).unwrap();
    let envelope = Envelope {
        specversion: Default::default(),
        id: EventId(Uuid::now_v7()),
        source: "/onsale/test".into(),
        kind: format!("onsale.{}.v{}", T::NAME, T::VERSION).into(),
        time: mesh::clock::now(),
        subject: event.about().to_string().into(),
        sagaid: saga,
        causationid: None,
        traceparent: None,
        attempt: None,
        data: &data,
    };
    let mut body = Vec::new();
    envelope.encode(&mut body);
    body.into()
}

/// The emitted events of counters, in their order within each message.
pub fn moved(emitted: &[Message]) -> Vec<Moved> {
    let mut all = Vec::new();
    for message in emitted {
        let events: Vec<&RawValue> = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(events.len(), message.events as usize);
        for event in events {
            let envelope = Envelope::decode(event.get().as_bytes()).unwrap();
            assert_eq!(envelope.name(), Moved::NAME);
            all.push(serde_json::from_str(envelope.data.get()).unwrap());
        }
    }
    all
}

/// The values and versions in the emitted events.
pub fn steps(emitted: &[Message]) -> Vec<(i64, i64)> {
    moved(emitted).iter().map(|moved| (moved.value, moved.version)).collect()
}

/// The reply to a granted command.
pub fn granted(outcome: &Outcome) -> Added {
    match outcome {
        Outcome::Done(answered) if answered.is_granted() => {
            serde_json::from_slice(&answered.body).unwrap()
        }
        other => panic!("not granted: {other:?}"),
    }
}

pub fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done(_))
}

pub fn is_repeat(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Repeat)
}

/// Probes until there is a result.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(tokio::time::Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(PROBE).await;
    }
}
