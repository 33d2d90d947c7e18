//! The model: how a step leads from one state to the next.

use std::collections::BTreeMap;

use events::{
    ConcertId, PaymentId, ScheduleId, SeatId, Timestamp,
    concert::{ScheduleCancelled, ScheduleOpened},
    payment::Pay,
    point::Charge,
    reservation::Cancel,
};
use mesh::Emitted;
use reservation::sim::{EmptyShow, ExpireHold, Hold, Pass};
use serde_json::json;
use stateright::{Model, Property};
use uuid::Uuid;

use crate::{
    bugs::{self, Bug},
    checks,
    handling::{self, Routes, Stop, execute},
    sale::Sale,
    scenario::{Ask, Fan, HOLD_SECS, PRICE, Scenario},
    steps::{Service, Step, Waiting},
    stores::Shared,
};

/// The time at which every path begins, in Unix milliseconds.
const BEGIN: i64 = 1_800_000_000_000;
/// The show.
const SHOW: ScheduleId = ScheduleId(Uuid::from_u128(1));

/// A scenario, with a planted mistake or none.
pub struct Saga {
    /// Who wants what, and how often a message may come again.
    pub scenario: Scenario,
    /// The mistake that is planted.
    pub bug: Option<Bug>,
    routes: Routes,
}

impl Saga {
    /// The scenario as the services handle it.
    pub fn of(scenario: Scenario) -> Self {
        Self { scenario, bug: None, routes: Routes::of_services() }
    }

    /// The scenario with a mistake in it.
    pub fn with(scenario: Scenario, bug: Bug) -> Self {
        Self { bug: Some(bug), ..Self::of(scenario) }
    }
}

impl Model for Saga {
    type State = Sale;
    type Action = Step;

    fn init_states(&self) -> Vec<Sale> {
        vec![self.begin()]
    }

    fn actions(&self, sale: &Sale, steps: &mut Vec<Step>) {
        self.possible(sale, steps);
    }

    fn next_state(&self, sale: &Sale, step: Step) -> Option<Sale> {
        let next = self.perform(sale, &step)?;
        let (before, after) = (sale.work_left(), next.work_left());
        let is_less = after < before || self.bug.is_some();
        assert!(is_less, "{step:?} leaves {after} of {before}: a path might never end");
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        checks::properties(&self.scenario)
    }
}

impl Saga {
    /// The state that every path begins in: the show is on sale, both fans have wallets.
    pub(crate) fn begin(&self) -> Sale {
        let now = self.at(0);
        let mut wallets = point::sim::Tables::default();
        for (fan, balance) in [Fan::First, Fan::Second].into_iter().zip(self.scenario.balances) {
            handling::open_wallet(fan.user_id(), &mut wallets, now);
            if balance > 0 {
                let charge = Charge { amount: balance };
                let charged = charge_by(fan, &charge, &mut wallets, now);
                charged.expect("an open wallet takes a charge");
            }
        }
        let (mut reservation, mut point) = (Shared::new(Default::default()), Shared::new(wallets));
        Sale::put(&mut reservation, handling::open_show(&opened(now), now));
        let wallets = point.get().clone();
        Sale::put(&mut point, wallets);
        Sale {
            time: (0, self.scenario.times.len()),
            reservation,
            payment: Shared::new(payment::sim::Tables::default()),
            point,
            waiting: BTreeMap::new(),
            asks: self.scenario.asks.clone(),
            repeats: self.scenario.repeats,
            dead: None,
        }
    }

    fn at(&self, time: usize) -> Timestamp {
        let begin = Timestamp::from_unix_millis(BEGIN).expect("a moment of this century");
        begin.plus_secs(self.scenario.times[time])
    }

    /// Adds the steps that may come next. Some of them change nothing, and are none.
    pub(crate) fn possible(&self, sale: &Sale, steps: &mut Vec<Step>) {
        if sale.dead.is_some() {
            return;
        }
        // Nothing begins at the last time, so that everything can end.
        if !sale.is_late() {
            steps.push(Step::TimePasses);
            steps.extend(sale.asks.iter().copied().map(Step::Ask));
        }
        let now = self.at(sale.time.0);
        if self.bug != Some(Bug::TimerOff) {
            let due = sale.reservation.get().due_holds(now).into_iter();
            steps.extend(due.map(|due| Step::Expire(due.reservation_id)));
        }
        if !sale.reservation.get().cancelled_shows().is_empty() {
            steps.push(Step::EmptyShow);
        }
        for waiting in sale.waiting.keys() {
            steps.push(Step::Handle(waiting.clone()));
            if sale.repeats > 0 {
                steps.push(Step::HandleAndDie(waiting.clone()));
            }
        }
    }

