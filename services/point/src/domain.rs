//! Decisions about wallets: charges, debits, refunds and withdrawals.

use events::{
    EntryId, PaymentId, Problem, Timestamp, UserId, codes,
    point::{self, DebitRefusal, EntryKind},
    withdrawal::{Standing, WithdrawalReason},
};
use mesh::HandleError;

use crate::Config;

/// A fan's points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wallet {
    /// Points in it; never below zero.
    pub balance: i64,
    /// Whether points may move.
    pub state: WalletState,
}

/// Whether points may move. A refund is possible in every state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalletState {
    /// Points may move.
    Open,
    /// A withdrawal is cleared: no charge and no debit unless it is refused.
    Closing,
    /// No charge and no debit any more.
    Closed,
}

impl WalletState {
    /// The state of a wallet, given the standings of its owner's attempts to close the account.
    pub fn of(attempts: impl Iterator<Item = Standing>) -> Self {
        attempts.fold(Self::Open, |state, standing| match (state, standing) {
            (_, Standing::Withdrawn) | (Self::Closed, _) => Self::Closed,
            (_, Standing::Cleared) => Self::Closing,
            _ => state,
        })
    }
}

impl Wallet {
    /// A new wallet.
    pub const OPENED: Self = Self { balance: 0, state: WalletState::Open };
    /// A wallet whose closing arrived before its opening.
    pub const CLOSED: Self = Self { balance: 0, state: WalletState::Closed };
}

/// What the ledger knows of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trail {
    /// It was refused, for good.
    Refused,
    /// Points were taken.
    Debited {
        /// The fan who paid.
        user_id: UserId,
        /// How many points.
        amount: i64,
    },
    /// The points were taken, and given back.
    Refunded,
}

/// The decision on a debit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debit {
    /// Take the points.
    Take,
    /// Take nothing, for good.
    Refuse(DebitRefusal),
    /// It was decided before.
    Decided,
}

/// Points in the wallet after a charge of `amount`.
///
/// # Errors
/// `wallet_closed` or `balance_limit`.
pub fn charge(wallet: &Wallet, amount: i64, config: &Config) -> Result<i64, Problem> {
    match wallet.state {
        WalletState::Open => {}
        WalletState::Closing => {
            let why = "The account is being closed.";
            return Err(Problem::new(codes::WALLET_CLOSED, why));
        }
        WalletState::Closed => return Err(codes::WALLET_CLOSED.into()),
    }
    match wallet.balance.checked_add(amount) {
        Some(balance) if balance <= config.balance_max => Ok(balance),
        _ => Err(Problem::new(
            codes::BALANCE_LIMIT,
            format!("A wallet holds at most {} points.", config.balance_max),
        )),
    }
}

/// Checks the amount of a charge.
///
/// # Errors
/// `invalid`.
pub fn check_charge(amount: i64, config: &Config) -> Result<(), Problem> {
    if (1..=config.charge_max).contains(&amount) {
        Ok(())
    } else {
        let what = format!("must be 1 to {}, not {amount}", config.charge_max);
        Err(Problem::about(codes::INVALID, "amount", what))
    }
}

/// Whether `amount` points are taken for a payment; `attempt` is how often the event was tried.
///
/// # Errors
/// `NotYet` while the wallet may still be opened, `Never` for a negative amount.
pub fn debit(
    trail: Option<&Trail>,
    wallet: Option<&Wallet>,
    amount: i64,
    attempt: u64,
    config: &Config,
) -> Result<Debit, HandleError> {
    if amount < 0 {
        return Err(HandleError::Never(format!("a payment of {amount} points")));
    }
    match (trail, wallet) {
        (Some(_), _) => Ok(Debit::Decided),
        (None, None) if attempt < config.unknown_wallet_attempts => {
            Err(HandleError::NotYet("user.registered of this fan"))
        }
        (None, None) => Ok(Debit::Refuse(DebitRefusal::NoWallet)),
        (None, Some(wallet)) if wallet.state != WalletState::Open => {
            Ok(Debit::Refuse(DebitRefusal::NoWallet))
        }
        (None, Some(wallet)) if wallet.balance < amount => {
            Ok(Debit::Refuse(DebitRefusal::InsufficientBalance))
        }
        (None, Some(_)) => Ok(Debit::Take),
    }
}

