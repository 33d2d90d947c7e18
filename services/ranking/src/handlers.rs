//! The function call of each event, and of each ranking.

use events::{
    concert::{ScheduleCancelled, ScheduleOpened, ScheduleState},
    payment::{PaymentCompleted, PaymentRefunded},
    ranking::{RankBy, RankConcerts},
    state::{SaleStated, ScheduleStated},
};
use mesh::valkey::{At, CallOn, FunctionCall};

use crate::{
    charts::{Charts, Config},
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
    /// An event from before it had `seats` was for at least one seat.
    fn call(event: &PaymentCompleted, _at: &At<'_, Config>) -> FunctionCall {
        FunctionCall::new("sell")
            .arg(event.schedule_id)
            .arg(event.payment_id)
            .arg(event.seats.max(1))
            .arg(event.ended_at.unix_millis())
    }
}

impl CallOn<PaymentRefunded> for Charts {
    /// The refund subtracts as many seats as the sale added; the stored sale has their number.
    fn call(event: &PaymentRefunded, _at: &At<'_, Config>) -> FunctionCall {
        FunctionCall::new("refund")
            .arg(event.schedule_id)
            .arg(event.payment_id)
            .arg(event.ended_at.unix_millis())
    }
}

/// The calls for a schedule that `concert` states.
pub(crate) fn schedule_stated(stated: &ScheduleStated) -> Vec<FunctionCall> {
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

/// The calls for a sale that `payment` states.
pub(crate) fn sale_stated(stated: &SaleStated) -> Vec<FunctionCall> {
    let of =
        |call: &'static str| FunctionCall::new(call).arg(stated.schedule_id).arg(stated.payment_id);
    let sell = of("sell").arg(stated.seats.max(1)).arg(stated.sold_at.unix_millis());
    let refund = stated.returned_at.map(|at| of("refund").arg(at.unix_millis()));
    std::iter::once(sell).chain(refund).collect()
}

/// The call that reads a ranking.
pub(crate) fn look(command: &RankConcerts) -> FunctionCall {
    match command.by {
        RankBy::Sold => FunctionCall::new("sold").arg(window_name(command.window)).arg(LIMIT_MAX),
        RankBy::SellOut => FunctionCall::new("fastest").arg(LIMIT_MAX),
    }
}
