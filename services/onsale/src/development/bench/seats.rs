//! The seat map under load: how many reads a second, and how soon watchers see a hold.
//!
//! Half of the seats of one sale are taken. Readers and watchers are plain sockets in this
//! process, because a full HTTP client would cost more than what is measured; they share the
//! machine with the mesh.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use events::{ScheduleId, concert::SeatMap};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};

use super::{
    logs,
    stand::{Entered, FANS, Setup, Stand},
};

/// Seats that belong to each fan; the first half of them is held before anything is measured.
const SEATS_A_FAN: usize = 10;
/// How long the map may take to show what was held.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
/// How long watchers may take to see the last hold.
const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// Watchers that connect at once.
const CONNECTING: usize = 50;

/// Options of `onsale bench seats`.
#[derive(Debug, Clone, Args)]
pub struct Seats {
    /// Connections that read the map
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub connections: u64,
    /// Seconds of reading, each way
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
    /// Watchers of the one sale
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=5_000))]
    pub watchers: u64,
    /// Holds that are made while they watch
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub holds: u64,
    /// Holds made each second
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=200))]
    pub holds_per_second: u64,
    /// Prints an object instead of tables
    #[arg(long)]
    pub json: bool,
}

/// The result.
#[derive(Debug, Clone, Serialize)]
pub struct SeatsReport {
    /// Seats of the sale.
    pub seats: usize,
    /// Seats that were taken while the map was read.
    pub taken: usize,
    /// Bytes of the map.
    pub body_bytes: usize,
    /// The whole map, each time.
    pub full: Reads,
    /// With an `If-None-Match` that holds.
    pub unchanged: Reads,
    /// Watchers.
    pub watchers: u64,
    /// Holds made while they watched.
    pub holds: u64,
    /// How many of them each second.
    pub holds_per_second: u64,
    /// From the hold's `201` to its event at a watcher, over all of both; 0 where the event
    /// was faster.
    pub since_answer: Times,
    /// The same from the moment at which the hold was requested.
    pub since_request: Times,
}

/// How fast the map was read.
#[derive(Debug, Clone, Serialize)]
pub struct Reads {
    /// Answers per second.
    pub per_s: f64,
    /// How long one took.
    #[serde(flatten)]
    pub times: Times,
}

/// Median, and the slowest hundredth.
#[derive(Debug, Clone, Serialize)]
pub struct Times {
    /// Median, in ms.
    pub p50_ms: f64,
    /// The slowest hundredth, in ms.
    pub p99_ms: f64,
}

impl Times {
    fn of(micros: &Histogram<u64>) -> Self {
        let ms = |quantile| micros.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { p50_ms: ms(0.5), p99_ms: ms(0.99) }
    }
}

/// Runs `onsale bench seats`.
///
/// # Errors
/// When something cannot be started, or an answer is not as documented.
pub async fn seats(options: Seats) -> Result<()> {
    let report = logs::kept_on_failure(async {
        let stand = Stand::start(&Setup::default()).await?;
        let report = measure(&stand, &options).await;
        stand.stop().await;
        report
    })
    .await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let (seats, taken, bytes) = (report.seats, report.taken, report.body_bytes);
        println!("GET seats: {seats} seats, {taken} of them taken, {bytes} bytes");
        println!("{}", reads_table(&report));
        println!(
            "{} watchers, {} holds, {} each second",
            report.watchers, report.holds, report.holds_per_second
        );
        println!("{}", events_table(&report));
    }
    Ok(())
}

async fn measure(stand: &Stand, options: &Seats) -> Result<SeatsReport> {
    let seats = FANS * SEATS_A_FAN;
    eprintln!("one sale of {seats} seats: half of them are held …");
    let (schedule, fans) = stand.enter_all(plan(seats), SEATS_A_FAN as u32).await?;
    for (fan, entered) in fans.iter().enumerate() {
        let first = (0..SEATS_A_FAN / 2).map(|nth| seat(fan, nth)).collect();
        entered.hold(&stand.http, schedule, first).await?;
    }
    let (tag, bytes) = shown(stand, schedule, seats / 2).await?;
    let path = format!("/v1/schedules/{schedule}/seats");
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n");
    eprintln!("{} connections read it …", options.connections);
    let full = read_all(stand.addr, format!("{head}\r\n"), 200, options).await?;
    let conditional = format!("{head}if-none-match: {tag}\r\n\r\n");
    let unchanged = read_all(stand.addr, conditional, 304, options).await?;
    eprintln!("{} watchers watch {} holds …", options.watchers, options.holds);
    let (since_answer, since_request) = watch_holds(stand, schedule, &fans, options).await?;
    Ok(SeatsReport {
        seats,
        taken: seats / 2,
        body_bytes: bytes,
        full,
        unchanged,
        watchers: options.watchers,
        holds: options.holds,
        holds_per_second: options.holds_per_second,
        since_answer,
        since_request,
    })
}

