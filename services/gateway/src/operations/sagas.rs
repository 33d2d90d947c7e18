//! The saga timeline, and the violations that the auditor has found.

use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
    response::Response,
};
use events::{
    Page, Timestamp,
    audit::{FindSagas, FindViolations, GetSaga, Saga, SagaLine, SagaState, Violation},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::{
    http::{
        call::{Head, Params, path_parameter},
        edge::Edge,
        op::Op,
        problem::{Copies, Refused},
    },
    operations::{examples, page::PageParams},
};

const TAG: &str = "sagas";

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::get("/v1/sagas/{id}", get_saga)
            .named(TAG, "getSaga", "Read one saga: what happened, and what is still to come")
            .explained(
                "Every event in causal order, what was compensated, and which service is awaited \
                 until when. Found by its own id, by the id of a payment, a reservation, a user \
                 (the latest saga) or an event, by a trace id, or by `<schedule id>/<seat>` with \
                 the slash as `%2F`. Operators see all sagas, fans their own.",
            )
            .token()
            .path_schema::<SagaKey>("id")
            .gives::<Saga>(200, "The saga", examples::SAGA),
        Op::get("/v1/sagas", find_sagas)
            .named(TAG, "findSagas", "Find sagas, newest first")
            .role("operator")
            .query::<SagaParams>()
            .gives::<Page<SagaLine>>(200, "A page of sagas", examples::SAGAS)
            .lists::<SagaLine>(),
        Op::get("/v1/violations", find_violations)
            .named(TAG, "findViolations", "List events that cannot all be true, newest first")
            .explained("The violations that the auditor has found. There should be none.")
            .role("operator")
            .query::<PageParams>()
            .gives::<Page<Violation>>(200, "A page of violations", examples::VIOLATIONS)
            .lists::<Violation>(),
    ]
}

/// The key that a saga is found by: a UUID, the 32 hex digits of a trace id, or
/// `<schedule id>/<seat>`.
#[derive(ToSchema)]
#[schema(value_type = String)]
pub(crate) struct SagaKey(String);

impl<S: Send + Sync> FromRequestParts<S> for SagaKey {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        Ok(Self(path_parameter(parts, state).await?.1))
    }
}

/// Which sagas.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SagaParams {
    /// Only in this state: `running`, `stalled`, `compensated`, `failed` or `completed`.
    #[param(value_type = SagaState, required = false)]
    state: Option<SagaState>,
    /// Only those in which this service took part or is awaited.
    service: Option<String>,
    /// Only those with an event since then.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Only those about this: an id, a trace id, or `<schedule id>/<seat>`.
    about: Option<String>,
    /// `next_cursor` of the previous page.
    #[param(min_length = 1)]
    cursor: Option<String>,
    /// Entries wanted, 1 to 100; 20 when absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

async fn get_saga(
    State(edge): State<Edge>,
    SagaKey(id): SagaKey,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &GetSaga { id }, Copies::None).await
}

async fn find_sagas(
    State(edge): State<Edge>,
    Params(params): Params<SagaParams>,
    head: Head,
) -> Result<Response, Refused> {
    let SagaParams { state, service, since, about, cursor, limit } = params;
    let query = FindSagas { state, service, since, about, cursor, limit };
    edge.read(&head, &query, Copies::None).await
}

async fn find_violations(
    State(edge): State<Edge>,
    Params(PageParams { cursor, limit }): Params<PageParams>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &FindViolations { cursor, limit }, Copies::None).await
}
