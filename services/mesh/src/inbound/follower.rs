//! Reads whole streams by sequence, for a service that decides nothing.
//!
//! The position is kept in the service's own database and moves in the transaction that takes
//! the events in. So there is nothing to acknowledge and no inbox row for each event, and a
//! reader that was killed goes on exactly where its last transaction ended. It may lag: it
//! reads at intervals in large pieces and yields a busy machine to the services that sell
//! (`throttle.rs`).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use events::{Timestamp, producer_of};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::read::Read;
use crate::{
    Link, MeshClient, STORED_MESSAGES_MAX, StoredEvent, StoredMessage,
    health::{Health, Part},
    metrics::EventResult,
    nats::stored::STORED_BYTES_MAX,
    nats::stored_event::EVENTS_A_SEQUENCE,
    outbound::publisher::missed::Missed,
    service::{Followed, query_context::AnyQueryContext},
    store::engine::Failure,
    store::postgres::{Lead, Place, Positions},
    throttle::Throttle,
};

/// The pause of a reader at the end of its streams.
pub const READ_EVERY: Duration = Duration::from_millis(200);
/// The pause of a reader that lags.
const SHORT_PAUSE: Duration = Duration::from_millis(10);
/// The pause before the reader requests messages again that a stream has dropped.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// The pause when the store or the broker does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// The task that reads whole streams for one service.
pub(crate) struct Follower {
    pub(crate) link: Link,
    pub(crate) ctx: AnyQueryContext,
    pub(crate) followed: Followed,
    pub(crate) health: Health,
}

impl Follower {
    /// Reads until shutdown. Any failure ends the task, and the supervisor restarts it from its
    /// stored positions.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), Failure> {
        let ended = self.read_until(&shutdown).await;
        if let Err(cause) = &ended {
            self.health.set_fault(Part::Follower, cause);
        }
        ended
    }

    async fn read_until(&self, shutdown: &CancellationToken) -> Result<(), Failure> {
        let mut lead = tokio::select! {
            lead = self.ctx.engine.store().lead() => lead?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let client = MeshClient::new(self.link.clone());
        let of = |event: &&'static str| (producer_of(event), Ahead::default());
        let mut streams: Streams = self.followed.events.iter().map(of).collect();
        let mut positions = self.ctx.engine.store().positions().await?;
        info!(service = self.link.service(), streams = streams.len(), "reading whole streams");
        let mut throttle = Throttle::default();
        while !shutdown.is_cancelled() {
            // Taking the events in may be stuck for hours. What is not settled is read again.
            let round = self.round(&client, &mut streams, &mut positions, &mut lead);
            let began = Instant::now();
            let is_behind = tokio::select! {
                taken = round => taken?,
                () = shutdown.cancelled() => return Ok(()),
            };
            self.health.clear_fault(&Part::Follower);
            let pause = if is_behind { SHORT_PAUSE } else { READ_EVERY };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = throttle.pause(pause, began.elapsed()) => {}
            }
        }
        Ok(())
    }

    /// Reads ahead in every stream, and takes in the events emitted up to a time that every
    /// stream has been read to. Returns whether there is more.
    async fn round(
        &self,
        client: &MeshClient,
        streams: &mut Streams,
        positions: &mut Positions,
        lead: &mut Lead,
    ) -> Result<bool, Failure> {
        let began_at = crate::clock::now();
        let reads = streams
            .iter_mut()
            .map(|(stream, ahead)| self.read_on(client, stream, positions.0.get(*stream), ahead));
        futures::future::try_join_all(reads).await?;
        let has_more = streams.values().any(|ahead| ahead.has_more);
        let is_all = !has_more && !streams.values().any(Ahead::is_held_up);
        let emitted_by = streams.values().filter_map(Ahead::emitted_by).min();
        let mut read = Read {
            events: Vec::new(),
            is_all,
            began_at,
            positions: positions.clone(),
            has_moved: false,
            failpoints: self.ctx.engine.store().failpoints(),
        };
        for (stream, ahead) in streams {
            for message in ahead.take(emitted_by) {
                read.has_moved = true;
                read.positions.0.insert((*stream).to_owned(), position_of(&message));
                read.events.extend(message.events);
            }
        }
        let wanted = |event: &StoredEvent| self.followed.events.contains(&event.name());
        read.events.retain(wanted);
        let (count, moved) = (read.events.len(), read.positions.clone());
        let read = Arc::new(read);
        while let Err(failure) = (self.followed.take)(self.ctx.clone(), read.clone()).await {
            if !failure.is_lost() || self.health.mark_store_failed(&failure) {
                warn!(service = self.link.service(), cause = %failure, events = count,
                    "events could not be taken in; retrying");
            }
            tokio::time::sleep(PAUSE).await;
            lead.check().await?;
        }
        *positions = moved;
        self.health.add_handled(count as u64, true);
        count_read(&self.health, &read.events);
        Ok(has_more)
    }

    /// Reads on in one stream until a piece of it is loaded, or all of it.
    async fn read_on(
        &self,
        client: &MeshClient,
        stream: &str,
        position: Option<&Place>,
        ahead: &mut Ahead,
    ) -> Result<(), Failure> {
        ahead.has_more = !ahead.is_held_up();
        while ahead.has_more && ahead.events() < self.followed.piece {
            self.read_more(client, stream, position, ahead).await?;
        }
        Ok(())
    }

    /// Reads the messages after those already loaded. The last one before them is read again:
    /// when its id has changed, the stream has lost messages, and it is read from its beginning;
    /// the service drops the repeats.
    async fn read_more(
        &self,
        client: &MeshClient,
        stream: &str,
        position: Option<&Place>,
        ahead: &mut Ahead,
    ) -> Result<(), Failure> {
        let read = async |from| client.stored_messages(stream, from, STORED_MESSAGES_MAX).await;
        let last = ahead.messages.back().map(position_of).or(position.copied());
        let mut messages = read(last.map_or(0, |(seq, _)| seq)).await?;
        if let Some((seq, id)) = last {
            let again = messages.first().filter(|message| message.sequence == seq);
            match again.map(|message| message.id == id) {
                Some(true) => {
                    let known = messages.remove(0);
                    if messages.is_empty() && is_large(&known) {
                        messages = read(seq + 1).await?;
                    }
                }
                // It has aged out, and messages after it may have aged out as well.
                None if !messages.is_empty() => {
                    if !self.request_missed(stream, seq, messages[0].sequence).await {
                        ahead.has_more = false;
                        ahead.held_until = Some(Instant::now() + ASK_AGAIN);
                        return Ok(());
                    }
                    ahead.held_until = None;
                }
                None if !ends_before(client, stream, seq).await? => {}
                _ => {
                    warn!(service = self.link.service(), stream, seq, message_id = %id,
                        "the stream was replaced; reading it from the beginning");
                    messages = read(0).await?;
                }
            }
        }
        // A read may end early because of its bytes: only an empty one is the end.
        ahead.has_more = !messages.is_empty();
        ahead.messages.extend(messages);
        Ok(())
    }
}

