//! Every stored event of every stream, in the order of time.

use std::collections::VecDeque;

use anyhow::{Result, anyhow};
use audit::observe;
use auditor::{Auditor, Observed};
use events::audit::Violation;
use flows::Flows;
use indicatif::ProgressBar;
use mesh::{EVENTS_A_SEQUENCE, MeshClient, STORED_MESSAGES_MAX};

/// The services whose events the rules are about.
const PRODUCERS: [&str; 6] = ["user", "concert", "queue", "reservation", "payment", "point"];
/// The streams, and how far each was read.
pub(super) struct Streams {
    client: MeshClient,
    all: Vec<Stream>,
    /// Events without the headers that every event has.
    pub(super) unread: u64,
}

struct Stream {
    producer: &'static str,
    /// The position of the last event that was read.
    after: u64,
    /// Events that were read and that the auditor has not handled yet.
    read: VecDeque<Observed>,
}

impl Streams {
    pub(super) fn new(client: MeshClient) -> Self {
        let stream = |producer| Stream { producer, after: 0, read: VecDeque::new() };
        Self { client, all: PRODUCERS.map(stream).into(), unread: 0 }
    }

    /// Lets the auditor handle every event that was stored since the last time. Nothing is settled
    /// meanwhile: a stream that was lost is published again in another order, so an old event may
    /// come last.
    pub(super) async fn read(
        &mut self,
        auditor: &mut Auditor,
        bar: &ProgressBar,
    ) -> Result<Vec<Violation>> {
        let mut ends = Vec::with_capacity(self.all.len());
        for stream in &self.all {
            ends.push(last_position(&self.client, stream.producer).await?);
        }
        bar.set_length(ends.iter().map(|end| end / EVENTS_A_SEQUENCE).sum());
        let mut found = Vec::new();
        for (stream, end) in self.all.iter_mut().zip(&ends) {
            self.unread += stream.fill(&self.client, *end).await?;
        }
        while let Some(at) = self.earliest() {
            let stream = &mut self.all[at];
            let Some(event) = stream.read.pop_front() else { break };
            found.extend(auditor.handle(Flows::shipped(), &event));
            bar.set_position(self.all.iter().map(Stream::messages).sum());
            if self.all[at].read.is_empty() {
                self.unread += self.all[at].fill(&self.client, ends[at]).await?;
            }
        }
        Ok(found)
    }

    /// Whether an event is stored that was not read yet.
    pub(super) async fn have_more(&self) -> Result<bool> {
        for stream in &self.all {
            let end = last_position(&self.client, stream.producer).await?;
            if end / EVENTS_A_SEQUENCE > stream.after / EVENTS_A_SEQUENCE {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The stream whose next event was emitted first.
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

    /// Reads on, as far as `end`; returns how many events could not be read.
    async fn fill(&mut self, client: &MeshClient, end: u64) -> Result<u64> {
        let mut unread = 0;
        while self.read.is_empty() && self.after < end {
            let page = client.stored_since(self.producer, self.after, STORED_MESSAGES_MAX).await;
            let page =
                page.map_err(|error| anyhow!("{}: {}", self.producer, error.with_cause()))?;
            let Some(last) = page.last() else { break };
            self.after = last.position();
            for event in &page {
                match observe(event) {
                    Some(observed) => self.read.push_back(observed),
                    None => unread += 1,
                }
            }
        }
        Ok(unread)
    }
}

async fn last_position(client: &MeshClient, producer: &str) -> Result<u64> {
    let last = client.last_position(producer).await;
    last.map_err(|error| anyhow!("{producer}: {}", error.with_cause()))
}
