//! Sends one request to a collector, over HTTP or gRPC.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
};
use prost::Message;
use reqwest::{
    Client, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use tonic::{
    metadata::MetadataMap,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use crate::otel::Protocol;

/// Why a collector has not taken a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("{0}")]
    Grpc(#[from] Box<tonic::Status>),
}

/// Why a sender cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NoSender {
    /// The HTTP client cannot be made.
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    /// The gRPC client cannot be made.
    #[error("{0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// The way to a collector.
pub(super) enum Sender {
    Http { client: Client, url: Url, headers: HeaderMap },
    Grpc { client: MetricsServiceClient<Channel>, metadata: MetadataMap },
}

impl Sender {
    /// A sender that connects when it first sends. A request takes `within` at most.
    pub(super) fn new(
        protocol: Protocol,
        url: Url,
        mut headers: HeaderMap,
        within: Duration,
    ) -> Result<Self, NoSender> {
        crate::tls::install();
        if protocol == Protocol::Http {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
            let client = Client::builder().timeout(within).build()?;
            return Ok(Self::Http { client, url, headers });
        }
        let is_secret = url.scheme() == "https";
        let endpoint = Endpoint::from_shared(String::from(url))?;
        let mut endpoint = endpoint.timeout(within).connect_timeout(within);
        if is_secret {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
        }
        let client = MetricsServiceClient::new(endpoint.connect_lazy());
        Ok(Self::Grpc { client, metadata: MetadataMap::from_headers(headers) })
    }

    /// Sends a request.
    pub(super) async fn send(&self, request: ExportMetricsServiceRequest) -> Result<(), SendError> {
        match self {
            Self::Http { client, url, headers } => {
                let post = client.post(url.clone()).headers(headers.clone());
                let answer = post.body(request.encode_to_vec()).send().await;
                let answer = answer.and_then(reqwest::Response::error_for_status);
                answer.map_err(reqwest::Error::without_url)?;
            }
            Self::Grpc { client, metadata } => {
                let mut request = tonic::Request::new(request);
                *request.metadata_mut() = metadata.clone();
                client.clone().export(request).await.map_err(Box::new)?;
            }
        }
        Ok(())
    }
}
