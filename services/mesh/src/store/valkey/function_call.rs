//! What a service on Valkey implements: its Lua module, the calls of its functions, and what
//! becomes of their replies.

use bytes::Bytes;
use events::{Command, Event, Problem, Timestamp, codes};
use uuid::Uuid;

use super::call::Parts;
use crate::{
    Caller,
    batch::work::{Answered, Handler},
    inbound::repeat::reused,
    parked::one_line,
    store::engine::Failure,
};

/// A service's Lua functions, and its Rust side.
pub trait LuaModule: Sized + Send + Sync + 'static {
    /// The service; its keys are `{name}:…`, all of them in one slot.
    const NAME: &'static str;
    /// Lua that adds functions to the tables `writes` and `reads`; see `valkey/mesh.lua` for what
    /// they can use. Functions in `writes` write with the commands of `valkey/commands.lua`.
    const LUA: &'static str;
    /// Whether the state comes only from events, in any order, and from what other services own,
    /// so that it can be rebuilt from them next to the live state (see [`super::rebuild()`]). The
    /// keys then contain a generation, which the module's Lua does not see. The module has
    /// `reads.digest(part)`: its state of the entities whose ids end in those two hex digits, as
    /// lines that are the same in whatever order the events were taken in.
    const IS_REPLAYABLE: bool = false;
    /// The service's configuration, the same for every message.
    type Config: Send + Sync + 'static;
    /// The field of an event that names its order key here: behind a dead letter, later events
    /// with the same value wait. The order key of an event without it is what it is about.
    const KEY: &'static str = "";
}

/// How a service handles an event.
pub trait CallOn<E: Event>: LuaModule {
    /// The field of this event's order key, if it is not [`LuaModule::KEY`].
    const KEY: &'static str = <Self as LuaModule>::KEY;

    /// The function call that handles `event`. The event may come twice, late, or early.
    fn call(event: &E, at: &At<'_, Self::Config>) -> FunctionCall;
}

/// How a service handles a command.
pub trait CallFor<C: Command>: LuaModule {
    /// The function call that decides `command`. Running it twice must have the effect of running
    /// it once, because a lost connection leaves its outcome unknown.
    ///
    /// # Errors
    /// A refusal that does not need the store.
    fn call(command: &C, at: &At<'_, Self::Config>) -> Result<FunctionCall, Problem>;

    /// The command's reply, made from what the function returned.
    ///
    /// # Errors
    /// A refusal that depends on what the function returned.
    fn reply(command: &C, value: &Reply, at: &At<'_, Self::Config>) -> Result<C::Reply, Problem>;
}

/// The context in which a function call is made.
pub struct At<'a, R> {
    /// When the batch began.
    pub now: Timestamp,
    /// The service's configuration.
    pub config: &'a R,
    /// The caller.
    pub caller: &'a Caller,
    /// An id for what this message creates.
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

/// What a function returned: a list of texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply(pub Vec<String>);

impl Reply {
    /// The value at `index`, read as a `T`.
    ///
    /// # Errors
    /// `internal` when the function returns something else than its caller expects.
    pub fn get<T: std::str::FromStr>(&self, index: usize) -> Result<T, Problem> {
        self.0.get(index).and_then(|text| text.parse().ok()).ok_or_else(|| {
            Problem::new(codes::INTERNAL, format!("Value {index} of a reply cannot be read."))
        })
    }
}

/// How one function call ended, as `batch.lua` returns it.
#[derive(Debug, PartialEq)]
pub(super) enum Ended {
    /// Done now, or done before with this reply.
    Done(Reply),
    /// Taken in before.
    Repeat,
    /// Refused for good.
    No(Problem),
    /// Refused for now.
    NotYet(Problem),
    /// The function failed, and nothing of it is left.
    Failed(String),
    /// The parked event has ended already.
    Gone,
    /// The mesh's own Lua failed, and nothing of it is left.
    Fault(String),
    /// The store was emptied and is not rebuilt yet.
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
            other => return Err(Failure::Refused(format!("`{other}` is not a known ending"))),
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

/// What a [`Handler`] holds where the Lua module is an `L`.
pub(super) struct ValkeyHandler<L: LuaModule>(pub(super) Box<dyn Calling<L>>);

/// What a batch calls on an event or command.
pub(super) trait Calling<L: LuaModule>: Send + Sync {
    fn call(&self, at: &At<'_, L::Config>) -> Result<FunctionCall, Problem>;
    fn answer(&self, value: &Reply, at: &At<'_, L::Config>) -> Result<Answered, Problem>;
}

struct EventHandler<E>(E);

impl<L: CallOn<E>, E: Event> Calling<L> for EventHandler<E> {
    fn call(&self, at: &At<'_, L::Config>) -> Result<FunctionCall, Problem> {
        Ok(<L as CallOn<E>>::call(&self.0, at))
    }

    fn answer(&self, _value: &Reply, _at: &At<'_, L::Config>) -> Result<Answered, Problem> {
        Ok(Answered { status: 200, body: Bytes::new() })
    }
}

struct CommandHandler<C>(C);

impl<L: CallFor<C>, C: Command> Calling<L> for CommandHandler<C> {
    fn call(&self, at: &At<'_, L::Config>) -> Result<FunctionCall, Problem> {
        <L as CallFor<C>>::call(&self.0, at)
    }

    fn answer(&self, value: &Reply, at: &At<'_, L::Config>) -> Result<Answered, Problem> {
        let reply = L::reply(&self.0, value, at)?;
        let body = serde_json::to_vec(&reply).expect("replies are plain data").into();
        Ok(Answered { status: C::STATUS, body })
    }
}

/// A function call that a timer found due.
struct DueCall(FunctionCall);

impl<L: LuaModule> Calling<L> for DueCall {
    fn call(&self, _at: &At<'_, L::Config>) -> Result<FunctionCall, Problem> {
        Ok(self.0.clone())
    }

    fn answer(&self, _value: &Reply, _at: &At<'_, L::Config>) -> Result<Answered, Problem> {
        Ok(Answered { status: 200, body: Bytes::new() })
    }
}

/// The handler of an event.
pub(crate) fn of_event<L: CallOn<E>, E: Event>(event: E) -> Handler {
    Handler::new(ValkeyHandler::<L>(Box::new(EventHandler(event))))
}

/// The handler of a command.
pub(crate) fn of_command<L: CallFor<C>, C: Command>(command: C) -> Handler {
    Handler::new(ValkeyHandler::<L>(Box::new(CommandHandler(command))))
}

/// The handler of a function call that a timer found due.
pub(crate) fn of_due<L: LuaModule>(call: FunctionCall) -> Handler {
    Handler::new(ValkeyHandler::<L>(Box::new(DueCall(call))))
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
    fn a_reply_is_a_list_of_texts() {
        let value = Value::Array(vec![Value::SimpleString("W".into()), Value::Int(7)]);
        let parts = Parts::of(Value::Array(vec![Value::SimpleString("done".into()), value]));
        let value = Reply(vec!["W".into(), "7".into()]);
        assert_eq!(Ended::read(parts.unwrap()).unwrap(), Ended::Done(value));
    }

    #[test]
    fn an_unknown_ending_is_an_error() {
        assert!(read(&[]).is_err());
        assert!(read(&["well"]).is_err());
        assert!(read(&["no"]).is_err());
    }
}
