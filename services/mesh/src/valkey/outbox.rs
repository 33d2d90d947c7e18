//! The outbox stream: appended to by acts, read by the relay that has the lease.

use std::{collections::HashMap, sync::Arc, time::Duration};

use events::{EventId, SagaId, Timestamp};
use redis::{FromRedisValue, Value, aio::ConnectionManager};
use uuid::Uuid;

use super::{
    Act,
    act::{text, texts},
    call::{Names, quiet, serve},
};
use crate::{
    clock,
    engine::{Backlog, Failure},
    relay::{Cursor, Position, Row, Source},
    trace::TraceParent,
};

/// The lease of a relay that died lapses after this long. An idle relay renews it with
/// every poll; one that waits for JetStream may lose it, and starts anew.
const LEASE_MILLIS: u64 = 3_000;
/// How often an instance without the lease asks for it.
const LEASE_RETRY: Duration = Duration::from_millis(250);
/// Facts counted of a backlog at most.
const BACKLOG_FACTS_MAX: usize = 5_000;

/// What comes in the outbox behind the newest position of the relay.
pub(super) async fn backlog(
    connection: &mut ConnectionManager,
    names: &Names,
) -> Result<Backlog, Failure> {
    let mut newest = redis::cmd("ZREVRANGE");
    newest.arg(format!("{}:relay:log", names.root)).arg(0).arg(0);
    let newest: Vec<String> = newest.query_async(connection).await?;
    let after = newest.first().map_or("-".to_owned(), |cursor| format!("({cursor}"));
    let mut range = redis::cmd("XRANGE");
    range.arg(format!("{}:outbox", names.root)).arg(after).arg("+");
    range.arg("COUNT").arg(BACKLOG_FACTS_MAX);
    let waiting: Vec<(String, Value)> = range.query_async(connection).await?;
    let since = waiting.first().map(|(id, _)| cursor_of(id)).transpose()?;
    let since = since.and_then(|cursor| Timestamp::from_unix_millis(cursor.major as i64));
    Ok(Backlog { facts: waiting.len() as u64, since })
}

/// The outbox of one service, held by this process.
pub struct VkOutbox {
    connection: ConnectionManager,
    names: Arc<Names>,
    token: String,
}

impl VkOutbox {
    /// Waits until this process is the one that relays.
    pub(super) async fn open(
        mut connection: ConnectionManager,
        names: Arc<Names>,
    ) -> Result<Self, Failure> {
        let token = Uuid::now_v7().simple().to_string();
        loop {
            let take = Act::new("take").arg(&token).arg(LEASE_MILLIS);
            let answer = serve(&mut connection, &names, quiet(&take, clock::now())).await?;
            if !texts(answer).map_err(Failure::Refused)?.is_empty() {
                return Ok(Self { connection, names, token });
            }
            tokio::time::sleep(LEASE_RETRY).await;
        }
    }

    /// Calls a function of the relay's that needs the lease.
    async fn call(
        &mut self,
        name: &'static str,
        args: &[String],
    ) -> Result<impl Iterator<Item = Value> + use<>, Failure> {
        let act = Act::new(name).arg(&self.token).arg(LEASE_MILLIS);
        let act = args.iter().fold(act, Act::arg);
        let answer = serve(&mut self.connection, &self.names, quiet(&act, clock::now())).await?;
        let Value::Array(parts) = answer else {
            return Err(Failure::Refused(format!("{answer:?} is no answer to a relay")));
        };
        let mut parts = parts.into_iter();
        match parts.next().map(text).transpose().map_err(Failure::Refused)?.as_deref() {
            Some("held") => Ok(parts),
            _ => Err(Failure::Unavailable("another relay holds the outbox".into())),
        }
    }

    async fn positioned(
        &mut self,
        name: &'static str,
        args: &[String],
    ) -> Result<Position, Failure> {
        let parts: Vec<Value> = self.call(name, args).await?.collect();
        let parts = texts(Value::Array(parts)).map_err(Failure::Refused)?;
        let [cursor, stream_seq] = parts.as_slice() else {
            return Err(Failure::Refused("a position has two parts".into()));
        };
        if cursor.is_empty() {
            return Ok(Position::default());
        }
        let stream_seq: f64 = number(stream_seq)?;
        Ok(Position { cursor: cursor_of(cursor)?, stream_seq: stream_seq as u64 })
    }
}

impl Source for VkOutbox {
    async fn position(&mut self) -> Result<Position, Failure> {
        self.positioned("position", &[]).await
    }

    async fn read(&mut self, after: Cursor, limit: usize) -> Result<Vec<Row>, Failure> {
        let after = format!("{}-{}", after.major, after.minor);
        let mut parts = self.call("read", &[after, limit.to_string()]).await?;
        let entries: Vec<(String, HashMap<String, Vec<u8>>)> =
            <_ as FromRedisValue>::from_redis_value(parts.next().unwrap_or(Value::Array(vec![])))
                .map_err(|error| Failure::Refused(error.to_string()))?;
        entries.into_iter().map(|(id, fields)| row(&id, fields)).collect()
    }

    async fn advance(&mut self, to: Position) -> Result<(), Failure> {
        let cursor = format!("{:020}-{:020}", to.cursor.major, to.cursor.minor);
        self.call("advance", &[cursor, to.stream_seq.to_string()]).await.map(drop)
    }

    async fn rewind(&mut self, last_seq: u64) -> Result<Position, Failure> {
        self.positioned("rewind", &[last_seq.to_string()]).await
    }
}

impl Drop for VkOutbox {
    /// Gives the lease back, so that the next relay need not wait for it to lapse.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (mut connection, names) = (self.connection.clone(), self.names.clone());
        let release = Act::new("release").arg(&self.token);
        runtime.spawn(async move {
            let _ = serve(&mut connection, &names, quiet(&release, clock::now())).await;
        });
    }
}

fn row(id: &str, mut fields: HashMap<String, Vec<u8>>) -> Result<Row, Failure> {
    let payload = fields.remove("payload").unwrap_or_default().into();
    let mut field = |name: &str| -> Result<String, Failure> {
        let bytes = fields.remove(name).ok_or_else(|| broken(id, name))?;
        String::from_utf8(bytes).map_err(|_| broken(id, name))
    };
    let mut uuid = |name: &str| field(name)?.parse::<Uuid>().map_err(|_| broken(id, name));
    let (event_id, about, saga_id) = (uuid("event_id")?, uuid("about")?, uuid("saga_id")?);
    let cause_id = field("cause_id")?.parse().ok();
    let millis = number(&field("at")?)?;
    let at = Timestamp::from_unix_millis(millis).ok_or_else(|| broken(id, "at"))?;
    Ok(Row {
        cursor: cursor_of(id)?,
        event_id: EventId(event_id),
        subject: field("subject")?,
        payload,
        about,
        saga_id: SagaId(saga_id),
        cause_id,
        at,
        deliveries: number(&field("deliveries")?)?,
        trace: TraceParent::from_outbox(Some(&field("traceparent")?), at),
    })
}

fn cursor_of(id: &str) -> Result<Cursor, Failure> {
    let (major, minor) = id.split_once('-').ok_or_else(|| broken(id, "id"))?;
    Ok(Cursor { major: number(major)?, minor: number(minor)? })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure::Refused(format!("`{text}` is no number")))
}

fn broken(id: &str, field: &str) -> Failure {
    Failure::Refused(format!("outbox entry {id} has no readable {field}"))
}
