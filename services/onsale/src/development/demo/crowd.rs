//! The crowd: each fan is a task that does over HTTP what a fan would do.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use events::{
    ScheduleId, SeatId,
    concert::{SeatBlock, SeatMap, SeatPlan},
    payment::{Payment, PaymentFailure, PaymentState},
    queue::{Place, PlaceState},
    reservation::Reservation,
    user::Session,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{development::sale::Crowd, http::Http};

/// How long a fan rides out a part that is being restarted.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a fan polls the place in the queue, at most; the answer may ask for longer.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Fans who sign up at once: a password is meant to be slow to hash, so a crowd does not sign up
/// all at once.
pub const SIGNING_UP_MAX: usize = 16;
/// Tries for a seat before a fan reads the place again.
const SEAT_TRIES: usize = 3;

/// What the crowd has done so far; one line of it is shown while it runs.
#[derive(Debug, Default)]
pub struct Board {
    /// Accounts made.
    pub signed_up: AtomicU64,
    /// Places taken.
    pub entered: AtomicU64,
    /// Fans admitted.
    pub admitted: AtomicU64,
    /// Holds made.
    pub held: AtomicU64,
    /// Seats wanted by two fans and lost to the other.
    pub seat_taken: AtomicU64,
    /// Holds that were abandoned.
    pub abandoned: AtomicU64,
    /// Payments completed.
    pub paid: AtomicU64,
    /// Payments failed for too few points.
    pub short: AtomicU64,
    /// Payments failed because the hold had run out.
    pub hold_gone: AtomicU64,
    /// Fans who went home without a seat.
    pub sold_out: AtomicU64,
    /// Fans for whom something went wrong.
    pub errors: AtomicU64,
    /// Fans who are done.
    pub done: AtomicU64,
    /// Whether all of them are.
    pub over: AtomicBool,
}

impl Board {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the last fan is done.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// One line of it.
    pub fn line(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "signed up {}, in line {}, admitted {}, holds {}, paid {}, abandoned {}, short {}, \
             seat taken {}, home without {}",
            read(&self.signed_up),
            read(&self.entered),
            read(&self.admitted),
            read(&self.held),
            read(&self.paid),
            read(&self.abandoned),
            read(&self.short),
            read(&self.seat_taken),
            read(&self.sold_out),
        )
    }
}

/// What every fan of the crowd knows.
pub struct Scene {
    /// The gateway.
    pub http: Http,
    /// The sale.
    pub schedule: ScheduleId,
    /// Who the fans are.
    pub crowd: Crowd,
    /// The dearest seat, in points.
    pub price_max: i64,
    /// Where the fans' actions are counted.
    pub board: Arc<Board>,
    /// Lets [`SIGNING_UP_MAX`] of them sign up at once.
    pub door: Semaphore,
    /// Distinguishes the fans of one run from those of another.
    pub run: Uuid,
    /// Makes every choice repeatable.
    pub seed: u64,
}

/// One fan of the crowd.
struct Fan {
    index: u64,
    abandons: bool,
    is_short: bool,
    wants_the_front: bool,
    /// Every seat, once the fan has looked at the plan.
    plan: Vec<SeatId>,
    rng: StdRng,
}

impl Fan {
    fn new(scene: &Scene, index: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(scene.seed.wrapping_add(index));
        let mut chance = |percent: u32| rng.random_range(0..100) < percent;
        let abandons = chance(scene.crowd.abandon_percent);
        let is_short = chance(scene.crowd.short_of_points_percent);
        let wants_the_front = chance(scene.crowd.same_seats_percent);
        Self { index, abandons, is_short, wants_the_front, plan: Vec::new(), rng }
    }
}

