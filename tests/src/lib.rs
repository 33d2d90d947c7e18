//! The harness of the proofs: what the tests stand on.
//!
//! | file | what it is |
//! |---|---|
//! | `facts` | every fact, with its type behind it |
//! | `otlp` | a collector of spans, and the tree that one saga must be |
//! | `project` | the project's own files, read as data |
//! | `wiring` | what every service declares of itself |

pub mod facts;
pub mod otlp;
pub mod project;
pub mod wiring;
