//! A decoded message with its type forgotten, so that one batch can hold all kinds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use events::{Command, Event, Problem, codes};

use crate::{Caller, Context, Execute, Handle, HandleError, Refusal, UnitOfWork};

/// A decoded message of a service with book `B`.
pub struct UnitHandler<B: UnitOfWork>(pub(crate) Box<dyn Perform<B>>);

/// What a batch asks of a message.
pub(crate) trait Perform<B: UnitOfWork>: Send + Sync {
    /// Names what it will need.
    fn keys(&self, caller: &Caller, keys: &mut B::Keys);
    /// Takes its turn; a command's reply as JSON.
    fn perform(&self, unit: &mut B, ctx: &mut Context<'_, B::Config>) -> Result<Bytes, Stop>;
    /// HTTP status of a granted command.
    fn status(&self) -> u16;
}

/// Why a message did not take effect.
pub(crate) enum Stop {
    No(Problem),
    NotYet(Problem),
    Never(String),
    Panicked(String),
}

pub(crate) struct HandledEvent<E>(pub(crate) E);

impl<B: Handle<E>, E: Event> Perform<B> for HandledEvent<E> {
    fn keys(&self, _caller: &Caller, keys: &mut B::Keys) {
        B::keys(&self.0, keys);
    }

    fn perform(&self, unit: &mut B, ctx: &mut Context<'_, B::Config>) -> Result<Bytes, Stop> {
        match unit.handle(&self.0, ctx) {
            Ok(()) => Ok(Bytes::new()),
            Err(HandleError::NotYet(what)) => {
                Err(Stop::NotYet(Problem::new(codes::NOT_FOUND, what)))
            }
            Err(HandleError::Never(cause)) => Err(Stop::Never(cause)),
        }
    }

    fn status(&self) -> u16 {
        200
    }
}

pub(crate) struct AskedCommand<C>(pub(crate) C);

impl<B: Execute<C>, C: Command> Perform<B> for AskedCommand<C> {
    fn keys(&self, caller: &Caller, keys: &mut B::Keys) {
        B::keys(&self.0, caller, keys);
    }

    fn perform(&self, unit: &mut B, ctx: &mut Context<'_, B::Config>) -> Result<Bytes, Stop> {
        match unit.execute(&self.0, ctx) {
            Ok(reply) => Ok(serde_json::to_vec(&reply).expect("replies are plain data").into()),
            Err(Refusal::No(problem)) => Err(Stop::No(problem)),
            Err(Refusal::NotYet(problem)) => Err(Stop::NotYet(problem)),
        }
    }

    fn status(&self) -> u16 {
        C::STATUS
    }
}

/// Takes a turn; a handler that panics hurts nobody but its own message.
pub(crate) fn perform<B: UnitOfWork>(
    handler: &dyn Perform<B>,
    unit: &mut B,
    ctx: &mut Context<'_, B::Config>,
) -> Result<Bytes, Stop> {
    catch_unwind(AssertUnwindSafe(|| handler.perform(unit, ctx))).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        Err(Stop::Panicked(format!("the handler panicked: {what}")))
    })
}
