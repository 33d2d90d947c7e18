//! The place of a span in its trace, as it travels in events, requests and tables.

use opentelemetry::{
    SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceState},
};

/// The header that carries the trace context.
pub const TRACEPARENT: &str = "traceparent";

/// The span that a message follows from, if any.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TraceParent(pub(super) Option<Place>);

/// A span in its trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    /// Whether the trace is recorded. It is decided once, at its root.
    pub(super) is_sampled: bool,
}

impl TraceParent {
    /// Reads a `traceparent` header; a malformed one counts as none.
    pub fn from_header(header: Option<&str>) -> Self {
        Self(header.and_then(parse))
    }

    /// The `traceparent` header to send on.
    pub fn to_header(&self) -> Option<String> {
        self.0.map(|Place { trace_id, span_id, is_sampled }| {
            format!("00-{trace_id}-{span_id}-{:02x}", u8::from(is_sampled))
        })
    }

    /// The beginning of the `traceparent` header of every span of its trace.
    pub(crate) fn to_trace_header(self) -> Option<String> {
        self.0.map(|place| format!("00-{}-", place.trace_id))
    }

    /// The trace's id, for logs.
    pub fn trace_id(&self) -> Option<String> {
        self.0.map(|place| place.trace_id.to_string())
    }

    /// The span's id, for logs.
    pub fn span_id(&self) -> Option<String> {
        self.0.map(|place| place.span_id.to_string())
    }

    /// Whether its trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.0.is_some_and(|place| place.is_sampled)
    }
}

impl Place {
    /// A span that nobody else has.
    pub(super) fn new(trace_id: TraceId, is_sampled: bool) -> Self {
        // Zero is not an id; it comes once in 2^64.
        let span_id = SpanId::from(rand::random::<u64>().max(1));
        Self { trace_id, span_id, is_sampled }
    }

    pub(super) fn to_context(self, is_remote: bool) -> SpanContext {
        let flags = TraceFlags::default().with_sampled(self.is_sampled);
        SpanContext::new(self.trace_id, self.span_id, flags, is_remote, TraceState::NONE)
    }
}

fn parse(header: &str) -> Option<Place> {
    let mut parts = header.trim().split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let exact = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    if !exact || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let (trace_id, span_id) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    let is_valid = trace_id != TraceId::INVALID && span_id != SpanId::INVALID;
    is_valid.then_some(Place { trace_id, span_id, is_sampled })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_round_trips() {
        for header in [HEADER.to_owned(), HEADER.replace("-01", "-00")] {
            let parent = TraceParent::from_header(Some(&header));
            assert_eq!(parent.to_header(), Some(header.clone()));
            assert_eq!(parent.is_sampled(), header.ends_with("-01"));
        }
    }

    #[test]
    fn a_malformed_traceparent_counts_as_none() {
        for bad in [
            "",
            "00-1-2-3",
            &HEADER[..50],
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            &format!("{HEADER}-x"),
        ] {
            assert_eq!(TraceParent::from_header(Some(bad)), TraceParent::default(), "{bad}");
        }
    }
}
