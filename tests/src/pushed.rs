//! A collector of metrics: a real HTTP server that receives what a process pushes by OTLP.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::{Metric, metric::Data, number_data_point},
};
use prost::Message;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::transport::{Server, server::TcpIncoming};

/// The last push: metrics by name.
pub type Pushed = BTreeMap<String, Metric>;

/// The collector. It stops when dropped.
pub struct Collector {
    addr: SocketAddr,
    pushed: watch::Receiver<Pushed>,
    server: JoinHandle<io::Result<()>>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Collector {
    /// A collector on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (sender, pushed) = watch::channel(Pushed::new());
        let app = Router::new().route("/v1/metrics", post(take)).with_state(Arc::new(sender));
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { addr, pushed, server })
    }

    /// The same over gRPC.
    ///
    /// # Errors
    /// As [`Collector::start`].
    pub async fn start_grpc() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (sender, pushed) = watch::channel(Pushed::new());
        let service = MetricsServiceServer::new(Taker(sender));
        let server = tokio::spawn(async move {
            let served = Server::builder().add_service(service);
            let incoming = TcpIncoming::from(listener);
            served.serve_with_incoming(incoming).await.map_err(io::Error::other)
        });
        Ok(Self { addr, pushed, server })
    }

    /// What to set `OTEL_EXPORTER_OTLP_ENDPOINT` to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The last push.
    pub fn pushed(&self) -> Pushed {
        self.pushed.borrow().clone()
    }
}

async fn take(State(sender): State<Arc<watch::Sender<Pushed>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportMetricsServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    keep(&sender, request);
    StatusCode::OK
}

/// Takes requests over gRPC.
struct Taker(watch::Sender<Pushed>);

#[tonic::async_trait]
impl MetricsService for Taker {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        keep(&self.0, request.into_inner());
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn keep(sender: &watch::Sender<Pushed>, request: ExportMetricsServiceRequest) {
    let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
    let metrics = scopes.flat_map(|scope| scope.metrics);
    sender.send_replace(metrics.map(|metric| (metric.name.clone(), metric)).collect());
}

/// The values of a metric by their labels: of a histogram the number of its values.
pub fn values(metric: &Metric) -> BTreeMap<BTreeMap<String, String>, f64> {
    let number = |value: &Option<number_data_point::Value>| match value {
        Some(number_data_point::Value::AsDouble(value)) => *value,
        Some(number_data_point::Value::AsInt(value)) => *value as f64,
        None => f64::NAN,
    };
    match &metric.data {
        Some(Data::Sum(sum)) => {
            let points = sum.data_points.iter();
            points.map(|point| (labels(&point.attributes), number(&point.value))).collect()
        }
        Some(Data::Gauge(gauge)) => {
            let points = gauge.data_points.iter();
            points.map(|point| (labels(&point.attributes), number(&point.value))).collect()
        }
        Some(Data::Histogram(histogram)) => {
            let points = histogram.data_points.iter();
            points.map(|point| (labels(&point.attributes), point.count as f64)).collect()
        }
        _ => BTreeMap::new(),
    }
}

fn labels(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some((attribute.key.clone(), text.clone())),
        _ => None,
    };
    attributes.iter().filter_map(text).collect()
}
