//! What a benchmark runs on: the whole mesh in a child process, and holds to be paid.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use events::{
    ScheduleId, SeatId, UserId,
    concert::{Admission, CreateConcert, OpenSchedule},
    queue::{Place, PlaceState},
    reservation::Reservation,
    user::{Refresh, Session},
};
use hyper::Method;
use serde_json::json;
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::{
    hall::{Hall, Hold},
    logs,
    wire::{connect, send},
};
use crate::{
    config::Config,
    deployment::Ready,
    development::{box_office, environment::ask_to_stop},
    http::Http,
};

/// Fans of the benchmark; each pays once per schedule.
pub(super) const FANS: usize = 200;
/// Points of a fan.
pub(super) const POINTS: i64 = 10_000_000;
/// Connections that make holds: so many, and more for many holds.
const PREPARING: std::ops::RangeInclusive<usize> = 32..=384;
/// Holds that one of them makes at least.
const HOLDS_EACH: usize = 50;
/// Points of a seat.
pub(super) const PRICE: i64 = 10;
/// How long the child may take to come up: it may have to fetch the servers first.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How long a schedule or an admission may take to be known to every service.
const KNOWN_WITHIN: Duration = Duration::from_secs(60);
/// Sessions older than this are renewed before they are used: a token holds for 15 minutes.
const RENEWED_AFTER: Duration = Duration::from_secs(5 * 60);
/// How often the state of something is polled.
const PROBE: Duration = Duration::from_millis(50);

/// The mesh in a process of its own.
pub(super) struct Stand {
    child: Child,
    folder: tempfile::TempDir,
    pub(super) addr: SocketAddr,
    pub(super) config: Config,
    pub(super) http: Http,
    organizer: Session,
    fans: Vec<Fan>,
    renewed: Instant,
}

/// What a mesh under test is made of.
#[derive(Debug, Clone, Default)]
pub(super) struct Setup<'a> {
    /// The name of its log file, beside those of other meshes of the run.
    pub(super) name: Option<&'a str>,
    /// Services that do not run.
    pub(super) without: &'a [&'a str],
    /// More databases on its server.
    pub(super) databases: &'a [&'a str],
    /// Where the spans of requests go that ask to be recorded.
    pub(super) collector: Option<SocketAddr>,
    /// How many payments the gateway takes at once.
    pub(super) payments_at_once: AtOnce,
}

/// How many payments a gateway takes at once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum AtOnce {
    /// Any number: a driver that waits for its answers bounds itself.
    #[default]
    Any,
    /// What it takes unless it is set.
    Usual,
    /// So many.
    Only(u32),
}

impl Setup<'_> {
    fn set_variables(&self, command: &mut Command) {
        const AT_ONCE: &str = "ONSALE_PAYMENTS_AT_ONCE";
        match self.payments_at_once {
            AtOnce::Any => drop(command.env(AT_ONCE, "16384")),
            AtOnce::Usual => drop(command.env_remove(AT_ONCE)),
            AtOnce::Only(most) => drop(command.env(AT_ONCE, most.to_string())),
        }
        self.set_traces(command);
    }

    /// The variables of OpenTelemetry. Those of this process are not for the mesh.
    fn set_traces(&self, command: &mut Command) {
        let inherited = std::env::vars_os().map(|(name, _)| name);
        for name in inherited.filter(|name| name.to_string_lossy().starts_with("OTEL")) {
            command.env_remove(name);
        }
        let Some(collector) = self.collector else { return };
        command
            .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("http://{collector}/v1/traces"))
            .env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
            .env("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    }
}

/// A fan with an account and points.
#[derive(Clone)]
pub(super) struct Fan {
    pub(super) user_id: UserId,
    pub(super) token: Arc<str>,
    refresh_token: String,
}

impl From<Session> for Fan {
    fn from(session: Session) -> Self {
        let Session { user_id, access_token, refresh_token, .. } = session;
        Self { user_id, token: access_token.into(), refresh_token }
    }
}

/// A fan who may reserve.
#[derive(Clone)]
pub(super) struct Entered {
    token: Arc<str>,
    pass: Arc<str>,
}