/// Messages that a stream has dropped before they were read.
impl Follower {
    /// Asks the stream's service to publish the messages between two sequences again; whether
    /// it agreed. Then they are unpublished in its outbox, and come at the end of the stream.
    /// Until then the stream is not read on, or the gap would be forgotten.
    async fn request_missed(&self, stream: &str, above: u64, below: u64) -> bool {
        if above + 1 >= below {
            return true;
        }
        let service = self.link.service();
        let wanted = self.followed.events.iter().filter(|event| producer_of(event) == stream);
        let missed = Missed {
            by: service.to_owned(),
            above,
            below,
            subjects: wanted.map(|event| format!("onsale.{event}.")).collect(),
        };
        let body = serde_json::to_vec(&missed).expect("plain data");
        let answer = self.link.request(format!("missed.{stream}"), body.into(), ASK_AGAIN).await;
        let messages = match answer {
            Ok(count) => String::from_utf8_lossy(&count.payload).parse().unwrap_or(0),
            Err(cause) => {
                error!(
                    service,
                    stream,
                    above,
                    below,
                    %cause,
                    "the stream has dropped messages before they were read, and they are not \
                     published again yet"
                );
                return false;
            }
        };
        error!(
            service,
            stream,
            above,
            below,
            messages,
            "the stream has dropped messages before they were read; they are published again"
        );
        self.health.add_missed(messages);
        true
    }
}

/// Counts the events of a read, all of one name at once.
fn count_read(health: &Health, events: &[StoredEvent]) {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    events.iter().for_each(|event| *counts.entry(event.name()).or_default() += 1);
    for (name, count) in counts {
        health.metrics().handled(name, EventResult::Handled, count);
    }
}

/// The streams that are read, and what was read ahead of each.
type Streams = BTreeMap<&'static str, Ahead>;

