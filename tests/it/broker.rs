//! A connection to the broker under one identity: what is stored, and what is refused.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{
    Client, ConnectOptions, Event,
    jetstream::{self, message::StreamMessage},
};
use futures::{StreamExt, TryStreamExt, stream};
use harness::project;
use onsale::development::environment::Environment;
use tokio::sync::mpsc;

use crate::messages::{StoredEvent, events_of};

/// How many requests to JetStream are in flight at once.
const ANSWERS_IN_FLIGHT: usize = 32;
/// How soon the broker refuses.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// The shortest duplicate window that a stream can have.
pub const WINDOW_MIN: Duration = Duration::from_millis(100);
/// A pause that outlasts every test; it is ended long before.
const PAUSE: time::Duration = time::Duration::minutes(10);

/// A connection under one identity.
pub struct Broker {
    pub client: Client,
    pub jetstream: jetstream::Context,
    identity: String,
    refusals: mpsc::UnboundedReceiver<String>,
}

impl Broker {
    /// Connects as `identity` to the servers of `env`.
    pub async fn of(env: &Environment, identity: &str) -> Self {
        let known = env.config.nkey_seeds.get(identity).cloned();
        let seed = known.unwrap_or_else(|| {
            let servers = env.servers.as_ref().expect("servers of our own");
            servers.nkey_seed(identity).to_owned()
        });
        Self::with(env, ConnectOptions::with_nkey(seed), identity).await
    }

    /// Connects with an access token in place of a key.
    pub async fn by_token(env: &Environment, token: &str) -> Self {
        Self::with(env, ConnectOptions::with_token(token.to_owned()), "account").await
    }

