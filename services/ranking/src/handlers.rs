//! One act for each fact heard, and one look for each ranking.

use events::{
    concert::{ScheduleCancelled, ScheduleOpened, ScheduleState},
    payment::{PaymentCompleted, PaymentRefunded},
    ranking::{RankBy, RankConcerts},
    state::{SaleStated, ScheduleStated},
};
use mesh::valkey::{At, CallOn, FunctionCall};

use crate::{
    Charts, Config,
    domain::{LIMIT_MAX, window_name},
};

impl CallOn<ScheduleOpened> for Charts {
    fn call(event: &ScheduleOpened, _at: &At<'_, Config>) -> FunctionCall {
        let seats: usize = event.seats.iter().map(|block| block.seats.len()).sum();
        FunctionCall::new("open")
            .arg(event.schedule_id)
            .arg(event.concert_id)
            .arg(&event.title)
            .arg(event.opens_at.unix_millis())
            .arg(event.starts_at.unix_millis())
            .arg(seats)
    }
}

impl CallOn<ScheduleCancelled> for Charts {
    fn call(event: &ScheduleCancelled, _at: &At<'_, Config>) -> FunctionCall {
        FunctionCall::new("cancel").arg(event.schedule_id).arg(event.concert_id)
    }
}

impl CallOn<PaymentCompleted> for Charts {
    /// A payment that was told before seats were counted in it was for one seat at least.
    fn call(event: &PaymentCompleted, _at: &At<'_, Config>) -> FunctionCall {
        FunctionCall::new("sell")
            .arg(event.schedule_id)
            .arg(event.payment_id)
            .arg(event.seats.max(1))
            .arg(event.ended_at.unix_millis())
    }
}

impl CallOn<PaymentRefunded> for Charts {
    /// As many seats go out as came in; the sale knows them.
    fn call(event: &PaymentRefunded, _at: &At<'_, Config>) -> FunctionCall {
        FunctionCall::new("give_back")
            .arg(event.schedule_id)
            .arg(event.payment_id)
            .arg(event.ended_at.unix_millis())
    }
}

/// What the owner of the schedules states of one.
pub fn schedule_stated(stated: &ScheduleStated) -> Vec<FunctionCall> {
    let schedule = &stated.schedule;
    let open = FunctionCall::new("open")
        .arg(schedule.schedule_id)
        .arg(schedule.concert_id)
        .arg(&stated.title)
        .arg(schedule.opens_at.unix_millis())
        .arg(schedule.starts_at.unix_millis())
        .arg(schedule.seats_total);
    let cancel = FunctionCall::new("cancel").arg(schedule.schedule_id).arg(schedule.concert_id);
    match schedule.state {
        ScheduleState::Open | ScheduleState::Closed => vec![open],
        ScheduleState::Cancelled => vec![open, cancel],
    }
}

/// What the owner of the payments states of one.
pub fn sale_stated(stated: &SaleStated) -> Vec<FunctionCall> {
    let of =
        |call: &'static str| FunctionCall::new(call).arg(stated.schedule_id).arg(stated.payment_id);
    let sell = of("sell").arg(stated.seats.max(1)).arg(stated.sold_at.unix_millis());
    let back = stated.returned_at.map(|at| of("give_back").arg(at.unix_millis()));
    std::iter::once(sell).chain(back).collect()
}

/// What asks the store for a ranking.
pub(crate) fn look(command: &RankConcerts) -> FunctionCall {
    match command.by {
        RankBy::Sold => FunctionCall::new("sold").arg(window_name(command.window)).arg(LIMIT_MAX),
        RankBy::SellOut => FunctionCall::new("fastest").arg(LIMIT_MAX),
    }
}