/// Messages that were read from a stream and not taken in yet.
#[derive(Default)]
struct Ahead {
    messages: VecDeque<StoredMessage>,
    /// Whether there may be more after these.
    has_more: bool,
    /// Until when it is not read on, because the request for dropped messages failed.
    held_until: Option<Instant>,
}

impl Ahead {
    fn events(&self) -> usize {
        self.messages.iter().map(|message| message.events.len()).sum()
    }

    fn is_held_up(&self) -> bool {
        self.held_until.is_some_and(|until| Instant::now() < until)
    }

    /// When the last loaded event was emitted, if more may come; `None` at the stream's end.
    fn emitted_by(&self) -> Option<Timestamp> {
        emitted_at(self.messages.back().filter(|_| self.has_more)?)
    }

    /// Takes the messages up to the last one that was emitted by that time; all of them when no
    /// stream has more.
    fn take(&mut self, emitted_by: Option<Timestamp>) -> impl Iterator<Item = StoredMessage> {
        let is_late =
            |message: &StoredMessage| emitted_by.is_some_and(|by| emitted_at(message) > Some(by));
        let last = self.messages.iter().rposition(|message| !is_late(message));
        self.messages.drain(..last.map_or(0, |last| last + 1))
    }
}

/// When a message was emitted: its events belong to one transaction.
fn emitted_at(message: &StoredMessage) -> Option<Timestamp> {
    message.events.last().and_then(StoredEvent::at)
}

/// Whether a message may be all that one read returns, although others come after it.
fn is_large(message: &StoredMessage) -> bool {
    let bytes: usize = message.events.iter().map(|event| event.payload().len()).sum();
    bytes >= STORED_BYTES_MAX / 2
}

fn position_of(message: &StoredMessage) -> Place {
    (message.sequence, message.id)
}

/// Whether a stream has events, but ends before `seq`. An empty stream has only dropped events
/// that were too old, or its service will publish them again.
async fn ends_before(client: &MeshClient, stream: &str, seq: u64) -> Result<bool, Failure> {
    let last = client.last_position(stream).await?;
    Ok(last != 0 && last / EVENTS_A_SEQUENCE < seq)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// A stream whose loaded messages were emitted at these seconds.
    fn ahead(secs: &[i64], has_more: bool) -> Ahead {
        let emitted = |(index, secs): (usize, &i64)| {
            let at = Timestamp::from_unix_millis(secs * 1_000).unwrap();
            let id = Uuid::now_v7();
            let event = format!(
                r#"{{"specversion":"1.0","id":"{id}","source":"/onsale/point","type":"onsale.point.charged.v1","time":"{at}","subject":"{id}","sagaid":"{id}","data":{{}}}}"#
            );
            let sequence = index as u64 + 1;
            let events =
                vec![StoredEvent::of("onsale.point.charged.v1.-".into(), sequence, event.into())];
            StoredMessage { sequence, id, stored_at: None, events }
        };
        Ahead {
            messages: secs.iter().enumerate().map(emitted).collect(),
            has_more,
            held_until: None,
        }
    }

    fn taken(ahead: &mut Ahead, by: Option<i64>) -> usize {
        let by = by.and_then(|secs| Timestamp::from_unix_millis(secs * 1_000));
        ahead.take(by).count()
    }

    #[test]
    fn a_stream_waits_for_those_that_were_not_read_as_far() {
        let (mut slow, mut quick) = (ahead(&[1, 2, 3], true), ahead(&[1, 3, 5, 9], true));
        let emitted_by = [&slow, &quick].into_iter().filter_map(Ahead::emitted_by).min();
        assert_eq!(emitted_by, Timestamp::from_unix_millis(3_000));
        assert_eq!((taken(&mut slow, Some(3)), taken(&mut quick, Some(3))), (3, 2));
        assert_eq!(quick.messages.front().map(|message| message.sequence), Some(3));
        assert_eq!((taken(&mut slow, None), taken(&mut quick, None)), (0, 2));
    }

    #[test]
    fn a_stream_that_was_read_to_its_end_holds_no_other_back() {
        let (quiet, empty) = (ahead(&[1], false), ahead(&[], true));
        assert_eq!((quiet.emitted_by(), empty.emitted_by()), (None, None));
    }

    #[test]
    fn the_stream_that_others_wait_for_gives_all_it_has_in_whatever_order_it_was_emitted() {
        let mut stream = ahead(&[7, 3, 5], true);
        assert_eq!(taken(&mut stream, Some(5)), 3);
        let mut other = ahead(&[7, 3, 6], true);
        assert_eq!(taken(&mut other, Some(5)), 2);
    }
}