fn plan(seats: usize) -> String {
    let lines = (0..seats).map(|nth| format!("{},10\n", place(nth).join(",")));
    std::iter::once("section,row,seat,price\n".to_owned()).chain(lines).collect()
}

/// Section, row and seat: rows of fifty, sections of ten rows.
fn place(nth: usize) -> [String; 3] {
    let section = char::from(b'A' + (nth / 500) as u8).to_string();
    [section, (nth / 50 % 10 + 1).to_string(), (nth % 50 + 1).to_string()]
}

fn seat(fan: usize, nth: usize) -> String {
    place(fan * SEATS_A_FAN + nth).join("-")
}

/// Waits until the map shows so many seats as taken; returns its tag and its size.
async fn shown(stand: &Stand, schedule: ScheduleId, taken: usize) -> Result<(String, usize)> {
    let until = Instant::now() + SHOWN_WITHIN;
    loop {
        let answer = stand.http.get(format!("/v1/schedules/{schedule}/seats")).send().await?;
        if answer.json::<SeatMap>()?.seats.len() == taken {
            let tag = answer.headers.get("etag").context("no ETag")?.to_str()?.to_owned();
            return Ok((tag, answer.body.len()));
        }
        if Instant::now() > until {
            bail!("the map did not show the holds in time");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The same request on every connection for some seconds, each as fast as it is answered.
async fn read_all(
    addr: SocketAddr,
    request: String,
    status: u16,
    options: &Seats,
) -> Result<Reads> {
    let request: Arc<str> = request.into();
    let mut readers = JoinSet::new();
    let length = Duration::from_secs(options.seconds);
    let began = Instant::now();
    for _ in 0..options.connections {
        readers.spawn(read_until(addr, request.clone(), status, began + length));
    }
    let mut micros = Histogram::<u64>::new(3)?;
    while let Some(read) = readers.join_next().await {
        micros.add(read.context("a reader panicked")??)?;
    }
    let per_s = micros.len() as f64 / began.elapsed().as_secs_f64();
    Ok(Reads { per_s, times: Times::of(&micros) })
}

async fn read_until(
    addr: SocketAddr,
    request: Arc<str>,
    status: u16,
    until: Instant,
) -> Result<Histogram<u64>> {
    let mut micros = Histogram::new(3)?;
    let socket = TcpStream::connect(addr).await?;
    socket.set_nodelay(true)?;
    let mut socket = BufReader::with_capacity(64 * 1_024, socket);
    let (mut line, mut body) = (String::new(), Vec::new());
    while Instant::now() < until {
        let began = Instant::now();
        socket.get_mut().write_all(request.as_bytes()).await?;
        line.clear();
        socket.read_line(&mut line).await?;
        if !line.starts_with(&format!("HTTP/1.1 {status} ")) {
            bail!("answered {line:?} instead of {status}");
        }
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            socket.read_line(&mut line).await?;
            if let Some(stated) = line.strip_prefix("content-length:") {
                length = stated.trim().parse()?;
            }
        }
        body.resize(length, 0);
        socket.read_exact(&mut body).await?;
        micros.record(began.elapsed().as_micros() as u64)?;
    }
    Ok(micros)
}

/// The holds that watchers wait for, and the times of each.
struct Holds {
    index_of: HashMap<String, usize>,
    requested: Vec<OnceLock<Instant>>,
    answered: Vec<OnceLock<Instant>>,
}

async fn watch_holds(
    stand: &Stand,
    schedule: ScheduleId,
    fans: &[Entered],
    options: &Seats,
) -> Result<(Times, Times)> {
    let count = options.holds as usize;
    let of = |hold: usize| (hold % FANS, SEATS_A_FAN / 2 + hold / FANS);
    let named = (0..count).map(|hold| (seat(of(hold).0, of(hold).1), hold));
    let unknown = || (0..count).map(|_| OnceLock::new()).collect();
    let holds =
        Arc::new(Holds { index_of: named.collect(), requested: unknown(), answered: unknown() });
    let (connected, mut connecting) = mpsc::channel(CONNECTING);
    let mut watchers = JoinSet::new();
    for nth in 0..options.watchers as usize {
        if nth >= CONNECTING {
            connecting.recv().await.context("a watcher was refused")?;
        }
        watchers.spawn(watch(stand.addr, schedule, holds.clone(), connected.clone()));
    }
    for _ in 0..CONNECTING.min(options.watchers as usize) {
        connecting.recv().await.context("a watcher was refused")?;
    }
    let mut pace =
        tokio::time::interval(Duration::from_secs_f64(1.0 / options.holds_per_second as f64));
    let mut making = JoinSet::new();
    for hold in 0..count {
        pace.tick().await;
        let (fan, nth) = of(hold);
        let (http, entered) = (stand.http.clone(), fans[fan].clone());
        let holds = holds.clone();
        making.spawn(async move {
            let _ = holds.requested[hold].set(Instant::now());
            entered.hold(&http, schedule, vec![seat(fan, nth)]).await?;
            let _ = holds.answered[hold].set(Instant::now());
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(made) = making.join_next().await {
        made.context("a fan panicked")??;
    }
    let mut since_answer = Histogram::<u64>::new(3)?;
    let mut since_request = Histogram::<u64>::new(3)?;
    while let Some(seen) = watchers.join_next().await {
        for (hold, at) in seen.context("a watcher panicked")?? {
            let micros = |since: &OnceLock<Instant>| {
                let since = since.get().copied().unwrap_or(at);
                at.saturating_duration_since(since).as_micros() as u64
            };
            since_answer.record(micros(&holds.answered[hold]))?;
            since_request.record(micros(&holds.requested[hold]))?;
        }
    }
    Ok((Times::of(&since_answer), Times::of(&since_request)))
}

/// Watches until every hold was seen; returns when each was.
async fn watch(
    addr: SocketAddr,
    schedule: ScheduleId,
    holds: Arc<Holds>,
    connected: mpsc::Sender<()>,
) -> Result<Vec<(usize, Instant)>> {
    let mut socket = BufReader::new(TcpStream::connect(addr).await?);
    let request = format!("GET /v1/schedules/{schedule}/seats/events HTTP/1.1\r\nhost: l\r\n\r\n");
    socket.get_mut().write_all(request.as_bytes()).await?;
    let mut seen = Vec::with_capacity(holds.requested.len());
    let mut line = Vec::new();
    while seen.len() < holds.requested.len() {
        line.clear();
        let read = tokio::time::timeout(SEEN_WITHIN, socket.read_until(b'\n', &mut line));
        if read.await.context("nothing to see for too long")?? == 0 {
            bail!("a watcher was cut off");
        }
        if line.starts_with(b"data: {\"schedule_id\"") {
            connected.send(()).await?;
        } else if line.starts_with(b"data: {\"sequence\"") {
            let at = Instant::now();
            let text = str::from_utf8(&line)?;
            let seats =
                text.split("{\"seat\":\"").skip(1).filter_map(|rest| rest.split('"').next());
            seen.extend(seats.filter_map(|seat| Some((*holds.index_of.get(seat)?, at))));
        }
    }
    Ok(seen)
}

fn reads_table(report: &SeatsReport) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["answer", "GET/s", "p50 ms", "p99 ms"]);
    for (name, reads) in [("200", &report.full), ("304", &report.unchanged)] {
        let Times { p50_ms, p99_ms } = reads.times;
        table.add_row(cells([
            name.to_owned(),
            format!("{:.0}", reads.per_s),
            format!("{p50_ms:.2}"),
            format!("{p99_ms:.2}"),
        ]));
    }
    table
}

fn events_table(report: &SeatsReport) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["hold to event, from", "p50 ms", "p99 ms"]);
    let lines = [("its 201", &report.since_answer), ("its request", &report.since_request)];
    for (name, Times { p50_ms, p99_ms }) in lines {
        table.add_row(cells([name.to_owned(), format!("{p50_ms:.1}"), format!("{p99_ms:.1}")]));
    }
    table
}

fn cells<const N: usize>(texts: [String; N]) -> [Cell; N] {
    texts.map(|text| Cell::new(text).set_alignment(CellAlignment::Right))
}
