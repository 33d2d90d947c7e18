//! A service's keys as its store; the outbox and parked events are in `outbox` and `parked`.

use std::sync::Arc;

use async_trait::async_trait;

use super::{call::command, keyspace::Keyspace, outbox, parked};
use crate::{
    failpoint::Failpoints,
    store::engine::{Failure, Mark, POSITIONS_MAX, Store},
};

#[async_trait]
impl Store for Keyspace {
    async fn reached(&self, stream: &str) -> Result<Vec<Mark>, Failure> {
        let mut range = redis::cmd("ZRANGE");
        range.arg(self.key(&format!("reached:{stream}"))).arg(0).arg(-1);
        self.marks(range.arg("WITHSCORES")).await
    }

    async fn note_reached(&self, stream: &str, mark: Mark) -> Result<(), Failure> {
        let key = self.key(&format!("reached:{stream}"));
        let mut note = redis::cmd("ZADD");
        note.arg(&key).arg(mark.sequence).arg(mark.id.to_string());
        command::<redis::Value>(&self.connection, &note).await?;
        let mut forget = redis::cmd("ZREMRANGEBYRANK");
        forget.arg(&key).arg(0).arg(-(POSITIONS_MAX as isize) - 1);
        command::<redis::Value>(&self.connection, &forget).await.map(drop)
    }

    async fn forget_reached(&self, stream: &str, above: u64) -> Result<(), Failure> {
        let mut forget = redis::cmd("ZREMRANGEBYSCORE");
        forget.arg(self.key(&format!("reached:{stream}"))).arg(format!("({above}")).arg("+inf");
        command::<redis::Value>(&self.connection, &forget).await.map(drop)
    }

    /// A Valkey that refuses writes still answers reads. This command would write if the key
    /// existed, so it is refused wherever writes are, and changes nothing.
    async fn check(&self) -> Result<(), Failure> {
        let mut write = redis::cmd("SET");
        write.arg(self.key("never")).arg("1").arg("XX");
        command::<redis::Value>(&self.connection, &write).await?;
        if self.is_whole().await? { Ok(()) } else { Err(Failure::Emptied) }
    }

    async fn tidy(&self) -> Result<(), Failure> {
        let keep = (outbox::KEEP.as_secs(), outbox::MESSAGES_MAX);
        while self.serve("trim", keep).await?.take::<u64>()? > 0 {}
        let keep = parked::ENDED_KEEP.as_secs();
        while self.serve("forget", keep).await?.take::<u64>()? > 0 {}
        if self.names.is_replayable { self.sweep_generations().await } else { Ok(()) }
    }

    fn failpoints(&self) -> Arc<Failpoints> {
        self.failpoints.clone()
    }
}
