//! A state of the model.

use std::collections::BTreeMap;

use reservation::sim::Schedule;

use crate::{
    scenario::Ask,
    steps::Waiting,
    stores::{Level, Shared},
};

/// More than can follow from any one command, timer or repeat.
const MUCH: u64 = 1_000;

/// A state: the tables of three services, the clock, what is on its way and what may still come.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Sale {
    /// Which of the scenario's times it is, and how many there are.
    pub time: (usize, usize),
    /// Holds and seats.
    pub reservation: Shared<reservation::sim::Tables>,
    /// Payments.
    pub payment: Shared<payment::sim::Tables>,
    /// Wallets.
    pub point: Shared<point::sim::Tables>,
    /// Events on their way, each with how many of the same there are.
    pub waiting: BTreeMap<Waiting, u8>,
    /// Commands that were not sent yet.
    pub asks: Vec<Ask>,
    /// How often an event may still come again.
    pub repeats: u8,
    /// Why an event was a dead letter, if one was.
    pub dead: Option<String>,
}

impl Sale {
    /// Whether the clock has reached its last time.
    pub fn is_late(&self) -> bool {
        self.time.0 + 1 == self.time.1
    }

    /// Whether nothing is on its way, and no timer has anything to do.
    pub fn is_over(&self) -> bool {
        let tables = self.reservation.get();
        let is_calling_off = tables.schedules.values().any(|show| *show == Schedule::Cancelling);
        self.is_late() && self.waiting.is_empty() && !is_calling_off
    }

    /// A measure of what can still happen. Each step lowers it, so no path is endless.
    pub fn work_left(&self) -> u64 {
        let tables = self.reservation.get();
        let owning = tables.reservations.values().filter(|row| row.owns()).count();
        let calling_off = tables.schedules.values().filter(|show| **show == Schedule::Cancelling);
        let timers = owning + calling_off.count();
        let many = self.asks.len() * 2 + timers + usize::from(self.repeats);
        let waiting: u64 =
            self.waiting.iter().map(|(waiting, count)| waiting.weight * u64::from(*count)).sum();
        many as u64 * MUCH + (self.time.1 - self.time.0) as u64 + waiting
    }

    /// Replaces the tables of a service.
    pub(crate) fn put<T: Level>(store: &mut Shared<T>, mut tables: T) {
        tables.level();
        *store = Shared::new(tables);
    }
}
