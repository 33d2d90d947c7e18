//! Reads messages of a stream by sequence, and splits them into events.
//!
//! A position is one number for one event of a stream: the sequence of its message times
//! [`EVENTS_A_SEQUENCE`], plus its index in the message. Later events have higher positions.

use std::{collections::HashMap, time::Duration};

use async_nats::{HeaderMap, Message, Subscriber, header::NATS_MESSAGE_ID};
use events::Timestamp;
use futures::StreamExt;
use uuid::Uuid;

use super::stored_event::{
    EVENTS_A_SEQUENCE, STREAM_SEQ, SUBJECT, StoredEvent, StoredMessage, TIME_STAMP,
};
use crate::{
    ConsumerState, Link, MeshClient,
    deadline::within,
    nats::error::{BrokerError, StreamError},
    nats::link::{BROKER, stream_of},
    store::engine::{Mark, Place},
};

/// Maximum number of messages in one read.
pub const STORED_MESSAGES_MAX: usize = 1_000;
/// Approximate maximum size of one read, in bytes.
pub(crate) const STORED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long JetStream may take to deliver stored messages.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The first and last sequence of a stream, and when it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The sequence of its oldest message; one above the last when it is empty.
    pub first: u64,
    /// The sequence of the newest message it has ever had; 0 before the first.
    pub last: u64,
    /// When it was created. This survives a restore: only the id of a message distinguishes an
    /// older state of the same stream.
    pub made_at: Timestamp,
}

/// What a reader by position has before it in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread {
    /// How many messages; those that the stream has dropped meanwhile count as well.
    pub messages: u64,
    /// When the first of them was emitted; `None` when there is none.
    pub since: Option<Timestamp>,
}

