//! The whole mesh for tests: real servers, every service, a fan's HTTP client.
//!
//! Tests share one mesh and keep apart by using schedules and accounts of their own. A test that
//! breaks something starts a mesh of its own with [`Mesh::own`].

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use events::{
    ScheduleId, SeatId,
    concert::{Admission, CreateConcert, OpenSchedule, Schedule, SeatMap, SeatState},
    payment::{Payment, PaymentState},
    point::{Balance, Entry},
    queue::{Place, PlaceState},
    reservation::{Reservation, ReservationState},
    user::Session,
};
use onsale::{
    config::Config,
    databases::Databases,
    development::{box_office, environment::Environment, receipt::Receipt},
    fleet::{Fleet, ServiceConfigs},
    http::{Answer, Http},
    registry::SERVICES,
};
use serde_json::{Value, json};
use servers::Servers;
use tokio::{runtime::Runtime, sync::OnceCell};
use uuid::Uuid;

/// The deadline for anything that should happen at once. It is far more than needed, because
/// test machines are shared.
pub const SOON: Duration = Duration::from_secs(20);
/// The pause between two looks at something that is awaited.
const PROBE: Duration = Duration::from_millis(10);

/// The folder that sales events are exported to, beside the messages.
const EXPORT_FOLDER: &str = "onsale-export";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
});
static SHARED: Lasting = Lasting::unstarted();
/// The servers of lasting meshes. No destructor runs for a static, so they are stopped when
/// the process exits.
static LASTING_SERVERS: Mutex<Vec<Servers>> = Mutex::new(Vec::new());

/// Runs a test on the runtime that the shared mesh lives in.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    RUNTIME.block_on(test)
}

/// The mesh that most tests share.
pub async fn shared() -> &'static Mesh {
    SHARED.get().await
}

/// A mesh that is started when first wanted and lasts until the process exits.
pub struct Lasting(OnceCell<Mesh>);

impl Lasting {
    /// A mesh that has not been started yet.
    pub const fn unstarted() -> Self {
        Self(OnceCell::const_new())
    }

    /// The mesh.
    pub async fn get(&'static self) -> &'static Mesh {
        self.0
            .get_or_init(|| async {
                let mut mesh = Mesh::own().await;
                let mut lasting = LASTING_SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
                lasting.extend(mesh.env.servers.take());
                stop_servers_at_exit();
                mesh
            })
            .await
    }
}

#[expect(unsafe_code, reason = "there is no other way to be called at exit")]
fn stop_servers_at_exit() {
    extern "C" fn stop() {
        let mut lasting = LASTING_SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
        drop(std::mem::take(&mut *lasting));
    }
    // SAFETY: `stop` is a plain function without arguments that does not unwind.
    unsafe {
        libc::atexit(stop);
    }
}

/// Seconds that access tokens are valid in tests.
const ACCESS_SECS: i64 = 4 * 3_600;

/// A running mesh.
pub struct Mesh {
    /// Its servers and how to reach them.
    pub env: Environment,
    /// Its services.
    pub fleet: Fleet,
    /// An HTTP client of its gateway.
    pub http: Http,
    /// An account that may open schedules.
    pub organizer: Session,
    /// The seeds of the NATS users that belong to no service.
    seeds: BTreeMap<&'static str, String>,
}

impl Mesh {
    /// A mesh of its own for a test that breaks something.
    pub async fn own() -> Self {
        Self::with(&SERVICES).await
    }

    /// A mesh in which only these services run; the gateway must be among them.
    pub async fn with(services: &[&str]) -> Self {
        Self::with_configs(services, |_| {}).await
    }

    /// The same, with a changed configuration.
    pub async fn with_configs(services: &[&str], change: impl FnOnce(&mut ServiceConfigs)) -> Self {
        let quiet = std::sync::Arc::new(|_: &str| {});
        let mut env = Environment::start(None, quiet).await.expect("servers");
        env.config.http_addr = Some(([127, 0, 0, 1], 0).into());
        let mut configs = configs(&env);
        change(&mut configs);
        let fleet = Fleet::start(&env.config, services, &configs).await.expect("services");
        let addr = fleet.http_addr().expect("a gateway");
        env.config.http_addr = Some(addr);
        let http = Http::new(format!("http://{addr}"));
        let organizer = box_office::organizer(&http, &env.operator).await.expect("an organizer");
        let seeds = seeds(&env);
        Self { env, fleet, http, organizer, seeds }
    }

