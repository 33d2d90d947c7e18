//! Every event of the mesh, with its type.

use events::{
    Event, ScheduleId, audit, concert, notification, payment, point, queue, reservation, user,
};
use serde_json::Value;
use uuid::Uuid;

use crate::project;

/// One event type: its name, its version, and how its data is read.
#[derive(Debug, Clone, Copy)]
pub struct EventType {
    /// For example `payment.requested`.
    pub name: &'static str,
    /// The version that is emitted.
    pub version: u32,
    /// Reads the data and returns what the type understood.
    pub read: fn(&[u8]) -> serde_json::Result<Understood>,
}

/// An event as its type understands it.
#[derive(Debug, Clone, PartialEq)]
pub struct Understood {
    /// The event, serialized again.
    pub written: Value,
    /// Its subject.
    pub subject: String,
    /// The schedule it belongs to.
    pub schedule: Option<ScheduleId>,
    /// The entity it is about.
    pub about: Uuid,
}

impl EventType {
    const fn of<E: Event>() -> Self {
        Self { name: E::NAME, version: E::VERSION, read: read::<E> }
    }

    /// The subject filter for all events of this type.
    pub fn filter(&self) -> String {
        format!("onsale.{}.v{}.>", self.name, self.version)
    }

    /// The path of the recorded example, from the top folder.
    pub fn fixture(&self) -> String {
        format!("events/fixtures/{}.v{}.json", self.name, self.version)
    }

    /// The recorded example: a whole event, as it is on the wire.
    ///
    /// # Panics
    /// When there is none.
    pub fn recorded(&self) -> Value {
        project::read_json(self.fixture())
    }

    /// The data of the recorded example, which the event's type deserializes.
    ///
    /// # Panics
    /// When there is none.
    pub fn data(&self) -> Value {
        self.recorded()["data"].take()
    }
}

fn read<E: Event>(message: &[u8]) -> serde_json::Result<Understood> {
    let event: E = serde_json::from_slice(message)?;
    Ok(Understood {
        written: serde_json::to_value(&event)?,
        subject: events::subject(E::NAME, E::VERSION, event.schedule()),
        schedule: event.schedule(),
        about: event.about(),
    })
}

/// Every event type. A test checks that none is missing.
pub const ALL: [EventType; 39] = [
    EventType::of::<user::UserRegistered>(),
    EventType::of::<user::UserWithdrawalRequested>(),
    EventType::of::<user::UserWithdrawalRefused>(),
    EventType::of::<user::UserWithdrawn>(),
    EventType::of::<user::UserRoleGranted>(),
    EventType::of::<concert::ScheduleOpened>(),
    EventType::of::<concert::ScheduleCancelled>(),
    EventType::of::<concert::OrganizerAdded>(),
    EventType::of::<concert::OrganizerRemoved>(),
    EventType::of::<queue::QueueWaiting>(),
    EventType::of::<queue::QueueActivated>(),
    EventType::of::<queue::QueueReturned>(),
    EventType::of::<queue::QueueCompleted>(),
    EventType::of::<queue::QueueExpired>(),
    EventType::of::<reservation::ReservationCreated>(),
    EventType::of::<reservation::ReservationConfirmed>(),
    EventType::of::<reservation::ReservationConfirmRefused>(),
    EventType::of::<reservation::ReservationExpired>(),
    EventType::of::<reservation::ReservationCancelled>(),
    EventType::of::<reservation::ReservationWithdrawalCleared>(),
    EventType::of::<reservation::ReservationWithdrawalBlocked>(),
    EventType::of::<payment::PaymentRequested>(),
    EventType::of::<payment::PaymentHoldExtensionRequested>(),
    EventType::of::<payment::PaymentCompleted>(),
    EventType::of::<payment::PaymentFailed>(),
    EventType::of::<payment::PaymentRefunded>(),
    EventType::of::<payment::PaymentWithdrawalCleared>(),
    EventType::of::<payment::PaymentWithdrawalBlocked>(),
    EventType::of::<point::PointCharged>(),
    EventType::of::<point::PointDebited>(),
    EventType::of::<point::PointDebitRefused>(),
    EventType::of::<point::PointRefunded>(),
    EventType::of::<point::PointForfeited>(),
    EventType::of::<point::PointWithdrawalCleared>(),
    EventType::of::<point::PointWithdrawalBlocked>(),
    EventType::of::<notification::NotificationSent>(),
    EventType::of::<notification::NotificationFailed>(),
    EventType::of::<audit::SagaStalled>(),
    EventType::of::<audit::Violation>(),
];

/// The event type of this name.
pub fn named(name: &str) -> Option<&'static EventType> {
    ALL.iter().find(|event| event.name == name)
}

/// What each producer's file declares.
pub const DECLARED: [(&str, &[&str]); 8] = [
    ("user", user::EVENTS),
    ("concert", concert::EVENTS),
    ("queue", queue::EVENTS),
    ("reservation", reservation::EVENTS),
    ("payment", payment::EVENTS),
    ("point", point::EVENTS),
    ("notification", notification::EVENTS),
    ("audit", audit::EVENTS),
];
