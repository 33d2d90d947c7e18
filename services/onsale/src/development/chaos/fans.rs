//! The load: fans who buy, cancel and return without end, and remember every answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use events::{
    ConcertId, ScheduleId,
    concert::{Admission, CreateConcert, OpenSchedule, Schedule},
    payment::{Payment, PaymentState},
    point::Entry,
    queue::{Place, PlaceState},
    reservation::Reservation,
    user::Session,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::history::History;
use crate::{
    config::Credentials,
    development::box_office,
    http::{Answer, Http},
};

/// Seats of a schedule, and the price of each.
const SEATS: usize = 400;
const PRICE: i64 = 100;
/// Points that a fan charges at once.
const CHARGE: i64 = 1_000;
/// Seconds that a hold lives.
const HOLD_SECS: u32 = 15;
/// How long a client waits for one answer before it sends the request again.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long a client sends the same request again.
const PATIENCE: Duration = Duration::from_secs(180);
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How often a fan reads what it waits for.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// How long a fan waits to be admitted.
const ADMITTED_WITHIN: Duration = Duration::from_secs(20);

/// Refusals that are part of a sale.
const EXPECTED: [&str; 11] = [
    "seat_taken",
    "not_active",
    "hold_gone",
    "sold_out",
    "not_found",
    "not_open_yet",
    "state_conflict",
    "schedule_closed",
    "payment_running",
    "not_cancellable",
    "limit_exceeded",
];

/// The sale that goes on for as long as the run.
pub(super) struct Load {
    stage: Arc<Stage>,
    fans: JoinSet<()>,
}

struct Stage {
    gateways: Vec<Http>,
    history: History,
    concert: ConcertId,
    operator: Credentials,
    /// The schedule that is on sale, and how many of its seats were tried.
    on_sale: tokio::sync::Mutex<ScheduleId>,
    tried: AtomicUsize,
    is_over: AtomicBool,
}

