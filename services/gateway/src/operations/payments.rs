//! Payments, and waiting for their end.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use events::{
    Command, Page, PaymentId,
    audit::SagaState,
    codes,
    payment::{FindPayments, GetPayment, Pay, Payment, PaymentState},
};
use mesh::Answered;
use tokio::time::Instant;

use crate::{
    http::{
        call::{Call, Head, Id, Params, json},
        edge::{Edge, Proposal, note_outcome},
        op::Op,
        problem::{Copies, Refused, answer, with_header},
    },
    live::wait::Waiter,
    operations::{examples, page::PageParams},
};

const TAG: &str = "payments";
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::post("/v1/payments", pay)
            .named(TAG, "pay", "Pay a hold with the points of the wallet")
            .explained(
                "A live hold can be paid, even if the place in the waiting room has ended. Starts a \
                 saga and answers 202 at once: follow `Location`, or the events. With \
                 `Prefer: wait=N` the answer is 200 with the outcome if it is known within N \
                 seconds; a failed payment is an outcome too, and its `reason` says why.",
            )
            .token()
            .command()
            .takes::<Pay>(examples::PAY)
            .waits::<Payment>("The payment as it ended", examples::COMPLETED_PAYMENT)
            .gives::<Payment>(Pay::STATUS, "The payment, still running", examples::PAYMENT)
            .refuses(&[
                codes::NOT_FOUND,
                codes::HOLD_GONE,
                codes::PAYMENT_RUNNING,
                codes::ACCOUNT_CLOSING,
                codes::ALREADY_PAID,
            ]),
        Op::get("/v1/payments/{id}", get)
            .named(TAG, "getPayment", "Read one of the caller's payments")
            .token()
            .gives::<Payment>(200, "The payment", examples::COMPLETED_PAYMENT)
            .refuses(&[codes::NOT_FOUND]),
        Op::get("/v1/payments", find)
            .named(TAG, "findPayments", "List the caller's payments, newest first")
            .token()
            .query::<PageParams>()
            .gives::<Page<Payment>>(200, "A page of payments", examples::PAYMENTS),
    ]
}

async fn get(
    State(edge): State<Edge>,
    Id(payment_id): Id<PaymentId>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &GetPayment { payment_id }, Copies::None).await
}

async fn find(
    State(edge): State<Edge>,
    Params(PageParams { cursor, limit }): Params<PageParams>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &FindPayments { cursor, limit }, Copies::None).await
}

async fn pay(State(edge): State<Edge>, call: Call) -> Result<Response, Refused> {
    let Call { head, body } = call;
    let proposal = Proposal::new(&head);
    let Some(expected) = proposal.becomes.map(PaymentId) else {
        return Ok(accepted(edge.send_command_as::<Pay>(&head, body, proposal).await?));
    };
    // Before anything else is done for it.
    edge.begin_payment(expected.0)?;
    let Some(secs) = head.wait_secs() else {
        return Ok(accepted(request(&edge, &head, body, proposal, expected).await?));
    };
    let deadline = Instant::now() + Duration::from_secs(secs);
    // Registered before sending: the end cannot be missed.
    let waiter = edge.waiters().wait_for(expected);
    let answered = request(&edge, &head, body, proposal, expected).await?;
    if !answered.is_granted() {
        return Ok(answer(answered, Copies::None));
    }
    let Ok(payment) = serde_json::from_slice::<Payment>(&answered.body) else {
        return Ok(accepted(answered));
    };
    let ended = if is_ended(payment.state) {
        Some(payment)
    } else if payment.payment_id == expected {
        ended(&edge, &head, expected, waiter, deadline, is_ended).await
    } else {
        // A repeated Idempotency-Key: the answer is an earlier payment, which may have ended
        // long ago.
        drop(waiter);
        end_of(&edge, &head, payment.payment_id, deadline, is_ended).await
    };
    Ok(match ended {
        Some(payment) => {
            note_end(&payment);
            let body = json(&payment);
            preference_applied(answer(Answered { status: 200, body }, Copies::None), secs)
        }
        None => accepted(answered),
    })
}

