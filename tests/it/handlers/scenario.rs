//! A sale with every flow of the domain, by fans who retry until they succeed.

use std::{sync::Mutex, time::Duration};

use events::{
    Page, ScheduleId,
    concert::{Concert, Organizers, Schedule, SeatState},
    payment::{Payment, PaymentFailure, PaymentState},
    point::Balance,
    queue::{Place, PlaceEnd, PlaceState},
    reservation::{Reservation, ReservationState},
    user::{Session, Withdrawal, WithdrawalState},
    withdrawal::WithdrawalReason,
};
use harness::mesh::{Mesh, SOON, eventually, eventually_within};
use hyper::Method;
use onsale::http::{Answer, Ask, Http};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

/// How long a fan waits for an answer before a retry. A service that dies does not answer the
/// requests that it had.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A fan with an account who retries each request, with one idempotency key, until it is answered.
pub struct Fan<'a> {
    http: &'a Http,
    token: &'a str,
    /// Why the last request was not granted.
    last: Mutex<String>,
}

impl<'a> Fan<'a> {
    pub fn new(mesh: &'a Mesh, session: &'a Session) -> Self {
        Self { http: &mesh.http, token: &session.access_token, last: Mutex::default() }
    }

    fn note(&self, why: String) {
        *self.last.lock().expect("no panic") = why;
    }

