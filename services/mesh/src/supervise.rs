//! Tasks that cannot die silently.

use std::{future::Future, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

/// The first pause before an ended task is started again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Keeps `make()` running until `shutdown`: a task that ends, fails or panics is started
/// again after a pause.
pub fn keep<F, T, E>(
    tasks: &TaskTracker,
    service: &'static str,
    name: &'static str,
    shutdown: CancellationToken,
    make: F,
) where
    F: Fn() -> T + Send + 'static,
    T: Future<Output = Result<(), E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    tasks.spawn(async move {
        let mut pause = PAUSE_MIN;
        loop {
            let began = tokio::time::Instant::now();
            let end = tokio::spawn(make()).await;
            if shutdown.is_cancelled() {
                return;
            }
            match end {
                Ok(Ok(())) => info!(service, task = name, "task ended; starting it again"),
                Ok(Err(cause)) => {
                    error!(service, task = name, %cause, "task failed; starting it again");
                }
                Err(panic) => {
                    error!(service, task = name, %panic, "task panicked; starting it again");
                }
            }
            if began.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    });
}