    /// A mesh on these servers whose services run elsewhere; `http` is its gateway.
    pub async fn elsewhere(env: Environment, http: Http) -> Self {
        let organizer = box_office::organizer(&http, &env.operator).await.expect("an organizer");
        let seeds = seeds(&env);
        Self { env, fleet: Fleet::default(), http, organizer, seeds }
    }

    /// Stops everything, in order.
    pub async fn stop(self) {
        self.fleet.stop().await;
        self.env.stop().await;
    }

    /// A connection to the broker as `client` or `operator`.
    pub async fn nats(&self, identity: &str) -> async_nats::Client {
        async_nats::ConnectOptions::with_nkey(self.seeds[identity].clone())
            .custom_inbox_prefix(format!("_INBOX_{identity}"))
            .connect(&self.env.config.nats_url)
            .await
            .expect("a connection")
    }

    /// A connection to the broker that authenticates with this token instead of a key.
    ///
    /// # Errors
    /// When the broker refuses the token.
    pub async fn nats_by(
        &self,
        token: &str,
        prefix: &str,
    ) -> Result<async_nats::Client, async_nats::ConnectError> {
        async_nats::ConnectOptions::with_token(token.to_owned())
            .custom_inbox_prefix(prefix)
            .connect(&self.env.config.nats_url)
            .await
    }

    /// Opens a schedule with `seats` seats in one row, at 100 points each.
    pub async fn open(&self, seats: usize, change: impl FnOnce(&mut OpenSchedule)) -> Schedule {
        let token = &self.organizer.access_token;
        let concert = CreateConcert {
            title: "A concert".into(),
            artist: "A band".into(),
            description: String::new(),
        };
        let concert = box_office::concert(&self.http, token, &concert).await.expect("a concert");
        let now = mesh::clock::now();
        let plan: String = (1..=seats).map(|seat| format!("A,1,{seat},100\n")).collect();
        let mut opening = OpenSchedule {
            concert_id: concert.concert_id,
            venue: "A hall".into(),
            starts_at: now.plus_secs(86_400),
            opens_at: Some(now.plus_secs(-1)),
            refund_until: None,
            admission: Admission { per_second: 10_000, active_max: 10_000, pass_secs: 300 },
            hold_secs: None,
            seats_per_fan_max: None,
            seat_plan: format!("section,row,seat,price\n{plan}"),
        };
        change(&mut opening);
        box_office::open(&self.http, token, &opening).await.expect("a schedule")
    }

    /// Signs a fan up with `points` in the wallet.
    pub async fn fan(&self, points: i64) -> Fan<'_> {
        let email = format!("fan-{}@example.com", Uuid::now_v7().simple());
        let body = json!({ "email": email, "password": "a long pass phrase" });
        let session: Session = self
            .http
            .post("/v1/users")
            .json(&body)
            // An overloaded service says when to retry.
            .send_patiently(SOON)
            .await
            .expect("sent")
            .json()
            .expect("a fan");
        let fan = Fan { mesh: self, email, session };
        if points > 0 {
            fan.charge(points).await;
        }
        fan
    }

    /// The receipt of a schedule, from the databases, once nothing is in flight any more.
    pub async fn receipt(&self, schedule: ScheduleId) -> Receipt {
        let databases = Databases::open(&self.env.config).await.expect("databases");
        Receipt::at_rest(&databases, &[schedule.0], SOON).await.expect("a receipt")
    }

    /// Like [`Mesh::receipt`], and every invariant must hold.
    pub async fn receipt_is_clean(&self, schedule: ScheduleId) -> Receipt {
        let receipt = self.receipt(schedule).await;
        assert!(receipt.broken().is_empty(), "{:?}\n{receipt:?}", receipt.broken());
        receipt
    }
}

fn seeds(env: &Environment) -> BTreeMap<&'static str, String> {
    let seed = |identity| match &env.servers {
        Some(servers) => servers.nkey_seed(identity).to_owned(),
        None => {
            Config::from_env(&[identity]).expect("a configuration").nkey_seeds[identity].clone()
        }
    };
    ["client", "operator"].map(|identity| (identity, seed(identity))).into()
}