    /// The state after a step; nothing when the step changes nothing.
    pub(crate) fn perform(&self, sale: &Sale, step: &Step) -> Option<Sale> {
        let mut next = sale.clone();
        let now = self.at(sale.time.0);
        let emitted = match step {
            Step::TimePasses => {
                next.time.0 += 1;
                Vec::new()
            }
            Step::Ask(ask) => {
                next.asks.retain(|other| other != ask);
                self.ask(*ask, &mut next, now)?
            }
            Step::Expire(id) => {
                let mut tables = sale.reservation.get().clone();
                let expire = ExpireHold { reservation_id: *id };
                let emitted = by_timer(&expire, &mut tables, now)?;
                Sale::put(&mut next.reservation, tables);
                emitted
            }
            Step::EmptyShow => {
                let mut tables = sale.reservation.get().clone();
                let EmptyShow { schedule_id, reservations } = tables.cancelled_shows().pop()?;
                let emitted = by_timer(&EmptyShow { schedule_id, reservations }, &mut tables, now)?;
                Sale::put(&mut next.reservation, tables);
                emitted
            }
            Step::Handle(waiting) => {
                match next.waiting.get_mut(waiting) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => drop(next.waiting.remove(waiting)),
                }
                self.handle(waiting, &mut next, now)?
            }
            Step::HandleAndDie(waiting) => {
                let emitted = self.handle(waiting, &mut next, now)?;
                if emitted.is_empty() && next == *sale {
                    return None;
                }
                next.repeats -= 1;
                emitted
            }
        };
        self.send(&emitted, &mut next);
        Some(next)
    }

    fn send(&self, emitted: &[Emitted], sale: &mut Sale) {
        for waiting in emitted.iter().flat_map(|emitted| self.routes.of(emitted)) {
            if self.bug.is_none_or(|bug| !bug.loses(waiting.event)) {
                *sale.waiting.entry(waiting).or_default() += 1;
            }
        }
    }

    /// Handles an event; nothing while it is too early.
    fn handle(&self, waiting: &Waiting, sale: &mut Sale, now: Timestamp) -> Option<Vec<Emitted>> {
        let mut emitted = Err(Stop::NotYet);
        match waiting.at {
            Service::Reservation => {
                let mut tables = sale.reservation.get().clone();
                let mut handle = |waiting: &Waiting, tables: &mut _| {
                    emitted = handling::reservation(waiting, tables, now);
                    emitted.is_ok()
                };
                let is_done = match self.bug {
                    Some(bug) => {
                        let mut waiting = waiting.clone();
                        bugs::around_reservation(bug, &mut waiting, &mut tables, now, handle)
                    }
                    None => handle(waiting, &mut tables),
                };
                if is_done {
                    Sale::put(&mut sale.reservation, tables);
                }
            }
            Service::Payment => {
                let mut tables = sale.payment.get().clone();
                emitted = handling::payment(waiting, &mut tables, now);
                if emitted.is_ok() {
                    Sale::put(&mut sale.payment, tables);
                }
            }
            Service::Point => {
                let mut tables = sale.point.get().clone();
                let mut handle = |waiting: &Waiting, tables: &mut _| {
                    emitted = handling::point(waiting, tables, now);
                    emitted.is_ok()
                };
                let is_done = match self.bug {
                    Some(bug) => bugs::around_point(bug, waiting, &mut tables, handle),
                    None => handle(waiting, &mut tables),
                };
                if is_done {
                    Sale::put(&mut sale.point, tables);
                }
            }
        }
        match emitted {
            Ok(emitted) => Some(emitted),
            Err(Stop::NotYet) => None,
            Err(Stop::Never(cause)) => {
                sale.dead = Some(format!("{} at {:?}: {cause}", waiting.event, waiting.at));
                sale.waiting.remove(waiting);
                Some(Vec::new())
            }
        }
    }

    /// Sends a command; nothing when it is refused.
    fn ask(&self, ask: Ask, sale: &mut Sale, now: Timestamp) -> Option<Vec<Emitted>> {
        match ask {
            Ask::Hold(fan) => {
                let mut tables = sale.reservation.get().clone();
                let emitted = by_fan(fan, &hold(fan, now), &mut tables, now)?;
                Sale::put(&mut sale.reservation, tables);
                Some(emitted)
            }
            Ask::Cancel(fan) => {
                let mut tables = sale.reservation.get().clone();
                let cancel = Cancel { reservation_id: fan.reservation_id() };
                let emitted = by_fan(fan, &cancel, &mut tables, now)?;
                Sale::put(&mut sale.reservation, tables);
                Some(emitted)
            }
            Ask::CallOff => {
                let mut tables = sale.reservation.get().clone();
                let emitted = handling::call_off(&cancelled(), &mut tables, now).ok()?;
                Sale::put(&mut sale.reservation, tables);
                Some(emitted)
            }
            Ask::Pay(fan, number) => {
                let mut tables = sale.payment.get().clone();
                let pay = Pay { reservation_id: fan.reservation_id() };
                let id = payment_id(fan, number);
                let config = payment::Config::default();
                let (by, unit) = (Some(fan.user_id()), &mut tables);
                let emitted =
                    execute::<payment::UnitOfWork, _>(&pay, by, id.0, unit, &config, now)?;
                Sale::put(&mut sale.payment, tables);
                Some(emitted)
            }
            Ask::Charge(fan) => {
                let mut tables = sale.point.get().clone();
                let emitted = charge_by(fan, &Charge { amount: PRICE }, &mut tables, now)?;
                Sale::put(&mut sale.point, tables);
                Some(emitted)
            }
        }
    }
}

