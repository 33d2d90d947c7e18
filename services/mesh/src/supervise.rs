//! Supervised tasks: they are restarted when they end, and they end at a shutdown.

use std::{convert::Infallible, fmt::Display, future::Future, time::Duration};

use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{debug, error, info};

use crate::store::engine::Failure;

/// The first pause before an ended task is restarted; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause, however long a server was away.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A task that ran for longer than this counts as recovered: its next pause is the first one again.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);

/// Why a task has ended before the shutdown.
pub trait TaskError: Display + Send + 'static {
    /// Whether a server was away, which is logged already: that of the store by housekeeping, that
    /// of the broker by its connection.
    fn is_reported(&self) -> bool {
        false
    }
}

impl TaskError for Failure {
    fn is_reported(&self) -> bool {
        self.is_lost()
    }
}

impl TaskError for String {}
impl TaskError for &'static str {}
impl TaskError for Infallible {}

/// Tasks of a service that end together; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Cancels tasks that did not end in time: they are dropped as if the process had been
    /// killed.
    given_up: CancellationToken,
}

impl Tasks {
    /// Keeps `make()` running until shutdown: a task that ends, fails or panics is restarted
    /// after a pause.
    pub fn keep<F, T, E>(
        &self,
        service: &'static str,
        name: &'static str,
        shutdown: CancellationToken,
        make: F,
    ) where
        F: Fn() -> T + Send + 'static,
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: TaskError,
    {
        let given_up = self.given_up.clone();
        self.tracker.spawn(async move {
            let (mut pause, mut last_cause) = (PAUSE_MIN, String::new());
            loop {
                let began = tokio::time::Instant::now();
                let task = AbortOnDropHandle::new(tokio::spawn(make()));
                let end = tokio::select! {
                    end = task => end,
                    () = given_up.cancelled() => {
                        return error!(service, task = name, "task did not end in time");
                    }
                };
                if shutdown.is_cancelled() {
                    return;
                }
                if began.elapsed() > RECOVERED_AFTER {
                    pause = PAUSE_MIN;
                    last_cause.clear();
                }
                match end {
                    Ok(Ok(())) => info!(service, task = name, "task ended; starting it again"),
                    // A server that is away for an hour is one line, not one a second.
                    Ok(Err(cause)) if cause.to_string() == last_cause => {
                        debug!(service, task = name, %cause, "task ended once more");
                    }
                    Ok(Err(cause)) => {
                        last_cause = cause.to_string();
                        if cause.is_reported() {
                            info!(service, task = name, %cause, "task ended; starting it again");
                        } else {
                            error!(service, task = name, %cause, "task failed; starting it again");
                        }
                    }
                    Err(panic) => {
                        error!(service, task = name, %panic, "task panicked; starting it again");
                    }
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                }
            }
        });
    }

    /// Runs a task once.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let given_up = self.given_up.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = task => {}
                () = given_up.cancelled() => {}
            }
        });
    }

    /// Waits until all tasks have ended, for at most `limit`; whether they have.
    pub async fn end(&self, limit: Duration) -> bool {
        self.tracker.close();
        let is_orderly = tokio::time::timeout(limit, self.tracker.wait()).await.is_ok();
        self.given_up.cancel();
        is_orderly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_waits_for_ever_does_not_block_a_shutdown() {
        let (tasks, shutdown) = (Tasks::default(), CancellationToken::new());
        let (held, mut dropped) = tokio::sync::mpsc::channel::<()>(1);
        tasks.keep("test", "task", shutdown.clone(), move || {
            let held = held.clone();
            async move {
                std::future::pending::<()>().await;
                drop(held);
                Ok::<(), String>(())
            }
        });
        shutdown.cancel();
        assert!(!tasks.end(Duration::from_millis(20)).await);
        assert_eq!(dropped.recv().await, None, "the task is dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again() {
        let (tasks, shutdown) = (Tasks::default(), CancellationToken::new());
        let (started, mut starts) = tokio::sync::mpsc::channel::<()>(1);
        tasks.keep("test", "task", shutdown.clone(), move || {
            let started = started.clone();
            async move {
                started.send(()).await.map_err(|_| "it has ended")?;
                if !started.is_closed() {
                    panic!("on purpose");
                }
                Ok::<(), &str>(())
            }
        });
        for _ in 0..3 {
            assert_eq!(starts.recv().await, Some(()));
        }
        shutdown.cancel();
        assert!(tasks.end(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_failed_for_an_hour_is_started_again_within_a_second() {
        let (tasks, shutdown) = (Tasks::default(), CancellationToken::new());
        let (started, mut starts) = tokio::sync::mpsc::channel::<()>(1);
        tasks.keep("test", "task", shutdown.clone(), move || {
            let started = started.clone();
            async move {
                started.send(()).await.map_err(|_| "it has ended")?;
                Err::<(), &str>("its server is away")
            }
        });
        let began = tokio::time::Instant::now();
        let mut last = began;
        while began.elapsed() < Duration::from_hours(1) {
            assert_eq!(starts.recv().await, Some(()));
            assert!(last.elapsed() <= Duration::from_millis(1_100), "{:?}", last.elapsed());
            last = tokio::time::Instant::now();
        }
        shutdown.cancel();
        assert!(tasks.end(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_shutdown_waits_for_a_task_that_ends() {
        let tasks = Tasks::default();
        tasks.spawn(tokio::time::sleep(Duration::from_millis(20)));
        assert!(tasks.end(Duration::from_secs(5)).await);
    }
}
