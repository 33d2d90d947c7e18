//! The harness of the proofs: what the tests stand on.
//!
//! | file | what it is |
//! |---|---|
//! | `data_platform` | a data platform, as its own people would build it |
//! | `facts` | every fact, with its type behind it |
//! | `mesh` | the whole mesh, running, and its fans |
//! | `otlp` | a collector of spans, and the tree that one saga must be |
//! | `project` | the project's own files, read as data |
//! | `sse` | a reader of server-sent events |
//! | `stored` | everything that is stored, as digests |
//! | `wiring` | what every service declares of itself |

pub mod data_platform;
pub mod event_types;
pub mod mesh;
pub mod otlp;
pub mod project;
pub mod sse;
pub mod stored;
pub mod wiring;
