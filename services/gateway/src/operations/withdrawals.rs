//! Closing an account, and waiting for the outcome.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    response::Response,
};
use events::{
    AttemptId, Command, Problem,
    audit::SagaState,
    codes,
    user::{GetWithdrawal, Withdraw, Withdrawal, WithdrawalState},
};
use mesh::Answered;
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;
use utoipa::IntoParams;

use crate::{
    http::{
        call::{BODY_BYTES_MAX, Call, Head, Id, Params, json},
        edge::{Edge, note_outcome},
        op::Op,
        problem::{Copies, Refused, answer, with_header},
    },
    operations::{examples, payments::preference_applied},
};

const TAG: &str = "accounts";

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::delete("/v1/users/me", withdraw)
            .named(TAG, "withdraw", "Close the caller's account")
            .explained(
                "Starts a saga and answers 202 at once: follow `Location`. With `Prefer: wait=N` \
                 the answer is 200 with the outcome if it is known within N seconds; a refusal \
                 is an outcome too, and its `reasons` say why: a running payment, a refund that \
                 is due, tickets for future shows, points in the wallet. With `forfeit`, in the \
                 query or in the body, tickets and points are lost without a refund, and only a \
                 running payment or a refund prevents closing. Closing the account leaves all \
                 waiting rooms, cancels holds and closes the wallet. The access token stays valid \
                 for reading until it expires.",
            )
            .token()
            .command()
            .query::<WithdrawParams>()
            .takes::<Withdraw>(examples::WITHDRAW)
            .or_nothing()
            .waits::<Withdrawal>("The attempt as it ended", examples::WITHDRAWAL_REFUSED)
            .gives::<Withdrawal>(
                Withdraw::STATUS,
                "The attempt, still running",
                examples::WITHDRAWAL,
            )
            .refuses(&[codes::WITHDRAWAL_RUNNING]),
        Op::get("/v1/users/me/withdrawals/{id}", get)
            .named(TAG, "getWithdrawal", "Read one of the caller's attempts to close the account")
            .token()
            .gives::<Withdrawal>(200, "The attempt", examples::WITHDRAWAL_REFUSED)
            .refuses(&[codes::NOT_FOUND]),
    ]
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct WithdrawParams {
    /// Whether to close it even if points, or tickets for future shows, are lost.
    #[param(value_type = Option<bool>)]
    forfeit: Option<bool>,
}

/// The same in the body. It is there as `true` or `false`, or it is not there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WithdrawBody {
    #[serde(default, deserialize_with = "stated")]
    forfeit: Option<bool>,
}

fn stated<'de, D: Deserializer<'de>>(value: D) -> Result<Option<bool>, D::Error> {
    bool::deserialize(value).map(Some)
}

async fn get(
    State(edge): State<Edge>,
    Id(attempt): Id<AttemptId>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &GetWithdrawal { attempt }, Copies::None).await
}

async fn withdraw(State(edge): State<Edge>, request: Request) -> Result<Response, Refused> {
    let Params(in_query) = Params::<WithdrawParams>::of(request.method(), request.uri())?;
    // What is wrong with a body is said to the account that it is about.
    let (_, request) = edge.caller_of(request).await?;
    let call = Call::read(request, BODY_BYTES_MAX, &["application/json"]).await?;
    let in_body: WithdrawBody = mesh::parse(&call.body)?;
    let forfeit = match (in_query.forfeit, in_body.forfeit) {
        (Some(query), Some(body)) if query != body => {
            let what = format!("is `{query}` in the address and `{body}` in the body");
            return Err(Problem::about(codes::INVALID, "forfeit", what).into());
        }
        (query, body) => query.or(body).unwrap_or_default(),
    };
    let head = call.head;
    let answered = edge.send_command::<Withdraw>(&head, json(&Withdraw { forfeit })).await?;
    let Some(withdrawal) = withdrawal_of(&answered) else {
        return Ok(answer(answered, Copies::None));
    };
    if let Some(secs) = head.wait_secs() {
        let deadline = Instant::now() + Duration::from_secs(secs);
        if let Some(ended) = ended(&edge, &head, withdrawal, deadline).await {
            note_outcome(
                match ended.state {
                    WithdrawalState::Refused => SagaState::Compensated,
                    _ => SagaState::Completed,
                },
                None,
            );
            let answered = Answered { status: 200, body: json(&ended) };
            return Ok(preference_applied(answer(answered, Copies::None), secs));
        }
    }
    Ok(accepted(answered))
}

/// The attempt, if one was started or is already running.
fn withdrawal_of(answered: &Answered) -> Option<Withdrawal> {
    answered.is_granted().then(|| serde_json::from_slice(&answered.body).ok()).flatten()
}

/// The answer with the attempt's address.
fn accepted(answered: Answered) -> Response {
    let attempt = withdrawal_of(&answered).map(|withdrawal| withdrawal.attempt);
    let response = answer(answered, Copies::None);
    match attempt {
        Some(attempt) if response.status() == StatusCode::ACCEPTED => {
            with_header(response, header::LOCATION, &format!("/v1/users/me/withdrawals/{attempt}"))
        }
        _ => response,
    }
}

/// Waits until the deadline for the end of an attempt, which may have ended already. Events only
/// say when to read it again.
async fn ended(
    edge: &Edge,
    head: &Head,
    withdrawal: Withdrawal,
    deadline: Instant,
) -> Option<Withdrawal> {
    if is_over(&withdrawal) {
        return Some(withdrawal);
    }
    // Registered before reading: the end is either read here or signalled there.
    let mut waiter = edge.waiters().wait_for_withdrawal(withdrawal.user_id)?;
    let mut reconnects = edge.client().reconnects();
    loop {
        if let Some(ended) = look(edge, head, withdrawal.attempt).await {
            return Some(ended);
        }
        tokio::select! {
            () = waiter.notified() => {}
            Ok(()) = reconnects.changed() => {}
            () = tokio::time::sleep_until(deadline) => break,
            () = edge.shutdown().cancelled() => break,
        }
    }
    look(edge, head, withdrawal.attempt).await
}

async fn look(edge: &Edge, head: &Head, attempt: AttemptId) -> Option<Withdrawal> {
    let answered = edge.send_query(head, &GetWithdrawal { attempt }).await.ok()?;
    serde_json::from_slice(&answered.body).ok().filter(is_over)
}

fn is_over(withdrawal: &Withdrawal) -> bool {
    withdrawal.state != WithdrawalState::Requested
}
