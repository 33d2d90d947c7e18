//! Sends the metrics of this process to a collector, at intervals.

use std::{
    env,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_sdk::Resource;
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    otlp::{Times, request},
    registry::{Format, Metrics},
    sender::{NoSender, SendError, Sender},
    text::{Labels, families},
};
use crate::{
    clock,
    otel::{Protocol, Unsupported, Variables},
};

/// How often metrics are pushed, unless `OTEL_METRIC_EXPORT_INTERVAL` says otherwise.
const EVERY: Duration = Duration::from_secs(60);
/// How long a push may take, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const WITHIN: Duration = Duration::from_secs(10);

/// Why metrics cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The address of the collector is malformed.
    #[error("{0} is not the address of a collector, such as http://127.0.0.1:4318")]
    Address(String),
    /// A variable has a value that means nothing here.
    #[error(transparent)]
    Variable(#[from] Unsupported),
    /// The client could not be made.
    #[error("metrics cannot be pushed: {0}")]
    Client(#[from] NoSender),
}

/// Where metrics are pushed to, and how often.
#[derive(Debug, Clone)]
pub struct Push {
    protocol: Protocol,
    url: Url,
    headers: HeaderMap,
    every: Duration,
    within: Duration,
}

impl Push {
    /// What the `OTEL_*` variables specify; `None` when they name no collector for metrics, or turn
    /// metrics off.
    ///
    /// # Errors
    /// When a variable is malformed.
    pub fn from_env() -> Result<Option<Self>, PushError> {
        Self::from_variables(&|name| env::var(name).ok())
    }

    fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, PushError> {
        let variables = Variables(get);
        if variables.are_off("OTEL_METRICS_EXPORTER") {
            return Ok(None);
        }
        let protocol = variables
            .protocol(["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"])?;
        let shared = variables.set("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| match protocol {
            Protocol::Http => format!("{}/v1/metrics", base.trim_end_matches('/')),
            Protocol::Grpc => base,
        });
        let address = variables.set("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT").or(shared);
        let Some(address) = address else { return Ok(None) };
        let every = variables.millis("OTEL_METRIC_EXPORT_INTERVAL")?.unwrap_or(EVERY);
        let within = match variables.millis("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT")? {
            Some(within) => Some(within),
            None => variables.millis("OTEL_EXPORTER_OTLP_TIMEOUT")?,
        };
        let headers = variables
            .first(["OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"])
            .map(|(_, headers)| headers);
        let mut push = Self::to(protocol, &address, every)?;
        push.headers.extend(headers_of(headers.as_deref().unwrap_or_default()));
        push.within = within.unwrap_or(push.within);
        Ok(Some(push))
    }

    /// To the collector at `endpoint` (`http://host:4318`), whatever the environment.
    ///
    /// # Errors
    /// When the endpoint is not an address.
    pub fn to_collector(endpoint: &str, every: Duration) -> Result<Self, PushError> {
        Self::to(Protocol::Http, &format!("{endpoint}/v1/metrics"), every)
    }

    /// The same over gRPC (`http://host:4317`).
    ///
    /// # Errors
    /// As [`Push::to_collector`].
    pub fn to_collector_by_grpc(endpoint: &str, every: Duration) -> Result<Self, PushError> {
        Self::to(Protocol::Grpc, endpoint, every)
    }

    fn to(protocol: Protocol, address: &str, every: Duration) -> Result<Self, PushError> {
        let url = Url::parse(address).ok().filter(|url| url.has_host());
        let url = url.ok_or_else(|| PushError::Address(address.to_owned()))?;
        let every = every.max(Duration::from_millis(1));
        Ok(Self { protocol, url, headers: HeaderMap::new(), every, within: WITHIN })
    }

    /// Pushes from now on, until [`Pushing::end`]. Call this within a tokio runtime.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn start(self, metrics: Metrics) -> Result<Pushing, PushError> {
        let Self { protocol, url, headers, every, within } = self;
        let sender = Sender::new(protocol, url, headers, within)?;
        let stop = CancellationToken::new();
        let (resource, started_at) = (resource(), nanos());
        let pusher = Pusher { sender, metrics, every, resource, started_at, is_away: false };
        let task = tokio::spawn(pusher.run(stop.clone()));
        Ok(Pushing { stop, task })
    }
}

