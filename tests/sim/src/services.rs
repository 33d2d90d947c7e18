//! The services of a simulated sale, with what their timers look for.

use std::collections::{BTreeMap, BTreeSet};

use mesh::memory::{Database, Mistake};

use crate::{
    host::{Host, On, Plan, Poison},
    people::Wish,
};

/// The seconds after which an attempt to withdraw is refused.
const WITHDRAWAL_SECS: i64 = 30;

/// The state of every service; it outlives the processes.
#[derive(Default)]
pub struct Stores {
    /// Accounts.
    pub user: Database<user::UnitOfWork>,
    /// Seats.
    pub reservation: Database<reservation::UnitOfWork>,
    /// Payments.
    pub payment: Database<payment::UnitOfWork>,
    /// Wallets.
    pub point: Database<point::UnitOfWork>,
}

impl Stores {
    /// Plants a mistake in every store.
    pub fn plant(&self, mistake: Mistake) {
        self.user.plant(mistake);
        self.reservation.plant(mistake);
        self.payment.plant(mistake);
        self.point.plant(mistake);
    }
}

/// All producers, with `concert`, of which only the events are played.
pub const PRODUCERS: [&str; 5] =
    [user::NAME, reservation::NAME, payment::NAME, point::NAME, "concert"];

/// Which events each service consumes.
pub fn filters() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let events = |wiring: mesh::Wiring| wiring.consumes.iter().map(|(event, _)| *event).collect();
    BTreeMap::from([
        (user::NAME, events(user::service().wiring())),
        (reservation::NAME, events(reservation::service().wiring())),
        (payment::NAME, events(payment::service().wiring())),
        (point::NAME, events(point::service().wiring())),
    ])
}

/// The services, just started. Until `poison` says otherwise, they handle every event.
pub fn hosts(stores: &Stores, poison: &Poison) -> Vec<(&'static str, Box<dyn Host>)> {
    let Stores { user, reservation, payment, point } = stores;
    let user = On::new(user::NAME, users(), user.clone(), poison.clone());
    let reservation =
        On::new(reservation::NAME, reservations(), reservation.clone(), poison.clone());
    let payment = On::new(payment::NAME, payments(), payment.clone(), poison.clone());
    let point = On::new(point::NAME, points(), point.clone(), poison.clone());
    vec![
        (user::NAME, Box::new(user)),
        (reservation::NAME, Box::new(reservation)),
        (payment::NAME, Box::new(payment)),
        (point::NAME, Box::new(point)),
    ]
}

fn users() -> Plan<user::UnitOfWork> {
    Plan {
        service: user::service,
        config: user::Config::default,
        work: |process, wish, asking| match wish.clone() {
            Wish::SignUp(add) => Some(process.command(add, asking)),
            Wish::Withdraw(withdraw) => Some(process.command(withdraw, asking)),
            Wish::RefuseWithdrawal(refuse) => Some(process.command(refuse, asking)),
            _ => None,
        },
        due: |tables, now| {
            let due = tables.unanswered(WITHDRAWAL_SECS, now);
            due.into_iter().map(Wish::RefuseWithdrawal).collect()
        },
    }
}

fn reservations() -> Plan<reservation::UnitOfWork> {
    Plan {
        service: reservation::service,
        config: reservation::Config::default,
        work: |process, wish, asking| match wish {
            Wish::Hold { schedule_id, seats, pass } => {
                let (schedule_id, seats) = (*schedule_id, seats.clone());
                let pass = Some(pass.clone());
                let hold = reservation::sim::Hold { schedule_id, seats, pass, is_late: false };
                Some(process.command(hold, asking))
            }
            Wish::GiveBack(cancel) => Some(process.command(cancel.clone(), asking)),
            Wish::Expire(id) => {
                let expire = reservation::sim::ExpireHold { reservation_id: *id };
                Some(process.command(expire, asking))
            }
            Wish::Empty(schedule_id, reservations) => {
                let (schedule_id, reservations) = (*schedule_id, reservations.clone());
                let empty = reservation::sim::EmptyShow { schedule_id, reservations };
                Some(process.command(empty, asking))
            }
            _ => None,
        },
        due: |tables, now| {
            let holds = tables.due_holds(now).into_iter();
            let shows = tables.cancelled_shows().into_iter();
            holds
                .map(|due| Wish::Expire(due.reservation_id))
                .chain(shows.map(|due| Wish::Empty(due.schedule_id, due.reservations)))
                .collect()
        },
    }
}

fn payments() -> Plan<payment::UnitOfWork> {
    Plan {
        service: payment::service,
        config: payment::Config::default,
        work: |process, wish, asking| match wish {
            Wish::Pay(pay) => Some(process.command(pay.clone(), asking)),
            _ => None,
        },
        due: |_, _| Vec::new(),
    }
}

fn points() -> Plan<point::UnitOfWork> {
    Plan {
        service: point::service,
        config: point::Config::default,
        work: |process, wish, asking| match wish {
            Wish::Charge(charge) => Some(process.command(charge.clone(), asking)),
            _ => None,
        },
        due: |_, _| Vec::new(),
    }
}