/// Lets the whole crowd run and waits for the last one.
pub async fn run(scene: Arc<Scene>) {
    let mut fans = tokio::task::JoinSet::new();
    for index in 0..u64::from(scene.crowd.fans) {
        let scene = scene.clone();
        fans.spawn(async move {
            if let Err(error) = attend(&scene, Fan::new(&scene, index)).await {
                Board::add(&scene.board.errors);
                tracing::error!(fan = index, error = format!("{error:#}"), "a fan gave up");
            }
            Board::add(&scene.board.done);
        });
    }
    while fans.join_next().await.is_some() {}
    scene.board.over.store(true, Ordering::Relaxed);
}

/// One fan, from the account to the seat or the way home.
async fn attend(scene: &Scene, mut fan: Fan) -> Result<()> {
    let http = &scene.http;
    let door = scene.door.acquire().await?;
    let session = sign_up(scene, fan.index).await.context("signing up")?;
    drop(door);
    let token = session.access_token.as_str();
    let needed = scene.price_max * i64::from(scene.crowd.seats_per_fan);
    let amount = if fan.is_short { 1 } else { needed.max(1) };
    command(http.post("/v1/points/charges").token(token).json(&json!({ "amount": amount })))
        .await
        .context("charging points")?;
    let place = format!("/v1/schedules/{}/queue", scene.schedule);
    let entered = command(http.post(&place).token(token).json(&json!({}))).await?;
    if entered.code().as_deref() == Some("sold_out") {
        Board::add(&scene.board.sold_out);
        return Ok(());
    }
    entered.json::<Place>().context("entering the waiting room")?;
    Board::add(&scene.board.entered);
    let mut was_admitted = false;
    loop {
        let Some(pass) = admission(http, &place, token).await? else {
            Board::add(&scene.board.sold_out);
            return Ok(());
        };
        if !std::mem::replace(&mut was_admitted, true) {
            Board::add(&scene.board.admitted);
        }
        let reservation = match hold(scene, &mut fan, token, &pass).await? {
            Try::Held(reservation) => reservation,
            Try::Again => continue,
            Try::SoldOut => {
                // Another fan may have the place in the queue.
                http.delete(format!("{place}/me")).token(token).send_patiently(PATIENCE).await?;
                Board::add(&scene.board.sold_out);
                return Ok(());
            }
        };
        Board::add(&scene.board.held);
        if fan.abandons {
            Board::add(&scene.board.abandoned);
            return Ok(());
        }
        let paid = pay(http, token, &reservation).await.context("paying")?;
        match (paid.state, paid.reason) {
            (PaymentState::Completed | PaymentState::Refunded, _) => {
                Board::add(&scene.board.paid);
                return Ok(());
            }
            (_, Some(PaymentFailure::HoldGone)) => Board::add(&scene.board.hold_gone),
            _ => {
                Board::add(&scene.board.short);
                return Ok(());
            }
        }
    }
}

async fn sign_up(scene: &Scene, index: u64) -> Result<Session> {
    let email = format!("fan-{}-{index}@example.com", scene.run.simple());
    let password = format!("a long pass phrase {index}");
    let body = json!({ "email": email, "password": password });
    let answer = command(scene.http.post("/v1/users").json(&body)).await?;
    let session = if answer.code().as_deref() == Some("email_taken") {
        // The first answer was lost on the way.
        command(scene.http.post("/v1/sessions").json(&body)).await?.json()?
    } else {
        answer.json()?
    };
    Board::add(&scene.board.signed_up);
    Ok(session)
}

/// Sends a command under a key of its own, through restarts.
async fn command(request: crate::http::Ask<'_>) -> Result<crate::http::Answer> {
    let key = Uuid::now_v7().to_string();
    request.header("idempotency-key", key).send_patiently(PATIENCE).await
}

