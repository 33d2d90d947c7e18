//! Every fact of the mesh, with its type behind it.

use events::{
    Event, ScheduleId, audit, concert, notification, payment, point, queue, reservation, user,
};
use serde_json::Value;
use uuid::Uuid;

use crate::project;

/// One fact: its name, and what its type makes of a message.
#[derive(Debug, Clone, Copy)]
pub struct Fact {
    /// For example `payment.requested`.
    pub name: &'static str,
    /// The version that is told.
    pub version: u32,
    /// Reads a message and says what was understood.
    pub read: fn(&[u8]) -> serde_json::Result<Understood>,
}

/// A message as its type understands it.
#[derive(Debug, Clone, PartialEq)]
pub struct Understood {
    /// Written again.
    pub written: Value,
    /// Its subject.
    pub subject: String,
    /// Whose sale it belongs to.
    pub schedule: Option<ScheduleId>,
    /// What it is about.
    pub about: Uuid,
}

impl Fact {
    const fn of<E: Event>() -> Self {
        Self { name: E::FACT, version: E::VERSION, read: read::<E> }
    }

    /// What a consumer that wants all of it filters by.
    pub fn filter(&self) -> String {
        format!("onsale.{}.v{}.>", self.name, self.version)
    }

    /// Where an example is recorded, from the top folder.
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

    /// The data of the recorded example: what the event's type is made of.
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
        subject: events::subject(E::FACT, E::VERSION, event.schedule()),
        schedule: event.schedule(),
        about: event.about(),
    })
}

/// Every fact. That none is missing is a proof of its own.
pub const ALL: [Fact; 39] = [
    Fact::of::<user::UserRegistered>(),
    Fact::of::<user::UserWithdrawalRequested>(),
    Fact::of::<user::UserWithdrawalRefused>(),
    Fact::of::<user::UserWithdrawn>(),
    Fact::of::<user::UserRoleGranted>(),
    Fact::of::<concert::ScheduleOpened>(),
    Fact::of::<concert::ScheduleCancelled>(),
    Fact::of::<concert::OrganizerAdded>(),
    Fact::of::<concert::OrganizerRemoved>(),
    Fact::of::<queue::QueueWaiting>(),
    Fact::of::<queue::QueueActivated>(),
    Fact::of::<queue::QueueReturned>(),
    Fact::of::<queue::QueueCompleted>(),
    Fact::of::<queue::QueueExpired>(),
    Fact::of::<reservation::ReservationCreated>(),
    Fact::of::<reservation::ReservationConfirmed>(),
    Fact::of::<reservation::ReservationConfirmRefused>(),
    Fact::of::<reservation::ReservationExpired>(),
    Fact::of::<reservation::ReservationCancelled>(),
    Fact::of::<reservation::ReservationWithdrawalCleared>(),
    Fact::of::<reservation::ReservationWithdrawalBlocked>(),
    Fact::of::<payment::PaymentRequested>(),
    Fact::of::<payment::PaymentHoldExtensionRequested>(),
    Fact::of::<payment::PaymentCompleted>(),
    Fact::of::<payment::PaymentFailed>(),
    Fact::of::<payment::PaymentRefunded>(),
    Fact::of::<payment::PaymentWithdrawalCleared>(),
    Fact::of::<payment::PaymentWithdrawalBlocked>(),
    Fact::of::<point::PointCharged>(),
    Fact::of::<point::PointDebited>(),
    Fact::of::<point::PointDebitRefused>(),
    Fact::of::<point::PointRefunded>(),
    Fact::of::<point::PointForfeited>(),
    Fact::of::<point::PointWithdrawalCleared>(),
    Fact::of::<point::PointWithdrawalBlocked>(),
    Fact::of::<notification::NotificationSent>(),
    Fact::of::<notification::NotificationFailed>(),
    Fact::of::<audit::SagaStalled>(),
    Fact::of::<audit::Violation>(),
];

/// The fact of this name.
pub fn named(name: &str) -> Option<&'static Fact> {
    ALL.iter().find(|fact| fact.name == name)
}

/// What each producer's file declares.
pub const DECLARED: [(&str, &[&str]); 8] = [
    ("user", user::FACTS),
    ("concert", concert::FACTS),
    ("queue", queue::FACTS),
    ("reservation", reservation::FACTS),
    ("payment", payment::FACTS),
    ("point", point::FACTS),
    ("notification", notification::FACTS),
    ("audit", audit::FACTS),
];