impl Entered {
    /// Holds these seats.
    pub(super) async fn hold(
        &self,
        http: &Http,
        schedule: ScheduleId,
        seats: Vec<String>,
    ) -> Result<()> {
        let body = json!({ "schedule_id": schedule, "seats": seats, "pass": &*self.pass });
        let until = tokio::time::Instant::now() + KNOWN_WITHIN;
        loop {
            let request = http.post("/v1/reservations").token(&self.token).json(&body);
            let answer = request.send().await?;
            // A schedule that was just opened may not be known to reservation yet.
            if answer.status != 404 || tokio::time::Instant::now() > until {
                return answer.json::<Reservation>().map(drop).context("holding seats");
            }
            tokio::time::sleep(PROBE).await;
        }
    }
}

impl Stand {
    /// Starts the mesh, and signs the fans up.
    pub(super) async fn start(setup: &Setup<'_>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ready_file = folder.path().join("ready.json");
        eprintln!("starting servers and services in a process of their own …");
        let mut command = Command::new(std::env::current_exe()?);
        setup.set_variables(&mut command);
        let mut child = command
            .args(["dev", "--with-parent", "--http", "127.0.0.1:0", "--data"])
            .arg(folder.path().join("data"))
            .arg("--ready-file")
            .arg(&ready_file)
            .args(setup.without.iter().flat_map(|service| ["--without", service]))
            .args(setup.databases.iter().flat_map(|name| ["--database", name]))
            .env("ONSALE_LOGIN_RATE_PER_MINUTE", "0")
            // Without a target there would be no export, and it would cost nothing.
            .env("ONSALE_EXPORT_FOLDER", folder.path().join("export"))
            // It ends when this pipe closes, however this process ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(logs::of(setup.name.unwrap_or("services"))?)
            .kill_on_drop(true)
            .spawn()?;
        let ready: Ready = wait_until_ready(&mut child, &ready_file).await?;
        let http = Http::new(format!("http://{}", ready.http_addr));
        let organizer = box_office::organizer(&http, &ready.operator).await?;
        eprintln!("signing {FANS} fans up …");
        let fans = sign_up(&http).await?;
        let (addr, config) = (ready.http_addr, ready.config);
        let renewed = Instant::now();
        Ok(Self { child, folder, addr, config, http, organizer, fans, renewed })
    }

    /// The process with the services in it; the servers are its children.
    pub(super) fn pid(&self) -> Result<i32> {
        Ok(self.child.id().context("the mesh has ended")? as i32)
    }

    /// A folder that is removed with the mesh.
    pub(super) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The fans who pay, with tokens that stay valid for a while.
    pub(super) async fn fans(&mut self) -> Result<&[Fan]> {
        if self.renewed.elapsed() > RENEWED_AFTER {
            let mut renewing = tokio::task::JoinSet::new();
            for (index, fan) in self.fans.iter().enumerate() {
                let (http, old) = (self.http.clone(), fan.refresh_token.clone());
                renewing.spawn(async move { anyhow::Ok((index, renew(&http, old).await?)) });
            }
            while let Some(renewed) = renewing.join_next().await {
                let (index, session) = renewed.context("a worker panicked")??;
                self.fans[index] = session.into();
            }
            let old = self.organizer.refresh_token.clone();
            self.organizer = renew(&self.http, old).await?;
            self.renewed = Instant::now();
        }
        Ok(&self.fans)
    }

    /// Enters a concert; returns the command that opens a schedule of it.
    async fn opening(&self, seat_plan: String, seats_per_fan_max: u32) -> Result<OpenSchedule> {
        let concert = CreateConcert {
            title: "Benchmark".into(),
            artist: "Onsale".into(),
            description: String::new(),
        };
        let token = &self.organizer.access_token;
        let concert = box_office::concert(&self.http, token, &concert).await?;
        let now = mesh::clock::now();
        Ok(OpenSchedule {
            concert_id: concert.concert_id,
            venue: "Benchmark hall".into(),
            starts_at: now.plus_secs(30 * 24 * 3_600),
            refund_until: None,
            opens_at: Some(now.plus_secs(-1)),
            admission: Admission { per_second: 100_000, active_max: 1_000_000, pass_secs: 3_600 },
            hold_secs: Some(3_600),
            seats_per_fan_max: Some(seats_per_fan_max),
            seat_plan,
        })
    }

