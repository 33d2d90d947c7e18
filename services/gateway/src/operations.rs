//! The operations: what each endpoint does, area by area.

mod accounts;
mod catalogue;
mod dead_letters;
mod examples;
mod export;
mod following;
mod messages;
mod page;
mod payments;
mod rankings;
mod reservations;
mod sagas;
mod seats;
mod waiting_room;
mod wallet;
mod withdrawals;

use crate::http::op::Op;

/// Every operation of the API.
pub(crate) fn ops() -> Vec<Op> {
    [
        accounts::ops(),
        withdrawals::ops(),
        catalogue::ops(),
        seats::ops(),
        rankings::ops(),
        waiting_room::ops(),
        reservations::ops(),
        wallet::ops(),
        payments::ops(),
        messages::ops(),
        following::ops(),
        sagas::ops(),
        export::ops(),
        dead_letters::ops(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
