//! What the rankings are rebuilt from: the owners state schedules and sales; the streams have the
//! exact times of sales that were returned.

use std::sync::Arc;

use events::state::{StateSales, StateSchedules};
use futures::{StreamExt, TryStreamExt};
use mesh::{
    MeshClient,
    valkey::{ReadModel, Sources, Valkey},
};

use crate::{
    Charts, ORDER,
    handlers::{sale_stated, schedule_stated},
    service,
};

/// The rankings of a store.
pub fn read_model(valkey: Arc<Valkey<Charts>>) -> ReadModel<Charts> {
    let sources = |client: &MeshClient| Sources {
        before: client
            .query_state(StateSchedules::default())
            .map_ok(|page| page.iter().flat_map(schedule_stated).collect())
            .boxed(),
        streams: ORDER,
        after: client
            .query_state(StateSales::default())
            .map_ok(|page| page.iter().flat_map(sale_stated).collect())
            .boxed(),
    };
    ReadModel { valkey, table: service(), sources }
}
