//! What every request to the monolith needs: database, caller, refusals, answers.

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use events::{Problem, UserId, codes};
use mesh::auth::Verifier;
use serde::Serialize;
use sqlx::PgPool;

/// What every request needs.
pub(super) struct App {
    pub(super) pool: PgPool,
    pub(super) verifier: Verifier,
}

/// A refusal as an HTTP response.
#[derive(Debug)]
pub(super) struct Refused(pub(super) Problem);

impl<P: Into<Problem>> From<P> for Refused {
    fn from(problem: P) -> Self {
        Self(problem.into())
    }
}

/// A failure of the database, which is not the caller's fault.
pub(super) fn failed(error: sqlx::Error) -> Refused {
    tracing::error!(%error, "the database failed");
    codes::UNAVAILABLE.into()
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

/// An answer that must not be cached.
pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, serde_json::to_vec(body).unwrap_or_default()).into_response()
}

impl App {
    /// The caller, from the verified access token.
    pub(super) async fn caller(&self, headers: &HeaderMap) -> Result<UserId, Refused> {
        let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer "));
        let token = token.ok_or(codes::UNAUTHENTICATED)?;
        Ok(self.verifier.access(token, mesh::clock::now()).await?.user_id()?)
    }
}
