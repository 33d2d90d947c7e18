//! The charts as a module of Lua functions, and what is kept beside them.

use std::sync::Mutex;

use events::ranking::ConcertRanking;
use mesh::valkey::LuaModule;

/// The service.
pub const NAME: &str = "ranking";
/// What the Rust side of the service keeps: the latest ranking of each kind.
#[derive(Default)]
pub struct Config {
    pub(crate) latest: Mutex<Vec<ConcertRanking>>,
}

/// The functions in Valkey.
pub struct Charts;

impl LuaModule for Charts {
    const NAME: &'static str = NAME;
    const LUA: &'static str = concat!(
        include_str!("lua/charts.lua"),
        include_str!("lua/handle.lua"),
        include_str!("lua/ranks.lua"),
    );
    const IS_REPLAYABLE: bool = true;
    type Config = Config;
}
