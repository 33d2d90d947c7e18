//! What a service on PostgreSQL declares: events, commands, timers, and whole streams.

use std::{future::Future, sync::Arc, time::Duration};

use events::{Command, Event, Problem, Timestamp};
use sqlx::PgPool;

use super::{DecodedCommand, EndpointSpec, Followed, How, Service, Timer};
use crate::{
    Allow, Execute, Handle, QueryContext, Read, UnitOfWork,
    batch::{
        handler::{of_command, of_event},
        work::Meta,
    },
    service::query_context::own,
    store::{
        engine::{Engine, Failure},
        postgres::Postgres,
    },
};

impl<B: UnitOfWork> Service<Postgres<B>> {
    /// Consumes the event `E`; `emits` are the events that handling it may emit.
    pub fn consumes<E: Event>(mut self, emits: &'static [&'static str]) -> Self
    where
        B: Handle<E>,
    {
        self.declared.listen::<E>(<B as Handle<E>>::KEY, emits, |payload| {
            let event: E = serde_json::from_slice(payload)?;
            Ok(of_event::<B, E>(event))
        });
        self
    }

    /// Answers the command `C`; `emits` are the events that it may emit.
    pub fn executes<C: Command>(mut self, allow: Allow, emits: &'static [&'static str]) -> Self
    where
        B: Execute<C>,
    {
        let how =
            How::Decided(|body, key| DecodedCommand::read::<C>(body, key, of_command::<B, C>));
        let (endpoint, status) = (C::ENDPOINT, C::STATUS);
        self.declared.add(EndpointSpec { endpoint, allow, status, emits, how });
        self
    }

    /// Reads the streams of `events` whole, each in its order, instead of consuming single
    /// events: for a listener, which decides nothing. `take` stores what it makes of a [`Read`]
    /// and calls [`Read::settle`] in the same transaction, so that an event has its effect once.
    /// If `take` fails, nothing is stored and it is called again with the same events. When there
    /// is a backlog it gets about `piece` events of each stream at once.
    ///
    /// One instance reads at a time; the others stand by.
    pub fn follows<F, R>(mut self, events: &'static [&'static str], piece: usize, take: F) -> Self
    where
        F: Fn(QueryContext<Postgres<B>>, Arc<Read>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let take =
            Arc::new(move |context, read| Box::pin(take(QueryContext::of(context), read)) as _);
        self.declared.followed = Some(Followed { events, piece, take });
        self
    }

    /// Looks every `interval` for what is due and runs it in batches, as commands `C`.
    pub fn every<C, F, R>(self, name: &'static str, interval: Duration, due: F) -> Self
    where
        C: Command,
        B: Execute<C>,
        F: Fn(PgPool, Timestamp) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = sqlx::Result<Vec<C>>> + Send + 'static,
    {
        self.every_with(name, interval, move |engine, now| due(engine.pool().clone(), now))
    }

    /// The same for a timer that also needs the service's configuration. It has a task of its own
    /// and may be slow, since it runs outside any transaction; a shutdown waits for it.
    pub fn every_with<C, F, R>(mut self, name: &'static str, interval: Duration, due: F) -> Self
    where
        C: Command,
        B: Execute<C>,
        F: Fn(Arc<Postgres<B>>, Timestamp) -> R + Send + Sync + 'static,
        R: Future<Output = sqlx::Result<Vec<C>>> + Send + 'static,
    {
        let emits = self.declared.endpoints.get(C::ENDPOINT).map_or(&[][..], |spec| spec.emits);
        let due = Arc::new(move |engine: Arc<dyn Engine>, now| {
            let due = due(own(engine), now);
            Box::pin(async move { Ok(due.await?.into_iter().map(of_command::<B, C>).collect()) })
                as _
        });
        self.declared.timers.push(Timer { name, every: interval, emits, due });
        self
    }
}

impl<B: UnitOfWork> QueryContext<Postgres<B>> {
    /// Runs `command` in the next batch and returns its answer.
    ///
    /// # Errors
    /// The refusal, or `overloaded`/`unavailable` when it could not be run.
    pub async fn decide<C: Command>(&self, command: C, meta: &Meta) -> Result<C::Reply, Problem>
    where
        B: Execute<C>,
    {
        self.submit::<C>(of_command::<B, C>(command), meta).await
    }
}
