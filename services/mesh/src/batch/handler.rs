//! A decoded event or command behind a trait object, so that one batch can hold every type.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use events::{Command, Event, Problem, codes};

use crate::{Caller, Context, Execute, Handle, HandleError, Refusal, UnitOfWork};

/// A decoded event or command of a service with unit of work `B`.
pub struct UnitHandler<B: UnitOfWork>(pub(crate) Box<dyn Perform<B>>);

/// What a batch calls on an event or command.
pub(crate) trait Perform<B: UnitOfWork>: Send + Sync {
    /// Adds the keys of the rows that the handler needs.
    fn keys(&self, caller: &Caller, keys: &mut B::Keys);
    /// Runs the handler; returns a command's reply as JSON.
    fn perform(&self, unit: &mut B, ctx: &mut Context<'_, B::Config>) -> Result<Bytes, Stop>;
    /// HTTP status of a granted command.
    fn status(&self) -> u16;
}

/// Why an event or command did not take effect.
pub(crate) enum Stop {
    No(Problem),
    NotYet(Problem),
    Never(String),
    Panicked(String),
}

pub(crate) struct EventHandler<E>(pub(crate) E);

impl<B: Handle<E>, E: Event> Perform<B> for EventHandler<E> {
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

pub(crate) struct CommandHandler<C>(pub(crate) C);

impl<B: Execute<C>, C: Command> Perform<B> for CommandHandler<C> {
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

/// Runs the handler and catches a panic, so that it only affects its own message.
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
