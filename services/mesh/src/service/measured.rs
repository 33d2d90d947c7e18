//! What a service declares of its metrics.

use std::{fmt, future::Future, sync::Arc};

use super::Service;
use crate::{
    metrics::{CountedEvent, DeclaredMetrics, Metric, Sample, SampleFn},
    service::query_context::own,
    store::engine::{Engine, Failure},
};

/// The metrics of a service, besides those that every service has.
#[derive(Default)]
pub(crate) struct Measured {
    counted: Vec<CountedEvent>,
    observed: Vec<(&'static Metric, &'static [&'static [&'static str]])>,
    /// The gauges that it reads itself.
    pub(crate) gauges: &'static [&'static Metric],
    pub(crate) read: Option<Arc<SampleFn>>,
}

impl fmt::Debug for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Measured").field("gauges", &self.gauges).finish_non_exhaustive()
    }
}

impl Measured {
    /// These metrics in the words of the registry.
    pub(crate) fn declared(&self) -> DeclaredMetrics<'_> {
        DeclaredMetrics {
            counted: &self.counted,
            observed: &self.observed,
            ..DeclaredMetrics::default()
        }
    }
}

impl<E: Engine> Service<E> {
    /// Counts an event under a name of its own when it was emitted and stored.
    pub fn counts(
        mut self,
        event: &'static str,
        metric: &'static Metric,
        labels: &'static [&'static str],
    ) -> Self {
        self.declared.measured.counted.push(CountedEvent { event, metric, labels });
        self
    }

    /// Exports what handlers count or measure ([`crate::Context::count`],
    /// [`crate::Context::measure`]). `known` has the labels that are exported from the start, with
    /// nothing counted yet: a rate begins there.
    pub fn observes(
        mut self,
        metric: &'static Metric,
        known: &'static [&'static [&'static str]],
    ) -> Self {
        self.declared.measured.observed.push((metric, known));
        self
    }

    /// Reads gauges every few seconds, outside any batch. When `read` fails or takes too long, they
    /// are left out until it succeeds again. It must be cheap, however large the tables are.
    pub fn samples<F, R>(mut self, gauges: &'static [&'static Metric], read: F) -> Self
    where
        F: Fn(Arc<E>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Vec<Sample>, Failure>> + Send + 'static,
    {
        self.declared.measured.gauges = gauges;
        self.declared.measured.read = Some(Arc::new(move |engine: Arc<dyn Engine>| {
            let engine: Arc<E> = own(engine);
            Box::pin(read(engine)) as _
        }));
        self
    }
}
