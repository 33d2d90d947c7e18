//! Deadlines in: what has come due goes into the intake like any other message.

use std::{sync::Arc, time::Instant};

use events::SagaId;
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Caller, clock,
    courtesy::Courtesy,
    engine::{Engine, Failure},
    service::DueFn,
    trace::TraceParent,
    work::{Meta, Settle, Work},
};

/// What is due costs its service so much more than a fact that is only taken in: it is done,
/// decided, kept and told.
const FACTS_OF_A_DEED: usize = 10;

/// What one timer works with.
pub(crate) struct Ticking<E: Engine> {
    pub(crate) name: &'static str,
    pub(crate) every: std::time::Duration,
    pub(crate) tells: &'static [&'static str],
    pub(crate) due: Arc<DueFn<E>>,
    pub(crate) engine: Arc<E>,
    pub(crate) intake: mpsc::Sender<Work<E::Deed>>,
    /// Whether it leaves a busy machine to others.
    pub(crate) is_unhurried: bool,
}

impl<E: Engine> Ticking<E> {
    /// Looks for what is due until shutdown.
    ///
    /// What is due twice (two instances look at once, or the last batch is still running) is
    /// decided twice, and the second time there is nothing left to do.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut courtesy, mut owed) = (Courtesy::default(), 0);
        loop {
            let next = async {
                if self.is_unhurried {
                    courtesy.rest(self.every, owed).await;
                } else {
                    ticks.tick().await;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = next => {}
            }
            let due = (self.due)(self.engine.clone(), clock::now()).await?;
            owed = due.len() * FACTS_OF_A_DEED;
            for deed in due {
                let id = Uuid::now_v7();
                let meta = Meta {
                    name: self.name,
                    may_tell: self.tells,
                    event_id: None,
                    id,
                    saga_id: SagaId(id),
                    caller: Caller::Mesh,
                    idempotency: None,
                    trace: TraceParent::default(),
                    received: Instant::now(),
                    received_at: clock::now(),
                    delivered: 1,
                };
                let work = Work { deed, meta, settle: Settle::Nobody, span: Default::default() };
                if self.intake.send(work).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