    /// Opens one schedule and lets every fan in.
    pub(super) async fn enter_all(
        &self,
        seat_plan: String,
        seats_per_fan_max: u32,
    ) -> Result<(ScheduleId, Vec<Entered>)> {
        let opening = self.opening(seat_plan, seats_per_fan_max).await?;
        let schedule = box_office::open(&self.http, &self.organizer.access_token, &opening).await?;
        let schedule = schedule.schedule_id;
        let path = format!("/v1/schedules/{schedule}/queue");
        let mut entered = Vec::with_capacity(self.fans.len());
        for fan in &self.fans {
            let until = tokio::time::Instant::now() + KNOWN_WITHIN;
            let pass = loop {
                // Entering again only reads the place; a room that is not open yet is not found.
                let enter = self.http.post(&path).token(&fan.token).json(&json!({}));
                let answer = enter.send_patiently(KNOWN_WITHIN).await?;
                let place = answer.json::<Place>().ok();
                if let Some(pass) = place.and_then(|place| place.pass) {
                    break pass;
                }
                if tokio::time::Instant::now() > until {
                    bail!("a fan was not admitted in time");
                }
                tokio::time::sleep(PROBE).await;
            };
            entered.push(Entered { token: fan.token.clone(), pass: pass.into() });
        }
        Ok((schedule, entered))
    }

    /// Makes at least `requests` holds on new schedules.
    pub(super) async fn prepare(&mut self, requests: usize, lost_percent: u32) -> Result<Hall> {
        let fans = self.fans().await?.to_vec();
        let token = &self.organizer.access_token;
        let opening = self.opening(seat_plan(), 1).await?;
        let mut schedules = Vec::new();
        while schedules.len() * FANS < requests {
            let schedule = box_office::open(&self.http, token, &opening).await?;
            schedules.push(schedule.schedule_id);
        }
        let wanted: Vec<(usize, ScheduleId)> = schedules
            .iter()
            .flat_map(|schedule| (0..FANS).map(move |fan| (fan, *schedule)))
            .take(requests)
            .collect();
        let connections = (requests / HOLDS_EACH).clamp(*PREPARING.start(), *PREPARING.end());
        let mut workers = tokio::task::JoinSet::new();
        for (at, part) in wanted.chunks(wanted.len().div_ceil(connections)).enumerate() {
            let made = hold_all(self.addr, fans.clone(), part.to_vec());
            workers.spawn(async move { made.await.map(|part| (at, part)) });
        }
        let mut parts = Vec::with_capacity(connections);
        while let Some(part) = workers.join_next().await {
            parts.push(part.context("a worker panicked")??);
        }
        // They are paid sale by sale, as a crowd pays, and as those of the monolith are.
        parts.sort_unstable_by_key(|(at, _)| *at);
        let holds = parts.into_iter().flat_map(|(_, part)| part).collect();
        Ok(Hall::new(schedules, holds, lost_percent))
    }

    /// Stops the mesh gracefully.
    pub(super) async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            ask_to_stop(pid);
        }
        let _ = tokio::time::timeout(KNOWN_WITHIN, self.child.wait()).await;
        drop(self.folder);
    }
}

/// Waits for the file that a child writes once it is ready, and reads it.
pub(super) async fn wait_until_ready<T: serde::de::DeserializeOwned>(
    child: &mut Child,
    file: &std::path::Path,
) -> Result<T> {
    let until = tokio::time::Instant::now() + READY_WITHIN;
    loop {
        if let Ok(text) = tokio::fs::read(file).await {
            return serde_json::from_slice(&text).context("the ready file");
        }
        if let Some(status) = child.try_wait()? {
            bail!("a child ended while starting ({status})");
        }
        if tokio::time::Instant::now() >= until {
            bail!("a child was not ready within {READY_WITHIN:?}");
        }
        tokio::time::sleep(PROBE).await;
    }
}

/// A key by which a command that is sent again is recognised.
fn new_key() -> String {
    Uuid::now_v7().to_string()
}

async fn renew(http: &Http, refresh_token: String) -> Result<Session> {
    let request = http.post("/v1/sessions/refresh").header("idempotency-key", new_key());
    let request = request.json(&Refresh { refresh_token });
    request.send_patiently(KNOWN_WITHIN).await?.json().context("renewing a session")
}

