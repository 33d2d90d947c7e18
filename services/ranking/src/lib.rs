//! The ranking service: what sells most, and what sold out fastest.

use mesh::{
    Service,
    valkey::{Library, Valkey},
};

/// The service.
pub const NAME: &str = "ranking";

/// What the service's Rust side knows.
#[derive(Debug, Clone, Default)]
pub struct Rules {}

/// The functions in Valkey.
pub struct Charts;

impl Library for Charts {
    const NAME: &'static str = NAME;
    const LUA: &'static str = "";
    type Rules = Rules;
}

/// The service, to be run on a [`Valkey`].
pub fn service() -> Service<Valkey<Charts>> {
    Service::<Valkey<Charts>>::new(NAME)
}
