//! One live subscription for all connections that follow a user's own events.
//!
//! The subscription exists only while there are followers. Each user has one bounded channel,
//! however many connections read it; a connection that does not keep up is cut off by the
//! channel, never buffered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use events::UserId;
use mesh::{BrokerError, EVENTS_A_SEQUENCE, MeshClient, StoredEvent, StreamError, Unread};
use serde::Deserialize;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::live::{
    cursor::{Cursor, FOLLOWED, Place},
    identity::{self, Look, Track},
};

/// Events that a connection may lag behind.
const CHANNEL_EVENTS_MAX: usize = 64;
/// How long a new follower waits for the subscription.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the hub checks whether the subscription is unused.
const IDLE_CHECK_EVERY: Duration = Duration::from_secs(30);
/// How long to wait after a failed subscription.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// There was no subscription in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotJoined;

/// What a follower receives.
#[derive(Debug, Clone)]
pub(crate) enum Signal {
    /// An event about the user.
    Emitted(Arc<Emitted>),
    /// Events up to `end` may have been missed; what is stored is the truth. After `agreed`, a
    /// stream may not be the one that was followed.
    Missed {
        /// Up to where each stream agrees with what was passed on.
        agreed: Cursor,
        /// Where each stream ends.
        end: Cursor,
    },
}

/// An event and its place.
#[derive(Debug)]
pub(crate) struct Emitted {
    /// Which of [`FOLLOWED`].
    pub(crate) stream: usize,
    /// Its place there.
    pub(crate) place: Place,
    /// The event.
    pub(crate) event: StoredEvent,
}

/// The followers of this process and their subscription.
pub(crate) struct Hub {
    client: MeshClient,
    users: Mutex<HashMap<UserId, broadcast::Sender<Signal>>>,
    joined: Notify,
    /// Whether the subscription exists. Changes to false only under the lock of `users`,
    /// so that no follower joins a subscription that is being closed.
    open: watch::Sender<bool>,
    /// How far each stream has been passed on.
    tracks: Mutex<[Track; FOLLOWED.len()]>,
}

impl Hub {
    /// A hub that follows nothing yet.
    pub(crate) fn new(client: MeshClient) -> Self {
        Self {
            client,
            users: Mutex::default(),
            joined: Notify::new(),
            open: watch::Sender::new(false),
            tracks: Mutex::default(),
        }
    }

    /// Begins to follow a user's events. Everything up to [`Hub::seen`], read afterwards, is
    /// stored; everything after it will be signalled.
    ///
    /// # Errors
    /// When the subscription cannot be made in time.
    pub(crate) async fn join(self: &Arc<Self>, user: UserId) -> Result<Membership, NotJoined> {
        let receiver = {
            let mut users = self.users();
            let channel =
                users.entry(user).or_insert_with(|| broadcast::Sender::new(CHANNEL_EVENTS_MAX));
            channel.subscribe()
        };
        let membership = Membership { hub: self.clone(), user, receiver: Some(receiver) };
        self.joined.notify_one();
        let mut open = self.open.subscribe();
        match tokio::time::timeout(JOIN_TIMEOUT, open.wait_for(|open| *open)).await {
            Ok(Ok(_)) => Ok(membership),
            _ => Err(NotJoined),
        }
    }

    /// How far the subscription has come.
    pub(crate) fn seen(&self) -> Cursor {
        Cursor(self.tracks().each_ref().map(|track| track.seen))
    }

    /// What each stream has that was not passed on yet; nothing while nobody follows.
    ///
    /// # Errors
    /// When the streams cannot be read.
    pub(crate) async fn unread(&self) -> Result<Vec<(&'static str, Unread)>, StreamError> {
        if !*self.open.borrow() {
            return Ok(Vec::new());
        }
        let unread = FOLLOWED.into_iter().zip(self.seen().0).map(async |(service, seen)| {
            Ok((service, self.client.unread(service, seen.sequence()).await?))
        });
        futures::future::try_join_all(unread).await
    }

    /// Whether everything after a cursor can still be read: each stream is the one that the
    /// cursor belongs to, and still has all messages after it.
    ///
    /// # Errors
    /// When the streams cannot be read.
    pub(crate) async fn can_resume(&self, cursor: &Cursor) -> Result<bool, StreamError> {
        let places = FOLLOWED.into_iter().zip(cursor.0);
        let looks =
            places.map(|(service, place)| identity::can_resume(&self.client, service, place));
        Ok(futures::future::try_join_all(looks).await?.into_iter().all(|can| can))
    }

    /// Keeps the subscription while there are followers, until shutdown. However it ends, nobody
    /// can join until it runs again; those that have joined are then signalled what they missed.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let _closed = Closed(self);
        while !shutdown.is_cancelled() {
            if self.users().is_empty() {
                tokio::select! {
                    () = self.joined.notified() => {}
                    () = shutdown.cancelled() => return,
                }
            }
            if let Err(error) = self.follow(&shutdown).await {
                warn!(
                    error = error.with_cause(),
                    "the subscription to live events was interrupted"
                );
                self.close();
            }
            if !*self.open.borrow() && !self.users().is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }

    async fn follow(&self, shutdown: &CancellationToken) -> Result<(), StreamError> {
        let mut reconnects = self.client.reconnects();
        let mut live = self.client.follow(&FOLLOWED).await?;
        // What was emitted while there was no subscription is stored: followers that joined
        // before have to read it. And the streams may have been recreated meanwhile.
        let tracks = self.tracks().clone();
        let looks =
            FOLLOWED.iter().zip(&tracks).map(|(service, track)| track.look(&self.client, service));
        let looks = futures::future::try_join_all(looks).await?;
        self.skip(looks.into_iter().enumerate());
        self.open.send_replace(true);
        let mut idle_check = tokio::time::interval(IDLE_CHECK_EVERY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                // Subscribe again: no later event would reveal a gap at the end of a stream.
                Ok(()) = reconnects.changed() => return Ok(()),
                _ = idle_check.tick() => if self.close_if_idle() { return Ok(()) },
                event = live.next() => match event {
                    Some(event) => self.pass_on(event).await?,
                    None => return Err(StreamError::not_followed(BrokerError::Disconnected)),
                },
            }
        }
    }

    fn close(&self) {
        let _users = self.users();
        self.open.send_replace(false);
    }

    fn close_if_idle(&self) -> bool {
        let users = self.users();
        if users.is_empty() {
            self.open.send_replace(false);
        }
        users.is_empty()
    }

    /// Each stream's events arrive in the order of their sequences, without a gap. A gap means
    /// a lost connection or a slow process. A step back means an event that was emitted between
    /// the subscription and the look at the stream's end, or a stream that was recreated or
    /// rolled back. What is stored is the truth.
    async fn pass_on(&self, event: StoredEvent) -> Result<(), StreamError> {
        let Some(stream) = FOLLOWED.iter().position(|service| *service == event.service()) else {
            return Ok(());
        };
        let track = self.tracks()[stream].clone();
        if comes_next(track.seen.position, event.position()) {
            let (place, id) = (identity::place_of(&event), event.message_id());
            self.emit(Emitted { stream, place, event });
            // Only after the signal: a follower that reads `seen` and then finds its channel
            // empty has handled everything up to there.
            self.tracks()[stream].passed(place, id);
            return Ok(());
        }
        if track.has_passed(&event) {
            return Ok(());
        }
        let look = track.look(&self.client, FOLLOWED[stream]).await?;
        if event.position() > track.seen.position || look.agreed != track.seen {
            self.skip([(stream, look)].into_iter());
        }
        Ok(())
    }

    /// Moves to another place and signals that to all followers. A step forward is signalled
    /// before it is taken, as with an event. A step back is taken first: a follower that has
    /// gone back must not find the old, later place here and skip what is published again.
    fn skip(&self, looks: impl Iterator<Item = (usize, Look)>) {
        let looks: Vec<_> = looks.collect();
        let (mut agreed, mut end) = (self.seen(), self.seen());
        for (stream, look) in &looks {
            (agreed.0[*stream], end.0[*stream]) = (look.agreed, look.end);
            if look.differs {
                warn!(stream = FOLLOWED[*stream], "the stream is not the one that was followed");
                self.tracks()[*stream].go_back(look);
            }
        }
        for channel in self.users().values() {
            let _ = channel.send(Signal::Missed { agreed, end });
        }
        for (stream, look) in looks {
            self.tracks()[stream].go_to(look);
        }
    }

    fn emit(&self, emitted: Emitted) {
        #[derive(Deserialize)]
        struct Owner {
            user_id: UserId,
        }
        let Ok(Owner { user_id }) = serde_json::from_slice(emitted.event.payload()) else { return };
        if let Some(channel) = self.users().get(&user_id) {
            let _ = channel.send(Signal::Emitted(Arc::new(emitted)));
        }
    }

    fn tracks(&self) -> MutexGuard<'_, [Track; FOLLOWED.len()]> {
        // No holder of the lock can panic halfway through a change.
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserId, broadcast::Sender<Signal>>> {
        // No holder of the lock can panic halfway through a change.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a hub that no longer runs, also after a panic.
struct Closed<'a>(&'a Hub);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Whether no event lies between two positions of a stream: it is the next event of the same
/// message, or the first one of the next message. Messages arrive whole.
fn comes_next(seen: u64, position: u64) -> bool {
    let (sequence, place) = (position / EVENTS_A_SEQUENCE, position % EVENTS_A_SEQUENCE);
    position == seen + 1 || (place == 0 && sequence == seen / EVENTS_A_SEQUENCE + 1)
}

/// One connection's membership in the hub; it leaves when dropped.
pub(crate) struct Membership {
    hub: Arc<Hub>,
    user: UserId,
    receiver: Option<broadcast::Receiver<Signal>>,
}

impl Membership {
    /// The next signal; an error when this connection was too slow.
    pub(crate) async fn next(&mut self) -> Result<Signal, broadcast::error::RecvError> {
        match &mut self.receiver {
            Some(receiver) => receiver.recv().await,
            None => Err(broadcast::error::RecvError::Closed),
        }
    }

    /// Stops receiving signals; false when it had already left.
    pub(crate) fn leave(&mut self) -> bool {
        self.receiver.take().is_some()
    }

    /// Up to where everything has been handled, if the channel is empty.
    pub(crate) fn caught_up_to(&self) -> Option<Cursor> {
        let seen = self.hub.seen();
        self.receiver.as_ref().is_some_and(broadcast::Receiver::is_empty).then_some(seen)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut users = self.hub.users();
        // Under the lock: of two that leave at once, the later one sees that none is left.
        self.receiver = None;
        if users.get(&self.user).is_some_and(|channel| channel.receiver_count() == 0) {
            users.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_joins_a_hub_that_no_longer_runs() {
        let link = mesh::Link::unconnected(crate::NAME).await;
        let hub = Arc::new(Hub::new(MeshClient::new(link)));
        hub.open.send_replace(true);
        let running = hub.clone();
        let run = tokio::spawn(async move { running.run(CancellationToken::new()).await });
        tokio::task::yield_now().await;
        assert!(*hub.open.borrow());
        run.abort();
        assert!(run.await.unwrap_err().is_cancelled());
        assert!(!*hub.open.borrow());
    }
}