/// Points to give back to `fan` for a payment: what was taken; `None` when it was given
/// back before.
///
/// # Errors
/// `NotYet` while the payment is unknown, `Never` when nothing was taken for it, or when
/// another fan paid it.
pub fn refund(trail: Option<&Trail>, fan: UserId) -> Result<Option<i64>, HandleError> {
    match trail {
        None => Err(HandleError::NotYet("payment.requested of this payment")),
        Some(Trail::Refunded) => Ok(None),
        Some(Trail::Debited { user_id, amount }) if *user_id == fan => Ok(Some(*amount)),
        Some(Trail::Debited { .. }) => Err(HandleError::Never("another fan has paid this".into())),
        Some(Trail::Refused) => {
            Err(HandleError::Never("nothing was taken for this payment".into()))
        }
    }
}

/// What blocks a fan's withdrawal.
pub fn at_stake(wallet: &Wallet, forfeit: bool) -> Option<WithdrawalReason> {
    (wallet.balance > 0 && !forfeit).then_some(WithdrawalReason::Points)
}

/// One movement between a wallet and the house.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The owner of the wallet.
    pub user_id: UserId,
    /// Its id; ids grow with time.
    pub id: EntryId,
    /// Why points moved.
    pub kind: EntryKind,
    /// Points added to the wallet; negative when they leave it.
    pub amount: i64,
    /// Points in the wallet afterwards.
    pub balance: i64,
    /// The payment behind it.
    pub payment_id: Option<PaymentId>,
    /// When.
    pub at: Timestamp,
}

impl Entry {
    /// What its owner sees.
    pub fn to_view(&self) -> point::Entry {
        point::Entry {
            entry_id: self.id,
            kind: self.kind,
            amount: self.amount,
            balance: self.balance,
            payment_id: self.payment_id,
            at: self.at,
        }
    }
}