    async fn with(env: &Environment, options: ConnectOptions, identity: &str) -> Self {
        let (sender, refusals) = mpsc::unbounded_channel();
        let client = options
            .custom_inbox_prefix(format!("_INBOX_{identity}"))
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    let _ = sender.send(error.to_string());
                }
                async {}
            })
            .connect(&env.config.nats_url)
            .await
            .unwrap_or_else(|error| panic!("{identity} cannot connect: {error}"));
        let jetstream =
            jetstream::ContextBuilder::new().timeout(Duration::from_secs(5)).build(client.clone());
        Self { client, jetstream, identity: identity.to_owned(), refusals }
    }

    /// Waits until the broker refuses this identity something on `subject`.
    pub async fn is_refused(&mut self, what: &str, subject: &str) {
        let refusal = tokio::time::timeout(REFUSED_WITHIN, self.refusals.recv()).await;
        let Ok(Some(refusal)) = refusal else { panic!("{} may {what} {subject}", self.identity) };
        let text = refusal.to_lowercase();
        let quoted = format!("\"{}\"", subject.to_lowercase());
        let fits = text.contains("permissions violation") && text.contains(&quoted);
        assert!(fits, "{} is refused something else than {subject}: {refusal}", self.identity);
    }

    /// The refusals so far, after the broker has received everything that was sent.
    pub async fn refusals(&mut self) -> Vec<String> {
        self.client.flush().await.expect("the broker answers");
        std::iter::from_fn(|| self.refusals.try_recv().ok()).collect()
    }

    /// The names of all streams and consumers that `jetstream/` has, `STREAM.consumer` each.
    pub fn consumers() -> Vec<(String, String)> {
        let split = |name: &String| name.split_once('.').map(|(s, c)| (s.into(), c.into()));
        project::names("jetstream/consumers", "json").iter().filter_map(split).collect()
    }

    /// The streams of events.
    pub fn event_streams() -> Vec<String> {
        let mut streams = project::names("jetstream/streams", "json");
        streams.retain(|name| !matches!(name.as_str(), "ADVISORIES" | "DEAD_LETTERS"));
        streams
    }

    /// The last sequence of each stream of events.
    pub async fn ends(&self) -> BTreeMap<String, u64> {
        let mut ends = BTreeMap::new();
        for name in Self::event_streams() {
            let stream = self.jetstream.get_stream(&name).await.expect("a stream");
            ends.insert(name, stream.cached_info().state.last_sequence);
        }
        ends
    }

    /// The messages that a stream has after the sequence `after`.
    pub async fn stored(&self, stream: &str, after: u64) -> Vec<StreamMessage> {
        let stream = self.jetstream.get_stream(stream).await.expect("a stream");
        let state = &stream.cached_info().state;
        let from = state.first_sequence.max(after + 1);
        let (from, to) = if state.messages == 0 { (1, 0) } else { (from, state.last_sequence) };
        let stream = &stream;
        stream::iter(from..=to)
            .map(|sequence| async move { stream.get_raw_message(sequence).await })
            .buffered(ANSWERS_IN_FLIGHT)
            .try_collect()
            .await
            .expect("what is stored can be read")
    }

    /// Every stored message of events after `ends`, in the order in which they were stored.
    pub async fn messages_after(&self, ends: &BTreeMap<String, u64>) -> Vec<StreamMessage> {
        let mut messages = Vec::new();
        for stream in Self::event_streams() {
            let after = ends.get(&stream).copied().unwrap_or(0);
            messages.extend(self.stored(&stream, after).await);
        }
        messages.sort_by_key(|message| message.time);
        messages
    }

    /// The events of [`Broker::messages_after`], one by one.
    pub async fn events_after(&self, ends: &BTreeMap<String, u64>) -> Vec<StoredEvent> {
        self.messages_after(ends).await.iter().flat_map(events_of).collect()
    }

    /// Makes the broker soon forget the ids of its messages, so that a repeat is stored again, as it
    /// is when it comes after the duplicate window.
    pub async fn forget_ids(&self) {
        for name in Self::event_streams() {
            let stream = self.jetstream.get_stream(&name).await.expect("a stream");
            let mut config = stream.cached_info().config.clone();
            // After a single change, a busy broker once still remembered ids for twenty seconds.
            for window in [2 * WINDOW_MIN, WINDOW_MIN] {
                config.duplicate_window = window;
                self.jetstream.update_stream(&config).await.expect("updated");
            }
        }
    }

    /// Delivers nothing to this service until [`Broker::resume`].
    pub async fn pause(&self, service: &str) {
        let until = mesh::clock::now().0 + PAUSE;
        for (stream, _) in Self::consumers().iter().filter(|(_, consumer)| consumer == service) {
            let stream = self.jetstream.get_stream_no_info(stream).await.expect("a stream");
            stream.pause_consumer(service, until).await.expect("paused");
        }
    }

    /// Delivers to this service again.
    pub async fn resume(&self, service: &str) {
        for (stream, _) in Self::consumers().iter().filter(|(_, consumer)| consumer == service) {
            let stream = self.jetstream.get_stream_no_info(stream).await.expect("a stream");
            stream.resume_consumer(service).await.expect("resumed");
        }
    }

    /// The consumers that have not received, or have not acknowledged, all their messages.
    pub async fn behind(&self) -> Vec<String> {
        stream::iter(Self::consumers())
            .map(|(name, consumer)| async move {
                let stream = self.jetstream.get_stream_no_info(&name).await.expect("a stream");
                let info = stream.consumer_info(&consumer).await.expect("a consumer");
                let (new, taken) = (info.num_pending, info.num_ack_pending);
                (new + taken as u64 > 0)
                    .then(|| format!("{name}.{consumer}: {new} new, {taken} not acknowledged"))
            })
            .buffer_unordered(ANSWERS_IN_FLIGHT)
            .filter_map(std::future::ready)
            .collect()
            .await
    }
}

/// A header of a stored message.
pub fn header<'a>(message: &'a StreamMessage, name: &str) -> Option<&'a str> {
    message.headers.get(name).map(|value| value.as_str())
}
