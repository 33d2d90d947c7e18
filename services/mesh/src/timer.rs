//! Deadlines in: what has come due goes into the intake like any other message.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use events::SagaId;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock,
    deadline::within,
    engine::{Engine, Failure},
    intake::Intake,
    service::{DueFn, Haste},
    throttle::Throttle,
    work::{Done, Meta, Settle, Underway, Work},
};

/// How long it may take to look for what is due, and to do what goes with it: messages to a
/// slow provider take the longest.
const DUE_TIMEOUT: Duration = Duration::from_secs(60);

/// What one timer works with.
pub(crate) struct Ticking<E: Engine> {
    pub(crate) name: &'static str,
    pub(crate) every: Duration,
    /// How soon what is due is taken in.
    pub(crate) haste: Haste,
    pub(crate) emits: &'static [&'static str],
    pub(crate) due: Arc<DueFn<E>>,
    pub(crate) engine: Arc<E>,
    pub(crate) intake: Intake<E::Handler>,
}

impl<E: Engine> Ticking<E> {
    /// Looks for what is due until shutdown.
    ///
    /// What is due twice (two instances look at once, or the last batch is still running) is
    /// decided twice, and the second time there is nothing left to do.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut throttle, mut worked) = (Throttle::default(), Duration::ZERO);
        loop {
            let next = async {
                match self.haste {
                    Haste::Later => throttle.rest(self.every, worked).await,
                    Haste::Soon | Haste::AtOnce => drop(ticks.tick().await),
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = next => {}
            }
            let began = Instant::now();
            let done = self.take_due().await?;
            if self.haste == Haste::Later {
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = done.wait() => {}
                }
            }
            worked = began.elapsed();
        }
    }

    /// Takes in what is due. A full intake holds it back, a closed one means shutdown.
    async fn take_due(&self) -> Result<Done, Failure> {
        let due = (self.due)(self.engine.clone(), clock::now());
        let due =
            within(DUE_TIMEOUT, self.name, due).await.inspect_err(|_| self.engine.given_up())??;
        let (underway, done) = Underway::begin();
        for handler in due {
            let id = Uuid::now_v7();
            let (name, may_emit) = (self.name, self.emits);
            let meta = Meta { name, may_emit, id, ..Meta::inside(SagaId(id)) };
            let mut work = Work::command(handler, meta, Settle::Nobody);
            work.underway = Some(underway.clone());
            if self.intake.send(work).await.is_err() {
                break;
            }
        }
        Ok(done)
    }
}
