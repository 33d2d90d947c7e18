//! What the code that runs now works for: the ids that a log line carries.
//!
//! A log line that is written while a request, a command or an event is handled carries its
//! trace, span and saga. They are kept in a cell of the thread, and only a line that is written
//! reads them, so what logs nothing pays for two moves of some bytes. A span of `tracing` would
//! be made and formatted for each event.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
};

use events::SagaId;

use super::parent::TraceParent;

thread_local! {
    static HERE: Cell<Here> = const { Cell::new(Here::NOWHERE) };
}

/// What the running code works for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Here {
    /// The span.
    pub span: TraceParent,
    /// The saga.
    pub saga_id: Option<SagaId>,
}

/// Restores what was entered before when dropped.
#[derive(Debug)]
pub struct Entered(Here);

impl Here {
    const NOWHERE: Self = Self { span: TraceParent(None), saga_id: None };

    /// What the calling code works for.
    pub fn now() -> Self {
        HERE.get()
    }

    /// Enters it until the guard is dropped, which must be on this thread: a guard is not held
    /// across an `await`.
    pub fn enter(self) -> Entered {
        Entered(HERE.replace(self))
    }

    /// Runs a future within it, on whichever threads it is polled.
    pub async fn within<F: Future>(self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut here = self;
        poll_fn(|cx| {
            let _entered = here.enter();
            let polled = future.as_mut().poll(cx);
            here = Self::now();
            polled
        })
        .await
    }

    /// Notes the saga that the running code turned out to work for.
    pub fn note_saga(saga_id: SagaId) {
        HERE.set(Self { saga_id: Some(saga_id), ..HERE.get() });
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        HERE.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn here(saga: u128) -> Here {
        Here { saga_id: Some(SagaId(Uuid::from_u128(saga))), ..Here::default() }
    }

    #[test]
    fn what_was_entered_before_is_there_again_afterwards() {
        let outer = here(1).enter();
        let inner = here(2).enter();
        assert_eq!(Here::now(), here(2));
        drop(inner);
        assert_eq!(Here::now(), here(1));
        drop(outer);
        assert_eq!(Here::now(), Here::default());
    }

    #[tokio::test]
    async fn a_future_keeps_its_own_saga_while_others_run_in_between() {
        let one = here(1).within(async {
            tokio::task::yield_now().await;
            assert_eq!(Here::now(), here(1));
            Here::note_saga(SagaId(Uuid::from_u128(3)));
            tokio::task::yield_now().await;
            Here::now()
        });
        let two = here(2).within(async {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            Here::now()
        });
        assert_eq!(tokio::join!(one, two), (here(3), here(2)));
        assert_eq!(Here::now(), Here::default());
    }
}
