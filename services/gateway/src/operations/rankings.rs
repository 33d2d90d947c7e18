//! Rankings of concerts: most seats sold, and fastest sold out.

use axum::{extract::State, response::Response};
use events::ranking::{ConcertRanking, RankBy, RankConcerts, Window};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    http::{
        call::{Head, Params},
        edge::Edge,
        op::Op,
        problem::{Copies, Refused},
    },
    operations::examples,
};

const TAG: &str = "catalogue";

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::get("/v1/rankings/concerts", rank_concerts)
            .named(TAG, "rankConcerts", "Rank concerts")
            .explained(
                "By seats sold in a sliding window, or by the time from opening to the last seat. \
                 A window slides in steps of a minute (1h), ten minutes (24h) or an hour (7d). \
                 Counts follow the sales with a moment's delay.",
            )
            .query::<RankingParams>()
            .gives::<ConcertRanking>(200, "The ranking", examples::RANKING)
            .open_to_scripts(),
    ]
}

/// Which ranking.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RankingParams {
    /// `sold` (when absent): seats sold in the window; `sell_out`: time to the last seat.
    #[serde(default)]
    #[param(inline, required = false)]
    by: RankBy,
    /// How far back sales count; `24h` when absent. It does not matter to `sell_out`.
    #[serde(default)]
    #[param(inline, required = false)]
    window: Window,
    /// Places wanted, 1 to 100; 10 when absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

async fn rank_concerts(
    State(edge): State<Edge>,
    Params(RankingParams { by, window, limit }): Params<RankingParams>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &RankConcerts { by, window, limit }, Copies::Catalogue).await
}
