//! Deadlines in: what has come due goes into the intake like any other message.

use std::{sync::Arc, time::Instant};

use events::SagaId;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Caller, clock,
    engine::{Engine, Failure},
    intake::Intake,
    service::DueFn,
    trace::TraceParent,
    work::{Meta, Settle, Work},
};

/// What one timer works with.
pub(crate) struct Ticking<E: Engine> {
    pub(crate) name: &'static str,
    pub(crate) every: std::time::Duration,
    pub(crate) tells: &'static [&'static str],
    pub(crate) due: Arc<DueFn<E>>,
    pub(crate) engine: Arc<E>,
    pub(crate) intake: Intake<E::Deed>,
}

impl<E: Engine> Ticking<E> {
    /// Looks for what is due until shutdown.
    ///
    /// What is due twice (two instances look at once, or the last batch is still running) is
    /// decided twice, and the second time there is nothing left to do.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let due = (self.due)(self.engine.clone(), clock::now()).await?;
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
                    attempt: 1,
                };
                let work = Work::command(deed, meta, Settle::Nobody);
                let sent = tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    sent = self.intake.send(work) => sent,
                };
                if sent.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
