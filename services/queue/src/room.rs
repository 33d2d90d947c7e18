//! The waiting room as a module of Lua functions, and what it is configured with.

use mesh::valkey::LuaModule;

use crate::signer::Signer;

/// The service.
pub const NAME: &str = "queue";

/// What the Rust side of the service needs.
#[derive(Default)]
pub struct Config {
    /// Signs tickets and passes.
    pub signer: Signer,
}

/// The functions in Valkey.
pub struct Room;

impl LuaModule for Room {
    const NAME: &'static str = NAME;
    const LUA: &'static str = concat!(
        include_str!("lua/room.lua"),
        include_str!("lua/line.lua"),
        include_str!("lua/handle.lua"),
    );
    type Config = Config;
    const KEY: &'static str = "user_id";
}
