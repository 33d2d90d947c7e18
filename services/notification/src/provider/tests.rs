//! Each provider against a local server that speaks its protocol.

pub(crate) mod alimtalk;
mod folder;
mod webhook;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::Router;
use events::{
    ScheduleId, SeatId, Timestamp, UserId,
    notification::{Locale, MessageKind},
};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::{Parcel, Provider, Round, Sent};
use crate::{
    domain::{Delivery, message_id},
    words::{Details, words},
};

const PHONE: &str = "+821012345678";

/// Starts a server that lives until the test ends.
async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    addr
}

/// An address where no server listens.
async fn nowhere() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap()
}

fn parcel(n: u128, kind: MessageKind) -> Parcel {
    let details = Details {
        seats: vec![SeatId("A-1-1".into())],
        amount: Some(120_000),
        ..Details::default()
    };
    let subject_id = Uuid::from_u128(n);
    Parcel {
        id: message_id(subject_id, kind),
        subject_id,
        kind,
        user_id: UserId(Uuid::from_u128(1_000 + n)),
        schedule_id: ScheduleId(Uuid::from_u128(5)),
        phone: Some(PHONE.into()),
        locale: Locale::En,
        words: words(kind, Locale::En, &details, None),
        created_at: mesh::clock::now(),
        again: false,
        receipt: None,
    }
}

fn round() -> Round {
    let until = Instant::now() + Duration::from_secs(10);
    Round { now: mesh::clock::now(), until, within: Duration::from_secs(5) }
}

/// Sends these messages in one round.
async fn send(provider: &Provider, parcels: Vec<Parcel>) -> Sent {
    let ids: Vec<Uuid> = parcels.iter().map(|parcel| parcel.id).collect();
    let mut sent = provider.send(parcels, round()).await;
    let place = |id: &Uuid| ids.iter().position(|known| known == id);
    sent.deliveries.sort_by_key(|(id, _)| place(id));
    assert_eq!(sent.deliveries.len(), ids.len(), "each has an end");
    sent
}

/// Sends one message.
async fn send_one(provider: &Provider, parcel: Parcel) -> Delivery {
    send(provider, vec![parcel]).await.deliveries.remove(0).1
}

fn reason(delivery: &Delivery) -> &str {
    match delivery {
        Delivery::Later { reason, .. } | Delivery::Refused(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn now() -> Timestamp {
    mesh::clock::now()
}
