//! All targets as one: a batch is handed over when all of them have taken it.

use std::{sync::Arc, time::Duration};

use events::Timestamp;

use crate::{
    Config,
    domain::{Record, batches},
    folder::Folder,
    platform::{EndpointError, Platform, Trouble},
};

/// The first wait after a failure; it doubles up to [`Config::retry_max`].
const RETRY_MIN: Duration = Duration::from_millis(200);

/// The targets that records are handed to; cheap to clone.
#[derive(Debug, Clone)]
pub struct Targets {
    platform: Option<Platform>,
    folder: Option<Folder>,
}

/// How much of some records was taken already: a retry goes on from there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Whether they are in the folder.
    is_filed: bool,
    /// Batches that the platform has taken.
    batches: usize,
}

impl Targets {
    /// The targets that the configuration names.
    ///
    /// # Errors
    /// When one of them can never be used.
    pub fn open(config: &Config) -> Result<Self, EndpointError> {
        let platform = |url: &String| Platform::new(url, config.token.as_deref());
        Ok(Self {
            platform: config.url.as_ref().map(platform).transpose()?,
            folder: config.folder.clone().map(Folder::new),
        })
    }

    /// Hands records over in their order; the last batch carries the watermark. Every target has
    /// taken all of them when this returns.
    ///
    /// # Errors
    /// When a target does not take what comes next; `taken` says how far it went.
    pub async fn hand_over(
        &self,
        records: &Arc<[Record]>,
        watermark: Option<Timestamp>,
        taken: &mut Taken,
    ) -> Result<(), Trouble> {
        if records.is_empty() && watermark.is_none() {
            return Ok(());
        }
        if let (Some(folder), false) = (&self.folder, taken.is_filed) {
            let (folder, records) = (folder.clone(), records.clone());
            let filed = tokio::task::spawn_blocking(move || folder.add(&records)).await;
            let filed = filed.map_err(|panic| Trouble::new(panic.to_string()))?;
            filed.map_err(|error| Trouble::new(error.to_string()))?;
        }
        taken.is_filed = true;
        let Some(platform) = &self.platform else { return Ok(()) };
        let batches = batches(records);
        for (index, batch) in batches.iter().enumerate().skip(taken.batches) {
            let is_last = index + 1 == batches.len();
            platform.send(batch, watermark.filter(|_| is_last)).await?;
            taken.batches = index + 1;
        }
        Ok(())
    }
}

/// How long to wait after a failure: twice as long after each, or as long as the target says.
pub fn retry_delay(failures: u32, retry_after: Option<Duration>, max: Duration) -> Duration {
    let doubled = RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    retry_after.unwrap_or_default().max(doubled).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_with_each_failure_up_to_its_limit() {
        let max = Duration::from_secs(30);
        let delays: Vec<_> = (1..=5).map(|n| retry_delay(n, None, max).as_millis()).collect();
        assert_eq!(delays, [200, 400, 800, 1_600, 3_200]);
        assert_eq!(retry_delay(u32::MAX, None, max), max);
        assert_eq!(retry_delay(1, Some(Duration::from_secs(9)), max), Duration::from_secs(9));
        assert_eq!(retry_delay(1, Some(Duration::from_secs(900)), max), max);
    }
}
