//! Accounts and sessions.

use std::net::SocketAddr;

use axum::{
    Extension,
    extract::{ConnectInfo, FromRequestParts, State},
    http::request::Parts,
    response::Response,
};
use events::{
    Command, Problem, UserId, codes,
    user::{Account, GrantRole, Jwks, LogIn, Refresh, Register, Role, Session},
};

use crate::{
    http::{
        call::{Call, Head, json, not_an_id, path_parameters, short},
        edge::Edge,
        op::Op,
        problem::{Copies, Refused},
    },
    operations::examples,
};

const TAG: &str = "accounts";

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::post("/v1/users", register)
            .named(TAG, "register", "Sign up")
            .explained("Creates an account and logs it in. Limited by client address.")
            .command()
            .takes::<Register>(examples::REGISTER)
            .gives::<Session>(Register::STATUS, "The account's first session", examples::SESSION)
            .refuses(&[codes::EMAIL_TAKEN, codes::RATE_LIMITED]),
        Op::post("/v1/sessions", log_in)
            .named(TAG, "logIn", "Log in")
            .explained("Limited by client address.")
            .takes::<LogIn>(examples::REGISTER)
            .gives::<Session>(LogIn::STATUS, "A new session", examples::SESSION)
            .refuses(&[codes::BAD_CREDENTIALS, codes::RATE_LIMITED]),
        Op::post("/v1/sessions/refresh", refresh)
            .named(TAG, "refreshSession", "Exchange a refresh token for a new session")
            .explained(
                "A refresh token is valid for one exchange. Using one twice ends the session, \
                 because one of its two users stole it. To repeat an exchange whose answer was \
                 lost, repeat its `Idempotency-Key`.",
            )
            .command()
            .takes::<Refresh>(examples::REFRESH)
            .gives::<Session>(Refresh::STATUS, "The renewed session", examples::SESSION)
            .refuses(&[codes::UNAUTHENTICATED, codes::TOKEN_EXPIRED]),
        Op::put("/v1/users/{id}/roles/{role}", grant_role)
            .named(TAG, "grantRole", "Give an account a role")
            .role("operator")
            .command()
            .path_schema::<Role>("role")
            .gives::<Account>(GrantRole::STATUS, "The account with its roles", examples::ACCOUNT)
            .refuses(&[codes::INVALID]),
        Op::get("/.well-known/jwks.json", jwks)
            .named(TAG, "getKeys", "Read the public keys that verify access tokens")
            .explained("A JSON Web Key Set. Keys rotate; the token's header names its key.")
            .gives::<serde_json::Value>(Jwks::STATUS, "The key set", examples::JWKS),
    ]
}

/// The address at the other end of a connection.
type Peer = Extension<ConnectInfo<SocketAddr>>;

async fn register(
    State(edge): State<Edge>,
    Extension(ConnectInfo(peer)): Peer,
    call: Call,
) -> Result<Response, Refused> {
    edge.may_log_in(peer.ip(), &call.head.0)?;
    edge.make::<Register>(call).await
}

async fn log_in(
    State(edge): State<Edge>,
    Extension(ConnectInfo(peer)): Peer,
    call: Call,
) -> Result<Response, Refused> {
    edge.may_log_in(peer.ip(), &call.head.0)?;
    edge.make::<LogIn>(call).await
}

async fn refresh(State(edge): State<Edge>, call: Call) -> Result<Response, Refused> {
    edge.make::<Refresh>(call).await
}

async fn grant_role(
    State(edge): State<Edge>,
    grant: GrantPath,
    head: Head,
) -> Result<Response, Refused> {
    edge.command::<GrantRole>(&head, json(&grant.0)).await
}

async fn jwks(State(edge): State<Edge>, head: Head) -> Result<Response, Refused> {
    edge.read::<Jwks>(&head, &Jwks {}, Copies::Keys).await
}

/// The account and the role to grant it, from the path.
struct GrantPath(GrantRole);

impl<S: Send + Sync> FromRequestParts<S> for GrantPath {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let of = path_parameters(parts, state).await?;
        let [(id_name, id), (role_name, role)] = &of[..] else { unreachable!("two names") };
        let user_id: UserId = id.parse().map_err(|_| not_an_id(id_name, id))?;
        let role = match role.as_str() {
            "fan" => Role::Fan,
            "organizer" => Role::Organizer,
            "operator" => Role::Operator,
            other => {
                let other = short(other);
                let what = format!("must be one of `fan`, `organizer`, `operator`, not `{other}`");
                return Err(Problem::about(codes::INVALID, role_name, what).into());
            }
        };
        Ok(Self(GrantRole { user_id, role }))
    }
}
