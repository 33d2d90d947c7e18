//! Which traces are recorded.
//!
//! It is decided once, at the root of a trace, and travels in the context; so a saga is recorded
//! whole or not at all. A trace that begins with a link to a recorded one is recorded as well:
//! what a timer or an operator does later for a saga that can be looked at can be looked at too.

use opentelemetry::{TraceId, trace::SpanKind};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample};

use super::parent::TraceParent;

/// The values of `OTEL_TRACES_SAMPLER`.
pub(super) const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The one that is used unless another is named; the default of the specification.
pub(super) const SAMPLER: &str = "parentbased_always_on";

/// How it is decided whether a trace is recorded.
#[derive(Debug, Clone)]
pub(super) struct Sampling {
    roots: Sampler,
    follows_parent: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self::named(SAMPLER, None).expect("it is one of them")
    }
}

impl Sampling {
    /// The sampling with this name and argument; `None` when there is no such sampler, or its
    /// argument is no share.
    pub(super) fn named(name: &str, share: Option<&str>) -> Option<Self> {
        let (follows_parent, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let roots = match root {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => {
                let share = share.map_or(Some(1.0), |share| share.trim().parse::<f64>().ok());
                Sampler::TraceIdRatioBased(share.filter(|share| (0.0..=1.0).contains(share))?)
            }
            _ => return None,
        };
        Some(Self { roots, follows_parent })
    }

    /// Whether a span of this trace is recorded.
    pub(super) fn records(
        &self,
        trace_id: TraceId,
        parent: &TraceParent,
        links: &[TraceParent],
    ) -> bool {
        match parent.0 {
            Some(parent) if self.follows_parent => return parent.is_sampled,
            _ => {}
        }
        let is_off = matches!(self.roots, Sampler::AlwaysOff);
        if !is_off && parent.0.is_none() && links.iter().any(TraceParent::is_sampled) {
            return true;
        }
        let decided =
            self.roots.should_sample(None, trace_id, "", &SpanKind::Internal, &[], &[]).decision;
        decided == SamplingDecision::RecordAndSample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: TraceParent = TraceParent(None);

    fn parent(flags: &str) -> TraceParent {
        let header = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        TraceParent::from_header(Some(&header))
    }

    fn share(sampling: &Sampling) -> f64 {
        let all = 10_000;
        let random = |_: &u32| sampling.records(TraceId::from(rand::random::<u128>()), &NONE, &[]);
        (0..all).filter(random).count() as f64 / f64::from(all)
    }

    #[test]
    fn every_sampler_of_the_specification_is_known_and_nothing_else() {
        assert!(SAMPLERS.iter().all(|name| Sampling::named(name, Some("0.5")).is_some()));
        for (name, share) in [("jaeger_remote", None), ("traceidratio", Some("2")), ("", None)] {
            assert!(Sampling::named(name, share).is_none(), "{name} {share:?}");
        }
    }

    #[test]
    fn a_ratio_records_about_this_share_of_the_roots() {
        let tenth = Sampling::named("parentbased_traceidratio", Some("0.1")).unwrap();
        assert!((0.08..0.12).contains(&share(&tenth)), "{}", share(&tenth));
        assert_eq!(share(&Sampling::named("always_on", None).unwrap()), 1.0);
        assert_eq!(share(&Sampling::named("parentbased_always_off", None).unwrap()), 0.0);
    }

    #[test]
    fn a_trace_is_recorded_whole_or_not_at_all() {
        let never = Sampling::named("parentbased_traceidratio", Some("0")).unwrap();
        let always = Sampling::default();
        for trace_id in [1, u128::MAX].map(TraceId::from) {
            assert!(never.records(trace_id, &parent("01"), &[]));
            assert!(!always.records(trace_id, &parent("00"), &[]));
        }
    }

    #[test]
    fn what_is_linked_to_a_recorded_trace_is_recorded() {
        let never = Sampling::named("parentbased_traceidratio", Some("0")).unwrap();
        let trace_id = TraceId::from(u128::MAX);
        assert!(never.records(trace_id, &NONE, &[parent("00"), parent("01")]));
        assert!(!never.records(trace_id, &NONE, &[parent("00")]));
        let off = Sampling::named("always_off", None).unwrap();
        assert!(!off.records(trace_id, &NONE, &[parent("01")]));
    }
}
