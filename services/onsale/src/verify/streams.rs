//! Every kept fact of every stream, in the order of time.

use std::collections::VecDeque;

use anyhow::{Result, anyhow};
use audit::{Auditor, Heard, flows::Flows};
use events::audit::Violation;
use indicatif::ProgressBar;
use mesh::{Asker, EVENTS_A_SEQUENCE, STORED_MESSAGES_MAX};

/// Whoever tells facts that the rules speak of.
const TELLERS: [&str; 6] = ["user", "concert", "queue", "reservation", "payment", "point"];
/// Facts between two times that the auditor settles what it can.
const SETTLE_EVERY: usize = 4_096;
/// Facts of one stream are told in the order of time but for this, because transactions wait
/// for each other.
const DISORDER_SECS: i64 = 120;

/// Where each stream was read up to.
pub(super) struct Streams {
    asker: Asker,
    all: Vec<Stream>,
    /// Facts without the headers that every fact has.
    pub(super) unread: u64,
    heard: usize,
}

struct Stream {
    teller: &'static str,
    /// The position of the last event that was read.
    after: u64,
    /// What was read and is not heard yet.
    read: VecDeque<Heard>,
}

impl Streams {
    pub(super) fn new(asker: Asker) -> Self {
        let stream = |teller| Stream { teller, after: 0, read: VecDeque::new() };
        Self { asker, all: TELLERS.map(stream).into(), unread: 0, heard: 0 }
    }

    /// Lets the auditor hear all that was told since the last time.
    pub(super) async fn read(
        &mut self,
        auditor: &mut Auditor,
        bar: &ProgressBar,
    ) -> Result<Vec<Violation>> {
        let mut ends = Vec::with_capacity(self.all.len());
        for stream in &self.all {
            ends.push(last_position(&self.asker, stream.teller).await?);
        }
        bar.set_length(ends.iter().map(|end| end / EVENTS_A_SEQUENCE).sum());
        let mut found = Vec::new();
        for (stream, end) in self.all.iter_mut().zip(&ends) {
            self.unread += stream.fill(&self.asker, *end).await?;
        }
        while let Some(at) = self.earliest() {
            let stream = &mut self.all[at];
            let Some(fact) = stream.read.pop_front() else { break };
            found.extend(auditor.hear(Flows::shipped(), &fact));
            bar.set_position(self.all.iter().map(Stream::messages).sum());
            self.heard += 1;
            if self.heard.is_multiple_of(SETTLE_EVERY) {
                found.extend(auditor.settled(fact.at.plus_secs(-DISORDER_SECS)));
            }
            if self.all[at].read.is_empty() {
                self.unread += self.all[at].fill(&self.asker, ends[at]).await?;
            }
        }
        Ok(found)
    }

    /// Whether something was told that was not heard yet.
    pub(super) async fn have_more(&self) -> Result<bool> {
        for stream in &self.all {
            let end = last_position(&self.asker, stream.teller).await?;
            if end / EVENTS_A_SEQUENCE > stream.after / EVENTS_A_SEQUENCE {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The stream whose next fact was told first.
    fn earliest(&self) -> Option<usize> {
        let heads = self.all.iter().enumerate();
        heads
            .filter_map(|(index, stream)| Some((stream.read.front()?.at, index)))
            .min()
            .map(|(_, index)| index)
    }
}

impl Stream {
    /// Messages that were read.
    fn messages(&self) -> u64 {
        self.after / EVENTS_A_SEQUENCE
    }

    /// Reads on, as far as `end`; how many could not be read.
    async fn fill(&mut self, asker: &Asker, end: u64) -> Result<u64> {
        let mut unread = 0;
        while self.read.is_empty() && self.after < end {
            let page = asker.stored_since(self.teller, self.after, STORED_MESSAGES_MAX).await;
            let page = page.map_err(|problem| anyhow!("{}: {problem}", self.teller))?;
            let Some(last) = page.last() else { break };
            self.after = last.position();
            for fact in &page {
                match Heard::of(fact) {
                    Some(heard) => self.read.push_back(heard),
                    None => unread += 1,
                }
            }
        }
        Ok(unread)
    }
}

async fn last_position(asker: &Asker, teller: &str) -> Result<u64> {
    asker.last_position(teller).await.map_err(|problem| anyhow!("{teller}: {problem}"))
}
