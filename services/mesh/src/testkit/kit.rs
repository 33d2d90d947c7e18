//! Messages, commands and parked events as a service gets them, without a broker: for the
//! conformance suite of engines (`tests/engine`).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use events::{Command, SagaId};
use futures::FutureExt;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Caller, Idempotency, Link, Meta, Service, Work,
    batch::work::{Delivery, Settle},
    health::Health,
    inbound::consumer::{Table, entries_of},
    outbound::message::Message,
    outbound::publisher::{HandOff, Handed},
    parked::{
        Parked,
        retry::{Retrier, Tried},
    },
    service::{Declared, DecodedCommand, EndpointSpec, How},
    store::engine::{Engine, Failure},
};

/// A message as a stream delivers it.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// `Nats-Msg-Id`.
    pub id: Uuid,
    /// `onsale.<service>.<event>.v<version>.<schedule or ->`.
    pub subject: String,
    /// Its sequence in its stream.
    pub sequence: u64,
    /// Its delivery count, this delivery included.
    pub times: u64,
    /// Its events, as JSON.
    pub events: Vec<Bytes>,
}

/// Makes work from messages and commands, and retries parked events.
pub struct Kit {
    link: Link,
    consumed: Arc<Table>,
    endpoints: BTreeMap<&'static str, EndpointSpec>,
    hand_off: HandOff,
    handed: Mutex<Handed>,
}

impl Kit {
    /// The kit of a service. Call it within a tokio runtime.
    pub async fn of<E: Engine>(service: Service<E>) -> Self {
        let (hand_off, handed) = HandOff::new();
        let Declared { name, consumed, endpoints, .. } = service.declared;
        Self {
            link: Link::unconnected(name).await,
            consumed: Arc::new(consumed.into_iter().collect()),
            endpoints,
            hand_off,
            handed: Mutex::new(handed),
        }
    }

    /// A message with its events.
    ///
    /// # Panics
    /// When its events are not JSON.
    pub fn message(&self, delivered: &Delivered) -> Work {
        let payload = [b"[".as_slice(), &delivered.events.join(&b","[..]), b"]"].concat();
        let subject = delivered.subject.as_str();
        let entries = entries_of(&self.consumed, subject, &payload.into());
        let delivery = Delivery {
            subject: subject.into(),
            message: None,
            id: delivered.id,
            stream: "TEST".into(),
            sequence: delivered.sequence,
            delivered: delivered.times,
        };
        Work { entries, settle: Settle::Ack(Box::new(delivery)), underway: None }
    }

    /// A command, under an `Idempotency-Key` or none.
    ///
    /// # Panics
    /// When the service does not decide this command in a batch.
    pub fn command<C: Command>(&self, command: &C, key: Option<Idempotency>) -> Work {
        let spec = &self.endpoints[C::ENDPOINT];
        let How::Decided(decode) = &spec.how else { panic!("{} is only read", C::ENDPOINT) };
        let body = serde_json::to_vec(command).expect("commands are plain data");
        let Ok(DecodedCommand { handler, .. }) = decode(&body, None) else {
            panic!("{} cannot be read", C::ENDPOINT)
        };
        let mut meta = Meta::inside(SagaId(Uuid::now_v7()));
        (meta.name, meta.may_emit) = (spec.endpoint, spec.emits);
        (meta.caller, meta.idempotency) = (Caller::Anonymous, key);
        Work::command(handler, meta, Settle::Nobody)
    }

    /// Retries a leased parked event, as a running service does; whether it was handled.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn attempt(&self, engine: Arc<dyn Engine>, parked: &Parked) -> Result<bool, Failure> {
        let retrier = Retrier {
            engine,
            link: self.link.clone(),
            consumed: self.consumed.clone(),
            hand_off: self.hand_off.clone(),
            parked: Arc::new(Notify::new()),
            health: Health::default(),
            shutdown: CancellationToken::new(),
            only_listens: false,
        };
        Ok(retrier.attempt(parked, None).await? == Tried::Done)
    }

    /// The messages that attempts have emitted since the last call.
    pub async fn emitted(&self) -> Vec<Message> {
        let mut handed = self.handed.lock().await;
        std::iter::from_fn(|| handed.next().now_or_never().flatten()).collect()
    }
}
