//! A service on a Valkey of its own.

use events::{Command, Event, EventId, Problem, Timestamp};
use uuid::Uuid;

use super::OwnValkey;
use crate::{
    Caller, Meta, Outcome, Service, Wiring,
    valkey::{CallFor, CallOn, LuaModule, Valkey},
};

/// A service whose handlers are called one by one, outside any batch, at the moments that the
/// test names. Its store has not been declared whole.
pub struct OnValkey<L: LuaModule> {
    /// The engine.
    pub engine: Valkey<L>,
    /// Its store.
    pub store: OwnValkey,
    wiring: Wiring,
}

impl<L: LuaModule> OnValkey<L> {
    /// The service with this configuration on this store.
    pub fn of(service: &Service<Valkey<L>>, config: L::Config, store: OwnValkey) -> Self {
        Self { engine: store.engine(config), store, wiring: service.wiring() }
    }

    /// The origin of an event or a command of this name, in a saga of its own.
    ///
    /// # Panics
    /// When the service has no handler for it.
    pub fn meta(&self, name: &str, caller: Caller) -> Meta {
        let mut handlers = self.wiring.consumes.iter().chain(&self.wiring.answers);
        let declared = handlers.find(|(of, _)| *of == name);
        let (name, may_emit) = *declared.unwrap_or_else(|| panic!("{name} has no handler"));
        Meta { name, may_emit, caller, ..Meta::inside(Uuid::now_v7().into()) }
    }

    /// Handles an event, with an event id of its own.
    ///
    /// # Panics
    /// When it is not handled.
    pub async fn handle<E: Event>(&self, event: E, now: Timestamp)
    where
        L: CallOn<E>,
    {
        let outcome = self.handle_as(event, EventId(Uuid::now_v7()), now).await;
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }

    /// Handles an event with this event id.
    ///
    /// # Panics
    /// When the store cannot be reached, or was emptied.
    pub async fn handle_as<E: Event>(&self, event: E, id: EventId, now: Timestamp) -> Outcome
    where
        L: CallOn<E>,
    {
        let meta = Meta { event_id: Some(id), ..self.meta(E::NAME, Caller::Mesh) };
        self.engine.handle(event, &meta, now).await.expect("the store answers")
    }

    /// Decides a command.
    ///
    /// # Errors
    /// Its refusal.
    ///
    /// # Panics
    /// When it is not decided.
    pub async fn answer<C: Command>(
        &self,
        command: C,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<C::Reply, Problem>
    where
        L: CallFor<C>,
    {
        let answered = match self.engine.answer(command, meta, now).await {
            Ok(Outcome::Done(answered)) => answered,
            Ok(Outcome::NotYet(problem)) => return Err(problem),
            other => panic!("{other:?}"),
        };
        let body = &answered.body;
        if answered.is_granted() {
            Ok(serde_json::from_slice(body).expect("it is a reply"))
        } else {
            Err(serde_json::from_slice(body).expect("it is a problem"))
        }
    }
}
