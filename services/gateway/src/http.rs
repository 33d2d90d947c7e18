//! The HTTP edge: what is the same for every operation.

pub(crate) mod around;
pub(crate) mod call;
pub(crate) mod edge;
pub(crate) mod limits;
pub(crate) mod linger;
pub(crate) mod measured;
pub(crate) mod media;
pub(crate) mod op;
pub(crate) mod openapi;
pub(crate) mod pages;
pub(crate) mod problem;
pub(crate) mod readiness;
pub(crate) mod room;
pub(crate) mod server;
pub(crate) mod sse;
pub(crate) mod wire;
