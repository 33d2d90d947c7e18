//! What a service on Valkey writes: acts, and what becomes of their values.

use bytes::Bytes;
use events::{Command, Event, Problem, Timestamp, codes};
use uuid::Uuid;

use super::call::Parts;
use crate::{Caller, engine::Failure, parked::one_line, repeat::reused, work::Answered};

/// A service's functions, and what its Rust side knows.
pub trait LuaModule: Sized + Send + Sync + 'static {
    /// The service; its keys are `{name}:…`, all of them in one slot.
    const NAME: &'static str;
    /// Lua that adds functions to the tables `acts` and `reads`; see `valkey/mesh.lua` for
    /// what they have at hand. An act writes with the commands of `valkey/commands.lua`.
    const LUA: &'static str;
    /// Whether what it knows comes from events alone, whatever order they come in, and from
    /// what others own, so that it can be built anew from them next to what is live (see [`super::rebuild()`]). Its keys then
    /// have a generation in them, which its Lua does not know of. It has `reads.digest(part)`:
    /// what it knows of the things whose ids end in those two hex digits, as lines, the same
    /// ones in whatever order it was taken in.
    const IS_REPLAYABLE: bool = false;
    /// The service's configuration, the same for every message.
    type Config: Send + Sync + 'static;
    /// The field of a fact that names what it depends on here: behind a dead letter, later
    /// facts with the same value wait. Facts without it depend on what they are about.
    const KEY: &'static str = "";
}

/// What a service does on hearing a fact.
pub trait CallOn<E: Event>: LuaModule {
    /// Another field for this fact than [`Library::KEY`].
    const KEY: &'static str = <Self as LuaModule>::KEY;

    /// The act that takes `fact` in. It may come twice, late, or early.
    fn call(event: &E, at: &At<'_, Self::Config>) -> FunctionCall;
}

/// What a service does on being asked.
pub trait CallFor<C: Command>: LuaModule {
    /// The act that decides `command`. Run twice it must do no more than once, because a
    /// lost connection leaves its outcome unknown.
    ///
    /// # Errors
    /// The refusal of what can be seen to be wrong without the store.
    fn call(command: &C, at: &At<'_, Self::Config>) -> Result<FunctionCall, Problem>;

    /// The reply, made of the act's value.
    ///
    /// # Errors
    /// A refusal that only the value shows.
    fn reply(command: &C, value: &Reply, at: &At<'_, Self::Config>) -> Result<C::Reply, Problem>;
}

/// What an act knows of the moment.
pub struct At<'a, R> {
    /// When the batch began.
    pub now: Timestamp,
    /// The service's configuration.
    pub config: &'a R,
    /// Who is asking.
    pub caller: &'a Caller,
    /// An id for the thing that this message makes.
    pub id: Uuid,
}

/// A call of one of the service's functions.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionCall {
    pub(super) name: &'static str,
    pub(super) args: Vec<String>,
}

impl FunctionCall {
    /// A call of `writes.<name>` or `reads.<name>`.
    pub fn new(name: &'static str) -> Self {
        Self { name, args: Vec::new() }
    }

    /// The same call with one more argument.
    pub fn arg(mut self, value: impl ToString) -> Self {
        self.args.push(value.to_string());
        self
    }
}

/// What a function returned: a row of texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply(pub Vec<String>);

impl Reply {
    /// The value at `index`, read as a `T`.
    ///
    /// # Errors
    /// `internal` when the function returns something else than its caller expects.
    pub fn get<T: std::str::FromStr>(&self, index: usize) -> Result<T, Problem> {
        self.0.get(index).and_then(|text| text.parse().ok()).ok_or_else(|| {
            Problem::new(codes::INTERNAL, format!("Value {index} of an act cannot be read."))
        })
    }
}

/// How one act ended, as `batch.lua` says it.
#[derive(Debug, PartialEq)]
pub(super) enum Ended {
    /// Done, or done before with this answer.
    Done(Reply),
    /// Seen before.
    Repeat,
    /// Refused for good.
    No(Problem),
    /// Refused for now.
    NotYet(Problem),
    /// It failed, and has left nothing.
    Failed(String),
    /// A parked event that has ended, or stands behind another.
    Gone,
    /// The mesh itself failed, and has left nothing.
    Fault(String),
    /// The store does not know what it should.
    Lost,
}

impl Ended {
    pub(super) fn read(mut parts: Parts) -> Result<Self, Failure> {
        let kind: String = parts.take()?;
        Ok(match kind.as_str() {
            "done" => Self::Done(Reply(parts.take()?)),
            "repeat" => Self::Repeat,
            "no" => Self::No(problem(&parts.take::<String>()?, parts.take()?)),
            "not_yet" => Self::NotYet(problem(&parts.take::<String>()?, parts.take()?)),
            "reused" => Self::No(reused()),
            "failed" => Self::Failed(one_line(&parts.lossy()?)),
            "gone" => Self::Gone,
            "lost" => Self::Lost,
            "fault" => Self::Fault(one_line(&parts.lossy()?)),
            other => return Err(Failure::Refused(format!("`{other}` is no ending"))),
        })
    }

