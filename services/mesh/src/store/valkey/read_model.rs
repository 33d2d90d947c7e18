//! A read model: state that decides nothing and is built by replay, the first time as any other.

use std::{future::Future, sync::Arc};

use super::{
    engine::Valkey,
    function_call::LuaModule,
    rebuild::{Progress, Rebuilt, Sources, rebuild},
};
use crate::{MeshClient, Service, kept::Kept, store::engine::Failure};

/// State that is read and decides nothing: built by replay, the first time as any other.
pub struct ReadModel<L: LuaModule> {
    /// Where it is stored.
    pub valkey: Arc<Valkey<L>>,
    /// The events it is built from.
    pub table: Service<Valkey<L>>,
    /// What else it is built from.
    pub sources: fn(&MeshClient) -> Sources<'static>,
}

impl<L: LuaModule> ReadModel<L> {
    /// Rebuilds it next to the live one, unless it is stopped; see [`super::rebuild()`].
    ///
    /// # Errors
    /// As [`super::rebuild()`].
    pub async fn replay(
        &self,
        client: &MeshClient,
        stop: impl Future<Output = ()> + Send,
        progress: impl FnMut(Progress<'_>) + Send,
    ) -> Result<Rebuilt, Failure> {
        rebuild(&self.valkey, &self.table, (self.sources)(client), client, stop, progress).await
    }
}

impl<L: LuaModule> Kept for ReadModel<L> {
    const WHAT: &'static str = L::NAME;

    async fn is_whole(&self) -> Result<bool, Failure> {
        self.valkey.is_whole().await
    }

    async fn rebuild(
        &self,
        client: &MeshClient,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<u64, Failure> {
        let rebuilt = self.replay(client, stop, |_| {}).await?;
        Ok(rebuilt.total().taken + rebuilt.stated.taken)
    }
}