impl Load {
    /// Opens the first schedule and lets the fans in.
    ///
    /// # Errors
    /// When the box office cannot open.
    pub(super) async fn start(
        gateways: &[SocketAddr],
        operator: &Credentials,
        history: History,
        fans: usize,
        seed: u64,
    ) -> Result<Self> {
        let gateways: Vec<Http> =
            gateways.iter().map(|addr| Http::new(format!("http://{addr}"))).collect();
        let organizer = box_office::organizer(&gateways[0], operator).await?;
        let title = CreateConcert {
            title: "A night of faults".to_owned(),
            artist: "The Unplugged".to_owned(),
            description: String::new(),
        };
        let concert = box_office::concert(&gateways[0], &organizer.access_token, &title).await?;
        let concert = concert.concert_id;
        let first =
            box_office::open(&gateways[0], &organizer.access_token, &opening(concert)).await?;
        history.answers().schedules.push(first.schedule_id);
        let stage = Arc::new(Stage {
            gateways,
            history,
            concert,
            operator: operator.clone(),
            on_sale: tokio::sync::Mutex::new(first.schedule_id),
            tried: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        let mut load = JoinSet::new();
        for index in 0..fans {
            let random = StdRng::seed_from_u64(seed.wrapping_add(index as u64));
            load.spawn(attend(stage.clone(), index, random));
        }
        Ok(Self { stage, fans: load })
    }

    /// Lets nobody begin anything any more, and waits until everybody is done.
    pub(super) async fn finish(mut self) {
        self.stage.is_over.store(true, Relaxed);
        while self.fans.join_next().await.is_some() {}
    }
}

fn opening(concert_id: ConcertId) -> OpenSchedule {
    let rows = SEATS / 20;
    let seats = (1..=rows).flat_map(|row| (1..=20).map(move |seat| (row, seat)));
    let plan = seats.fold("section,row,seat,price\n".to_owned(), |plan, (row, seat)| {
        format!("{plan}A,{row},{seat},{PRICE}\n")
    });
    let now = mesh::clock::now();
    OpenSchedule {
        concert_id,
        venue: "Engine room".to_owned(),
        starts_at: now.plus_secs(7 * 24 * 3_600),
        refund_until: None,
        opens_at: None,
        admission: Admission { per_second: 1_000, active_max: 1_000, pass_secs: 60 },
        hold_secs: Some(HOLD_SECS),
        seats_per_fan_max: Some(100),
        seat_plan: plan,
    }
}

/// One fan, with an account.
struct Fan {
    stage: Arc<Stage>,
    index: usize,
    credentials: Credentials,
    session: Session,
    points: i64,
    random: StdRng,
}

async fn attend(stage: Arc<Stage>, index: usize, random: StdRng) {
    let credentials = Credentials {
        email: format!("chaos-{}-{index}@example.com", Uuid::now_v7().simple()),
        password: Uuid::new_v4().to_string(),
    };
    let mut fan = match sign_up(stage, index, credentials, random).await {
        Ok(fan) => fan,
        Err(error) => return tracing::error!(error = format!("{error:#}"), "no account"),
    };
    while !fan.stage.is_over.load(Relaxed) {
        if let Err(error) = fan.buy().await {
            fan.stage.history.gave_up(fan.session.user_id);
            fan.stage.history.strange(format!("{error:#}"));
        }
    }
}

async fn sign_up(
    stage: Arc<Stage>,
    index: usize,
    credentials: Credentials,
    random: StdRng,
) -> Result<Fan> {
    let request = Request::new(Method::POST, "/v1/users").json(&json!(credentials));
    let answer = stage.send(index, &request, None).await?;
    let session = match answer.code().as_deref() {
        // The first answer was lost on the way.
        Some("email_taken") => {
            let request = Request::new(Method::POST, "/v1/sessions").json(&json!(credentials));
            stage.send(index, &request, None).await?.json()?
        }
        _ => answer.json()?,
    };
    Ok(Fan { stage, index, credentials, session, points: 0, random })
}

/// A request that can be sent again: it has a key of its own.
struct Request {
    method: Method,
    path: String,
    key: String,
    body: Option<Value>,
    prefer: Option<&'static str>,
}

impl Request {
    fn new(method: Method, path: impl Into<String>) -> Self {
        let (path, key) = (path.into(), Uuid::now_v7().to_string());
        Self { method, path, key, body: None, prefer: None }
    }

    fn json(mut self, body: &Value) -> Self {
        self.body = Some(body.clone());
        self
    }
}

impl Stage {
    /// Sends a request, through whichever gateway answers, until it is answered.
    async fn send(&self, index: usize, request: &Request, token: Option<&str>) -> Result<Answer> {
        let (began, mut failed) = (Instant::now(), false);
        let answered = self.send_until_answered(index, request, token, &mut failed).await;
        self.history.ended(began, failed);
        answered
    }

    async fn send_until_answered(
        &self,
        index: usize,
        request: &Request,
        token: Option<&str>,
        failed: &mut bool,
    ) -> Result<Answer> {
        let until = Instant::now() + PATIENCE;
        let mut at = index;
        loop {
            let http = &self.gateways[at % self.gateways.len()];
            let mut ask = http
                .ask(request.method.clone(), &request.path)
                .header("idempotency-key", request.key.clone());
            if let Some(token) = token {
                ask = ask.token(token);
            }
            if let Some(body) = &request.body {
                ask = ask.json(body);
            }
            if let Some(prefer) = request.prefer {
                ask = ask.header("prefer", prefer);
            }
            let why = match tokio::time::timeout(ANSWER_WITHIN, ask.send()).await {
                Ok(Ok(answer)) if !is_temporary(&answer) => return Ok(answer),
                Ok(Ok(answer)) => format!(
                    "{} {}",
                    answer.status.as_u16(),
                    answer.code().unwrap_or_else(|| "without a code".to_owned())
                ),
                Ok(Err(_)) => "connection lost".to_owned(),
                Err(_) => "no answer in time".to_owned(),
            };
            *failed = true;
            self.history.failed(why.clone());
            if Instant::now() > until {
                bail!("{} {}: {why} for {PATIENCE:?}", request.method, request.path);
            }
            // The other gateway may be alive.
            at += 1;
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// The schedule on sale. One fan opens the next while the others wait. A new one is opened before all seats of this one were tried.
    async fn schedule(&self) -> Result<ScheduleId> {
        let mut on_sale = self.on_sale.lock().await;
        if self.tried.load(Relaxed) > SEATS * 3 / 4 {
            // The token of the organizer may have run out. The operator may do the same.
            let log_in = Request::new(Method::POST, "/v1/sessions").json(&json!(self.operator));
            let operator = self.send(0, &log_in, None).await?.json::<Session>()?;
            let path = format!("/v1/concerts/{}/schedules", self.concert);
            let request = Request::new(Method::POST, path).json(&json!(opening(self.concert)));
            let opened = self.send(0, &request, Some(&operator.access_token)).await?;
            let opened: Schedule = opened.json().context("opening a schedule")?;
            self.history.answers().schedules.push(opened.schedule_id);
            *on_sale = opened.schedule_id;
            self.tried.store(0, Relaxed);
        }
        Ok(*on_sale)
    }
}

fn is_temporary(answer: &Answer) -> bool {
    matches!(answer.status.as_u16(), 429 | 502 | 503 | 504)
}

impl Fan {
    async fn ask(&mut self, request: &Request) -> Result<Answer> {
        loop {
            let token = self.session.access_token.clone();
            let answer = self.stage.send(self.index, request, Some(&token)).await?;
            if answer.status.as_u16() != 401 {
                if let Some(code) = answer.code()
                    && !EXPECTED.contains(&code.as_str())
                {
                    let what = format!("{} {}: {code}", request.method, request.path);
                    self.stage.history.strange(without_ids(&what));
                }
                return Ok(answer);
            }
            // The access token ran out.
            let log_in = Request::new(Method::POST, "/v1/sessions").json(&json!(self.credentials));
            self.session = self.stage.send(self.index, &log_in, None).await?.json()?;
        }
    }

    /// Buys a seat, or tries to.
    async fn buy(&mut self) -> Result<()> {
        if self.points < PRICE {
            self.charge().await?;
        }
        let schedule = self.stage.schedule().await?;
        let Some(pass) = self.admitted(schedule).await? else { return Ok(()) };
        let Some(hold) = self.hold(schedule, &pass).await? else { return Ok(()) };
        match self.random.random_range(0..100) {
            // Left to run out.
            0..6 => Ok(()),
            6..12 => self.give_back(&hold).await,
            _ => self.pay(&hold).await,
        }
    }

    async fn charge(&mut self) -> Result<()> {
        let request =
            Request::new(Method::POST, "/v1/points/charges").json(&json!({ "amount": CHARGE }));
        let entry: Entry = self.ask(&request).await?.json().context("charging")?;
        self.stage.history.charged(self.session.user_id, entry.amount);
        self.points = entry.balance;
        Ok(())
    }

    async fn admitted(&mut self, schedule: ScheduleId) -> Result<Option<String>> {
        let path = format!("/v1/schedules/{schedule}/queue");
        let answer = self.ask(&Request::new(Method::POST, &path).json(&json!({}))).await?;
        if !answer.status.is_success() {
            tokio::time::sleep(LOOK_EVERY).await;
            return Ok(None);
        }
        let until = Instant::now() + ADMITTED_WITHIN;
        let me = Request::new(Method::GET, format!("{path}/me"));
        while Instant::now() < until {
            let answer = self.ask(&me).await?;
            if !answer.status.is_success() {
                break;
            }
            let place: Place = answer.json()?;
            match place.state {
                PlaceState::Active => return Ok(place.pass),
                PlaceState::Waiting => tokio::time::sleep(LOOK_EVERY).await,
                PlaceState::Completed | PlaceState::Expired => break,
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(None)
    }

    async fn hold(&mut self, schedule: ScheduleId, pass: &str) -> Result<Option<Reservation>> {
        for _ in 0..5 {
            self.stage.tried.fetch_add(1, Relaxed);
            let seat = self.random.random_range(0..SEATS);
            let seat = format!("A-{}-{}", seat / 20 + 1, seat % 20 + 1);
            let body = json!({ "schedule_id": schedule, "seats": [seat], "pass": pass });
            let answer =
                self.ask(&Request::new(Method::POST, "/v1/reservations").json(&body)).await?;
            match answer.code().as_deref() {
                None => {
                    let hold: Reservation = answer.json().context("a hold")?;
                    self.stage.history.held(&hold);
                    return Ok(Some(hold));
                }
                Some("seat_taken") => {}
                Some(_) => break,
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(None)
    }

    async fn give_back(&mut self, hold: &Reservation) -> Result<()> {
        let path = format!("/v1/reservations/{}", hold.reservation_id);
        let answer = self.ask(&Request::new(Method::DELETE, path)).await?;
        if answer.status.is_success() {
            self.stage.history.returned(hold.reservation_id);
        }
        Ok(())
    }

    async fn pay(&mut self, hold: &Reservation) -> Result<()> {
        let asked_at = Instant::now();
        let mut request = Request::new(Method::POST, "/v1/payments")
            .json(&json!({ "reservation_id": hold.reservation_id }));
        request.prefer = Some("wait=10");
        let answer = self.ask(&request).await?;
        if answer.code().is_some() {
            return Ok(());
        }
        let mut payment: Payment = answer.json().context("a payment")?;
        self.stage.history.paid(&payment, asked_at);
        let until = Instant::now() + PATIENCE;
        let me = Request::new(Method::GET, format!("/v1/payments/{}", payment.payment_id));
        while payment.state == PaymentState::Requested && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
            payment = self.ask(&me).await?.json().context("the payment")?;
            self.stage.history.paid(&payment, asked_at);
        }
        if payment.state == PaymentState::Completed {
            self.points -= payment.amount;
            if self.random.random_range(0..100) < 12 {
                self.give_back(hold).await?;
            }
        }
        Ok(())
    }
}

/// Ids would make every answer another one.
fn without_ids(text: &str) -> String {
    let words =
        text.split('/').map(|word| match Uuid::try_parse(word.split(':').next().unwrap_or("")) {
            Ok(_) => word.replacen(word.split(':').next().unwrap_or(""), "…", 1),
            Err(_) => word.to_owned(),
        });
    words.collect::<Vec<_>>().join("/")
}
