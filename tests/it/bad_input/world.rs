//! A small sale on a mesh where nothing else happens, so that any change in the stores shows.

use events::{
    AttemptId, PaymentId, ReservationId, ScheduleId, Timestamp,
    queue::{PassClaims, Place},
    user::{Session, Withdrawal, WithdrawalState},
};
use harness::{
    mesh::{Fan, Lasting, Mesh},
    stored::Stores,
};
use mesh::{
    clock,
    keys::{KeyLife, KeyRecord, Keyring},
};
use onsale::{config::Credentials, development::box_office};
use redis::AsyncTypedCommands;
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use uuid::Uuid;

use super::{operation::Operation, request::Request, tokens::Forger};

static QUIET: Lasting = Lasting::unstarted();
static WORLD: OnceCell<World> = OnceCell::const_new();
/// One test at a time: changes made by another test would show.
static LOCK: Mutex<()> = Mutex::const_new(());

/// The sale.
pub struct World {
    /// The mesh.
    pub mesh: &'static Mesh,
    /// Its stores.
    pub stores: Stores,
    /// A fan with 1,000 points, a pass, a hold of A-1-1 and a ticket for A-1-2.
    pub fan: Fan<'static>,
    /// A fan with nothing.
    pub other: Fan<'static>,
    /// Another organizer, who may cancel nothing of the first one's.
    pub rival: Session,
    /// An operator, who may grant roles.
    pub operator: Session,
    /// A source of forged tokens.
    pub forger: Forger,
    /// The fan's place in the waiting room.
    pub place: Place,
    /// The fan's cancelled hold.
    pub cancelled: ReservationId,
    /// The fan's hold of A-1-1.
    pub hold: ReservationId,
    /// The fan's ticket for A-1-2.
    pub sold: ReservationId,
    /// The payment of the ticket.
    pub payment: PaymentId,
    /// The fan's refused attempt to close the account.
    pub attempt: AttemptId,
    /// The fan's pass for another schedule.
    pub pass_elsewhere: String,
    /// The schedule.
    pub schedule: ScheduleId,
    concert: String,
}

/// The world, locked for one test.
pub async fn alone() -> (&'static World, MutexGuard<'static, ()>) {
    let guard = LOCK.lock().await;
    (WORLD.get_or_init(make).await, guard)
}

async fn make() -> World {
    let mesh = QUIET.get().await;
    let long = |opening: &mut events::concert::OpenSchedule| {
        opening.hold_secs = Some(3_600);
        opening.admission.pass_secs = 3_600;
        opening.seats_per_fan_max = Some(3);
    };
    let schedule = mesh.open(5, long).await;
    let elsewhere = mesh.open(5, long).await;
    let (fan, other) = (mesh.fan(1_000).await, mesh.fan(0).await);
    let given_up = fan.hold(schedule.schedule_id, &["A-1-3"]).await.reservation_id;
    let cancel = format!("/v1/reservations/{given_up}");
    assert_eq!(fan.delete(&cancel).await.status, 202);
    let sold = fan.hold(schedule.schedule_id, &["A-1-2"]).await;
    let payment = fan.pay(&sold).await;
    let hold = fan.hold(schedule.schedule_id, &["A-1-1"]).await;
    let pass_elsewhere = fan.admitted(elsewhere.schedule_id).await;
    let leave = mesh.http.delete("/v1/users/me").token(fan.token()).header("prefer", "wait=20");
    let kept: Withdrawal = leave.send().await.expect("sent").json().expect("an outcome");
    assert_eq!(kept.state, WithdrawalState::Refused);
    let place = fan.place(schedule.schedule_id).await;
    let operator = log_in(mesh, &mesh.env.operator).await;
    let rival = box_office::organizer(&mesh.http, &mesh.env.operator).await.expect("a rival");
    World {
        mesh,
        stores: Stores::of(mesh).await,
        forger: Forger::of(mesh, &fan.session).await,
        rival,
        operator,
        place,
        cancelled: given_up,
        hold: hold.reservation_id,
        sold: sold.reservation_id,
        payment: payment.payment_id,
        attempt: kept.attempt,
        pass_elsewhere,
        schedule: schedule.schedule_id,
        concert: schedule.concert_id.to_string(),
        fan,
        other,
    }
}

