//! What a process exports about itself: counters, histograms and gauges, as OpenMetrics text and
//! by OTLP.
//!
//! A process has one [`Metrics`], and every service in it adds to that, with its name as the
//! label `service`. No label is an id: each has a few values that are known in advance.
//!
//! | file | what it is |
//! |---|---|
//! | `metric` | the name of a metric, with what it means and its labels |
//! | `registry` | [`Metrics`]: counters and histograms by their labels, and the text |
//! | `gauges` | values that are looked up for each text, and values that were sampled |
//! | `process` | what the operating system knows of this process |
//! | `of_service` | what the runtime counts for one service, with its counters looked up once |
//! | `observed` | what handlers count, once their batch is stored |
//! | `sampler` | reads what lies in the store and the broker, every few seconds |
//! | `text`, `otlp` | the text read again, and as OTLP |
//! | `push`, `sender` | sends that to a collector, at intervals, over HTTP or gRPC |
//!
//! A batch adds its counts once, to atomics. What would need a store or the broker is sampled in
//! the background. A sample that cannot be read is removed, so that no text has a stale value.

mod gauges;
mod metric;
mod observed;
mod of_service;
mod otlp;
mod process;
mod push;
mod registry;
mod sampler;
mod sender;
mod text;

pub use gauges::{Points, Sample, Source};
pub use metric::Metric;
pub use observed::Observed;
pub(crate) use of_service::{CountedEvent, DeclaredMetrics, OfService, Result as EventResult};
pub use push::{Push, PushError, Pushing};
pub use registry::{Counter, Format, Histogram, Metrics};
pub use sampler::{CONNECTED, READER_OLDEST, READER_UNREAD, READY, unread_samples};
pub(crate) use sampler::{SampleFn, Sampler, next_number};
pub use sender::NoSender;
