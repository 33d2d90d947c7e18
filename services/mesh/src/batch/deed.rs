//! A decoded message with its type forgotten, so that one batch can hold all kinds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use events::{Command, Event, Problem, codes};

use crate::{Answer, Book, Caller, Hear, Miss, Refusal, Turn};

/// A decoded message of a service with book `B`.
pub struct BookDeed<B: Book>(pub(crate) Box<dyn Perform<B>>);

/// What a batch asks of a message.
pub(crate) trait Perform<B: Book>: Send + Sync {
    /// Names what it will need.
    fn keys(&self, caller: &Caller, keys: &mut B::Keys);
    /// Takes its turn; a command's reply as JSON.
    fn perform(&self, book: &mut B, turn: &mut Turn<'_, B::Rules>) -> Result<Bytes, Stop>;
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

pub(crate) struct HeardFact<E>(pub(crate) E);

impl<B: Hear<E>, E: Event> Perform<B> for HeardFact<E> {
    fn keys(&self, _caller: &Caller, keys: &mut B::Keys) {
        B::keys(&self.0, keys);
    }

    fn perform(&self, book: &mut B, turn: &mut Turn<'_, B::Rules>) -> Result<Bytes, Stop> {
        match book.hear(&self.0, turn) {
            Ok(()) => Ok(Bytes::new()),
            Err(Miss::NotYet(what)) => Err(Stop::NotYet(Problem::new(codes::NOT_FOUND, what))),
            Err(Miss::Never(cause)) => Err(Stop::Never(cause)),
        }
    }

    fn status(&self) -> u16 {
        200
    }
}

pub(crate) struct AskedCommand<C>(pub(crate) C);

impl<B: Answer<C>, C: Command> Perform<B> for AskedCommand<C> {
    fn keys(&self, caller: &Caller, keys: &mut B::Keys) {
        B::keys(&self.0, caller, keys);
    }

    fn perform(&self, book: &mut B, turn: &mut Turn<'_, B::Rules>) -> Result<Bytes, Stop> {
        match book.answer(&self.0, turn) {
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
pub(crate) fn perform<B: Book>(
    deed: &dyn Perform<B>,
    book: &mut B,
    turn: &mut Turn<'_, B::Rules>,
) -> Result<Bytes, Stop> {
    catch_unwind(AssertUnwindSafe(|| deed.perform(book, turn))).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        Err(Stop::Panicked(format!("the handler panicked: {what}")))
    })
}
