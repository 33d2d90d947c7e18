//! Hostile input: what a client does that wants to do harm.
//!
//! | file | what it is |
//! |---|---|
//! | `process` | a gateway in a process of its own, whose memory is measured |
//! | `flood` | many connections, slow ones, large heads and bodies: memory stays bounded, and other clients are served |
//! | `wire` | bytes that are no request, or one with two meanings |
//! | `garbage` | messages that no service has sent, on every subject |
//! | `fuzz` | what is parsed, with mutated input |

mod flood;
mod fuzz;
mod garbage;
mod process;
mod wire;
