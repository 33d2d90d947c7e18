//! Fans who sign up, charge, hold, pay, cancel and withdraw, and remember each granted answer.

use events::{
    AttemptId, EntryId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId,
    payment::{self, Pay},
    point::{self, Charge},
    reservation::{self as seats, Cancel},
    user::{self as accounts, Role, Withdraw},
};
use mesh::{Answered, Caller, Idempotency, memory::DecodedCommand};
use rand::{RngExt as _, rngs::StdRng};
use reservation::sim::Pass;
use user::sim::{AddAccount, RefuseWithdrawal, Secret};
use uuid::Uuid;

/// The roles of a fan's account.
const FAN: [Role; 1] = [Role::Fan];
/// How long a fan waits for an answer.
const PATIENCE_SECS: i64 = 5;
/// Seats in each show.
pub const SEATS: usize = 6;

/// A command for a service.
#[derive(Debug, Clone)]
pub enum Wish {
    /// Open an account.
    SignUp(AddAccount),
    /// Close the account.
    Withdraw(Withdraw),
    /// Refuse a withdrawal that was not answered in time.
    RefuseWithdrawal(RefuseWithdrawal),
    /// Hold seats.
    Hold {
        /// The show.
        schedule_id: ScheduleId,
        /// The seats.
        seats: Vec<SeatId>,
        /// The pass from the waiting room.
        pass: Pass,
    },
    /// Cancel a reservation.
    GiveBack(Cancel),
    /// End a hold whose time is up.
    Expire(ReservationId),
    /// Cancel the reservations of a cancelled show.
    Empty(ScheduleId, Vec<ReservationId>),
    /// Pay a hold.
    Pay(Pay),
    /// Buy points.
    Charge(Charge),
}

impl Wish {
    /// The service that executes it.
    pub fn service(&self) -> &'static str {
        match self {
            Self::SignUp(_) | Self::Withdraw(_) | Self::RefuseWithdrawal(_) => ::user::NAME,
            Self::Hold { .. } | Self::GiveBack(_) | Self::Expire(_) | Self::Empty(..) => {
                ::reservation::NAME
            }
            Self::Pay(_) => ::payment::NAME,
            Self::Charge(_) => ::point::NAME,
        }
    }
}

/// Something that an answer promised to a fan.
#[derive(Debug, Clone, PartialEq)]
pub enum Promise {
    /// There is an account.
    Account(UserId),
    /// Points were charged.
    Charged(EntryId, i64),
    /// Seats are held.
    Held(ReservationId),
    /// A payment was accepted.
    Paying(PaymentId),
    /// A reservation is cancelled.
    GivenBack(ReservationId),
    /// A withdrawal was accepted.
    Leaving(AttemptId),
}

/// What a fan does next.
#[derive(Debug, Clone)]
enum Step {
    SignUp,
    Idle,
    Waiting { wish: Wish, key: Uuid, since: Timestamp, tries: u32 },
}

/// A fan.
pub struct Person {
    step: Step,
    /// The account, once there is one.
    pub user_id: Option<UserId>,
    /// How many charges were asked for; a retry does not count.
    pub charges_asked: usize,
    holds: Vec<ReservationId>,
    visits: u32,
    /// When the fan acts next.
    pub next: Timestamp,
    /// What the answers promised.
    pub promises: Vec<Promise>,
}

/// What every fan knows.
pub struct Town {
    /// The shows that are on sale.
    pub shows: Vec<ScheduleId>,
    /// Until when fans begin anything new; later they only finish what they have begun.
    pub closes_at: Timestamp,
}

impl Person {
    /// A fan who first acts at `next`.
    pub fn new(next: Timestamp, visits: u32) -> Self {
        let (step, user_id) = (Step::SignUp, None);
        let (holds, promises) = (Vec::new(), Vec::new());
        Self { step, user_id, charges_asked: 0, holds, visits, next, promises }
    }

    /// Whether the fan has nothing left to do.
    pub fn is_done(&self) -> bool {
        matches!(self.step, Step::Idle) && self.visits == 0
    }

    /// The command that the fan sends now, if any. Sets the time of the next one.
    pub fn act(
        &mut self,
        town: &Town,
        chance: &mut StdRng,
        now: Timestamp,
    ) -> Option<(Wish, DecodedCommand)> {
        self.next = now.plus_millis(chance.random_range(20..4_000));
        match &mut self.step {
            Step::Waiting { since, .. } if now < since.plus_secs(PATIENCE_SECS) => return None,
            // No answer: the fan retries with the same idempotency key, or gives up.
            Step::Waiting { wish, key, since, tries } => {
                if *tries < 6 {
                    (*since, *tries) = (now, *tries + 1);
                    let (wish, key) = (wish.clone(), *key);
                    return Some((wish.clone(), self.asking(&wish, key)));
                }
                self.step = if self.user_id.is_some() { Step::Idle } else { Step::SignUp };
            }
            _ => {}
        }
        if self.visits == 0 || (now >= town.closes_at && self.user_id.is_some()) {
            self.visits = 0;
            self.step = Step::Idle;
            return None;
        }
        let wish = self.wish(town, chance, now);
        self.charges_asked += usize::from(matches!(wish, Wish::Charge(_)));
        let key = mesh::clock::new_id();
        self.step = Step::Waiting { wish: wish.clone(), key, since: now, tries: 0 };
        Some((wish.clone(), self.asking(&wish, key)))
    }

