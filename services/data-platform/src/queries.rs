//! The query of operators: how far the export has come.

use std::time::Duration;

use events::{
    Problem,
    data_platform::{Export, ExportState, ExportedStream, GetExport},
};
use mesh::{MeshClient, Meta, QueryContext, postgres::Postgres};
use tracing::warn;

use crate::{
    UnitOfWork,
    progress::{self, Noted},
};

/// How long the broker may take to answer where a stream ends.
const BROKER_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers how far the export has come, also while it is stuck.
pub(crate) async fn export(
    ctx: QueryContext<Postgres<UnitOfWork>>,
    _: GetExport,
    _: Meta,
) -> Result<Export, Problem> {
    let Noted { watermark, trouble, streams } = progress::noted(ctx.pool())
        .await
        .map_err(|error| mesh::away("The state of the export cannot be read right now.", error))?;
    let client = MeshClient::new(ctx.link().clone());
    let behind = streams.into_iter().map(|stream| behind(&client, stream));
    let state = match (&trouble, ctx.config().has_target()) {
        (_, false) => ExportState::Idle,
        (Some(_), true) => ExportState::Stuck,
        (None, true) => ExportState::Running,
    };
    let streams = futures::future::join_all(behind).await;
    // The trouble of a target that is no longer configured does not matter.
    let trouble = trouble.filter(|_| state == ExportState::Stuck);
    Ok(Export { state, watermark, streams, trouble })
}

async fn behind(client: &MeshClient, stream: ExportedStream) -> ExportedStream {
    let last = tokio::time::timeout(BROKER_TIMEOUT, client.last_sequence(&stream.service)).await;
    let last = match last {
        Ok(Ok(last)) => Some(last),
        Ok(Err(error)) => {
            warn!(stream = stream.service, error = error.with_cause(), "a stream is not read");
            None
        }
        Err(_) => None,
    };
    let behind = last.map(|last| last.saturating_sub(stream.sequence));
    ExportedStream { behind, ..stream }
}
