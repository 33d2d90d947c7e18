//! What comes in: events, commands and timers, and how they reach the batch workers.
//!
//! | file | what it is |
//! |---|---|
//! | `consumer` | messages of a stream |
//! | `endpoint`, `bundle`, `reply` | commands and queries over NATS, one by one or many at once, and their answers |
//! | `pace` | when a bundle is sent |
//! | `micro`, `counts` | the endpoints as NATS services: their description, and their statistics |
//! | `timer` | what is due |
//! | `follower`, `read` | whole streams by position, for a service that decides nothing |
//! | `intake` | the queue that consumers, endpoints and timers share |
//! | `input`, `own_id`, `repeat` | strict parsing of requests, proposed ids, idempotency keys |
//! | `agreement` | detects that a consumed stream was replaced or rolled back |

pub(crate) mod agreement;
pub(crate) mod bundle;
pub(crate) mod consumer;
pub(crate) mod counts;
pub(crate) mod endpoint;
pub(crate) mod follower;
pub mod input;
pub(crate) mod intake;
pub(crate) mod micro;
pub(crate) mod own_id;
pub(crate) mod pace;
pub(crate) mod read;
pub(crate) mod repeat;
pub(crate) mod reply;
pub(crate) mod timer;