fn payment_id(fan: Fan, number: u8) -> PaymentId {
    PaymentId(Uuid::from_u128(0x100 + 0x10 * (fan as u128) + u128::from(number)))
}

fn by_fan<C: events::Command>(
    fan: Fan,
    command: &C,
    tables: &mut reservation::sim::Tables,
    now: Timestamp,
) -> Option<Vec<Emitted>>
where
    reservation::UnitOfWork: mesh::Execute<C>,
{
    let (by, id) = (Some(fan.user_id()), fan.reservation_id().0);
    let config = reservation::Config::default();
    execute::<reservation::UnitOfWork, C>(command, by, id, tables, &config, now)
}

fn by_timer<C: events::Command>(
    command: &C,
    tables: &mut reservation::sim::Tables,
    now: Timestamp,
) -> Option<Vec<Emitted>>
where
    reservation::UnitOfWork: mesh::Execute<C>,
{
    let config = reservation::Config::default();
    execute::<reservation::UnitOfWork, C>(command, None, Uuid::nil(), tables, &config, now)
}

fn charge_by(
    fan: Fan,
    charge: &Charge,
    tables: &mut point::sim::Tables,
    now: Timestamp,
) -> Option<Vec<Emitted>> {
    let config = point::Config::default();
    let by = Some(fan.user_id());
    execute::<point::UnitOfWork, _>(charge, by, Uuid::nil(), tables, &config, now)
}

fn hold(fan: Fan, now: Timestamp) -> Hold {
    let user_id = fan.user_id();
    let reserve_until = now.plus_secs(60);
    let pass = Pass { user_id, schedule_id: SHOW, place_version: 1 + fan as u64, reserve_until };
    let seats = vec![SeatId::new("A", "1", "1")];
    Hold { schedule_id: SHOW, seats, pass: Some(pass), is_late: false }
}

fn opened(now: Timestamp) -> ScheduleOpened {
    let opened = json!({
        "schedule_id": SHOW, "concert_id": ConcertId(SHOW.0), "title": "Model", "venue": "Nowhere",
        "opens_at": now.plus_secs(-60), "starts_at": now.plus_secs(86_400),
        "admission": {"per_second": 1, "active_max": 2, "pass_secs": 60},
        "hold_secs": HOLD_SECS, "seats_per_fan_max": 1,
        "seats": [{"section": "A", "row": "1", "price": PRICE, "seats": ["1"]}],
    });
    serde_json::from_value(opened).expect("a show as the concert service emits it")
}

fn cancelled() -> ScheduleCancelled {
    let (schedule_id, concert_id) = (SHOW, ConcertId(SHOW.0));
    ScheduleCancelled { schedule_id, concert_id, reason: "The singer is ill.".into(), by: None }
}
