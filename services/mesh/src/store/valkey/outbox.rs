//! The outbox in Valkey; its Lua side is `outbox.lua`.

use async_trait::async_trait;
use std::time::Duration;

use events::Timestamp;
use uuid::Uuid;

use super::{
    call::{Parts, command},
    keyspace::{Keyspace, NOTHING},
};
use crate::{
    outbound::message::Message,
    store::engine::{Backlog, Failure, Gap, Generation, Mark, Outbox, Place},
};

/// How long a published message is kept, in case the broker loses it: a day longer than its
/// stream keeps it, for consumers that have not taken it in by then.
pub(super) const KEEP: Duration = Duration::from_secs(8 * 86_400);
/// Published messages kept at most.
pub(super) const MESSAGES_MAX: usize = 500_000;
/// Marks written by one call; Lua takes only so many arguments.
const MARKS_MAX: usize = 1_000;
/// The key of the position up to which outbox and stream agree.
const VERIFIED: &str = "outbox:agreed";

impl Keyspace {
    /// Up to `most` messages without a mark, oldest first, leased or not: for tools that only
    /// look.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn unpublished(&self, most: usize) -> Result<Vec<Message>, Failure> {
        self.serve("unsent", most).await?.each(message)
    }

    async fn generation_by(&self, how: &'static str) -> Result<Generation, Failure> {
        self.serve(how, NOTHING).await?.take().map(Generation)
    }

    pub(super) async fn marks(&self, cmd: &redis::Cmd) -> Result<Vec<Mark>, Failure> {
        let found: Vec<(String, f64)> = command(&self.connection, cmd).await?;
        let mark = |(id, at): (String, f64)| Ok(Mark { id: id_of(&id)?, sequence: at as u64 });
        found.into_iter().map(mark).collect()
    }
}

#[async_trait]
impl Outbox for Keyspace {
    async fn sweep(&self, most: usize) -> Result<Vec<Message>, Failure> {
        self.serve("sweep", most).await?.each(message)
    }

    async fn begin_generation(&self) -> Result<Generation, Failure> {
        self.generation_by("begin_generation").await
    }

    async fn generation(&self) -> Result<Generation, Failure> {
        self.generation_by("generation").await
    }

    async fn mark(&self, marks: &[Mark], of: Generation) -> Result<bool, Failure> {
        for marks in marks.chunks(MARKS_MAX) {
            let mut words = vec![of.0.to_string()];
            words.extend(marks.iter().flat_map(words_of));
            if self.serve("mark", words).await?.take::<u64>()? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn back_off(&self, id: Uuid) -> Result<(), Failure> {
        self.serve("put_off", id.to_string()).await.map(drop)
    }

    async fn unmark(&self, lost: &[Mark]) -> Result<(), Failure> {
        for marks in lost.chunks(MARKS_MAX) {
            let words: Vec<String> = marks.iter().flat_map(words_of).collect();
            self.serve("unmark", words).await?;
        }
        Ok(())
    }

    async fn publish_again(&self, gap: &Gap) -> Result<usize, Failure> {
        let (mut above, mut count) = (gap.above, 0);
        loop {
            let mut words = vec![above.to_string(), gap.below.to_string(), gap.since.to_string()];
            words.extend(gap.subjects.iter().cloned());
            let mut parts = self.serve("publish_again", words).await?;
            let (cleared, last): (usize, String) = (parts.take()?, parts.take()?);
            count += cleared;
            match last.parse::<f64>() {
                Ok(last) => above = last as u64,
                Err(_) => return Ok(count),
            }
        }
    }

    async fn marks_above(&self, sequence: u64, most: usize) -> Result<Vec<Mark>, Failure> {
        let mut range = redis::cmd("ZRANGEBYSCORE");
        range.arg(self.key("outbox:marks")).arg(format!("({sequence}")).arg("+inf");
        self.marks(range.arg("WITHSCORES").arg("LIMIT").arg(0).arg(most)).await
    }

    async fn latest_marks(&self, most: usize) -> Result<Vec<Mark>, Failure> {
        self.serve("latest_marks", most).await?.each(|mut row| {
            let (id, sequence): (String, f64) = (row.take()?, row.take()?);
            Ok(Mark { id: id_of(&id)?, sequence: sequence as u64 })
        })
    }

    async fn lease_comparison(&self, instance: Uuid, lease: Duration) -> Result<bool, Failure> {
        let words = [instance.to_string(), lease.as_millis().to_string()];
        Ok(self.serve("lease_comparison", &words[..]).await?.take::<u64>()? > 0)
    }

    async fn release_comparison(&self, instance: Uuid) -> Result<(), Failure> {
        self.serve("release_comparison", instance.to_string()).await.map(drop)
    }

    async fn verified(&self) -> Result<Option<Place>, Failure> {
        let place = self.load(VERIFIED).await?;
        if place.is_empty() {
            return Ok(None);
        }
        let refused = || Failure::Refused(format!("`{place}` is not a place"));
        let words: Vec<&str> = place.split(' ').collect();
        let [sequence, id, at] = words[..] else { return Err(refused()) };
        let sequence = sequence.parse().map_err(|_| refused())?;
        let stored_at = at.parse().map_err(|_| refused())?;
        Ok(Some(Place { mark: Mark { id: id_of(id)?, sequence }, stored_at }))
    }

    async fn set_verified(&self, place: Option<Place>, of: Generation) -> Result<bool, Failure> {
        let place = place.map(|Place { mark: Mark { id, sequence }, stored_at }| {
            format!("{sequence} {id} {stored_at}")
        });
        let words = [of.0.to_string(), place.unwrap_or_default()];
        Ok(self.serve("set_verified", &words[..]).await?.take::<u64>()? > 0)
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        let mut parts = self.serve("backlog", NOTHING).await?;
        let (events, since): (u64, String) = (parts.take()?, parts.take()?);
        let micros = since.parse::<f64>().ok();
        let since = micros.and_then(|at| Timestamp::from_unix_millis((at / 1_000.0) as i64));
        Ok(Backlog { events, since })
    }
}

fn words_of(mark: &Mark) -> [String; 2] {
    [mark.id.to_string(), mark.sequence.to_string()]
}

/// A message as `outbox.lua` returns it.
pub(super) fn message(mut row: Parts) -> Result<Message, Failure> {
    let id = id_of(&row.take::<String>()?)?;
    let (subject, events) = (row.take()?, row.take()?);
    let body = row.take::<Vec<u8>>()?.into();
    Ok(Message { id, subject, events, body })
}

fn id_of(text: &str) -> Result<Uuid, Failure> {
    text.parse().map_err(|_| Failure::Refused(format!("`{text}` is not an id")))
}