/// The house account on the other side of a movement: `cash` for money that comes in, `sales`
/// for seats, `forfeits` for points that are given up.
pub fn house(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Charge => "cash",
        EntryKind::Debit | EntryKind::Refund => "sales",
        EntryKind::Forfeit => "forfeits",
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const FAN: UserId = UserId(Uuid::from_u128(1));
    const DEBITED: Trail = Trail::Debited { user_id: FAN, amount: 100 };

    fn open(balance: i64) -> Wallet {
        Wallet { balance, state: WalletState::Open }
    }

    fn config() -> Config {
        Config::default()
    }

    #[test]
    fn a_charge_is_one_to_ten_million_points() {
        for amount in [i64::MIN, -1, 0, 10_000_001, i64::MAX] {
            assert!(check_charge(amount, &config()).unwrap_err().is(codes::INVALID), "{amount}");
        }
        for amount in [1, 10_000_000] {
            assert_eq!(check_charge(amount, &config()), Ok(()));
        }
    }

    #[test]
    fn a_wallet_is_charged_up_to_its_limit_and_no_further() {
        let limit = config().balance_max;
        assert_eq!(charge(&open(limit - 5), 5, &config()), Ok(limit));
        for (balance, amount) in [(limit - 5, 6), (limit + 1, 1), (i64::MAX, 1)] {
            let problem = charge(&open(balance), amount, &config()).unwrap_err();
            assert!(problem.is(codes::BALANCE_LIMIT));
        }
    }

    #[test]
    fn a_closed_wallet_is_not_charged() {
        let closing = Wallet { state: WalletState::Closing, ..open(5) };
        for wallet in [Wallet::CLOSED, closing] {
            assert!(charge(&wallet, 1, &config()).unwrap_err().is(codes::WALLET_CLOSED));
        }
    }

    #[test]
    fn points_are_taken_to_the_last_one_and_never_below_zero() {
        let taken = |balance, amount| debit(None, Some(&open(balance)), amount, 1, &config());
        assert_eq!(taken(100, 100), Ok(Debit::Take));
        assert_eq!(taken(0, 0), Ok(Debit::Take));
        let poor = Ok(Debit::Refuse(DebitRefusal::InsufficientBalance));
        assert_eq!(taken(99, 100), poor);
        assert_eq!(taken(0, i64::MAX), poor);
    }

    #[test]
    fn a_negative_payment_is_refused_for_good() {
        let result = debit(None, Some(&open(100)), -1, 1, &config());
        assert!(matches!(result, Err(HandleError::Never(_))));
    }

    #[test]
    fn nothing_is_taken_from_a_closed_wallet() {
        for state in [WalletState::Closing, WalletState::Closed] {
            let refused = debit(None, Some(&Wallet { balance: 100, state }), 100, 1, &config());
            assert_eq!(refused, Ok(Debit::Refuse(DebitRefusal::NoWallet)));
        }
    }

    #[test]
    fn a_payment_is_retried_before_an_unknown_wallet_counts_as_missing() {
        let attempts_max = config().unknown_wallet_attempts;
        for attempt in 1..attempts_max {
            let result = debit(None, None, 100, attempt, &config());
            assert!(matches!(result, Err(HandleError::NotYet(_))), "{attempt}");
        }
        let refused = debit(None, None, 100, attempts_max, &config());
        assert_eq!(refused, Ok(Debit::Refuse(DebitRefusal::NoWallet)));
    }

    #[test]
    fn a_payment_is_decided_once_whatever_was_charged_since() {
        for trail in [Trail::Refused, DEBITED, Trail::Refunded] {
            assert_eq!(
                debit(Some(&trail), Some(&open(500)), 100, 1, &config()),
                Ok(Debit::Decided)
            );
            assert_eq!(debit(Some(&trail), None, 100, 99, &config()), Ok(Debit::Decided));
        }
    }

    #[test]
    fn what_was_taken_is_given_back_once() {
        assert_eq!(refund(Some(&DEBITED), FAN), Ok(Some(100)));
        assert_eq!(refund(Some(&Trail::Refunded), FAN), Ok(None));
    }

    #[test]
    fn nothing_is_given_back_that_was_not_taken() {
        assert!(matches!(refund(None, FAN), Err(HandleError::NotYet(_))));
        assert!(matches!(refund(Some(&Trail::Refused), FAN), Err(HandleError::Never(_))));
        let stranger = UserId(Uuid::from_u128(9));
        assert!(matches!(refund(Some(&DEBITED), stranger), Err(HandleError::Never(_))));
    }

    #[test]
    fn only_a_charge_is_paid_in_cash() {
        assert_eq!(house(EntryKind::Charge), "cash");
        assert_eq!(house(EntryKind::Debit), "sales");
        assert_eq!(house(EntryKind::Refund), "sales");
        assert_eq!(house(EntryKind::Forfeit), "forfeits");
    }

    #[test]
    fn points_block_a_withdrawal_unless_they_are_given_up() {
        assert_eq!(at_stake(&open(1), false), Some(WithdrawalReason::Points));
        assert_eq!(at_stake(&open(1), true), None);
        assert_eq!(at_stake(&open(0), false), None);
    }

    #[test]
    fn one_cleared_attempt_closes_a_wallet_and_a_withdrawal_closes_it_for_good() {
        use Standing::{Blocked, Cleared, Overtaken, Refused, Withdrawn};
        let state = |attempts: &[Standing]| WalletState::of(attempts.iter().copied());
        assert_eq!(state(&[]), WalletState::Open);
        assert_eq!(state(&[Refused, Blocked, Overtaken]), WalletState::Open);
        assert_eq!(state(&[Refused, Cleared, Blocked]), WalletState::Closing);
        assert_eq!(state(&[Withdrawn, Cleared, Refused]), WalletState::Closed);
    }
}
