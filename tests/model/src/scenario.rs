//! Who wants what.

use events::{ReservationId, UserId};
use uuid::Uuid;

/// A fan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fan {
    /// The one who holds the seat first.
    First,
    /// The one who wants it too.
    Second,
}

impl Fan {
    /// The id of the fan's account.
    pub fn user_id(self) -> UserId {
        UserId(Uuid::from_u128(0x10 + self as u128))
    }

    /// The id of the fan's hold.
    pub fn reservation_id(self) -> ReservationId {
        ReservationId(Uuid::from_u128(0x20 + self as u128))
    }
}

/// A command that is sent once, at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ask {
    /// Hold the seat.
    Hold(Fan),
    /// Pay the hold; the number distinguishes two payments of one hold.
    Pay(Fan, u8),
    /// Give the hold or the ticket back.
    Cancel(Fan),
    /// Charge the price of the seat.
    Charge(Fan),
    /// The organizer calls the show off.
    CallOff,
}

/// The settings of a model.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What fans and organizer ask for, each once, at any time and in any order.
    pub asks: Vec<Ask>,
    /// Points in each wallet at the beginning.
    pub balances: [i64; 2],
    /// The clock's times, in seconds after the beginning. A hold lives 120 s; its last minute
    /// begins at 60.
    pub times: Vec<i64>,
    /// How often a message that was handled comes again.
    pub repeats: u8,
    /// Outcomes that must be possible, so that the checks are about something.
    pub outcomes: Vec<&'static str>,
}

/// The price of the seat, in points.
pub const PRICE: i64 = 50;
/// How long a hold lives.
pub const HOLD_SECS: u32 = 120;

impl Scenario {
    /// Two fans want one seat. The first may pay at any time, in the last minute too, or let the
    /// hold run out; then the second holds and pays it.
    pub fn rivals() -> Self {
        use {Ask::*, Fan::*};
        Self {
            asks: vec![Hold(First), Hold(Second), Pay(First, 1), Pay(Second, 1)],
            balances: [PRICE, PRICE],
            // Early; in the last minute of a hold from the beginning; past its end and within an
            // extension; past its cap; in the last minute of a hold from 200; past every cap.
            times: vec![0, 70, 125, 200, 265, 520],
            repeats: 1,
            outcomes: vec![COMPLETED, HOLD_GONE, EXTENDED, EXPIRED, BOTH_PAID],
        }
    }

    /// One fan pays, too poor at first, charges, pays once more, and may give the ticket back.
    pub fn second_try() -> Self {
        use {Ask::*, Fan::*};
        Self {
            asks: vec![Hold(First), Pay(First, 1), Charge(First), Pay(First, 2), Cancel(First)],
            balances: [0, 0],
            times: vec![0, 70, 125, 320],
            repeats: 2,
            outcomes: vec![COMPLETED, HOLD_GONE, POOR, REFUNDED, CANCELLED, EXTENDED],
        }
    }

    /// The show is called off while a fan pays, and a rival waits for the seat.
    pub fn called_off() -> Self {
        use {Ask::*, Fan::*};
        Self {
            asks: vec![
                Hold(First),
                Pay(First, 1),
                Cancel(First),
                Hold(Second),
                Pay(Second, 1),
                CallOff,
            ],
            balances: [PRICE, PRICE],
            times: vec![0, 125],
            repeats: 1,
            outcomes: vec![COMPLETED, REFUNDED, CANCELLED, OFF, BOTH_PAID],
        }
    }
}

/// A payment completes.
pub const COMPLETED: &str = "a payment completes";
/// A payment fails because the hold is gone, and its money is back.
pub const HOLD_GONE: &str = "a payment fails because its hold is gone";
/// A payment fails because the show was called off, and its money is back.
pub const OFF: &str = "a payment fails because the show is called off";
/// A payment fails for lack of points.
pub const POOR: &str = "a payment fails for lack of points";
/// A ticket is given back for its money.
pub const REFUNDED: &str = "a completed payment is refunded";
/// A hold is extended.
pub const EXTENDED: &str = "a hold is extended";
/// A hold runs out.
pub const EXPIRED: &str = "a hold runs out";
/// A reservation is cancelled.
pub const CANCELLED: &str = "a reservation is cancelled";
/// Both fans have money taken for the same seat; one of them gets it back.
pub const BOTH_PAID: &str = "money is taken twice for the seat, and given back once";