    fn wish(&mut self, town: &Town, chance: &mut StdRng, now: Timestamp) -> Wish {
        let Some(user_id) = self.user_id else {
            let email = format!("fan-{}@example.com", mesh::clock::new_id().simple());
            return Wish::SignUp(AddAccount { email, password_hash: Secret("hash".into()) });
        };
        self.visits -= 1;
        let held = |holds: &[ReservationId], chance: &mut StdRng| {
            (!holds.is_empty()).then(|| holds[chance.random_range(0..holds.len())])
        };
        match chance.random_range(0..100) {
            0..25 => Wish::Charge(Charge { amount: chance.random_range(1..40) * 10 }),
            25..60 if !town.shows.is_empty() => {
                let schedule_id = town.shows[chance.random_range(0..town.shows.len())];
                let first = chance.random_range(0..SEATS);
                let count = chance.random_range(1..3_usize);
                let seats = (first..(first + count).min(SEATS)).map(seat).collect();
                let reserve_until = now.plus_secs(120);
                // Each hold has a new place: a payment uses a place up.
                let place_version = now.unix_millis().unsigned_abs();
                let pass = Pass { user_id, schedule_id, place_version, reserve_until };
                Wish::Hold { schedule_id, seats, pass }
            }
            90..97 if let Some(reservation_id) = held(&self.holds, chance) => {
                Wish::GiveBack(Cancel { reservation_id })
            }
            97..100 => Wish::Withdraw(Withdraw { forfeit: chance.random_bool(0.5) }),
            _ => match held(&self.holds, chance) {
                Some(reservation_id) => Wish::Pay(Pay { reservation_id }),
                None => Wish::Charge(Charge { amount: 100 }),
            },
        }
    }

    fn asking(&self, wish: &Wish, key: Uuid) -> DecodedCommand {
        let caller = match self.user_id {
            None => Caller::Anonymous,
            Some(user_id) => {
                let expires_at = mesh::clock::now().plus_secs(900);
                Caller::User { user_id, roles: FAN.to_vec(), expires_at }
            }
        };
        let mut scope = [0; 32];
        scope[..16].copy_from_slice(key.as_bytes());
        scope[16..].copy_from_slice(self.user_id.map_or(Uuid::nil(), |id| id.0).as_bytes());
        let idempotency = Some(Idempotency { scope, body: [wish.service().len() as u8; 32] });
        DecodedCommand { caller, idempotency, id: mesh::clock::new_id() }
    }

    /// Reads an answer. One that comes while the fan waits for nothing is late.
    pub fn receive(
        &mut self,
        wish: &Wish,
        answered: &Answered,
        chance: &mut StdRng,
        now: Timestamp,
    ) {
        let Step::Waiting { .. } = self.step else { return };
        self.step = if self.user_id.is_some() { Step::Idle } else { Step::SignUp };
        self.next = now.plus_millis(chance.random_range(5..8_000));
        if !is_granted(answered) {
            return;
        }
        let body = &answered.body;
        match wish {
            Wish::SignUp(_) => {
                if let Ok(account) = serde_json::from_slice::<accounts::Account>(body) {
                    self.user_id = Some(account.user_id);
                    self.step = Step::Idle;
                    self.promises.push(Promise::Account(account.user_id));
                }
            }
            Wish::Charge(_) => {
                if let Ok(entry) = serde_json::from_slice::<point::Entry>(body) {
                    self.promises.push(Promise::Charged(entry.entry_id, entry.amount));
                }
            }
            Wish::Hold { .. } => {
                if let Ok(hold) = serde_json::from_slice::<seats::Reservation>(body) {
                    self.holds.push(hold.reservation_id);
                    self.promises.push(Promise::Held(hold.reservation_id));
                }
            }
            Wish::Pay(_) => {
                if let Ok(paying) = serde_json::from_slice::<payment::Payment>(body) {
                    self.promises.push(Promise::Paying(paying.payment_id));
                }
            }
            Wish::GiveBack(cancel) => {
                self.promises.push(Promise::GivenBack(cancel.reservation_id));
            }
            Wish::Withdraw(_) => {
                if let Ok(attempt) = serde_json::from_slice::<accounts::Withdrawal>(body) {
                    self.promises.push(Promise::Leaving(attempt.attempt));
                }
            }
            Wish::RefuseWithdrawal(_) | Wish::Expire(_) | Wish::Empty(..) => {}
        }
    }
}

/// The name of a seat.
pub fn seat(number: usize) -> SeatId {
    SeatId::new("A", "1", &(number + 1).to_string())
}

/// Whether a fan takes this answer as granted.
fn is_granted(answered: &Answered) -> bool {
    answered.is_granted() && !answered.body.is_empty()
}