fn configs(env: &Environment) -> ServiceConfigs {
    ServiceConfigs {
        operator: Some(env.operator.clone()),
        // A shared mesh is used for longer than a token is valid when the machine is slow.
        access_secs: Some(ACCESS_SECS),
        gateway: gateway::Settings { login_per_minute: None, ..Default::default() },
        notification: notification::Config::folder(env.messages_folder()),
        // Without a target the export stands still, and its lag never falls.
        data_platform: data_platform::Config {
            folder: Some(env.messages_folder().with_file_name(EXPORT_FOLDER)),
            ..Default::default()
        },
        ..ServiceConfigs::default()
    }
}

/// A fan with an account.
pub struct Fan<'a> {
    mesh: &'a Mesh,
    /// The account's address.
    pub email: String,
    /// The account's session.
    pub session: Session,
}

impl Fan<'_> {
    /// The access token.
    pub fn token(&self) -> &str {
        &self.session.access_token
    }

    /// A connection to the broker with the access token. Its reply inbox belongs to this fan.
    pub async fn nats(&self) -> async_nats::Client {
        let prefix = format!("_INBOX_account.{}", self.session.user_id);
        self.mesh.nats_by(self.token(), &prefix).await.expect("a fan is let in")
    }

    /// `GET path` as this fan.
    pub async fn get(&self, path: &str) -> Answer {
        self.mesh.http.get(path).token(self.token()).send().await.expect("sent")
    }

    /// `POST path` as this fan, with an idempotency key of its own.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let key = Uuid::now_v7().to_string();
        let ask = self.mesh.http.post(path).token(self.token()).json(body);
        ask.header("idempotency-key", key).send().await.expect("sent")
    }

    /// `DELETE path` as this fan.
    pub async fn delete(&self, path: &str) -> Answer {
        self.mesh.http.delete(path).token(self.token()).send().await.expect("sent")
    }

    /// Buys points.
    pub async fn charge(&self, points: i64) -> Entry {
        let body = json!({ "amount": points });
        let key = Uuid::now_v7().to_string();
        let ask = self.mesh.http.post("/v1/points/charges").token(self.token()).json(&body);
        let answer = ask.header("idempotency-key", key).send_patiently(SOON).await;
        answer.expect("sent").json().expect("charged")
    }

    /// Buys points, without a retry.
    pub async fn charge_once(&self, points: i64) -> Answer {
        self.post("/v1/points/charges", &json!({ "amount": points })).await
    }

    /// Points in the wallet.
    pub async fn balance(&self) -> i64 {
        self.get("/v1/points/balance").await.json::<Balance>().expect("a balance").balance
    }

    /// Takes a place in the queue. The waiting room of a new schedule may open a moment later.
    pub async fn enter(&self, schedule: ScheduleId) -> Place {
        let path = format!("/v1/schedules/{schedule}/queue");
        eventually("the room is open", || async {
            let answer = self.post(&path, &json!({})).await;
            (answer.status.as_u16() != 404).then_some(answer)
        })
        .await
        .json()
        .expect("a place")
    }

    /// The place in the queue now.
    pub async fn place(&self, schedule: ScheduleId) -> Place {
        let path = format!("/v1/schedules/{schedule}/queue/me");
        self.get(&path).await.json().expect("a place")
    }

    /// Enters and waits for the pass.
    pub async fn admitted(&self, schedule: ScheduleId) -> String {
        self.enter(schedule).await;
        self.pass(schedule).await
    }

    /// Waits until the place is ACTIVE, and returns its pass.
    pub async fn pass(&self, schedule: ScheduleId) -> String {
        eventually("the fan is admitted", || async {
            let place = self.place(schedule).await;
            if place.state == PlaceState::Active { place.pass } else { None }
        })
        .await
    }

    /// Asks for seats.
    pub async fn ask_for(&self, schedule: ScheduleId, seats: &[&str], pass: &str) -> Answer {
        let body = json!({ "schedule_id": schedule, "seats": seats, "pass": pass });
        let ask = || self.post("/v1/reservations", &body);
        eventually("the reservation service knows the schedule", || async {
            let answer = ask().await;
            (answer.status.as_u16() != 404).then_some(answer)
        })
        .await
    }

    /// Holds seats that must be free. A place that was used up a moment ago may still be shown;
    /// then the fan enters the queue again.
    pub async fn hold(&self, schedule: ScheduleId, seats: &[&str]) -> Reservation {
        eventually("the fan is admitted", || async {
            let pass = self.admitted(schedule).await;
            let answer = self.ask_for(schedule, seats, &pass).await;
            (answer.code().as_deref() != Some("not_active")).then_some(answer)
        })
        .await
        .json()
        .expect("a hold")
    }

    /// Asks to pay, which must be accepted, and waits for the outcome.
    pub async fn pay(&self, reservation: &Reservation) -> Payment {
        self.try_pay(reservation).await.unwrap_or_else(|code| panic!("not accepted: {code}"))
    }

    /// Asks to pay and waits for the outcome, or returns the code of the refusal.
    pub async fn try_pay(&self, reservation: &Reservation) -> Result<Payment, String> {
        let body = json!({ "reservation_id": reservation.reservation_id });
        let ask = self.mesh.http.post("/v1/payments").token(self.token()).json(&body);
        let answer = ask.header("prefer", "wait=20").send().await.expect("sent");
        match answer.code() {
            Some(code) => Err(code),
            None => Ok(answer.json().expect("a payment")),
        }
    }

    /// Cancels a hold and asks to pay it at the same moment, until the cancellation reaches the
    /// reservation service before the debit does and the payment fails. When the payment
    /// service already knows of the cancellation, it refuses, and the next round begins.
    ///
    /// # Panics
    /// When no payment fails in this way in 50 rounds.
    pub async fn loses_a_hold_while_paying(&self, schedule: ScheduleId) -> Payment {
        for _ in 0..50 {
            let hold = self.hold(schedule, &["A-1-1"]).await;
            let cancel = format!("/v1/reservations/{}", hold.reservation_id);
            let (paid, _) = tokio::join!(self.try_pay(&hold), self.delete(&cancel));
            match paid {
                Err(code) => assert_eq!(code, "hold_gone"),
                Ok(payment) if payment.state == PaymentState::Failed => return payment,
                // The debit was faster: it is refunded, as after any cancellation.
                Ok(payment) => {
                    self.payment_becomes(&payment, PaymentState::Refunded).await;
                }
            }
        }
        panic!("no payment lost its hold in 50 rounds");
    }

    /// The payment as it is now.
    pub async fn payment(&self, payment: &Payment) -> Payment {
        self.get(&format!("/v1/payments/{}", payment.payment_id)).await.json().expect("a payment")
    }

    /// Waits until the payment is in this state.
    pub async fn payment_becomes(&self, payment: &Payment, state: PaymentState) -> Payment {
        eventually(&format!("the payment is {state:?}"), || async {
            // An overloaded service is asked again.
            let path = format!("/v1/payments/{}", payment.payment_id);
            let now: Payment = self.get(&path).await.json().ok()?;
            (now.state == state).then_some(now)
        })
        .await
    }

    /// Waits until the reservation is in this state.
    pub async fn reservation_becomes(
        &self,
        reservation: &Reservation,
        state: ReservationState,
    ) -> Reservation {
        let path = format!("/v1/reservations/{}", reservation.reservation_id);
        eventually(&format!("the reservation is {state:?}"), || async {
            let now: Reservation = self.get(&path).await.json().ok()?;
            (now.state == state).then_some(now)
        })
        .await
    }

    /// Waits until the map shows the seat in this state.
    pub async fn seat_becomes(&self, schedule: ScheduleId, seat: &str, state: SeatState) {
        let path = format!("/v1/schedules/{schedule}/seats");
        let seat = SeatId(seat.to_owned());
        eventually(&format!("seat {seat} is {state:?} on the map"), || async {
            let map: SeatMap = self.get(&path).await.json().expect("a map");
            (map.state_of(&seat) == Some(state)).then_some(())
        })
        .await
    }

    /// Waits until the place is in this state.
    pub async fn place_becomes(&self, schedule: ScheduleId, state: PlaceState) -> Place {
        eventually(&format!("the place is {state:?}"), || async {
            let place = self.place(schedule).await;
            (place.state == state).then_some(place)
        })
        .await
    }
}

/// Polls `look` until it returns something. `what` names what is awaited.
///
/// # Panics
/// When there is nothing within [`SOON`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    eventually_within(SOON, what, look).await
}

/// As [`eventually`], of what may take longer or must not take as long.
///
/// # Panics
/// When there is nothing in this time.
pub async fn eventually_within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    look: impl Fn() -> F,
) -> T {
    let until = tokio::time::Instant::now() + limit;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(tokio::time::Instant::now() < until, "not within {limit:?}: {what}");
        tokio::time::sleep(PROBE).await;
    }
}
