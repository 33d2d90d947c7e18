//! What a query works with: the store, the intake, the mesh.

use std::{ops::Deref, sync::Arc};

use events::{Command, Problem, codes};
use tokio::sync::oneshot;

use crate::{
    Link,
    batch::work::{Answered, Meta, Settle, Work},
    inbound::intake::Intake,
    store::engine::Engine,
};

/// What a query works with. It dereferences to the engine, for its pool or connection.
pub struct QueryContext<E: Engine> {
    pub(crate) engine: Arc<E>,
    pub(crate) intake: Intake<E::Handler>,
    pub(crate) link: Link,
    pub(crate) emits: Arc<dyn Fn(&'static str) -> &'static [&'static str] + Send + Sync>,
}

impl<E: Engine> Clone for QueryContext<E> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            intake: self.intake.clone(),
            link: self.link.clone(),
            emits: self.emits.clone(),
        }
    }
}

impl<E: Engine> Deref for QueryContext<E> {
    type Target = E;
    fn deref(&self) -> &E {
        &self.engine
    }
}

impl<E: Engine> QueryContext<E> {
    /// The connection to the mesh, for its clock and the verification of tokens.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Puts a command into the next batch and waits for its outcome.
    pub(crate) async fn submit<C: Command>(
        &self,
        handler: E::Handler,
        meta: &Meta,
    ) -> Result<C::Reply, Problem> {
        let (sender, receiver) = oneshot::channel();
        let mut meta = meta.clone();
        meta.name = C::ENDPOINT;
        meta.may_emit = (self.emits)(C::ENDPOINT);
        let work = Work::command(handler, meta, Settle::Local(sender));
        self.intake.try_send(work).map_err(|_| Problem::from(codes::OVERLOADED))?;
        let answered: Answered = receiver.await.map_err(|_| Problem::from(codes::UNAVAILABLE))?;
        if answered.is_granted() {
            serde_json::from_slice(&answered.body).map_err(|_| codes::INTERNAL.into())
        } else {
            Err(serde_json::from_slice(&answered.body).unwrap_or_else(|_| codes::INTERNAL.into()))
        }
    }
}