/// Metrics that are being pushed.
pub struct Pushing {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Pushing {
    /// Pushes a last time, for at most `limit`: a collector that is away delays no shutdown.
    pub async fn end(self, limit: Duration) {
        self.stop.cancel();
        let abort = self.task.abort_handle();
        if tokio::time::timeout(limit, self.task).await.is_err() {
            abort.abort();
        }
    }
}

struct Pusher {
    sender: Sender,
    metrics: Metrics,
    every: Duration,
    /// The attributes of this process.
    resource: Labels,
    started_at: u64,
    is_away: bool,
}

impl Pusher {
    async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is at once, when nothing was counted yet.
        ticks.tick().await;
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => true,
                _ = ticks.tick() => false,
            };
            let pushed = self.push().await;
            self.report(pushed);
            if is_last {
                return;
            }
        }
    }

    async fn push(&self) -> Result<(), SendError> {
        let families = families(&self.metrics.text(Format::OpenMetrics));
        let times = Times { start: self.started_at, now: nanos() };
        self.sender.send(request(families, &self.resource, times)).await
    }

    /// Says once that the collector is away, and once that it is back.
    fn report(&mut self, pushed: Result<(), SendError>) {
        match pushed {
            Ok(()) if !self.is_away => {}
            Ok(()) => info!("the collector takes metrics again"),
            Err(error) => {
                self.metrics.add_dropped();
                if !self.is_away {
                    warn!(cause = %error, "the collector takes no metrics; they are pushed again later");
                }
                self.is_away = true;
                return;
            }
        }
        self.is_away = false;
    }
}

/// Nanoseconds since 1970.
fn nanos() -> u64 {
    let since = SystemTime::from(clock::now().0).duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The attributes of this process. Several instances differ in `service.instance.id`.
fn resource() -> Labels {
    let resource = Resource::builder()
        .with_service_name("onsale")
        .with_attributes([
            opentelemetry::KeyValue::new("service.namespace", "onsale"),
            opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            opentelemetry::KeyValue::new("service.instance.id", uuid::Uuid::now_v7().to_string()),
        ])
        .build();
    resource.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// Headers as `name=value,…`, each value percent-encoded.
fn headers_of(text: &str) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    text.split(',').filter_map(|header| {
        let (name, value) = header.split_once('=')?;
        let name = name.trim().parse().ok()?;
        let mut value: HeaderValue = decoded(value.trim()).parse().ok()?;
        value.set_sensitive(true);
        Some((name, value))
    })
}

/// A text without its percent-encoding.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_the_specification_writes_them() {
        let headers: Vec<_> = headers_of("api-key=a%20b, x-tenant = 7,,broken").collect();
        let texts: Vec<_> =
            headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(texts, [("api-key", "a b"), ("x-tenant", "7")]);
    }

    fn read(variables: &[(&str, &str)]) -> Result<Option<Push>, PushError> {
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Push::from_variables(&|name| value(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_variables_of_metrics_take_precedence_over_those_of_all_signals() {
        const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        let push = read(&[BASE]).unwrap().unwrap();
        assert_eq!(push.url.as_str(), "http://c:4318/v1/metrics");
        assert_eq!((push.protocol, push.every, push.within), (Protocol::Http, EVERY, WITHIN));
        let own = [
            BASE,
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m:9/there"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1500"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "7"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
        ];
        let push = read(&own).unwrap().unwrap();
        assert_eq!(push.url.as_str(), "http://m:9/there");
        assert_eq!((push.every.as_millis(), push.within.as_millis()), (1_500, 7));
        assert_eq!(push.headers["a"], "b");
        let grpc = read(&[BASE, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap().unwrap();
        assert_eq!((grpc.protocol, grpc.url.as_str()), (Protocol::Grpc, "http://c:4318/"));
    }

    #[test]
    fn metrics_are_pushed_nowhere_without_a_collector_or_when_they_are_off() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).unwrap().is_none());
        assert!(read(&[base, ("OTEL_METRICS_EXPORTER", "none")]).unwrap().is_none());
        assert!(read(&[base, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap().is_none());
        for wrong in [
            ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "nowhere"),
        ] {
            assert!(read(&[base, wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_collector_without_a_host_is_refused() {
        assert!(Push::to_collector("127.0.0.1:4318", EVERY).is_err());
        let push = Push::to_collector("http://127.0.0.1:4318", EVERY).unwrap();
        assert_eq!(push.url.as_str(), "http://127.0.0.1:4318/v1/metrics");
    }
}
