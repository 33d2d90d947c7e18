//! The hand-off of messages from the batch worker to the publisher, in memory.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::mpsc;

use crate::outbound::message::Message;

/// Messages in the hand-off at most; what does not fit is left to the sweep …
const HAND_OFF_MESSAGES_MAX: usize = 1_024;
/// … and bytes of all of them at most.
const HAND_OFF_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Hands messages to the publisher in memory; cheap to clone.
#[derive(Clone)]
pub(crate) struct HandOff {
    sender: mpsc::Sender<Message>,
    bytes: Arc<AtomicUsize>,
}

/// The other end of a [`HandOff`].
pub(crate) struct Handed {
    receiver: mpsc::Receiver<Message>,
    bytes: Arc<AtomicUsize>,
}

impl HandOff {
    /// Creates both ends.
    pub(crate) fn new() -> (Self, Handed) {
        let (sender, receiver) = mpsc::channel(HAND_OFF_MESSAGES_MAX);
        let bytes = Arc::new(AtomicUsize::new(0));
        (Self { sender, bytes: bytes.clone() }, Handed { receiver, bytes })
    }

    /// Hands over the messages of a committed transaction, as far as there is room.
    pub(crate) fn give(&self, emitted: Vec<Message>) {
        for message in emitted {
            let size = message.body.len();
            if self.bytes.load(Relaxed) + size > HAND_OFF_BYTES_MAX {
                return;
            }
            self.bytes.fetch_add(size, Relaxed);
            if self.sender.try_send(message).is_err() {
                self.bytes.fetch_sub(size, Relaxed);
                return;
            }
        }
    }
}

impl Handed {
    /// The next message; `None` when every sender is gone.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let message = self.receiver.recv().await?;
        self.bytes.fetch_sub(message.body.len(), Relaxed);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn message(bytes: usize) -> Message {
        let body = vec![0; bytes].into();
        Message { id: uuid::Uuid::now_v7(), subject: "onsale.a.b.v1.-".into(), events: 1, body }
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_sweep() {
        let (hand_off, mut handed) = HandOff::new();
        hand_off.give(vec![message(HAND_OFF_BYTES_MAX / 2), message(HAND_OFF_BYTES_MAX)]);
        hand_off.give((0..2 * HAND_OFF_MESSAGES_MAX).map(|_| message(1)).collect());
        let mut taken = 0;
        while handed.next().now_or_never().flatten().is_some() {
            taken += 1;
        }
        assert_eq!(taken, HAND_OFF_MESSAGES_MAX);
        hand_off.give(vec![message(HAND_OFF_BYTES_MAX)]);
        assert!(handed.next().now_or_never().flatten().is_some(), "there is room again");
    }
}
