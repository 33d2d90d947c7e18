//! The caller's wallet: charging points, the balance and its movements.

use axum::{extract::State, response::Response};
use events::{
    Command, Page, codes,
    point::{Balance, Charge, Entry, FindEntries, GetBalance},
};

use crate::{
    http::{
        call::{Call, Head, Params},
        edge::Edge,
        op::Op,
        problem::{Copies, Refused},
    },
    operations::{examples, page::PageParams},
};

const TAG: &str = "wallet";

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::post("/v1/points/charges", charge)
            .named(TAG, "charge", "Buy points")
            .token()
            .command()
            .takes::<Charge>(examples::CHARGE)
            .gives::<Entry>(Charge::STATUS, "The ledger entry", examples::ENTRY)
            .refuses(&[codes::NOT_FOUND, codes::WALLET_CLOSED, codes::BALANCE_LIMIT]),
        Op::get("/v1/points/balance", balance)
            .named(TAG, "getBalance", "Read the balance")
            .token()
            .gives::<Balance>(200, "The balance", examples::BALANCE)
            .refuses(&[codes::NOT_FOUND]),
        Op::get("/v1/points/entries", entries)
            .named(TAG, "findEntries", "List the movements of the wallet, newest first")
            .token()
            .query::<PageParams>()
            .gives::<Page<Entry>>(200, "A page of movements", examples::ENTRIES),
    ]
}

async fn charge(State(edge): State<Edge>, call: Call) -> Result<Response, Refused> {
    edge.make::<Charge>(call).await
}

async fn balance(State(edge): State<Edge>, head: Head) -> Result<Response, Refused> {
    edge.read(&head, &GetBalance {}, Copies::None).await
}

async fn entries(
    State(edge): State<Edge>,
    Params(PageParams { cursor, limit }): Params<PageParams>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &FindEntries { cursor, limit }, Copies::None).await
}