/// Requests a payment that counts as running, until it is known that it does not run: another
/// answer than this payment. An answer that does not come says nothing; then the end of the
/// payment does, if there is one.
async fn request(
    edge: &Edge,
    head: &Head,
    body: Bytes,
    proposal: Proposal,
    expected: PaymentId,
) -> Result<Answered, Refused> {
    let requested = edge.send_command_as::<Pay>(head, body, proposal).await;
    let runs = match &requested {
        Ok(answered) => {
            answered.status == codes::TIMED_OUT.status || made(answered) == Some(expected)
        }
        Err(Refused(problem)) => problem.is(codes::TIMED_OUT),
    };
    if !runs {
        edge.running().refused(expected.0);
    }
    requested
}

/// The payment that an answer is about.
fn made(answered: &Answered) -> Option<PaymentId> {
    #[derive(serde::Deserialize)]
    struct Made {
        payment_id: PaymentId,
    }
    let made = answered.is_granted().then(|| serde_json::from_slice::<Made>(&answered.body));
    made?.ok().map(|Made { payment_id }| payment_id)
}

/// The answer, with the payment's address if there is a payment.
fn accepted(answered: Answered) -> Response {
    let made = made(&answered);
    let response = answer(answered, Copies::None);
    match made {
        Some(payment_id) if response.status() == StatusCode::ACCEPTED => {
            with_header(response, header::LOCATION, &format!("/v1/payments/{payment_id}"))
        }
        _ => response,
    }
}

/// Adds the header that says that the preference to wait was honoured.
pub(crate) fn preference_applied(response: Response, secs: u64) -> Response {
    with_header(response, PREFERENCE_APPLIED, &format!("wait={secs}"))
}

/// Notes on the trace how a payment has ended.
fn note_end(payment: &Payment) {
    match payment.reason {
        Some(reason) => note_outcome(reason.outcome(), Some(reason.as_str())),
        None if payment.state == PaymentState::Refunded => {
            note_outcome(SagaState::Compensated, None);
        }
        None => note_outcome(SagaState::Completed, None),
    }
}

fn is_ended(state: PaymentState) -> bool {
    state != PaymentState::Requested
}

/// Waits for the end of a payment that may have ended already.
pub(crate) async fn end_of(
    edge: &Edge,
    head: &Head,
    payment_id: PaymentId,
    deadline: Instant,
    wanted: fn(PaymentState) -> bool,
) -> Option<Payment> {
    // Registered before reading: the end is either read here or signalled there.
    let waiter = edge.waiters().wait_for(payment_id);
    match look(edge, head, payment_id, wanted).await {
        Some(payment) => Some(payment),
        None => ended(edge, head, payment_id, waiter, deadline, wanted).await,
    }
}

/// Waits until the deadline, then reads the payment once. After a lost connection it reads the
/// payment as well: the event may have been missed.
async fn ended(
    edge: &Edge,
    head: &Head,
    payment_id: PaymentId,
    waiter: Option<Waiter>,
    deadline: Instant,
    wanted: fn(PaymentState) -> bool,
) -> Option<Payment> {
    if let Some(mut waiter) = waiter {
        let mut reconnects = edge.client().reconnects();
        loop {
            tokio::select! {
                payment = waiter.ended(wanted) => return Some(payment),
                () = tokio::time::sleep_until(deadline) => break,
                () = edge.shutdown().cancelled() => break,
                Ok(()) = reconnects.changed() => {
                    let payment = look(edge, head, payment_id, wanted).await;
                    if payment.is_some() {
                        return payment;
                    }
                }
            }
        }
    }
    look(edge, head, payment_id, wanted).await
}

async fn look(
    edge: &Edge,
    head: &Head,
    payment_id: PaymentId,
    wanted: fn(PaymentState) -> bool,
) -> Option<Payment> {
    let answered = edge.send_query(head, &GetPayment { payment_id }).await.ok()?;
    let payment: Payment = serde_json::from_slice(&answered.body).ok()?;
    wanted(payment.state).then_some(payment)
}