    /// Why it failed, if it did.
    pub(super) fn failure(self) -> Option<String> {
        match self {
            Self::Failed(cause) | Self::Fault(cause) => Some(cause),
            _ => None,
        }
    }
}

fn problem(code: &str, detail: String) -> Problem {
    let kind = codes::ALL.iter().find(|kind| kind.code == code).unwrap_or(&codes::INTERNAL);
    Problem::new(*kind, detail)
}

/// A decoded message of a service with library `L`.
pub struct ValkeyHandler<L: LuaModule>(pub(super) Box<dyn Handler<L>>);

/// What a batch asks of a message.
pub(super) trait Handler<L: LuaModule>: Send + Sync {
    fn call(&self, at: &At<'_, L::Config>) -> Result<FunctionCall, Problem>;
    fn answer(&self, value: &Reply, at: &At<'_, L::Config>) -> Result<Answered, Problem>;
}

pub(super) struct HandledEvent<E>(pub(super) E);

impl<L: CallOn<E>, E: Event> Handler<L> for HandledEvent<E> {
    fn call(&self, at: &At<'_, L::Config>) -> Result<FunctionCall, Problem> {
        Ok(<L as CallOn<E>>::call(&self.0, at))
    }

    fn answer(&self, _value: &Reply, _at: &At<'_, L::Config>) -> Result<Answered, Problem> {
        Ok(Answered { status: 200, body: Bytes::new() })
    }
}

pub(super) struct AskedCommand<C>(pub(super) C);

impl<L: CallFor<C>, C: Command> Handler<L> for AskedCommand<C> {
    fn call(&self, at: &At<'_, L::Config>) -> Result<FunctionCall, Problem> {
        <L as CallFor<C>>::call(&self.0, at)
    }

    fn answer(&self, value: &Reply, at: &At<'_, L::Config>) -> Result<Answered, Problem> {
        let reply = L::reply(&self.0, value, at)?;
        let body = serde_json::to_vec(&reply).expect("replies are plain data").into();
        Ok(Answered { status: C::STATUS, body })
    }
}

/// What a timer found due.
pub(super) struct DueCall(pub(super) FunctionCall);

impl<L: LuaModule> Handler<L> for DueCall {
    fn call(&self, _at: &At<'_, L::Config>) -> Result<FunctionCall, Problem> {
        Ok(self.0.clone())
    }

    fn answer(&self, _value: &Reply, _at: &At<'_, L::Config>) -> Result<Answered, Problem> {
        Ok(Answered { status: 200, body: Bytes::new() })
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    fn read(parts: &[&str]) -> Result<Ended, Failure> {
        let bulk = |text: &&str| Value::BulkString(text.as_bytes().to_vec());
        Ended::read(Parts::of(Value::Array(parts.iter().map(bulk).collect())).unwrap())
    }

    #[test]
    fn a_refusal_keeps_its_code() {
        let Ok(Ended::No(problem)) = read(&["no", "schedule_closed", "why"]) else {
            panic!("no refusal")
        };
        assert!(problem.is(codes::SCHEDULE_CLOSED));
        assert_eq!(problem.detail, "why");
    }

    #[test]
    fn a_value_is_a_row_of_texts() {
        let value = Value::Array(vec![Value::SimpleString("W".into()), Value::Int(7)]);
        let parts = Parts::of(Value::Array(vec![Value::SimpleString("done".into()), value]));
        let value = Reply(vec!["W".into(), "7".into()]);
        assert_eq!(Ended::read(parts.unwrap()).unwrap(), Ended::Done(value));
    }

    #[test]
    fn what_is_no_ending_is_an_error() {
        assert!(read(&[]).is_err());
        assert!(read(&["well"]).is_err());
        assert!(read(&["no"]).is_err());
    }
}
