//! What is live: events and seat maps that are followed on behalf of all connections.

pub(crate) mod cursor;
pub(crate) mod hub;
pub(crate) mod identity;
pub(crate) mod running;
pub(crate) mod seat_hub;
pub(crate) mod seat_keeper;
pub(crate) mod seat_map;
pub(crate) mod seat_mirror;
pub(crate) mod wait;
