//! Kept connections of the driver.
//!
//! They are hyper's own, without a client and its pool around them: each is one TCP connection
//! with one request at a time, so what is measured is the gateway and not a client that shares
//! connections, and the driver costs the machine as little as it can.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A kept connection.
pub(super) type Wire = SendRequest<Full<Bytes>>;

/// A payment that takes longer than this is an error.
const PAYMENT_WITHIN: Duration = Duration::from_secs(30);

/// Opens one kept connection.
pub(super) async fn connect(addr: SocketAddr) -> Result<Wire> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// What a request was answered.
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whether the answer says when to come again.
    pub(super) has_retry_after: bool,
    pub(super) body: Bytes,
}

/// One request on a kept connection; returns its status and body.
pub(super) async fn send(
    connection: &mut Wire,
    method: Method,
    path: &str,
    token: &str,
    headers: &[(&'static str, &str)],
    body: Bytes,
) -> Result<(u16, Bytes)> {
    let answer = ask(connection, method, path, token, headers, body).await?;
    Ok((answer.status, answer.body))
}

/// The same; returns the whole answer.
pub(super) async fn ask(
    connection: &mut Wire,
    method: Method,
    path: &str,
    token: &str,
    headers: &[(&'static str, &str)],
    body: Bytes,
) -> Result<Answer> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body))?;
    connection.ready().await?;
    let response = tokio::time::timeout(PAYMENT_WITHIN, connection.send_request(request))
        .await
        .context("no answer in time")??;
    let status = response.status().as_u16();
    let has_retry_after = response.headers().contains_key("retry-after");
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, has_retry_after, body })
}
