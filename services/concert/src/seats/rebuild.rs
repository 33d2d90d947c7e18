//! What the seat maps are rebuilt from: the owner of the seats states which are not free.

use std::sync::Arc;

use events::{
    concert::ScheduleState,
    state::{StateSchedules, StateSeats},
};
use futures::{StreamExt, TryStreamExt, stream};
use mesh::{
    MeshClient,
    valkey::{ReadModel, Sources, Valkey},
};

use super::{
    REBUILT_FROM, SeatMaps,
    handle::{schedule_cancelled, stated},
    map_service,
};

/// The seat maps of a store.
pub fn read_model(valkey: Arc<Valkey<SeatMaps>>) -> ReadModel<SeatMaps> {
    let sources = |client: &MeshClient| {
        let schedules = client
            .query_state(StateSchedules::default())
            .map_ok(|page| stream::iter(page).map(|stated| Ok(stated.schedule.schedule_id)))
            .try_flatten();
        let of_schedule = |schedule_id| StateSeats { schedule_id, after: None };
        let seats = client
            .query_state_of_each(schedules, of_schedule)
            .map_ok(|(schedule_id, seats)| stated(schedule_id, &seats));
        // A show that was called off stays off, however long ago that was.
        let off = client.query_state(StateSchedules::default()).map_ok(|page| {
            let schedules = page.iter().map(|stated| &stated.schedule);
            let off = schedules.filter(|schedule| schedule.state == ScheduleState::Cancelled);
            off.map(|schedule| schedule_cancelled(schedule.schedule_id)).collect()
        });
        Sources { before: off.boxed(), streams: REBUILT_FROM, after: seats.boxed() }
    };
    ReadModel { valkey, table: map_service(), sources }
}
