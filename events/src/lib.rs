//! The messages of the mesh: every event, command, query and refusal, as plain data.
//!
//! One file per producer. An event is a past-tense struct with a fixed name
//! ([`Event::NAME`]) and a version. Both are part of its subject on the wire,
//! `onsale.<service>.<event>.v<version>.<schedule id or ->`. A command or query is a
//! request that one service answers ([`Command::ENDPOINT`]). A signed token is proof that one
//! service gives and others verify ([`Claims`]). [`CONTRACTS`] says what each service emits and
//! answers.
//!
//! **Architecture invariant:** this crate depends on no runtime: no tokio, no SQL,
//! no NATS, no HTTP. Consumers tolerate unknown fields; producers only add
//! optional ones; anything else is a new version.

pub mod audit;
mod claims;
pub mod concert;
pub mod data_platform;
pub mod dead_letter;
mod envelope;
mod ids;
pub mod notification;
pub mod payment;
pub mod point;
mod problem;
pub mod queue;
pub mod ranking;
pub mod reservation;
mod seats;
mod services;
pub mod state;
pub mod user;
pub mod withdrawal;

pub use claims::Claims;
pub use envelope::{CONTENT_TYPE, Envelope, SpecVersion, event_of_type};
pub use ids::*;
pub use problem::{Code, Problem, codes};
pub use services::{CONTRACTS, Contract, all_events, contract_of};

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// An event: something that has happened, emitted by the one service that owns it.
pub trait Event:
    Serialize + DeserializeOwned + std::fmt::Debug + Clone + Send + Sync + 'static
{
    /// `<service>.<event>`, for example `payment.requested`.
    const NAME: &'static str;
    /// Raised only by a change that old readers cannot read.
    const VERSION: u32 = 1;

    /// The schedule whose sale this event belongs to: the subject key, the last token of the
    /// subject.
    fn schedule(&self) -> Option<ScheduleId>;

    /// The thing this event is about (`ce-subject`): a payment, a reservation, a user.
    fn about(&self) -> Uuid;
}

/// A command or a query: a request that one service answers.
pub trait Command: Serialize + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static {
    /// `<service>.<verb>`, for example `payment.pay`; the NATS subject is `cmd.` and this.
    const ENDPOINT: &'static str;
    /// HTTP status of a granted request.
    const STATUS: u16 = 200;
    /// The answer to a granted request.
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// The owner of a request without a token: something that only the caller, or the account
    /// it names, has. Idempotency keys of anonymous callers belong to it.
    fn owner(&self) -> Option<String> {
        None
    }
}

/// The service that emits an event: the part before the dot.
pub fn producer_of(event: &str) -> &str {
    event.split_once('.').map_or(event, |(service, _)| service)
}

/// `onsale.<service>.<event>.v<version>.<key>`; the subject key is `-` outside any schedule.
pub fn subject(event: &str, version: u32, key: Option<ScheduleId>) -> String {
    match key {
        Some(schedule) => format!("onsale.{event}.v{version}.{schedule}"),
        None => format!("onsale.{event}.v{version}.-"),
    }
}

/// The event named by a subject, for example `payment.requested`; `None` for a subject that is
/// not ours.
pub fn event_of_subject(subject: &str) -> Option<&str> {
    let rest = subject.strip_prefix("onsale.")?;
    let mut dots = rest.match_indices('.').map(|(at, _)| at);
    let end = dots.nth(1)?;
    rest.get(..end)
}

/// One page of a list, newest first.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The entries of this page.
    pub items: Vec<T>,
    /// Pass this as `?cursor=` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Entries of a page when the caller does not say how many.
pub const PAGE_DEFAULT: u32 = 20;
/// The most entries of a page.
pub const PAGE_MAX: u32 = 100;

/// Declares the events of one producer: name, subject key and the thing they are about.
#[macro_export]
macro_rules! events {
    ($($name:ident = $event:literal, schedule: $schedule:expr, about: $about:expr;)+) => {
        $(impl $crate::Event for $name {
            const NAME: &'static str = $event;
            fn schedule(&self) -> Option<$crate::ScheduleId> {
                let read: fn(&Self) -> Option<$crate::ScheduleId> = $schedule;
                read(self)
            }
            fn about(&self) -> uuid::Uuid {
                let read: fn(&Self) -> uuid::Uuid = $about;
                read(self)
            }
        })+
        /// The names of all events of this producer.
        pub const EVENTS: &[&str] = &[$($event),+];
    };
}

/// Declares the commands and queries that one service answers. Those that come without a token
/// declare their owner.
#[macro_export]
macro_rules! commands {
    ($($name:ident = $endpoint:literal, $status:literal => $reply:ty $(, owner: $owner:expr)?;)+) => {
        $(impl $crate::Command for $name {
            const ENDPOINT: &'static str = $endpoint;
            const STATUS: u16 = $status;
            type Reply = $reply;
            $(fn owner(&self) -> Option<String> {
                let read: fn(&Self) -> String = $owner;
                Some(read(self))
            })?
        })+
        /// The names of all endpoints of this service.
        pub const ENDPOINTS: &[&str] = &[$($endpoint),+];
    };
}
