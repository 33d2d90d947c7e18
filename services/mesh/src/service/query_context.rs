//! What a query works with: the store, the intake, the mesh.

use std::{any::Any, ops::Deref, sync::Arc};

use events::{Command, Problem, codes};
use tokio::sync::oneshot;

use crate::{
    Link,
    batch::work::{Answered, Handler, Meta, Settle, Work},
    inbound::intake::Intake,
    store::engine::Engine,
};

/// What a query works with. It dereferences to the engine, for its pool or connection.
pub struct QueryContext<E: Engine> {
    engine: Arc<E>,
    context: AnyQueryContext,
}

/// The same before the engine's type is known.
#[derive(Clone)]
pub(crate) struct AnyQueryContext {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) intake: Intake,
    pub(crate) link: Link,
    pub(crate) emits: Arc<dyn Fn(&'static str) -> &'static [&'static str] + Send + Sync>,
}

/// The engine as the service's own code knows it.
///
/// # Panics
/// When it is of another type. A service is started on an engine of its own type, so it is not.
pub(crate) fn own<E: Engine>(engine: Arc<dyn Engine>) -> Arc<E> {
    let engine: Arc<dyn Any + Send + Sync> = engine;
    engine.downcast().unwrap_or_else(|_| panic!("a service runs on its own engine"))
}

impl<E: Engine> Clone for QueryContext<E> {
    fn clone(&self) -> Self {
        Self { engine: self.engine.clone(), context: self.context.clone() }
    }
}

impl<E: Engine> Deref for QueryContext<E> {
    type Target = E;
    fn deref(&self) -> &E {
        &self.engine
    }
}

impl<E: Engine> QueryContext<E> {
    pub(crate) fn of(context: AnyQueryContext) -> Self {
        Self { engine: own(context.engine.clone()), context }
    }

    /// The connection to the mesh, for its clock and the verification of tokens.
    pub fn link(&self) -> &Link {
        &self.context.link
    }

    /// Puts a command into the next batch and waits for its outcome.
    pub(crate) async fn submit<C: Command>(
        &self,
        handler: Handler,
        meta: &Meta,
    ) -> Result<C::Reply, Problem> {
        let answered = self.context.submit(C::ENDPOINT, handler, meta).await?;
        if answered.is_granted() {
            serde_json::from_slice(&answered.body).map_err(|_| codes::INTERNAL.into())
        } else {
            Err(serde_json::from_slice(&answered.body).unwrap_or_else(|_| codes::INTERNAL.into()))
        }
    }
}

impl AnyQueryContext {
    async fn submit(
        &self,
        endpoint: &'static str,
        handler: Handler,
        meta: &Meta,
    ) -> Result<Answered, Problem> {
        let (sender, receiver) = oneshot::channel();
        let mut meta = meta.clone();
        meta.name = endpoint;
        meta.may_emit = (self.emits)(endpoint);
        let work = Work::command(handler, meta, Settle::Local(sender));
        self.intake.try_send(work).map_err(|_| Problem::from(codes::OVERLOADED))?;
        receiver.await.map_err(|_| codes::UNAVAILABLE.into())
    }
}