/// Waits in the queue; returns the pass, or `None` when there is nothing to wait for.
async fn admission(http: &Http, place: &str, token: &str) -> Result<Option<String>> {
    loop {
        let answer = http.get(format!("{place}/me")).token(token).send_patiently(PATIENCE).await?;
        let now: Place = answer.json().context("reading the place in the queue")?;
        match now.state {
            PlaceState::Active => return Ok(now.pass),
            PlaceState::Completed | PlaceState::Expired => return Ok(None),
            PlaceState::Waiting => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// What came of trying to hold seats.
enum Try {
    Held(Reservation),
    /// The fan reads the place in the queue, and then the map, again.
    Again,
    /// Every seat is paid for.
    SoldOut,
}

/// Tries to hold seats.
async fn hold(scene: &Scene, fan: &mut Fan, token: &str, pass: &str) -> Result<Try> {
    let path = format!("/v1/schedules/{}", scene.schedule);
    if fan.plan.is_empty() {
        let plan = scene.http.get(format!("{path}/plan")).send_patiently(PATIENCE).await?;
        fan.plan = plan.json::<SeatPlan>()?.seats.iter().flat_map(SeatBlock::ids).collect();
    }
    for _ in 0..SEAT_TRIES {
        let map = scene.http.get(format!("{path}/seats")).send_patiently(PATIENCE).await?;
        let map: SeatMap = map.json()?;
        if map.sections.iter().all(|count| count.free == 0 && count.held == 0) {
            return Ok(Try::SoldOut);
        }
        let seats = choose(scene, fan, &map);
        if seats.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
            return Ok(Try::Again);
        }
        let body = json!({ "schedule_id": scene.schedule, "seats": seats, "pass": pass });
        let answer = command(scene.http.post("/v1/reservations").token(token).json(&body)).await?;
        match answer.code().as_deref() {
            None => return answer.json().map(Try::Held),
            Some("seat_taken") => Board::add(&scene.board.seat_taken),
            Some("not_active" | "schedule_closed") => {
                tokio::time::sleep(LOOK_EVERY).await;
                return Ok(Try::Again);
            }
            Some(_) => return answer.json().map(Try::Held).context("reserving"),
        }
    }
    Ok(Try::Again)
}

/// Chooses from the map: the popular front seats, or any.
fn choose(scene: &Scene, fan: &mut Fan, map: &SeatMap) -> Vec<SeatId> {
    let taken: HashSet<&SeatId> = map.seats.iter().map(|seat| &seat.seat).collect();
    let free: Vec<&SeatId> = fan.plan.iter().filter(|seat| !taken.contains(seat)).collect();
    let wanted = (scene.crowd.seats_per_fan as usize).min(free.len());
    let from = if fan.wants_the_front || free.len() == wanted {
        0
    } else {
        fan.rng.random_range(0..=free.len() - wanted)
    };
    free.into_iter().skip(from).take(wanted).cloned().collect()
}

/// Pays and waits for the end.
async fn pay(http: &Http, token: &str, reservation: &Reservation) -> Result<Payment> {
    let body = json!({ "reservation_id": reservation.reservation_id });
    let answer =
        command(http.post("/v1/payments").token(token).header("prefer", "wait=20").json(&body))
            .await?;
    if answer.code().as_deref() == Some("hold_gone") {
        return Ok(gone(reservation));
    }
    let mut payment: Payment = answer.json()?;
    while payment.state == PaymentState::Requested {
        tokio::time::sleep(LOOK_EVERY).await;
        let path = format!("/v1/payments/{}", payment.payment_id);
        payment = http.get(path).token(token).send_patiently(PATIENCE).await?.json()?;
    }
    Ok(payment)
}

/// A payment that was refused at once: the hold had run out before the request.
fn gone(reservation: &Reservation) -> Payment {
    Payment {
        payment_id: reservation.reservation_id.0.into(),
        reservation_id: reservation.reservation_id,
        schedule_id: reservation.schedule_id,
        user_id: reservation.user_id,
        amount: reservation.amount,
        state: PaymentState::Failed,
        reason: Some(PaymentFailure::HoldGone),
        requested_at: reservation.created_at,
        ended_at: None,
    }
}
