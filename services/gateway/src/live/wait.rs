//! Waiting for the end of a payment or a withdrawal (`Prefer: wait=N`).
//!
//! Every event that ends one is received here. Only its headers are read, unless a request waits
//! for it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use events::{
    Event, PaymentId, UserId,
    payment::{Payment, PaymentCompleted, PaymentFailed, PaymentRefunded, PaymentState},
    user::{UserWithdrawalRefused, UserWithdrawn},
};
use mesh::{MeshClient, StoredEvent, StreamError};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::live::running::Running;

/// Payments and withdrawals that are waited for at most; a further caller gets its `202` at once.
const WAITERS_MAX: usize = 16_384;
/// The events that end a payment, or an attempt to close an account.
const ENDS: [&str; 5] = [
    PaymentCompleted::NAME,
    PaymentFailed::NAME,
    PaymentRefunded::NAME,
    UserWithdrawn::NAME,
    UserWithdrawalRefused::NAME,
];

/// The requests that wait.
#[derive(Default)]
pub(crate) struct Waiters {
    waiting: Mutex<HashMap<Uuid, watch::Sender<Option<StoredEvent>>>>,
    /// The size of the map, so that an event that no request waits for takes no lock.
    count: AtomicUsize,
}

impl Waiters {
    /// Waits for the end of a payment from now on; `None` when too many wait already.
    pub(crate) fn wait_for(self: &Arc<Self>, payment: PaymentId) -> Option<Waiter> {
        self.wait_about(payment.0)
    }

    /// Waits for the end of this user's attempt to close the account, from now on.
    pub(crate) fn wait_for_withdrawal(self: &Arc<Self>, user_id: UserId) -> Option<Waiter> {
        self.wait_about(user_id.0)
    }

    fn wait_about(self: &Arc<Self>, about: Uuid) -> Option<Waiter> {
        let mut waiting = self.waiting();
        if waiting.len() >= WAITERS_MAX {
            return None;
        }
        let ends = match waiting.entry(about) {
            Entry::Occupied(entry) => entry.get().subscribe(),
            Entry::Vacant(entry) => entry.insert(watch::Sender::new(None)).subscribe(),
        };
        self.count.store(waiting.len(), Ordering::Release);
        drop(waiting);
        Some(Waiter { waiters: self.clone(), about, ends: Some(ends) })
    }

    /// Passes an event on to the requests that wait for it.
    fn pass_on(&self, event: StoredEvent) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let Some(about) = event.about() else { return };
        if let Some(sender) = self.waiting().get(&about) {
            sender.send_replace(Some(event));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<Option<StoredEvent>>>> {
        // No holder of the lock can panic halfway through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes on the events that end something, until shutdown. What is emitted while it does not run
/// is not passed on; a request that waits reads the outcome at its deadline, and which payments
/// still run is not known.
///
/// # Errors
/// When events cannot be followed.
pub(crate) async fn run(
    waiters: Arc<Waiters>,
    running: Arc<Running>,
    client: MeshClient,
    shutdown: CancellationToken,
) -> Result<(), StreamError> {
    let mut reconnects = client.reconnects();
    let mut following = client.follow(&ENDS).await?;
    running.forget_all();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Ok(()) = reconnects.changed() => running.forget_all(),
            event = following.next() => match event {
                Some(event) => {
                    if let Some(about) = event.about() {
                        running.ended(about, Instant::now());
                    }
                    waiters.pass_on(event);
                }
                None => return Ok(()),
            },
        }
    }
}

/// One request that waits; removed when dropped.
pub(crate) struct Waiter {
    waiters: Arc<Waiters>,
    about: Uuid,
    ends: Option<watch::Receiver<Option<StoredEvent>>>,
}

impl Waiter {
    /// Returns the payment, once it has ended in a state that is wanted. Never returns if that
    /// was before the wait began.
    pub(crate) async fn ended(&mut self, wanted: fn(PaymentState) -> bool) -> Payment {
        if let Some(ends) = &mut self.ends {
            while ends.changed().await.is_ok() {
                let payment = ends.borrow_and_update().as_ref().and_then(payment_of);
                if let Some(payment) = payment.filter(|payment| wanted(payment.state)) {
                    return payment;
                }
            }
        }
        std::future::pending().await
    }

    /// Returns when an event has come. Never returns if that was before the wait began.
    pub(crate) async fn notified(&mut self) {
        if let Some(ends) = &mut self.ends
            && ends.changed().await.is_ok()
        {
            ends.borrow_and_update();
            return;
        }
        std::future::pending().await
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.waiters.waiting();
        self.ends = None;
        if waiting.get(&self.about).is_some_and(|sender| sender.receiver_count() == 0) {
            waiting.remove(&self.about);
            self.waiters.count.store(waiting.len(), Ordering::Release);
        }
    }
}

/// The payment in its final state.
fn payment_of(event: &StoredEvent) -> Option<Payment> {
    fn read<E: DeserializeOwned>(event: &StoredEvent) -> Option<E> {
        serde_json::from_slice(event.payload()).ok()
    }
    match event.name() {
        PaymentCompleted::NAME => read(event).map(completed),
        PaymentFailed::NAME => read(event).map(failed),
        PaymentRefunded::NAME => read(event).map(refunded),
        _ => None,
    }
}

fn completed(event: PaymentCompleted) -> Payment {
    Payment {
        payment_id: event.payment_id,
        reservation_id: event.reservation_id,
        schedule_id: event.schedule_id,
        user_id: event.user_id,
        amount: event.amount,
        state: PaymentState::Completed,
        reason: None,
        requested_at: event.requested_at,
        ended_at: Some(event.ended_at),
    }
}

fn failed(event: PaymentFailed) -> Payment {
    Payment {
        payment_id: event.payment_id,
        reservation_id: event.reservation_id,
        schedule_id: event.schedule_id,
        user_id: event.user_id,
        amount: event.amount,
        state: PaymentState::Failed,
        reason: Some(event.reason),
        requested_at: event.requested_at,
        ended_at: Some(event.ended_at),
    }
}

fn refunded(event: PaymentRefunded) -> Payment {
    Payment {
        payment_id: event.payment_id,
        reservation_id: event.reservation_id,
        schedule_id: event.schedule_id,
        user_id: event.user_id,
        amount: event.amount,
        state: PaymentState::Refunded,
        reason: None,
        requested_at: event.requested_at,
        ended_at: Some(event.ended_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payment(low: u128) -> PaymentId {
        PaymentId(Uuid::from_u128(low))
    }

    #[test]
    fn a_waiter_that_is_dropped_is_removed() {
        let waiters = Arc::new(Waiters::default());
        let first = waiters.wait_for(payment(1));
        let second = waiters.wait_for(payment(1));
        let other = waiters.wait_for(payment(2));
        assert_eq!(waiters.count.load(Ordering::Acquire), 2);
        drop(first);
        assert_eq!(waiters.waiting().len(), 2);
        drop((second, other));
        assert_eq!(waiters.waiting().len(), 0);
        assert_eq!(waiters.count.load(Ordering::Acquire), 0);
    }

    #[test]
    fn the_number_of_waiters_is_bounded() {
        let waiters = Arc::new(Waiters::default());
        let room = WAITERS_MAX as u128;
        let all: Vec<_> = (0..room).map(|low| waiters.wait_for(payment(low))).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(waiters.wait_for(payment(room)).is_none());
    }
}
