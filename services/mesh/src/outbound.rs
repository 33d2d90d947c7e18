//! What goes out: the outbox, published to JetStream.
//!
//! | file | what it is |
//! |---|---|
//! | `message` | one message of a stream with its events |
//! | `publisher` | publishes the outbox, and compares it with the stream |

pub mod message;
pub(crate) mod publisher;
