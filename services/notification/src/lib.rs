//! The notification service: messages to fans, one per subject and kind, each sent once.
//!
//! It owns the contacts of fans, and the messages.
//!
//! | consumes | and then there is a message |
//! |---|---|
//! | `reservation.created` | `reservation_made`, about the reservation |
//! | `reservation.expired` | `hold_expired`, about the reservation |
//! | `reservation.cancelled` because the show is | `show_cancelled`, about the reservation |
//! | `payment.completed`, `.failed` | `payment_completed`, `payment_failed`, about the payment |
//! | `payment.refunded` | `money_returned`, about the payment |
//! | `concert.schedule_opened` | none; messages name the show |
//! | `user.withdrawn` | none from now on; pending messages fail |
//!
//! No other service waits for what it decides: when the provider is slow or down, messages wait
//! in their table and nothing else does. It emits `notification.sent` and `.failed`, in the saga
//! of the event that caused the message.
//!
//! **Invariants.** There is one message of a kind about a subject. It is sent under an id that is
//! the same at every try. No transaction and no lock is held while it is sent. At its deadline it
//! is either sent or failed.

mod config;
mod domain;
mod handlers;
mod provider;
mod queries;
mod sending;
mod unit_of_work;
mod words;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use events::{
    Event, concert, notification,
    notification::{NotificationFailed, NotificationSent},
    payment, reservation, user,
};
use mesh::{Allow, Link, Running, Service, postgres::Postgres};

pub use config::{Config, ConfigError};
pub use domain::Pace;
pub use provider::{Alimtalk, Folder, Provider, Relay, Unusable, Webhook};
pub use unit_of_work::{Keys, UnitOfWork};

/// The service.
pub const NAME: &str = "notification";

/// The service's tables.
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations![
    "notification/0101_notification.sql",
    "notification/0102_traces_of_messages.sql",
];

/// The service, to be run on a [`Postgres`].
pub fn service() -> Service<Postgres<UnitOfWork>> {
    const SENT: &str = NotificationSent::NAME;
    const FAILED: &str = NotificationFailed::NAME;
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .later()
        .consumes::<concert::ScheduleOpened>(&[])
        .consumes::<reservation::ReservationCreated>(&[])
        .consumes::<reservation::ReservationExpired>(&[])
        .consumes::<reservation::ReservationCancelled>(&[])
        .consumes::<payment::PaymentCompleted>(&[])
        .consumes::<payment::PaymentFailed>(&[])
        .consumes::<payment::PaymentRefunded>(&[])
        .consumes::<user::UserWithdrawn>(&[FAILED])
        .queries::<notification::SetContact, _, _>(Allow::User, queries::set_contact)
        .executes::<handlers::KeepContact>(Allow::Inside, &[])
        .queries::<notification::GetContact, _, _>(Allow::User, queries::contact)
        .queries::<notification::FindMessages, _, _>(Allow::User, queries::messages)
        .executes::<handlers::RecordDelivery>(Allow::Inside, &[SENT, FAILED])
        .every_with("send", sending::TICK, sending::send_due)
        .observes(&handlers::NOTIFICATIONS, handlers::ENDS)
}

/// Starts the service. All of the runtime for its engine is compiled in this crate, once, and
/// not again in every program that starts it.
pub fn start(engine: Arc<Postgres<UnitOfWork>>, link: Link) -> Running {
    mesh::start(service(), engine, link)
}
