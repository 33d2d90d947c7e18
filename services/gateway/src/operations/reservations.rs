//! Reservations: holds, confirmed seats and their cancellation.

use std::time::Duration;

use axum::{extract::State, http::header, response::Response};
use events::{
    Command, Page, PaymentId, ReservationId,
    audit::SagaState,
    codes,
    payment::PaymentState,
    reservation::{Cancel, FindReservations, GetReservation, Reservation, Reserve},
};
use serde::Deserialize;

use crate::{
    http::{
        call::{Call, Head, Id, Params, json},
        edge::{Edge, note_outcome},
        op::Op,
        problem::{Copies, Refused, answer, with_header},
    },
    operations::{examples, page::PageParams, payments},
};

const TAG: &str = "reservations";

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::post("/v1/reservations", reserve)
            .named(TAG, "reserve", "Hold seats: all of them or none")
            .token()
            .command()
            .takes::<Reserve>(examples::RESERVE)
            .gives::<Reservation>(Reserve::STATUS, "The hold", examples::RESERVATION)
            .refuses(&[
                codes::NOT_FOUND,
                codes::NOT_ACTIVE,
                codes::ACCOUNT_CLOSING,
                codes::SEAT_TAKEN,
                codes::UNKNOWN_SEAT,
                codes::LIMIT_EXCEEDED,
                codes::NOT_OPEN_YET,
                codes::SCHEDULE_CLOSED,
                codes::SCHEDULE_CANCELLED,
            ]),
        Op::get("/v1/reservations/{id}", get)
            .named(TAG, "getReservation", "Read one of the caller's reservations")
            .token()
            .gives::<Reservation>(200, "The reservation", examples::RESERVATION)
            .refuses(&[codes::NOT_FOUND]),
        Op::get("/v1/reservations", find)
            .named(TAG, "findReservations", "List the caller's reservations, newest first")
            .token()
            .query::<PageParams>()
            .gives::<Page<Reservation>>(200, "A page of reservations", examples::RESERVATIONS),
        Op::delete("/v1/reservations/{id}", cancel)
            .named(TAG, "cancelReservation", "Cancel a hold or a confirmed reservation")
            .explained(
                "A hold at any time, a ticket until the schedule's `refund_until`. The seats are \
                 free at once. A payment is refunded: `Location` names the payment to follow, and \
                 with `Prefer: wait=N` the answer is 200 once the refund has been made.",
            )
            .token()
            .command()
            .waits::<Reservation>("Cancelled and refunded", examples::CANCELLED)
            .gives::<Reservation>(
                Cancel::STATUS,
                "Cancelled; the refund follows",
                examples::CANCELLED,
            )
            .refuses(&[codes::NOT_FOUND, codes::ACCOUNT_CLOSING, codes::NOT_CANCELLABLE]),
    ]
}

async fn reserve(State(edge): State<Edge>, call: Call) -> Result<Response, Refused> {
    #[derive(Deserialize)]
    struct Made {
        reservation_id: ReservationId,
    }
    let answered = edge.send_command::<Reserve>(&call.head, call.body).await?;
    let made = serde_json::from_slice::<Made>(&answered.body).ok();
    let response = answer(answered, Copies::None);
    Ok(match made {
        Some(Made { reservation_id }) => {
            with_header(response, header::LOCATION, &format!("/v1/reservations/{reservation_id}"))
        }
        None => response,
    })
}

async fn get(
    State(edge): State<Edge>,
    Id(reservation_id): Id<ReservationId>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &GetReservation { reservation_id }, Copies::None).await
}

async fn find(
    State(edge): State<Edge>,
    Params(PageParams { cursor, limit }): Params<PageParams>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &FindReservations { cursor, limit }, Copies::None).await
}

/// A hold has nothing to refund, so its cancellation ends with the answer. A confirmed
/// reservation's saga ends with the refund of the payment that the answer names.
async fn cancel(
    State(edge): State<Edge>,
    Id(reservation_id): Id<ReservationId>,
    head: Head,
) -> Result<Response, Refused> {
    #[derive(Deserialize)]
    struct Cancelled {
        payment_id: Option<PaymentId>,
    }
    let mut answered = edge.send_command::<Cancel>(&head, json(&Cancel { reservation_id })).await?;
    let Ok(Cancelled { payment_id }) = serde_json::from_slice(&answered.body) else {
        return Ok(answer(answered, Copies::None));
    };
    if !answered.is_granted() {
        return Ok(answer(answered, Copies::None));
    }
    let location = match payment_id {
        Some(payment_id) => format!("/v1/payments/{payment_id}"),
        None => format!("/v1/reservations/{reservation_id}"),
    };
    let mut waited_secs = None;
    if let Some(secs) = head.wait_secs() {
        let is_over = match payment_id {
            None => true,
            Some(payment_id) => {
                let deadline = tokio::time::Instant::now() + Duration::from_secs(secs);
                let refunded = |state| state == PaymentState::Refunded;
                payments::end_of(&edge, &head, payment_id, deadline, refunded).await.is_some()
            }
        };
        if is_over {
            note_outcome(SagaState::Completed, None);
            answered.status = 200;
            waited_secs = Some(secs);
        }
    }
    let response = with_header(answer(answered, Copies::None), header::LOCATION, &location);
    Ok(match waited_secs {
        Some(secs) => payments::preference_applied(response, secs),
        None => response,
    })
}
