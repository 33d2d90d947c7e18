//! NATS: connections, requests, and what is read from streams.
//!
//! | file | what it is |
//! |---|---|
//! | `link` | the connections of one service |
//! | `client` | the mesh client: sends commands and follows events from outside a service |
//! | `error` | why the broker did not do what it was asked, and streams are not read |
//! | `problem` | what a caller is answered when something is away |
//! | `stored`, `stored_event` | events read from streams |
//! | `consumer_state` | how far the consumers of a stream have come |
//! | `observe` | whether the broker can write, how full streams are, and what consumers do |
//! | `servers` | the servers of the broker: how they sync, their disks and clocks |
//! | `permitted` | what the broker permits a user |
//! | `topology` | streams and consumers as data: apply, check |

pub(crate) mod client;
pub(crate) mod consumer_state;
pub(crate) mod error;
pub(crate) mod link;
pub(crate) mod observe;
pub(crate) mod permitted;
pub(crate) mod problem;
pub(crate) mod servers;
pub(crate) mod stored;
pub(crate) mod stored_event;
pub mod topology;