async fn sign_up(http: &Http) -> Result<Vec<Fan>> {
    let run = Uuid::now_v7().simple().to_string();
    let mut signing = tokio::task::JoinSet::new();
    for index in 0..FANS {
        let (http, run) = (http.clone(), run.clone());
        signing.spawn(async move {
            let body = json!({ "email": format!("bench-{run}-{index}@example.com"),
                "password": format!("a long pass phrase {index}") });
            let session: Session = http
                .post("/v1/users")
                .header("idempotency-key", new_key())
                .json(&body)
                .send_patiently(KNOWN_WITHIN)
                .await?
                .json()
                .context("signing a fan up")?;
            charge(&http, &session).await.context("charging points")?;
            anyhow::Ok(Fan::from(session))
        });
    }
    let mut fans = Vec::with_capacity(FANS);
    while let Some(fan) = signing.join_next().await {
        fans.push(fan.context("a worker panicked")??);
    }
    Ok(fans)
}

async fn charge(http: &Http, session: &Session) -> Result<()> {
    let (key, until) = (new_key(), tokio::time::Instant::now() + KNOWN_WITHIN);
    loop {
        let request = http.post("/v1/points/charges").header("idempotency-key", key.clone());
        let request = request.token(&session.access_token).json(&json!({ "amount": POINTS }));
        let answer = request.send_patiently(KNOWN_WITHIN).await?;
        // The wallet of a new account may not be known yet.
        if answer.status != 404 || tokio::time::Instant::now() > until {
            return answer.json::<events::point::Entry>().map(drop);
        }
        tokio::time::sleep(PROBE).await;
    }
}

fn seat_plan() -> String {
    let seats = (0..FANS).map(|seat| format!("A,{},{},{PRICE}\n", seat / 50 + 1, seat % 50 + 1));
    std::iter::once("section,row,seat,price\n".to_owned()).chain(seats).collect()
}

/// The seat that a fan pays for.
pub(super) fn seat(fan: usize) -> SeatId {
    SeatId::new("A", &(fan / 50 + 1).to_string(), &(fan % 50 + 1).to_string())
}

/// Makes the holds of one connection: all enter first, so that waiting overlaps.
async fn hold_all(
    addr: SocketAddr,
    fans: Vec<Fan>,
    wanted: Vec<(usize, ScheduleId)>,
) -> Result<Vec<Hold>> {
    let mut connection = connect(addr).await?;
    let mut request = async |method: Method, path: String, token: &str, body: String| {
        let until = tokio::time::Instant::now() + KNOWN_WITHIN;
        loop {
            let body = Bytes::from(body.clone());
            let (status, body) =
                send(&mut connection, method.clone(), &path, token, &[], body).await?;
            // A schedule that was just opened may not be known to every service yet.
            let early = matches!(status, 404 | 429 | 503);
            if !early || tokio::time::Instant::now() >= until {
                if status >= 300 {
                    bail!("{path} was answered {status}: {}", String::from_utf8_lossy(&body));
                }
                return Ok(body);
            }
            tokio::time::sleep(PROBE).await;
        }
    };
    for (fan, schedule) in &wanted {
        let path = format!("/v1/schedules/{schedule}/queue");
        request(Method::POST, path, &fans[*fan].token, "{}".into()).await?;
    }
    let mut holds = Vec::with_capacity(wanted.len());
    for (fan, schedule) in wanted {
        let token = fans[fan].token.clone();
        let path = format!("/v1/schedules/{schedule}/queue/me");
        let pass = loop {
            let place = request(Method::GET, path.clone(), &token, String::new()).await?;
            let place: Place = serde_json::from_slice(&place)?;
            match (place.state, place.pass) {
                (PlaceState::Active, Some(pass)) => break pass,
                (PlaceState::Waiting, _) => tokio::time::sleep(PROBE).await,
                (state, _) => bail!("a fan's place is {state:?} before paying"),
            }
        };
        let body = json!({ "schedule_id": schedule, "seats": [seat(fan)], "pass": pass });
        let made =
            request(Method::POST, "/v1/reservations".into(), &token, body.to_string()).await?;
        let reservation: Reservation = serde_json::from_slice(&made)?;
        let reservation_id = reservation.reservation_id;
        holds.push(Hold { reservation_id, token, fan, is_lost: false });
    }
    Ok(holds)
}