async fn log_in(mesh: &Mesh, account: &Credentials) -> Session {
    let ask = mesh.http.post("/v1/sessions").json(account);
    ask.send().await.expect("sent").json().expect("a session")
}

impl World {
    /// The fan's pass for the sale.
    pub fn pass(&self) -> &str {
        self.place.pass.as_deref().expect("the fan is ACTIVE")
    }

    /// An expired pass for the sale, signed with the waiting room's own key.
    pub async fn pass_of_yesterday(&self) -> String {
        let client = redis::Client::open(self.mesh.env.config.valkey_url.as_str());
        let connection = client.expect("an address").get_multiplexed_async_connection().await;
        let keys = connection.expect("a connection").get("{queue}:keys").await.expect("a key");
        let records: Vec<KeyRecord> = serde_json::from_str(&keys.expect("keys")).expect("keys");
        let ring = Keyring::open(records, KeyLife::daily(86_400)).expect("keys");
        let now = clock::now();
        let at = |secs| -> Timestamp { now.plus_secs(secs) };
        let user = self.fan.session.user_id;
        let claims = PassClaims::new(user, self.schedule, 1_000, at(-86_400), at(-80_000));
        ring.sign(&claims, now).expect("signed")
    }

    /// The access token of an account that may use the operation.
    pub fn token_for(&self, operation: &Operation) -> &str {
        match operation.role.as_deref() {
            None => self.fan.token(),
            Some("organizer") => &self.mesh.organizer.access_token,
            Some("operator") => &self.operator.access_token,
            Some(other) => panic!("who has the role {other}?"),
        }
    }

    /// The path of an operation, with this id in it.
    pub fn path(&self, operation: &Operation, id: &str) -> String {
        let organizer = self.mesh.organizer.user_id.to_string();
        let path = operation.path.replace("{id}", id).replace("{user_id}", &organizer);
        path.replace("{role}", "fan").replace("{letter}", "point-1")
    }

    /// The id of an existing entity that the operation is about.
    pub fn id(&self, operation: &Operation) -> String {
        match operation.path.split('/').nth(2) {
            Some("concerts") => self.concert.clone(),
            Some("schedules") => self.schedule.to_string(),
            Some("reservations") => self.hold.to_string(),
            Some("payments" | "sagas") => self.payment.to_string(),
            Some("users") if operation.id == "getWithdrawal" => self.attempt.to_string(),
            Some("users") => self.fan.session.user_id.to_string(),
            _ => {
                assert!(!operation.path.contains("{id}"), "whose id has {}?", operation.path);
                String::new()
            }
        }
    }

    /// A request with nothing wrong in it.
    pub fn right(&self, operation: &Operation) -> Request {
        let path = self.path(operation, &self.id(operation));
        let mut request = Request::new(operation.method.clone(), path);
        if operation.token {
            request = request.by(self.token_for(operation));
        }
        let Some(body) = &operation.body else { return request };
        request = request.json(&body.example);
        match operation.id.as_str() {
            "register" => request.set("email", format!("{}@example.com", Uuid::now_v7().simple())),
            "refreshSession" => {
                request.set("refresh_token", self.other.session.refresh_token.clone())
            }
            "openSchedule" => {
                let now = clock::now();
                let [opens, refund, starts] =
                    [60, 3_600, 86_400].map(|secs| json!(now.plus_secs(secs)));
                request.set("opens_at", opens).set("starts_at", starts).set("refund_until", refund)
            }
            "reserve" => request
                .set("schedule_id", self.schedule.to_string())
                .set("seats", json!(["A-1-3"]))
                .set("pass", self.pass()),
            "pay" => request.set("reservation_id", self.hold.to_string()),
            _ => request,
        }
    }
}
