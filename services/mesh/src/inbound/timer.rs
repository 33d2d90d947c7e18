//! Runs timers: work that has come due goes into the intake like any other message.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use events::SagaId;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    batch::work::{Done, Meta, Settle, Underway, Work},
    clock,
    deadline::within,
    inbound::intake::Intake,
    service::{DueFn, Pace},
    store::engine::{Engine, Failure},
    throttle::Throttle,
};

/// How long it may take to find what is due, and to do the work that goes with it: sending
/// messages to a slow provider takes the longest.
const DUE_TIMEOUT: Duration = Duration::from_secs(60);

/// The task of one timer.
pub(crate) struct TimerTask {
    pub(crate) name: &'static str,
    pub(crate) every: Duration,
    /// How soon what is due is taken in.
    pub(crate) pace: Pace,
    pub(crate) emits: &'static [&'static str],
    pub(crate) due: Arc<DueFn>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) intake: Intake,
}

impl TimerTask {
    /// Finds what is due, at an interval, until shutdown.
    ///
    /// Work that is found twice (by two instances at once, or while the last batch is still
    /// running) is decided twice, and the second time there is nothing left to do.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut throttle, mut worked) = (Throttle::default(), Duration::ZERO);
        loop {
            let next = async {
                match self.pace {
                    Pace::Later => throttle.pause(self.every, worked).await,
                    Pace::Soon | Pace::AtOnce => drop(ticks.tick().await),
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = next => {}
            }
            let began = Instant::now();
            let done = self.take_due().await?;
            if self.pace == Pace::Later {
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = done.wait() => {}
                }
            }
            worked = began.elapsed();
        }
    }

    /// Puts what is due into the intake. It waits for a full intake; a closed one means shutdown.
    async fn take_due(&self) -> Result<Done, Failure> {
        let due = (self.due)(self.engine.clone(), clock::now());
        let due = within(DUE_TIMEOUT, self.name, due)
            .await
            .inspect_err(|_| self.engine.store().given_up())??;
        let (underway, done) = Underway::begin();
        for handler in due {
            let id = clock::new_id();
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
