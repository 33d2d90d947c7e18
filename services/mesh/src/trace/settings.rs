//! Where spans are sent, and how: the standard `OTEL_*` variables.

use std::time::Duration;

use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, RetryPolicy, SpanExporter, WithExportConfig,
    WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::trace::OTEL_BSP_MAX_EXPORT_BATCH_SIZE_DEFAULT;

use super::{
    export::Bounds,
    sampling::{SAMPLER, SAMPLERS, Sampling},
};
use crate::otel::{Protocol, Unsupported, Variables};

/// Maximum number of spans that wait to be sent, unless `OTEL_BSP_MAX_QUEUE_SIZE` sets another.
/// A sale that opens makes thousands within a second, and spans that do not fit are lost.
const WAITING_SPANS_MAX: usize = 16_384;
/// How long a span waits to be sent, unless `OTEL_BSP_SCHEDULE_DELAY` sets another time. A
/// process that is killed loses at most the spans of this time.
const SEND_EVERY: Duration = Duration::from_millis(50);

/// A collector of spans, and what it gets.
#[derive(Debug, Clone)]
pub struct Collector {
    /// Where it listens, if not where the environment says: `http://host:4318`.
    pub endpoint: Option<String>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Maximum number of spans that wait to be sent.
    pub waiting_spans_max: usize,
    /// How long a span waits to be sent.
    pub send_every: Duration,
    pub(super) sampling: Sampling,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: Protocol::default(),
            waiting_spans_max: WAITING_SPANS_MAX,
            send_every: SEND_EVERY,
            sampling: Sampling::default(),
        }
    }
}

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// A variable has a value that means nothing here.
    #[error(transparent)]
    Variable(#[from] Unsupported),
    /// The exporter's settings are wrong.
    #[error("spans cannot be exported: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl Collector {
    /// A collector that listens at `endpoint` (`http://host:4318`), whatever the environment.
    pub fn at(endpoint: impl Into<String>, protocol: Protocol) -> Self {
        Self { endpoint: Some(endpoint.into()), protocol, ..Self::default() }
    }

    /// The same, but only this share of the traces is recorded.
    ///
    /// # Panics
    /// When it is no share.
    #[must_use]
    pub fn sampled(self, share: f64) -> Self {
        let sampling = Sampling::named("parentbased_traceidratio", Some(&share.to_string()));
        Self { sampling: sampling.expect("a share is between 0 and 1"), ..self }
    }

    /// The collector that variables name; `None` when they name none, or turn spans off.
    ///
    /// # Errors
    /// When a variable has a value that means nothing here.
    pub fn from_variables(
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, TracerError> {
        let variables = Variables(&get);
        let endpoint =
            variables.first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]);
        if endpoint.is_none() || variables.are_off("OTEL_TRACES_EXPORTER") {
            return Ok(None);
        }
        let sampling = match variables.set("OTEL_TRACES_SAMPLER") {
            None => Sampling::default(),
            Some(value) => {
                let share = variables.set("OTEL_TRACES_SAMPLER_ARG");
                Sampling::named(&value, share.as_deref()).ok_or_else(|| {
                    let help = format!(
                        "use one of {}; the argument of a ratio is between 0 and 1",
                        SAMPLERS.join(", ")
                    );
                    Unsupported { name: "OTEL_TRACES_SAMPLER", value, help }
                })?
            }
        };
        Ok(Some(Self {
            endpoint: None,
            protocol: variables
                .protocol(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"])?,
            waiting_spans_max: variables
                .number("OTEL_BSP_MAX_QUEUE_SIZE")?
                .map_or(WAITING_SPANS_MAX, |most| most as usize),
            send_every: variables.millis("OTEL_BSP_SCHEDULE_DELAY")?.unwrap_or(SEND_EVERY),
            sampling,
        }))
    }

    /// What holds where a variable is not set; `docs/configuration.md` says the same.
    pub fn defaults() -> Vec<(&'static str, String)> {
        let Self { protocol, waiting_spans_max, send_every, .. } = Self::default();
        vec![
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_string()),
            ("OTEL_TRACES_SAMPLER", SAMPLER.to_owned()),
            ("OTEL_BSP_MAX_QUEUE_SIZE", waiting_spans_max.to_string()),
            ("OTEL_BSP_SCHEDULE_DELAY", send_every.as_millis().to_string()),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", OTEL_BSP_MAX_EXPORT_BATCH_SIZE_DEFAULT.to_string()),
            (
                "OTEL_EXPORTER_OTLP_TIMEOUT",
                OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT.as_millis().to_string(),
            ),
        ]
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds { spans_max: self.waiting_spans_max, send_every: self.send_every }
    }

    /// What sends spans to it. For gRPC it is made within a runtime.
    ///
    /// # Errors
    /// When its address is none.
    pub(super) fn exporter(&self) -> Result<SpanExporter, TracerError> {
        crate::tls::install();
        let builder = SpanExporter::builder();
        Ok(match (self.protocol, &self.endpoint) {
            (Protocol::Http, None) => builder.with_http().build()?,
            (Protocol::Grpc, None) => builder.with_tonic().build()?,
            (Protocol::Http, Some(endpoint)) => builder
                .with_http()
                .with_endpoint(format!("{endpoint}/v1/traces"))
                .with_retry_policy(RetryPolicy::disabled())
                .build()?,
            (Protocol::Grpc, Some(endpoint)) => builder
                .with_tonic()
                .with_endpoint(endpoint)
                .with_retry_policy(RetryPolicy::disabled())
                .build()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Collector>, TracerError> {
        Collector::from_variables(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ON: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn spans_are_off_until_a_collector_is_named() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).unwrap().is_none());
        assert!(read(&[ON]).unwrap().is_some());
        assert!(read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://x")]).unwrap().is_some());
        assert!(read(&[ON, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap().is_none());
        assert!(read(&[ON, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
    }

    #[test]
    fn the_variable_for_traces_goes_before_the_one_for_all_signals() {
        let of = |variables: &[_]| read(variables).unwrap().unwrap().protocol;
        let (all, traces) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL");
        assert_eq!(of(&[ON]), Protocol::Http);
        assert_eq!(of(&[ON, (all, "grpc")]), Protocol::Grpc);
        assert_eq!(of(&[ON, (all, "grpc"), (traces, "http/protobuf")]), Protocol::Http);
    }

    #[test]
    fn a_value_that_means_nothing_is_refused_with_what_may_be_there() {
        for (name, value, help) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "use http/protobuf"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_traceidratio"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "above 0"),
            ("OTEL_BSP_SCHEDULE_DELAY", "soon", "above 0"),
        ] {
            let error = read(&[ON, (name, value)]).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{name}={value} ")) && error.contains(help),
                "{error}"
            );
        }
    }

    #[test]
    fn the_bounds_of_the_queue_are_read() {
        let sets = [ON, ("OTEL_BSP_MAX_QUEUE_SIZE", "7"), ("OTEL_BSP_SCHEDULE_DELAY", "1000")];
        let read = read(&sets).unwrap().unwrap();
        assert_eq!((read.waiting_spans_max, read.send_every), (7, Duration::from_secs(1)));
    }
}
