//! Messages to the caller: the contact they go to, and the list of them.

use axum::{extract::State, response::Response};
use events::{
    Command, Page, codes,
    notification::{Contact, FindMessages, GetContact, Message, SetContact},
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

const TAG: &str = "messages";

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::put("/v1/me/contact", set_contact)
            .named(TAG, "setContact", "Set where messages go")
            .explained(
                "Replaces the previous contact. Without `phone`, the number is removed. The contact \
                 is deleted when the account is closed.",
            )
            .token()
            .takes::<SetContact>(examples::SET_CONTACT)
            .gives::<Contact>(SetContact::STATUS, "Where messages go now", examples::CONTACT)
            .refuses(&[codes::ACCOUNT_CLOSING]),
        Op::get("/v1/me/contact", contact)
            .named(TAG, "getContact", "Read where messages go")
            .token()
            .gives::<Contact>(200, "Where messages go", examples::CONTACT),
        Op::get("/v1/me/messages", messages)
            .named(TAG, "findMessages", "List the caller's messages, newest first")
            .explained(
                "One of each kind about each reservation or payment, whether it was sent or not.",
            )
            .token()
            .query::<PageParams>()
            .gives::<Page<Message>>(200, "A page of messages", examples::MESSAGES)
            .lists::<Message>(),
    ]
}

async fn set_contact(State(edge): State<Edge>, call: Call) -> Result<Response, Refused> {
    edge.make::<SetContact>(call).await
}

async fn contact(State(edge): State<Edge>, head: Head) -> Result<Response, Refused> {
    edge.read(&head, &GetContact {}, Copies::None).await
}

async fn messages(
    State(edge): State<Edge>,
    Params(PageParams { cursor, limit }): Params<PageParams>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &FindMessages { cursor, limit }, Copies::None).await
}
