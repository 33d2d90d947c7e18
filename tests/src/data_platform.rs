//! An external data platform: a real HTTP server that keeps one row per key, the events it
//! received, and a watermark. It can be down, slow or forgetful.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use data_platform::{BATCH_BYTES_MAX, BATCH_ID, BATCH_RECORDS_MAX, Record, Totals, WATERMARK};
use events::{EventId, Timestamp};
use serde_json::{Map, Value};
use tokio::{net::TcpListener, task::JoinHandle};

/// How it treats an incoming batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Stores it.
    Well,
    /// Stores it after this time.
    Slow(Duration),
    /// Stores nothing: `503`.
    Down,
    /// Stores it, and answers `500` as if it had not.
    Forgetful,
}

/// What the platform keeps of one payment or reservation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// The highest version that came.
    pub version: u32,
    /// The state of that version.
    pub state: String,
    /// Every field that ever came, with the value of the highest version that has the field.
    pub fields: Map<String, Value>,
}

/// Everything the platform keeps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Store {
    /// One row per key.
    pub rows: BTreeMap<String, Kept>,
    /// Each event once.
    pub events: BTreeMap<EventId, Record>,
    /// Everything up to here has come.
    pub watermark: Option<Timestamp>,
    /// Records that came out of order, which should never happen.
    pub complaints: Vec<String>,
    /// Batches that were stored.
    pub batches: u64,
    /// Records that had come before.
    pub repeats: u64,
}

impl Store {
    fn take(&mut self, records: Vec<Record>, watermark: Option<Timestamp>) {
        self.batches += 1;
        for record in records {
            let received = self.events.values().filter(|known| known.stream == record.stream);
            let last = received.map(|known| known.sequence).max().unwrap_or_default();
            if self.events.contains_key(&record.event_id) {
                self.repeats += 1;
            } else if record.sequence <= last {
                self.complaints.push(format!("{} {} after {last}", record.stream, record.sequence));
            }
            let row = self.rows.entry(record.key.clone()).or_default();
            if record.version >= row.version {
                (row.version, row.state) = (record.version, record.state.clone());
                row.fields.extend(record.data.as_object().cloned().unwrap_or_default());
            } else {
                for (name, value) in record.data.as_object().into_iter().flatten() {
                    row.fields.entry(name).or_insert_with(|| value.clone());
                }
            }
            self.events.insert(record.event_id, record);
        }
        self.watermark = self.watermark.max(watermark);
    }

    /// How many rows of this kind are in this state, and the sum of their points.
    pub fn rows_in(&self, kind: &str, state: &str) -> (usize, i64) {
        let here = |(key, row): &(&String, &Kept)| key.starts_with(kind) && row.state == state;
        let rows = self.rows.iter().filter(here);
        let amounts = rows.map(|(_, row)| row.fields["amount"].as_i64().unwrap_or_default());
        amounts.fold((0, 0), |(count, sum), amount| (count + 1, sum + amount))
    }

    /// Counts and sums of the events.
    pub fn totals(&self) -> Totals {
        self.events.values().collect()
    }
}

/// The platform. It stops when dropped.
pub struct Platform {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<io::Result<()>>,
}

struct Shared {
    mood: Mutex<Mood>,
    store: Mutex<Store>,
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Platform {
    /// A platform on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(mood: Mood) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { mood: Mutex::new(mood), store: Mutex::default() });
        let app = Router::new().route("/facts", post(take)).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { addr, shared, server })
    }

    /// The URL that events are posted to.
    pub fn url(&self) -> String {
        format!("http://{}/facts", self.addr)
    }

    /// Changes how it treats incoming batches.
    pub fn become_(&self, mood: Mood) {
        *locked(&self.shared.mood) = mood;
    }

    /// What it keeps.
    pub fn store(&self) -> Store {
        locked(&self.shared.store).clone()
    }

    /// Loses everything.
    pub fn lose_everything(&self) {
        *locked(&self.shared.store) = Store::default();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, String) {
    let mood = *locked(&shared.mood);
    match mood {
        Mood::Down => return (StatusCode::SERVICE_UNAVAILABLE, "closed for repairs".into()),
        Mood::Slow(wait) => tokio::time::sleep(wait).await,
        Mood::Well | Mood::Forgetful => {}
    }
    let records: Result<Vec<Record>, _> = body.lines().map(serde_json::from_str).collect();
    let records = match records {
        Ok(records) => records,
        Err(error) => return (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    };
    let is_right = headers["content-type"] == "application/x-ndjson"
        && headers.contains_key(BATCH_ID)
        && records.len() <= BATCH_RECORDS_MAX
        && body.len() <= BATCH_BYTES_MAX;
    if !is_right {
        return (StatusCode::BAD_REQUEST, "no batch as it was agreed on".into());
    }
    let watermark = headers.get(WATERMARK).and_then(|at| at.to_str().ok()?.parse().ok());
    locked(&shared.store).take(records, watermark);
    match mood {
        Mood::Forgetful => (StatusCode::INTERNAL_SERVER_ERROR, "where was I?".into()),
        _ => (StatusCode::OK, String::new()),
    }
}
