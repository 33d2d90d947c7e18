//! The progress of the export to the data platform.

use axum::{extract::State, response::Response};
use events::data_platform::{Export, GetExport};

use crate::{
    http::{
        call::Head,
        edge::Edge,
        op::Op,
        problem::{Copies, Refused},
    },
    operations::examples,
};

const TAG: &str = "operation";

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::get("/v1/export", export)
            .named(TAG, "getExport", "Read the progress of the export of sales events")
            .explained(
                "Sales events are sent to the data platform in the order of their streams, and a \
                 batch that is not accepted is retried until it is. This says how far each stream \
                 has come, and what holds it up.",
            )
            .role("operator")
            .gives::<Export>(200, "The state of the export", examples::EXPORT),
    ]
}

async fn export(State(edge): State<Edge>, head: Head) -> Result<Response, Refused> {
    edge.read(&head, &GetExport {}, Copies::None).await
}