    /// Retries until there is an answer, whether it grants or refuses.
    async fn ask(&self, what: impl Fn(&'a Http) -> Ask<'a>) -> Answer {
        let ask = what(self.http).token(self.token);
        let ask = ask.header("idempotency-key", Uuid::now_v7().to_string());
        eventually("an answer", || async {
            let answer = match tokio::time::timeout(ANSWER_WITHIN, ask.send()).await {
                Ok(answer) => answer.inspect_err(|why| self.note(format!("{why:#}"))).ok()?,
                Err(_) => {
                    self.note(format!("no answer within {ANSWER_WITHIN:?}"));
                    return None;
                }
            };
            let is_answer = !matches!(answer.status.as_u16(), 429 | 502 | 503 | 504);
            if !is_answer {
                self.note(format!("{}", answer.status));
            }
            is_answer.then_some(answer)
        })
        .await
    }

    /// Retries until the request is granted: what it depends on may come later.
    async fn granted<T: DeserializeOwned>(&self, what: impl Fn(&'a Http) -> Ask<'a>) -> T {
        let granted = eventually("a granted request", || async {
            self.ask(&what).await.json().inspect_err(|why| self.note(why.to_string())).ok()
        });
        match tokio::time::timeout(SOON - ANSWER_WITHIN, granted).await {
            Ok(granted) => granted,
            Err(_) => panic!("never granted: {}", self.last.lock().expect("no panic")),
        }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.granted(|http| http.get(path)).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: Value) -> T {
        self.granted(|http| http.post(path).json(&body)).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> T {
        self.granted(|http| http.delete(path)).await
    }

    /// Reads until the answer is as expected.
    async fn sees<T: DeserializeOwned>(&self, path: &str, there: impl Fn(&T) -> bool) -> T {
        let seen = eventually_within(SOON + ANSWER_WITHIN, "the expected answer", || async {
            let answer = self.ask(|http| http.get(path)).await;
            self.note(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)));
            answer.json::<T>().ok().filter(|seen| there(seen))
        });
        match tokio::time::timeout(SOON, seen).await {
            Ok(seen) => seen,
            Err(_) => {
                panic!("never as expected at {path}: {}", self.last.lock().expect("no panic"))
            }
        }
    }

    async fn place(&self, schedule: ScheduleId, state: PlaceState) -> Place {
        let path = format!("/v1/schedules/{schedule}/queue/me");
        self.sees(&path, |place: &Place| place.state == state).await
    }

    /// Enters, waits for the pass and holds a seat.
    pub async fn hold(&self, schedule: ScheduleId, seat: &str) -> Reservation {
        // A place that was used up a moment ago may still be shown; the fan enters again when the
        // room knows of its end.
        eventually("a hold", || async {
            self.post::<Place>(&format!("/v1/schedules/{schedule}/queue"), json!({})).await;
            let path = format!("/v1/schedules/{schedule}/queue/me");
            let place: Place =
                self.sees(&path, |place: &Place| place.state != PlaceState::Waiting).await;
            let pass = place.pass.filter(|_| place.state == PlaceState::Active)?;
            let body = json!({ "schedule_id": schedule, "seats": [seat], "pass": pass });
            let answer = self.ask(|http| http.post("/v1/reservations").json(&body)).await;
            answer.json().ok()
        })
        .await
    }

    pub async fn pay(&self, hold: &Reservation) -> Payment {
        self.post("/v1/payments", json!({ "reservation_id": hold.reservation_id })).await
    }

    pub async fn payment(&self, payment: &Payment, state: PaymentState) -> Payment {
        let path = format!("/v1/payments/{}", payment.payment_id);
        self.sees(&path, |payment: &Payment| payment.state == state).await
    }

    async fn reservation(&self, hold: &Reservation, state: ReservationState) {
        let path = format!("/v1/reservations/{}", hold.reservation_id);
        self.sees(&path, |hold: &Reservation| hold.state == state).await;
    }

    async fn cancel(&self, hold: &Reservation) {
        let path = format!("/v1/reservations/{}", hold.reservation_id);
        let cancelled: Reservation = self.delete(&path).await;
        assert_eq!(cancelled.state, ReservationState::Cancelled);
    }

    /// Asks to close the account, and waits for the outcome.
    pub async fn leaves(&self, forfeit: bool) -> Withdrawal {
        let begun: Withdrawal = self.delete(&format!("/v1/users/me?forfeit={forfeit}")).await;
        let path = format!("/v1/users/me/withdrawals/{}", begun.attempt);
        self.sees(&path, |seen: &Withdrawal| seen.state != WithdrawalState::Requested).await
    }

    async fn has(&self, points: i64) {
        self.sees("/v1/points/balance", |balance: &Balance| balance.balance == points).await;
    }
}

/// Signs a fan up with these points.
pub async fn fan(mesh: &Mesh, points: i64) -> Session {
    let email = format!("fan-{}@example.com", Uuid::now_v7().simple());
    let body = json!({ "email": email, "password": "a long pass phrase" });
    let key = Uuid::now_v7().to_string();
    let session: Session = eventually("an account", || async {
        let ask = mesh.http.post("/v1/users").json(&body).header("idempotency-key", key.clone());
        tokio::time::timeout(ANSWER_WITHIN, ask.send()).await.ok()?.ok()?.json().ok()
    })
    .await;
    if points > 0 {
        let charge = json!({ "amount": points });
        Fan::new(mesh, &session).post::<Value>("/v1/points/charges", charge).await;
    }
    session
}

/// Puts `seats` seats on sale, at 100 points each.
pub async fn open(mesh: &Mesh, seats: usize, hold_secs: u32, pass_secs: u32) -> ScheduleId {
    let organizer = Fan::new(mesh, &mesh.organizer);
    let concert = json!({ "title": "A concert", "artist": "A band" });
    let concert: Concert = organizer.post("/v1/concerts", concert).await;
    let plan: String = (1..=seats).map(|seat| format!("A,1,{seat},100\n")).collect();
    let now = mesh::clock::now();
    let schedule = json!({
        "venue": "A hall",
        "starts_at": now.plus_secs(86_400),
        "opens_at": now.plus_secs(-1),
        "admission": { "per_second": 10_000, "active_max": 10_000, "pass_secs": pass_secs },
        "hold_secs": hold_secs,
        "seat_plan": format!("section,row,seat,price\n{plan}"),
    });
    let path = format!("/v1/concerts/{}/schedules", concert.concert_id);
    organizer.post::<Schedule>(&path, schedule).await.schedule_id
}

/// Runs every flow of the domain to its end, and returns the schedules that they took place in.
pub async fn every_flow(mesh: &Mesh) -> Vec<ScheduleId> {
    let (hall, brief, short, off, lost, last) = tokio::join!(
        open(mesh, 5, 300, 300),
        open(mesh, 1, 1, 300),
        open(mesh, 1, 300, 1),
        open(mesh, 2, 300, 300),
        open(mesh, 1, 300, 300),
        open(mesh, 1, 50, 300),
    );
    tokio::join!(
        sold(mesh, hall),
        refunded(mesh, hall),
        refused(mesh, hall),
        withdrawn(mesh, hall),
        expired(mesh, brief),
        timed_out(mesh, short),
        cancelled(mesh, off),
        lost_while_paying(mesh, lost),
        sold(mesh, last),
        organizer_team(mesh),
    );
    vec![hall, brief, short, off, lost, last]
}

/// A colleague is added to the organizers of a concert, removed, added again, and withdraws.
async fn organizer_team(mesh: &Mesh) {
    let login = &mesh.env.operator;
    let operator: Session = eventually("an operator", || async {
        let ask = mesh.http.post("/v1/sessions").json(login);
        tokio::time::timeout(ANSWER_WITHIN, ask.send()).await.ok()?.ok()?.json().ok()
    })
    .await;
    let colleague = fan(mesh, 0).await;
    let (boss, operator) = (Fan::new(mesh, &mesh.organizer), Fan::new(mesh, &operator));
    let role = format!("/v1/users/{}/roles/organizer", colleague.user_id);
    operator.granted::<Value>(|http| http.ask(Method::PUT, &role)).await;
    let concert = json!({ "title": "A concert", "artist": "A band" });
    let concert: Concert = boss.post("/v1/concerts", concert).await;
    let team = format!("/v1/concerts/{}/organizers", concert.concert_id);
    let their = format!("{team}/{}", colleague.user_id);
    boss.granted::<Organizers>(|http| http.ask(Method::PUT, &their)).await;
    boss.delete::<Organizers>(&their).await;
    boss.granted::<Organizers>(|http| http.ask(Method::PUT, &their)).await;
    let gone = Fan::new(mesh, &colleague).leaves(false).await;
    assert_eq!(gone.state, WithdrawalState::Completed);
    boss.sees(&team, |team: &Organizers| team.organizers.len() == 1).await;
}

/// A fan buys a seat. When the hold has less than a minute left, the payment asks for an extension.
async fn sold(mesh: &Mesh, schedule: ScheduleId) {
    let session = fan(mesh, 100).await;
    let fan = Fan::new(mesh, &session);
    let hold = fan.hold(schedule, "A-1-1").await;
    let payment = fan.pay(&hold).await;
    fan.payment(&payment, PaymentState::Completed).await;
    fan.reservation(&hold, ReservationState::Confirmed).await;
    fan.place(schedule, PlaceState::Completed).await;
    fan.has(0).await;
}

async fn refunded(mesh: &Mesh, schedule: ScheduleId) {
    let session = fan(mesh, 150).await;
    let fan = Fan::new(mesh, &session);
    let hold = fan.hold(schedule, "A-1-2").await;
    let payment = fan.pay(&hold).await;
    fan.payment(&payment, PaymentState::Completed).await;
    fan.cancel(&hold).await;
    fan.payment(&payment, PaymentState::Refunded).await;
    fan.has(150).await;
}

/// A fan has too few points, and then cancels the hold and leaves the waiting room.
async fn refused(mesh: &Mesh, schedule: ScheduleId) {
    let session = fan(mesh, 99).await;
    let fan = Fan::new(mesh, &session);
    let hold = fan.hold(schedule, "A-1-3").await;
    let payment = fan.pay(&hold).await;
    let payment = fan.payment(&payment, PaymentState::Failed).await;
    assert_eq!(payment.reason, Some(PaymentFailure::InsufficientBalance));
    fan.cancel(&hold).await;
    let place: Place = fan.delete(&format!("/v1/schedules/{schedule}/queue/me")).await;
    assert_eq!(place.reason, Some(PlaceEnd::Left));
    fan.has(99).await;
}

/// A withdrawal is blocked by a ticket and by points; then both are forfeited, and a hold is lost.
async fn withdrawn(mesh: &Mesh, schedule: ScheduleId) {
    let session = fan(mesh, 150).await;
    let fan = Fan::new(mesh, &session);
    let ticket = fan.hold(schedule, "A-1-4").await;
    let payment = fan.pay(&ticket).await;
    fan.payment(&payment, PaymentState::Completed).await;
    let kept = fan.leaves(false).await;
    assert_eq!(kept.reasons, [WithdrawalReason::Tickets, WithdrawalReason::Points]);
    let hold = fan.hold(schedule, "A-1-5").await;
    let gone = fan.leaves(true).await;
    assert_eq!(gone.state, WithdrawalState::Completed);
    fan.reservation(&hold, ReservationState::Cancelled).await;
    fan.reservation(&ticket, ReservationState::Cancelled).await;
    let place = fan.place(schedule, PlaceState::Expired).await;
    assert_eq!(place.reason, Some(PlaceEnd::Withdrawn));
    fan.has(0).await;
    fan.payment(&payment, PaymentState::Completed).await;
}

async fn expired(mesh: &Mesh, schedule: ScheduleId) {
    let session = fan(mesh, 100).await;
    let fan = Fan::new(mesh, &session);
    let hold = fan.hold(schedule, "A-1-1").await;
    fan.reservation(&hold, ReservationState::Expired).await;
    fan.has(100).await;
}

async fn timed_out(mesh: &Mesh, schedule: ScheduleId) {
    let session = fan(mesh, 0).await;
    let fan = Fan::new(mesh, &session);
    fan.post::<Place>(&format!("/v1/schedules/{schedule}/queue"), json!({})).await;
    let place = fan.place(schedule, PlaceState::Expired).await;
    assert_eq!(place.reason, Some(PlaceEnd::Timeout));
}

/// A show with an owner, a holder and a fan in the waiting room is cancelled.
async fn cancelled(mesh: &Mesh, schedule: ScheduleId) {
    let (owner, holder, idle) = tokio::join!(fan(mesh, 100), fan(mesh, 100), fan(mesh, 0));
    let (owner, holder) = (Fan::new(mesh, &owner), Fan::new(mesh, &holder));
    let idle = Fan::new(mesh, &idle);
    let (sold, held) = tokio::join!(owner.hold(schedule, "A-1-1"), holder.hold(schedule, "A-1-2"));
    idle.post::<Place>(&format!("/v1/schedules/{schedule}/queue"), json!({})).await;
    let payment = owner.pay(&sold).await;
    owner.payment(&payment, PaymentState::Completed).await;
    let organizer = Fan::new(mesh, &mesh.organizer);
    organizer.delete::<Schedule>(&format!("/v1/schedules/{schedule}")).await;
    owner.payment(&payment, PaymentState::Refunded).await;
    owner.reservation(&sold, ReservationState::Cancelled).await;
    holder.reservation(&held, ReservationState::Cancelled).await;
    for fan in [&holder, &idle] {
        let place = fan.place(schedule, PlaceState::Expired).await;
        assert_eq!(place.reason, Some(PlaceEnd::Cancelled));
    }
    owner.has(100).await;
}

/// The hold is cancelled while its payment waits for the wallet: the money is debited, cannot be
/// used, and is refunded; the fan returns to the front of the queue and is admitted again. A
/// withdrawal is blocked meanwhile.
async fn lost_while_paying(mesh: &Mesh, schedule: ScheduleId) {
    let session = fan(mesh, 100).await;
    let fan = Fan::new(mesh, &session);
    let hold = fan.hold(schedule, "A-1-1").await;
    let url = mesh.env.config.database_url("point").expect("an address");
    let mut point = PgConnection::connect(url).await.expect("a connection");
    let mut wallet = point.begin().await.expect("begun");
    sqlx::query("select from wallets where user_id = $1 for update")
        .bind(session.user_id.0)
        .execute(&mut *wallet)
        .await
        .expect("locked");
    let payment = fan.pay(&hold).await;
    let begun: Withdrawal = fan.delete("/v1/users/me").await;
    payment_answers(mesh, &begun).await;
    fan.cancel(&hold).await;
    wallet.rollback().await.expect("unlocked");
    let payment = fan.payment(&payment, PaymentState::Failed).await;
    assert_eq!(payment.reason, Some(PaymentFailure::HoldGone));
    fan.has(100).await;
    fan.place(schedule, PlaceState::Active).await;
}

/// Waits until the payment service has blocked a withdrawal.
async fn payment_answers(mesh: &Mesh, begun: &Withdrawal) {
    let url = mesh.env.config.database_url("user").expect("an address");
    let pool = sqlx::PgPool::connect(url).await.expect("a connection");
    eventually("an answer of payment", || async {
        let answer: Option<String> =
            sqlx::query_scalar("select payment from withdrawals where attempt = $1")
                .bind(begun.attempt.0)
                .fetch_one(&pool)
                .await
                .expect("an attempt");
        answer.map(|answer| assert_eq!(answer, "payment_running"))
    })
    .await;
}

/// Waits until the map shows the seat in this state.
pub async fn shows(fan: &Fan<'_>, schedule: ScheduleId, seat: &str, state: SeatState) {
    let path = format!("/v1/schedules/{schedule}/seats");
    let seat = events::SeatId(seat.to_owned());
    let shown = |map: &events::concert::SeatMap| map.state_of(&seat) == Some(state);
    fan.sees(&path, shown).await;
}

/// The fan's payments.
pub async fn payments(fan: &Fan<'_>) -> Vec<Payment> {
    fan.get::<Page<Payment>>("/v1/payments").await.items
}