impl MeshClient {
    /// Events of a service after a position, in order, of at most `limit` messages; empty when
    /// there are no more.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn stored_since(
        &self,
        service: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StreamError> {
        let mut from = (after + 1) / EVENTS_A_SEQUENCE;
        loop {
            let messages = self.stored_messages(service, from, limit).await?;
            let Some(last) = messages.last() else { return Ok(Vec::new()) };
            from = last.sequence + 1;
            let mut events: Vec<StoredEvent> =
                messages.into_iter().flat_map(|one| one.events).collect();
            events.retain(|event| event.position > after);
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Messages of a service from a sequence on, in order, at most `limit` of them.
    ///
    /// # Errors
    /// As [`MeshClient::stored_since`].
    pub async fn stored_messages(
        &self,
        service: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<StoredMessage>, StreamError> {
        let stream = stream_of(service);
        let messages = self.link().stored(&stream, from.max(1), limit).await;
        let messages = messages.map_err(StreamError::unread)?;
        Ok(messages.iter().map(StoredMessage::of).collect())
    }

    /// The position behind the last event that a service has stored; 0 before the first.
    ///
    /// # Errors
    /// As [`MeshClient::stored_since`].
    pub async fn last_position(&self, service: &str) -> Result<u64, StreamError> {
        let stream = stream_of(service);
        let last = self.link().direct_get(&stream, r#"{"last_by_subj":">"}"#.into()).await;
        let mut replies = last.map_err(StreamError::unread)?;
        let last = next_stored(&mut replies).await.map_err(StreamError::unread)?;
        let sequence = last.map_or(0, |last| StoredMessage::of(&last).sequence);
        Ok(if sequence == 0 { 0 } else { sequence * EVENTS_A_SEQUENCE + EVENTS_A_SEQUENCE - 1 })
    }
}

impl MeshClient {
    /// The extent of a service's stream, and when it was created.
    ///
    /// # Errors
    /// When JetStream does not answer, or there is no such stream.
    pub async fn extent(&self, service: &str) -> Result<Extent, StreamError> {
        let state = self.link().state_of(&stream_of(service)).await;
        let state = state.map_err(StreamError::unread)?;
        Ok(Extent {
            first: state.first_sequence,
            last: state.last_sequence,
            made_at: Timestamp(state.made_at),
        })
    }

    /// The sequence of the last message that a service has stored; 0 before the first.
    ///
    /// # Errors
    /// As [`MeshClient::stored_since`].
    pub async fn last_sequence(&self, service: &str) -> Result<u64, StreamError> {
        Ok(self.last_position(service).await? / EVENTS_A_SEQUENCE)
    }
}

impl MeshClient {
    /// What a service has stored after a sequence.
    ///
    /// # Errors
    /// As [`MeshClient::stored_since`].
    pub async fn unread(&self, service: &str, after: u64) -> Result<Unread, StreamError> {
        let messages = self.last_sequence(service).await?.saturating_sub(after);
        if messages == 0 {
            return Ok(Unread { messages, since: None });
        }
        let next = self.stored_messages(service, after + 1, 1).await?;
        // An event that cannot be read does not say when it was emitted.
        let emitted = |message: &StoredMessage| message.events.first()?.at().or(message.stored_at);
        Ok(Unread { messages, since: next.first().and_then(emitted) })
    }
}

impl MeshClient {
    /// The consumers of the stream of a service.
    ///
    /// # Errors
    /// As [`MeshClient::stored_since`].
    pub async fn consumers(&self, service: &str) -> Result<Vec<ConsumerState>, StreamError> {
        let consumers = self.link().consumers(&stream_of(service)).await;
        consumers.map_err(StreamError::unread)
    }
}

impl Link {
    /// Messages of a stream from a sequence on, in order.
    async fn stored(
        &self,
        stream: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Message>, BrokerError> {
        let limit = limit.clamp(1, STORED_MESSAGES_MAX);
        let query = format!(
            r#"{{"seq":{from},"batch":{limit},"max_bytes":{STORED_BYTES_MAX},"next_by_subj":">"}}"#
        );
        let mut replies = self.direct_get(stream, query).await?;
        let mut messages = Vec::new();
        while messages.len() < limit {
            match next_stored(&mut replies).await? {
                Some(message) => messages.push(message),
                None => break,
            }
        }
        Ok(messages)
    }

    /// The service's own messages from one sequence to another, by sequence.
    pub(crate) async fn places(
        &self,
        from: u64,
        to: u64,
    ) -> Result<HashMap<u64, Place>, BrokerError> {
        self.places_of(&stream_of(self.service()), from, to).await
    }

    /// The subjects of a stream's messages from one sequence to another, of as many messages as
    /// one read returns.
    pub(crate) async fn subjects_of(
        &self,
        stream: &str,
        from: u64,
        to: u64,
    ) -> Result<Vec<String>, BrokerError> {
        if from > to {
            return Ok(Vec::new());
        }
        let limit = usize::try_from(to - from + 1).unwrap_or(STORED_MESSAGES_MAX);
        let messages = self.stored(stream, from, limit).await?;
        let header = |message: &Message, name: &str| {
            Some(message.headers.as_ref()?.get(name)?.as_str().to_owned())
        };
        let is_in = |message: &&Message| {
            let sequence = header(message, STREAM_SEQ).and_then(|text| text.parse::<u64>().ok());
            sequence.is_some_and(|sequence| sequence <= to)
        };
        Ok(messages.iter().filter(is_in).filter_map(|message| header(message, SUBJECT)).collect())
    }

    /// The ids of a stream's messages from one sequence to another, by sequence.
    pub(crate) async fn ids_of(
        &self,
        stream: &str,
        from: u64,
        to: u64,
    ) -> Result<HashMap<u64, Uuid>, BrokerError> {
        let places = self.places_of(stream, from, to).await?;
        Ok(places.into_iter().map(|(sequence, place)| (sequence, place.mark.id)).collect())
    }

    /// A stream's messages from one sequence to another, by sequence.
    async fn places_of(
        &self,
        stream: &str,
        from: u64,
        to: u64,
    ) -> Result<HashMap<u64, Place>, BrokerError> {
        let (mut places, mut from) = (HashMap::new(), from.max(1));
        while from <= to {
            let limit = usize::try_from(to - from + 1).unwrap_or(STORED_MESSAGES_MAX);
            let messages = self.stored(stream, from, limit).await?;
            let Some(last) = messages.last() else { break };
            from = place_of(last).map_or(to, |place| place.mark.sequence) + 1;
            let found = messages.iter().filter_map(place_of);
            places.extend(found.map(|place| (place.mark.sequence, place)));
        }
        Ok(places)
    }

    /// Requests stored messages from JetStream; any replica answers, message by message.
    pub(crate) async fn direct_get(
        &self,
        stream: &str,
        query: String,
    ) -> Result<Subscriber, BrokerError> {
        if !self.is_connected() {
            return Err(BrokerError::NotConnected);
        }
        let inbox = self.client().new_inbox();
        let replies = self.subscribe(inbox.clone()).await?;
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        self.publish(subject, Some(inbox), HeaderMap::new(), query.into()).await?;
        Ok(replies)
    }
}

/// The place of a stored message, by its headers alone. One without an id has a nil one.
fn place_of(message: &Message) -> Option<Place> {
    let map = message.headers.as_ref()?;
    let sequence = map.get(STREAM_SEQ)?.as_str().parse().ok()?;
    let id = map.get(NATS_MESSAGE_ID).and_then(|id| id.as_str().parse().ok());
    let stored_at = map.get(TIME_STAMP)?.as_str().parse().ok()?;
    Some(Place { mark: Mark { id: id.unwrap_or_default(), sequence }, stored_at })
}

/// The next stored message; `None` at the end of the read, or when there is no message at all.
async fn next_stored(replies: &mut Subscriber) -> Result<Option<Message>, BrokerError> {
    let reply = within(READ_TIMEOUT, BROKER, replies.next()).await?;
    let reply = reply.ok_or(BrokerError::Disconnected)?;
    match reply.status.map(|status| status.as_u16()) {
        None => Ok(Some(reply)),
        Some(204 | 404) => Ok(None),
        Some(status) => Err(BrokerError::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const EVENT: &str = concat!(
        r#"{"specversion":"1.0","id":"018f0000-0000-7000-8000-000000000001","#,
        r#""source":"/onsale/payment","type":"onsale.payment.completed.v1","#,
        r#""time":"2026-05-01T11:00:00Z","subject":"018f0000-0000-7000-8000-000000000002","#,
        r#""sagaid":"018f0000-0000-7000-8000-000000000003","data":{"n":1}}"#
    );

    fn message(subject: &str, body: &str) -> StoredMessage {
        let mut map = HeaderMap::new();
        map.insert(STREAM_SEQ, "42");
        map.insert(SUBJECT, "onsale.payment.completed.v1.-");
        StoredMessage::of(&Message {
            subject: subject.to_owned().into(),
            reply: None,
            payload: Bytes::copy_from_slice(body.as_bytes()),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        })
    }

    #[test]
    fn the_events_of_a_message_are_the_same_live_and_stored() {
        for subject in ["live.onsale.payment.completed.v1.-", "_INBOX.abc"] {
            let events = message(subject, &format!("[{EVENT},{EVENT}]")).events;
            let positions: Vec<u64> = events.iter().map(StoredEvent::position).collect();
            assert_eq!(positions, [42 * EVENTS_A_SEQUENCE, 42 * EVENTS_A_SEQUENCE + 1]);
            let event = &events[1];
            assert_eq!((event.name(), event.service()), ("payment.completed", "payment"));
            assert_eq!((event.sequence(), event.payload().as_ref()), (42, br#"{"n":1}"#.as_ref()));
            assert_eq!(event.about(), "018f0000-0000-7000-8000-000000000002".parse().ok());
        }
    }

    #[test]
    fn an_event_that_cannot_be_read_keeps_its_position() {
        let events = message("_INBOX.abc", &format!("[{{}},{EVENT}]")).events;
        assert_eq!((events[0].event_id(), events[0].payload().as_ref()), (None, b"{}".as_ref()));
        assert!(events[1].event_id().is_some());
        assert_eq!(message("_INBOX.abc", "nonsense").events.len(), 1);
    }
}
