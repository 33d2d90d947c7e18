//! The handlers of the services, as they are, on tables in memory.

use std::collections::BTreeMap;

use events::{
    Command, Event, Timestamp, UserId, concert, payment as p, point as w, reservation as r,
    user::{Role, UserRegistered},
};
use mesh::{
    Caller, Context, Emitted, Execute, Handle, HandleError, Wiring, clock::simulated,
    memory::InMemory,
};
use uuid::Uuid;

use crate::steps::{Service, Waiting};

/// Who consumes what, as the services declare it.
pub struct Routes(BTreeMap<&'static str, Vec<(Service, u64)>>);

impl Routes {
    /// The wiring of the three services. Events of others have no route here.
    pub fn of_services() -> Self {
        let wirings = [
            (Service::Reservation, reservation::service().wiring()),
            (Service::Payment, payment::service().wiring()),
            (Service::Point, point::service().wiring()),
        ];
        let mut routes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (service, wiring) in &wirings {
            for (event, emits) in &wiring.consumes {
                let route = (*service, weight(emits, &wirings));
                routes.entry(*event).or_default().push(route);
            }
        }
        Self(routes)
    }

    /// The event at each of its consumers.
    pub fn of(&self, emitted: &Emitted) -> impl Iterator<Item = Waiting> {
        let name = events::event_of_subject(&emitted.subject).unwrap_or_default();
        let route = self.0.get_key_value(name);
        let data = std::str::from_utf8(&emitted.payload).unwrap_or_default();
        route.into_iter().flat_map(move |(event, consumers)| {
            let waiting = move |&(at, weight)| Waiting { at, event, data: data.into(), weight };
            consumers.iter().map(waiting)
        })
    }
}

/// How many messages can follow from one whose handler emits these events, itself included.
fn weight(emits: &[&str], wirings: &[(Service, Wiring)]) -> u64 {
    let consumers = wirings.iter().flat_map(|(_, wiring)| &wiring.consumes);
    let follow = consumers.filter(|(event, _)| emits.contains(event));
    1 + follow.map(|(_, emits)| weight(emits, wirings)).sum::<u64>()
}

/// Why a handler did not handle an event.
#[derive(Debug)]
pub enum Stop {
    /// It waits for another event.
    NotYet,
    /// It would be a dead letter.
    Never(String),
}

/// Handles an event as `reservation`.
pub fn reservation(
    waiting: &Waiting,
    tables: &mut reservation::sim::Tables,
    now: Timestamp,
) -> Result<Vec<Emitted>, Stop> {
    type Unit = reservation::UnitOfWork;
    let config = reservation::Config::default();
    match waiting.event {
        w::PointDebited::NAME => handle::<Unit, w::PointDebited>(waiting, tables, &config, now),
        p::PaymentHoldExtensionRequested::NAME => {
            handle::<Unit, p::PaymentHoldExtensionRequested>(waiting, tables, &config, now)
        }
        p::PaymentRefunded::NAME => {
            handle::<Unit, p::PaymentRefunded>(waiting, tables, &config, now)
        }
        other => unreachable!("{other} has no route here"),
    }
}

/// Handles an event as `payment`.
pub fn payment(
    waiting: &Waiting,
    tables: &mut payment::sim::Tables,
    now: Timestamp,
) -> Result<Vec<Emitted>, Stop> {
    type Unit = payment::UnitOfWork;
    let config = payment::Config::default();
    match waiting.event {
        r::ReservationCreated::NAME => {
            handle::<Unit, r::ReservationCreated>(waiting, tables, &config, now)
        }
        r::ReservationConfirmed::NAME => {
            handle::<Unit, r::ReservationConfirmed>(waiting, tables, &config, now)
        }
        r::ReservationConfirmRefused::NAME => {
            handle::<Unit, r::ReservationConfirmRefused>(waiting, tables, &config, now)
        }
        r::ReservationCancelled::NAME => {
            handle::<Unit, r::ReservationCancelled>(waiting, tables, &config, now)
        }
        w::PointDebitRefused::NAME => {
            handle::<Unit, w::PointDebitRefused>(waiting, tables, &config, now)
        }
        w::PointRefunded::NAME => handle::<Unit, w::PointRefunded>(waiting, tables, &config, now),
        other => unreachable!("{other} has no route here"),
    }
}

/// Handles an event as `point`.
pub fn point(
    waiting: &Waiting,
    tables: &mut point::sim::Tables,
    now: Timestamp,
) -> Result<Vec<Emitted>, Stop> {
    type Unit = point::UnitOfWork;
    let config = point::Config::default();
    match waiting.event {
        p::PaymentRequested::NAME => {
            handle::<Unit, p::PaymentRequested>(waiting, tables, &config, now)
        }
        r::ReservationConfirmRefused::NAME => {
            handle::<Unit, r::ReservationConfirmRefused>(waiting, tables, &config, now)
        }
        r::ReservationCancelled::NAME => {
            handle::<Unit, r::ReservationCancelled>(waiting, tables, &config, now)
        }
        other => unreachable!("{other} has no route here"),
    }
}

/// Opens the show in `reservation`.
pub fn open_show(show: &concert::ScheduleOpened, now: Timestamp) -> reservation::sim::Tables {
    let mut tables = reservation::sim::Tables::default();
    let config = reservation::Config::default();
    let opened = run::<reservation::UnitOfWork, _>(show, &mut tables, &config, now);
    opened.expect("a show as the concert service emits it");
    tables
}

/// Calls the show off in `reservation`.
pub fn call_off(
    show: &concert::ScheduleCancelled,
    tables: &mut reservation::sim::Tables,
    now: Timestamp,
) -> Result<Vec<Emitted>, Stop> {
    run::<reservation::UnitOfWork, _>(show, tables, &reservation::Config::default(), now)
}

/// Opens a wallet in `point`.
pub fn open_wallet(fan: UserId, tables: &mut point::sim::Tables, now: Timestamp) {
    let registered = UserRegistered { user_id: fan, at: now };
    let config = point::Config::default();
    let opened = run::<point::UnitOfWork, _>(&registered, tables, &config, now);
    opened.expect("a new wallet");
}

fn handle<B: InMemory + Handle<E>, E: Event>(
    waiting: &Waiting,
    tables: &mut B::Tables,
    config: &B::Config,
    now: Timestamp,
) -> Result<Vec<Emitted>, Stop> {
    let event: E = serde_json::from_str(&waiting.data).expect("a service emitted it");
    run::<B, E>(&event, tables, config, now)
}

/// One event as one transaction. When it stops, `tables` are of no use any more.
fn run<B: InMemory + Handle<E>, E: Event>(
    event: &E,
    tables: &mut B::Tables,
    config: &B::Config,
    now: Timestamp,
) -> Result<Vec<Emitted>, Stop> {
    let _clock = simulated::begin(now, 0);
    let mut keys = B::Keys::default();
    <B as Handle<E>>::keys(event, &mut keys);
    let mut unit = B::load_from(keys, tables);
    let mut ctx = Context::at(now, config, &Caller::Mesh, Uuid::nil());
    match unit.handle(event, &mut ctx) {
        Ok(()) => {}
        Err(HandleError::NotYet(_)) => return Err(Stop::NotYet),
        Err(HandleError::Never(cause)) => return Err(Stop::Never(cause)),
    }
    let emitted = ctx.emitted().to_vec();
    unit.save_to(tables).map_err(|failure| Stop::Never(failure.to_string()))?;
    Ok(emitted)
}

/// One command as one transaction; nothing when it is refused.
pub fn execute<B: InMemory + Execute<C>, C: Command>(
    command: &C,
    by: Option<UserId>,
    id: Uuid,
    tables: &mut B::Tables,
    config: &B::Config,
    now: Timestamp,
) -> Option<Vec<Emitted>> {
    let _clock = simulated::begin(now, 0);
    let caller = by.map_or(Caller::Mesh, |user_id| Caller::User {
        user_id,
        roles: vec![Role::Fan],
        expires_at: now.plus_secs(60),
    });
    let mut keys = B::Keys::default();
    <B as Execute<C>>::keys(command, &caller, &mut keys);
    let mut unit = B::load_from(keys, tables);
    let mut ctx = Context::at(now, config, &caller, id);
    unit.execute(command, &mut ctx).ok()?;
    let emitted = ctx.emitted().to_vec();
    unit.save_to(tables).ok()?;
    Some(emitted)
}
