//! One act for each fact heard, and one look for each ranking.

use events::{
    concert::{ScheduleCancelled, ScheduleOpened, ScheduleState},
    payment::{PaymentCompleted, PaymentRefunded},
    ranking::{RankBy, RankConcerts},
    state::{SaleStated, ScheduleStated},
};
use mesh::valkey::{Act, ActOn, At};

use crate::{
    Charts, Rules,
    domain::{LIMIT_MAX, window_name},
};

impl ActOn<ScheduleOpened> for Charts {
    fn act(fact: &ScheduleOpened, _at: &At<'_, Rules>) -> Act {
        let seats: usize = fact.seats.iter().map(|block| block.seats.len()).sum();
        Act::new("open")
            .arg(fact.schedule_id)
            .arg(fact.concert_id)
            .arg(&fact.title)
            .arg(fact.opens_at.unix_millis())
            .arg(fact.starts_at.unix_millis())
            .arg(seats)
    }
}

impl ActOn<ScheduleCancelled> for Charts {
    fn act(fact: &ScheduleCancelled, _at: &At<'_, Rules>) -> Act {
        Act::new("cancel").arg(fact.schedule_id).arg(fact.concert_id)
    }
}

impl ActOn<PaymentCompleted> for Charts {
    /// A payment that was told before seats were counted in it was for one seat at least.
    fn act(fact: &PaymentCompleted, _at: &At<'_, Rules>) -> Act {
        Act::new("sell")
            .arg(fact.schedule_id)
            .arg(fact.payment_id)
            .arg(fact.seats.max(1))
            .arg(fact.ended_at.unix_millis())
    }
}

impl ActOn<PaymentRefunded> for Charts {
    /// As many seats go out as came in; the sale knows them.
    fn act(fact: &PaymentRefunded, _at: &At<'_, Rules>) -> Act {
        Act::new("give_back")
            .arg(fact.schedule_id)
            .arg(fact.payment_id)
            .arg(fact.ended_at.unix_millis())
    }
}

/// What the owner of the schedules states of one.
pub fn schedule_stated(stated: &ScheduleStated) -> Vec<Act> {
    let schedule = &stated.schedule;
    let open = Act::new("open")
        .arg(schedule.schedule_id)
        .arg(schedule.concert_id)
        .arg(&stated.title)
        .arg(schedule.opens_at.unix_millis())
        .arg(schedule.starts_at.unix_millis())
        .arg(schedule.seats_total);
    let cancel = Act::new("cancel").arg(schedule.schedule_id).arg(schedule.concert_id);
    match schedule.state {
        ScheduleState::Open | ScheduleState::Closed => vec![open],
        ScheduleState::Cancelled => vec![open, cancel],
    }
}

/// What the owner of the payments states of one.
pub fn sale_stated(stated: &SaleStated) -> Vec<Act> {
    let of = |act: &'static str| Act::new(act).arg(stated.schedule_id).arg(stated.payment_id);
    let sell = of("sell").arg(stated.seats.max(1)).arg(stated.sold_at.unix_millis());
    let back = stated.returned_at.map(|at| of("give_back").arg(at.unix_millis()));
    std::iter::once(sell).chain(back).collect()
}

/// What asks the store for a ranking.
pub(crate) fn look(command: &RankConcerts) -> Act {
    match command.by {
        RankBy::Sold => Act::new("sold").arg(window_name(command.window)).arg(LIMIT_MAX),
        RankBy::SellOut => Act::new("fastest").arg(LIMIT_MAX),
    }
}
