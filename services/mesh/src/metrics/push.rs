//! Sends the metrics of this process to a collector, at intervals.

use std::{
    env,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_sdk::Resource;
use prost::Message;
use reqwest::{
    Client, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    otlp::{Times, request},
    registry::{Format, Metrics},
    text::{Labels, families},
};
use crate::clock;

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
    /// A number is malformed.
    #[error("{0}={1} is not a number of milliseconds")]
    Millis(&'static str, String),
    /// The client could not be made.
    #[error("metrics cannot be pushed: {0}")]
    Client(#[from] reqwest::Error),
}

/// Where metrics are pushed to, and how often.
#[derive(Debug, Clone)]
pub struct Push {
    url: Url,
    headers: HeaderMap,
    every: Duration,
    within: Duration,
}

impl Push {
    /// What the `OTEL_*` variables specify; `None` when they name no collector for metrics, turn
    /// metrics off, or name a protocol that there is not.
    ///
    /// # Errors
    /// When a variable is malformed.
    pub fn from_env() -> Result<Option<Self>, PushError> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let is_off = set("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"))
            || set("OTEL_METRICS_EXPORTER").is_some_and(|it| it == "none");
        let own = set("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT");
        let shared = set("OTEL_EXPORTER_OTLP_ENDPOINT");
        let shared = shared.map(|base| format!("{}/v1/metrics", base.trim_end_matches('/')));
        let Some(address) = own.or(shared).filter(|_| !is_off) else { return Ok(None) };
        let protocol = set("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL")
            .or_else(|| set("OTEL_EXPORTER_OTLP_PROTOCOL"));
        if let Some(protocol) = protocol.filter(|protocol| protocol != "http/protobuf") {
            warn!(protocol, "metrics are pushed as http/protobuf only, so they are not pushed");
            return Ok(None);
        }
        let millis = |name| match set(name).map(|text| (text.parse(), text)) {
            None => Ok(None),
            Some((Ok(millis), _)) => Ok(Some(Duration::from_millis(millis))),
            Some((Err(_), text)) => Err(PushError::Millis(name, text)),
        };
        let every = millis("OTEL_METRIC_EXPORT_INTERVAL")?.unwrap_or(EVERY);
        let within = match millis("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT")? {
            Some(within) => Some(within),
            None => millis("OTEL_EXPORTER_OTLP_TIMEOUT")?,
        };
        let headers =
            set("OTEL_EXPORTER_OTLP_METRICS_HEADERS").or_else(|| set("OTEL_EXPORTER_OTLP_HEADERS"));
        let mut push = Self::to(&address, every)?;
        push.headers.extend(headers_of(headers.as_deref().unwrap_or_default()));
        push.within = within.unwrap_or(push.within);
        Ok(Some(push))
    }

    /// To the collector at `endpoint` (`http://host:4318`), whatever the environment.
    ///
    /// # Errors
    /// When the endpoint is not an address.
    pub fn to_collector(endpoint: &str, every: Duration) -> Result<Self, PushError> {
        Self::to(&format!("{endpoint}/v1/metrics"), every)
    }

    fn to(address: &str, every: Duration) -> Result<Self, PushError> {
        let url = Url::parse(address).ok().filter(|url| url.has_host());
        let url = url.ok_or_else(|| PushError::Address(address.to_owned()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let every = every.max(Duration::from_millis(1));
        Ok(Self { url, headers, every, within: WITHIN })
    }

    /// Pushes from now on, until [`Pushing::end`]. Call this within a tokio runtime.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn start(self, metrics: Metrics) -> Result<Pushing, PushError> {
        crate::tls::install();
        let client = Client::builder().timeout(self.within).build()?;
        let stop = CancellationToken::new();
        let pusher = Pusher {
            client,
            metrics,
            resource: resource(),
            started_at: nanos(),
            is_away: false,
            push: self,
        };
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
    client: Client,
    metrics: Metrics,
    /// The attributes of this process.
    resource: Labels,
    started_at: u64,
    is_away: bool,
    push: Push,
}

impl Pusher {
    async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.push.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is at once, when nothing was counted yet.
        ticks.tick().await;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = ticks.tick() => {}
            }
            let pushed = self.push().await;
            self.report(pushed);
        }
    }

    async fn push(&self) -> Result<(), reqwest::Error> {
        let families = families(&self.metrics.text(Format::OpenMetrics));
        let times = Times { start: self.started_at, now: nanos() };
        let body = request(families, &self.resource, times).encode_to_vec();
        let (url, headers) = (self.push.url.clone(), self.push.headers.clone());
        let answer = self.client.post(url).headers(headers).body(body).send().await?;
        answer.error_for_status().map(drop)
    }

    /// Says once that the collector is away, and once that it is back.
    fn report(&mut self, pushed: Result<(), reqwest::Error>) {
        match pushed {
            Ok(()) if !self.is_away => {}
            Ok(()) => info!("the collector takes metrics again"),
            Err(error) => {
                self.metrics.add_dropped();
                if !self.is_away {
                    let cause = error.without_url();
                    warn!(%cause, "the collector takes no metrics; they are pushed again later");
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

/// The attributes of this process. Several instances are told apart by `service.instance.id`.
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

    #[test]
    fn a_collector_without_a_host_is_refused() {
        assert!(Push::to_collector("127.0.0.1:4318", EVERY).is_err());
        let push = Push::to_collector("http://127.0.0.1:4318", EVERY).unwrap();
        assert_eq!(push.url.as_str(), "http://127.0.0.1:4318/v1/metrics");
    }
}
