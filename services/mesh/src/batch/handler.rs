//! A decoded event or command with its handler, for services with a unit of work.

use bytes::Bytes;
use events::{Command, Event, Problem, Timestamp, codes};

use super::{
    panic::caught,
    unit::{Decided, Stop},
    work::{Entry, Handler},
};
use crate::{Caller, Context, Execute, Handle, HandleError, Refusal, UnitOfWork};

/// What a [`Handler`] holds where the unit of work is a `B`.
struct UnitHandler<B: UnitOfWork>(Box<dyn Perform<B>>);

/// What a batch calls on an event or command.
trait Perform<B: UnitOfWork>: Send + Sync {
    /// Adds the keys of the rows that the handler needs.
    fn keys(&self, caller: &Caller, keys: &mut B::Keys);
    /// Runs the handler; returns a command's reply as JSON.
    fn perform(&self, unit: &mut B, ctx: &mut Context<'_, B::Config>) -> Result<Bytes, Stop>;
    /// HTTP status of a granted command.
    fn status(&self) -> u16;
}

struct EventHandler<E>(E);

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

struct CommandHandler<C>(C);

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

/// The handler of an event.
pub(crate) fn of_event<B: Handle<E>, E: Event>(event: E) -> Handler {
    Handler::new(UnitHandler::<B>(Box::new(EventHandler(event))))
}

/// The handler of a command.
pub(crate) fn of_command<B: Execute<C>, C: Command>(command: C) -> Handler {
    Handler::new(UnitHandler::<B>(Box::new(CommandHandler(command))))
}

/// The handler, as a version with a mistake: it panics after it has changed the unit of work.
#[cfg(feature = "sim")]
pub(crate) fn panicking<B: UnitOfWork>(handler: Handler) -> Handler {
    struct Panicking(Handler);
    impl<B: UnitOfWork> Perform<B> for Panicking {
        fn keys(&self, caller: &Caller, keys: &mut B::Keys) {
            self.0.of::<UnitHandler<B>>().0.keys(caller, keys);
        }

        fn perform(&self, unit: &mut B, ctx: &mut Context<'_, B::Config>) -> Result<Bytes, Stop> {
            let _ = self.0.of::<UnitHandler<B>>().0.perform(unit, ctx);
            panic!("this version cannot handle it");
        }

        fn status(&self) -> u16 {
            500
        }
    }
    Handler::new(UnitHandler::<B>(Box::new(Panicking(handler))))
}

/// The keys that these events and commands will need.
pub(crate) fn keys_of<B: UnitOfWork>(entries: &[&Entry]) -> B::Keys {
    let mut keys = B::Keys::default();
    for entry in entries {
        if let Ok(handler) = &entry.handler {
            handler.of::<UnitHandler<B>>().0.keys(&entry.meta.caller, &mut keys);
        }
    }
    keys
}

/// Runs the handler of one event or command on the unit of work.
pub(crate) fn decide<B: UnitOfWork>(
    unit: &mut B,
    config: &B::Config,
    entry: &Entry,
    now: Timestamp,
) -> Decided {
    let handler = match &entry.handler {
        Ok(handler) => &*handler.of::<UnitHandler<B>>().0,
        Err(cause) => return Decided::stopped(Stop::Never(cause.to_string())),
    };
    let meta = &entry.meta;
    let mut ctx = Context {
        attempt: meta.attempt,
        saga_id: meta.saga_id,
        cause_id: Some(meta.cause()),
        may_emit: meta.may_emit,
        span: entry.span.parent(),
        ..Context::at(now, config, &meta.caller, meta.id)
    };
    let result = perform(handler, unit, &mut ctx);
    let Context { emitted, announced, ended, concerns, observed, .. } = ctx;
    Decided { result, status: handler.status(), emitted, announced, ended, concerns, observed }
}

/// Runs the handler and catches a panic, so that it only affects its own message.
fn perform<B: UnitOfWork>(
    handler: &dyn Perform<B>,
    unit: &mut B,
    ctx: &mut Context<'_, B::Config>,
) -> Result<Bytes, Stop> {
    let performed = caught(|| handler.perform(unit, ctx));
    performed.unwrap_or_else(|panicked| Err(Stop::Panicked(panicked.to_string())))
}
