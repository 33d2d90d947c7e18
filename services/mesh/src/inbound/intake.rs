//! The queue of work for the batch workers, bounded by the events it holds.

use std::sync::Arc;

use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    mpsc::{self, UnboundedReceiver, UnboundedSender, WeakUnboundedSender},
};

use crate::batch::work::Work;

/// Maximum number of events and commands in memory, those in running batches included. When it
/// is reached, commands are refused and consumers wait.
const INTAKE_EVENTS_MAX: usize = 4_096;

/// The sending end of the queue; cheap to clone.
pub(crate) struct Intake {
    sender: UnboundedSender<Taken>,
    room: Arc<Semaphore>,
}

/// A sending end that does not keep the queue open.
pub(crate) struct WeakIntake {
    sender: WeakUnboundedSender<Taken>,
    room: Arc<Semaphore>,
}

impl Clone for WeakIntake {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), room: self.room.clone() }
    }
}

impl WeakIntake {
    /// The intake, if it is still open.
    pub(crate) fn upgrade(&self) -> Option<Intake> {
        Some(Intake { sender: self.sender.upgrade()?, room: self.room.clone() })
    }
}

/// Work in the queue, with the room it takes up.
pub(crate) struct Taken {
    pub(crate) work: Work,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Why work was not accepted.
pub(crate) enum Full {
    /// There is no room.
    NoRoom,
    /// The workers have stopped.
    Closed,
}

impl Clone for Intake {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), room: self.room.clone() }
    }
}

impl Intake {
    /// An empty queue: its sending end, and the end that workers take from.
    pub(crate) fn new() -> (Self, UnboundedReceiver<Taken>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender, room: Arc::new(Semaphore::new(INTAKE_EVENTS_MAX)) }, receiver)
    }

    /// A sending end that does not keep the queue open.
    pub(crate) fn downgrade(&self) -> WeakIntake {
        WeakIntake { sender: self.sender.downgrade(), room: self.room.clone() }
    }

    /// Adds work, and waits until there is room.
    pub(crate) async fn send(&self, work: Work) -> Result<(), Full> {
        let size = size(&work);
        let permit = self.room.clone().acquire_many_owned(size).await.map_err(|_| Full::Closed)?;
        self.sender.send(Taken { work, permit }).map_err(|_| Full::Closed)
    }

    /// Adds work at once, or not at all.
    pub(crate) fn try_send(&self, work: Work) -> Result<(), Full> {
        let permit = self.room.clone().try_acquire_many_owned(size(&work));
        let permit = permit.map_err(|_| Full::NoRoom)?;
        self.sender.send(Taken { work, permit }).map_err(|_| Full::Closed)
    }
}

/// The room that work takes up; a message that alone fills the intake still gets in.
fn size(work: &Work) -> u32 {
    work.entries.len().clamp(1, INTAKE_EVENTS_MAX) as u32
}
