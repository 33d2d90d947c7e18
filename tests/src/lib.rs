//! The harness that the tests use.
//!
//! | file | what it is |
//! |---|---|
//! | `data_platform` | an external data platform that receives the export |
//! | `event_types` | every event of the mesh, with its type |
//! | `mesh` | the whole mesh, running, and its fans |
//! | `openmetrics` | a strict reader of what `/metrics` serves |
//! | `otlp` | a collector of spans, and the tree that the spans of one saga must form |
//! | `project` | the project's own files, read as data |
//! | `prometheus` | the real Prometheus, where it is installed |
//! | `pushed` | a collector of metrics |
//! | `sse` | a reader of server-sent events |
//! | `stored` | a digest of everything that the services have stored |
//! | `tools` | the real `nats` command and Jaeger, when they are built |
//! | `wiring` | what every service declares about itself |

pub mod data_platform;
pub mod event_types;
pub mod mesh;
pub mod openmetrics;
pub mod otlp;
pub mod project;
pub mod prometheus;
pub mod pushed;
pub mod sse;
pub mod stored;
pub mod tools;
pub mod wiring;
