//! A reader of server-sent events over a plain socket.

use events::Problem;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::mesh::SOON;

/// One event.
#[derive(Debug, Clone, Default)]
pub struct Event {
    /// The value to send as `Last-Event-ID` when resuming.
    pub id: Option<String>,
    /// The data, which is JSON.
    pub data: String,
}

impl Event {
    /// The data as `T`.
    ///
    /// # Panics
    /// When it has another shape.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }

    /// The name of the mesh event that it carries, for example `payment.completed`.
    pub fn event(&self) -> String {
        let value: serde_json::Value = self.json();
        let kind = value["type"].as_str().unwrap_or_default();
        let kind = kind.strip_prefix("onsale.").unwrap_or(kind);
        kind.split(".v").next().unwrap_or(kind).to_owned()
    }
}

/// An open stream of events.
pub struct Events {
    reader: BufReader<TcpStream>,
}

/// Opens a stream, after the event `last` when there is one.
///
/// # Panics
/// When it is refused.
pub async fn open(base: &str, path: &str, token: &str, last: Option<String>) -> Events {
    match try_open(base, path, token, last).await {
        Ok(events) => events,
        Err(problem) => panic!("{problem:?}"),
    }
}

/// Opens a stream, after the event `last` when there is one, or returns the refusal.
///
/// # Errors
/// The problem document of the refusal, if the answer has one.
///
/// # Panics
/// When the gateway cannot be reached.
pub async fn try_open(
    base: &str,
    path: &str,
    token: &str,
    last: Option<String>,
) -> Result<Events, Option<Problem>> {
    let addr = base.trim_start_matches("http://");
    let mut socket = TcpStream::connect(addr).await.expect("a connection");
    let resume = last.map_or_else(String::new, |id| format!("last-event-id: {id}\r\n"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {token}\r\n\
         accept: text/event-stream\r\n{resume}\r\n"
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut events = Events { reader: BufReader::new(socket) };
    if !events.line().await.contains(" 200 ") {
        return Err(events.problem().await);
    }
    while !events.line().await.is_empty() {}
    Ok(events)
}

impl Events {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(SOON, self.reader.read_line(&mut line));
        let bytes = read.await.expect("a line in time").expect("a line");
        assert!(bytes > 0, "the stream has ended");
        line.trim_end().to_owned()
    }

    async fn problem(&mut self) -> Option<Problem> {
        while !self.line().await.is_empty() {}
        let buffered = self.reader.fill_buf().await.ok()?;
        serde_json::from_slice(buffered).ok()
    }

    /// The next event. Chunk sizes and comments are skipped: no line of our events looks like
    /// one of them.
    pub async fn next(&mut self) -> Event {
        let mut event = Event::default();
        loop {
            let line = self.line().await;
            if let Some(data) = line.strip_prefix("data:") {
                event.data.push_str(data.trim_start());
            } else if let Some(id) = line.strip_prefix("id:") {
                event.id = Some(id.trim().to_owned());
            } else if line.is_empty() && !event.data.is_empty() {
                return event;
            }
        }
    }

    /// Reads on until the mesh event of this name comes.
    pub async fn until(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().await;
            if event.event() == name {
                return event;
            }
        }
    }
}
