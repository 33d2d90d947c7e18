//! Which page of a list: the parameters that all lists have.

use serde::Deserialize;
use utoipa::IntoParams;

/// Which page of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// `next_cursor` of the previous page.
    #[param(min_length = 1)]
    pub(crate) cursor: Option<String>,
    /// Entries wanted, 1 to 100; 20 when absent.
    #[param(minimum = 1, maximum = 100)]
    pub(crate) limit: Option<u32>,
}
