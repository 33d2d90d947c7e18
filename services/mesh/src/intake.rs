//! What waits for a batch worker, bounded by the events it holds.

use std::sync::Arc;

use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    mpsc::{self, UnboundedReceiver, UnboundedSender, WeakUnboundedSender},
};

use crate::work::Work;

/// Events and commands in memory at most, those being worked on included; then commands are
/// turned away and consumers wait.
const INTAKE_EVENTS_MAX: usize = 4_096;

/// Puts work before the workers; cheap to clone.
pub(crate) struct Intake<D> {
    sender: UnboundedSender<Taken<D>>,
    room: Arc<Semaphore>,
}

/// An intake that is not kept open by who holds this.
pub(crate) struct WeakIntake<D> {
    sender: WeakUnboundedSender<Taken<D>>,
    room: Arc<Semaphore>,
}

impl<D> Clone for WeakIntake<D> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), room: self.room.clone() }
    }
}

impl<D> WeakIntake<D> {
    /// The intake, if anybody still takes in.
    pub(crate) fn upgrade(&self) -> Option<Intake<D>> {
        Some(Intake { sender: self.sender.upgrade()?, room: self.room.clone() })
    }
}

/// Work that was taken in, with the room it takes up.
pub(crate) struct Taken<D> {
    pub(crate) work: Work<D>,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Why work was not taken in.
pub(crate) enum Full {
    /// There is no room.
    NoRoom,
    /// Nobody works any more.
    Closed,
}

impl<D> Clone for Intake<D> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), room: self.room.clone() }
    }
}

impl<D> Intake<D> {
    /// An empty one, and the end that workers take from.
    pub(crate) fn new() -> (Self, UnboundedReceiver<Taken<D>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender, room: Arc::new(Semaphore::new(INTAKE_EVENTS_MAX)) }, receiver)
    }

    /// The same, not keeping it open.
    pub(crate) fn downgrade(&self) -> WeakIntake<D> {
        WeakIntake { sender: self.sender.downgrade(), room: self.room.clone() }
    }

    /// Waits until there is room.
    pub(crate) async fn send(&self, work: Work<D>) -> Result<(), Full> {
        let size = size(&work);
        let permit = self.room.clone().acquire_many_owned(size).await.map_err(|_| Full::Closed)?;
        self.sender.send(Taken { work, permit }).map_err(|_| Full::Closed)
    }

    /// Takes it in at once, or not at all.
    pub(crate) fn try_send(&self, work: Work<D>) -> Result<(), Full> {
        let permit = self.room.clone().try_acquire_many_owned(size(&work));
        let permit = permit.map_err(|_| Full::NoRoom)?;
        self.sender.send(Taken { work, permit }).map_err(|_| Full::Closed)
    }
}

/// The room that work takes up; a message that alone fills the intake still gets in.
fn size<D>(work: &Work<D>) -> u32 {
    work.entries.len().clamp(1, INTAKE_EVENTS_MAX) as u32
}
