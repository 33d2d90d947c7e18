//! The outbox in memory.

use std::time::Duration;

use async_trait::async_trait;
use events::Timestamp;
use uuid::Uuid;

use super::{
    InMemory, Memory,
    rows::{Row, later},
};
use crate::{
    outbound::message::Message,
    store::engine::{Backlog, Failure, Gap, Generation, Mark, Outbox, Place},
    store::postgres::{
        outbox::{LEASE_SECS, PUT_OFF_SECS, PUT_OFF_SECS_MAX},
        partitions::time_of,
    },
};

impl<B: InMemory> Memory<B> {
    async fn marks(&self, wanted: impl Fn(&Mark) -> bool) -> Vec<Mark> {
        let kept = self.database.kept.lock().await;
        let mut marks: Vec<Mark> =
            kept.outbox.values().filter_map(Row::mark).filter(wanted).collect();
        marks.sort_unstable_by_key(|mark| (mark.sequence, mark.id));
        marks
    }
}

#[async_trait]
impl<B: InMemory> Outbox for Memory<B> {
    async fn sweep(&self, most: usize) -> Result<Vec<Message>, Failure> {
        self.database.spend()?;
        let now = crate::clock::now();
        let mut kept = self.database.kept.lock().await;
        let is_due = |row: &&mut Row| row.sequence.is_none() && row.leased_until < now;
        let due = kept.outbox.values_mut().filter(is_due).take(most);
        Ok(due
            .map(|row| {
                row.leased_until = later(now, Duration::from_secs_f64(LEASE_SECS));
                row.message.clone()
            })
            .collect())
    }

    async fn begin_generation(&self) -> Result<Generation, Failure> {
        self.database.spend()?;
        let mut kept = self.database.kept.lock().await;
        kept.generation.0 += 1;
        Ok(kept.generation)
    }

    async fn generation(&self) -> Result<Generation, Failure> {
        Ok(self.database.kept.lock().await.generation)
    }

    async fn mark(&self, marks: &[Mark], of: Generation) -> Result<bool, Failure> {
        self.database.spend()?;
        let mut kept = self.database.kept.lock().await;
        if kept.generation != of {
            return Ok(false);
        }
        for mark in marks {
            if let Some(row) = kept.outbox.get_mut(&mark.id) {
                row.sequence = row.sequence.or(Some(mark.sequence));
            }
        }
        Ok(true)
    }

    async fn back_off(&self, id: Uuid) -> Result<(), Failure> {
        self.database.spend()?;
        let now = crate::clock::now();
        let mut kept = self.database.kept.lock().await;
        if let Some(row) = kept.outbox.get_mut(&id).filter(|row| row.sequence.is_none()) {
            let rest = PUT_OFF_SECS * f64::from(1 << row.refusals.min(10));
            let rest = Duration::from_secs_f64(rest.min(PUT_OFF_SECS_MAX));
            row.leased_until = later(now, rest);
            row.refusals += 1;
        }
        Ok(())
    }

    async fn unmark(&self, lost: &[Mark]) -> Result<(), Failure> {
        self.database.spend()?;
        let now = crate::clock::now();
        let mut kept = self.database.kept.lock().await;
        for mark in lost {
            if let Some(row) = kept.outbox.get_mut(&mark.id)
                && row.sequence == Some(mark.sequence)
            {
                (row.sequence, row.leased_until) = (None, now);
            }
        }
        Ok(())
    }

    async fn publish_again(&self, gap: &Gap) -> Result<usize, Failure> {
        self.database.spend()?;
        let now = crate::clock::now();
        let mut kept = self.database.kept.lock().await;
        let is_missed = |row: &&mut Row| {
            let subject = &row.message.subject;
            row.sequence.is_some_and(|at| gap.above < at && at < gap.below)
                && row.message.id >= gap.since
                && gap.subjects.iter().any(|prefix| subject.starts_with(prefix))
        };
        let missed = kept.outbox.values_mut().filter(is_missed);
        Ok(missed.map(|row| (row.sequence, row.leased_until) = (None, now)).count())
    }

    async fn marks_above(&self, sequence: u64, most: usize) -> Result<Vec<Mark>, Failure> {
        let mut marks = self.marks(|mark| mark.sequence > sequence).await;
        marks.truncate(most);
        Ok(marks)
    }

    async fn latest_marks(&self, most: usize) -> Result<Vec<Mark>, Failure> {
        let kept = self.database.kept.lock().await;
        Ok(kept.outbox.values().rev().filter_map(Row::mark).take(most).collect())
    }

    async fn lease_comparison(&self, instance: Uuid, lease: Duration) -> Result<bool, Failure> {
        let now = crate::clock::now();
        let mut kept = self.database.kept.lock().await;
        let is_free = kept.comparison.is_none_or(|(has, until)| has == instance || until <= now);
        if is_free {
            kept.comparison = Some((instance, later(now, lease)));
        }
        Ok(is_free)
    }

    async fn release_comparison(&self, instance: Uuid) -> Result<(), Failure> {
        let mut kept = self.database.kept.lock().await;
        kept.comparison = kept.comparison.filter(|(has, _)| *has != instance);
        Ok(())
    }

    async fn verified(&self) -> Result<Option<Place>, Failure> {
        Ok(self.database.kept.lock().await.verified)
    }

    async fn set_verified(&self, place: Option<Place>, of: Generation) -> Result<bool, Failure> {
        self.database.spend()?;
        let mut kept = self.database.kept.lock().await;
        let is_current = kept.generation == of;
        if is_current {
            kept.verified = place;
        }
        Ok(is_current)
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        let kept = self.database.kept.lock().await;
        let waiting = || kept.outbox.values().filter(|row| row.sequence.is_none());
        let since = waiting().next().and_then(|row| time_of(row.message.id)).map(Timestamp::from);
        Ok(Backlog { events: waiting().map(|row| u64::from(row.message.events)).sum(), since })
    }
}
