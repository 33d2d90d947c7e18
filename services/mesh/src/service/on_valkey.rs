//! What a service on Valkey declares: events, commands and timers.

use std::{future::Future, sync::Arc, time::Duration};

use events::{Command, Event, Problem, Timestamp};

use super::{DecodedCommand, EndpointSpec, How, Service, Timer, query_context::own};
use crate::{
    Allow, QueryContext,
    batch::work::Meta,
    store::engine::{Engine, Failure},
    store::valkey::{
        CallFor, CallOn, FunctionCall, LuaModule, Valkey, of_command, of_due, of_event,
    },
};

impl<L: LuaModule> Service<Valkey<L>> {
    /// Consumes the event `E`; `emits` are the events that handling it may emit.
    pub fn consumes<E: Event>(mut self, emits: &'static [&'static str]) -> Self
    where
        L: CallOn<E>,
    {
        self.declared.listen::<E>(<L as CallOn<E>>::KEY, emits, |payload| {
            let event: E = serde_json::from_slice(payload)?;
            Ok(of_event::<L, E>(event))
        });
        self
    }

    /// Answers the command `C`; `emits` are the events that it may emit.
    pub fn executes<C: Command>(mut self, allow: Allow, emits: &'static [&'static str]) -> Self
    where
        L: CallFor<C>,
    {
        let how =
            How::Decided(|body, key| DecodedCommand::read::<C>(body, key, of_command::<L, C>));
        let (endpoint, status) = (C::ENDPOINT, C::STATUS);
        self.declared.add(EndpointSpec { endpoint, allow, status, emits, how });
        self
    }

    /// Looks every `interval` for what is due and runs it in batches; `emits` are the events that
    /// it may emit.
    pub fn every<F, R>(
        mut self,
        name: &'static str,
        interval: Duration,
        emits: &'static [&'static str],
        due: F,
    ) -> Self
    where
        F: Fn(Valkey<L>, Timestamp) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Vec<FunctionCall>, Failure>> + Send + 'static,
    {
        let due = Arc::new(move |engine: Arc<dyn Engine>, now| {
            let due = due(Valkey::clone(&own(engine)), now);
            Box::pin(async move { Ok(due.await?.into_iter().map(of_due::<L>).collect()) }) as _
        });
        self.declared.timers.push(Timer { name, every: interval, emits, due });
        self
    }
}

impl<L: LuaModule> QueryContext<Valkey<L>> {
    /// Runs `command` in the next batch and returns its answer.
    ///
    /// # Errors
    /// The refusal, or `overloaded`/`unavailable` when it could not be run.
    pub async fn decide<C: Command>(&self, command: C, meta: &Meta) -> Result<C::Reply, Problem>
    where
        L: CallFor<C>,
    {
        self.submit::<C>(of_command::<L, C>(command), meta).await
    }
}
