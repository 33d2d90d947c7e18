//! An attempt to close an account: the services that answer, their answers, and the outcome. Pure
//! decisions.

use events::{
    AttemptId, Timestamp, UserId,
    user::{self, WithdrawalState},
    withdrawal::WithdrawalReason,
};

/// A service that answers an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// It has a running payment or refund.
    Payment,
    /// It has tickets for shows to come.
    Reservation,
    /// It has points left.
    Point,
}

/// How many services answer.
pub const PARTIES: usize = 3;

/// The answer of a service: the withdrawal is cleared, or why it is blocked.
pub type Answered = Result<(), WithdrawalReason>;

/// How an attempt ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The account is closed.
    Closed,
    /// The account stays open.
    Refused(Vec<WithdrawalReason>),
}

/// An attempt to close an account.
#[derive(Debug, Clone, PartialEq)]
pub struct Withdrawal {
    /// Its id, and the id of its saga.
    pub attempt: AttemptId,
    /// The user of the account.
    pub user_id: UserId,
    /// Whether points and tickets are given up.
    pub forfeit: bool,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// The answers, indexed by [`Party`].
    pub answers: [Option<Answered>; PARTIES],
    /// Its state.
    pub state: WithdrawalState,
    /// Why it was refused.
    pub reasons: Vec<WithdrawalReason>,
    /// When it was decided.
    pub ended_at: Option<Timestamp>,
}

impl Withdrawal {
    /// An attempt that begins now.
    pub fn begin(attempt: AttemptId, user_id: UserId, forfeit: bool, now: Timestamp) -> Self {
        Self {
            attempt,
            user_id,
            forfeit,
            requested_at: now,
            answers: [None; PARTIES],
            state: WithdrawalState::Requested,
            reasons: Vec::new(),
            ended_at: None,
        }
    }

    /// Whether it is decided already.
    pub fn is_over(&self) -> bool {
        self.state != WithdrawalState::Requested
    }

    /// Records an answer. The first of each service counts, and none that comes after the end. The
    /// last one decides the attempt.
    pub fn answer(&mut self, party: Party, answered: Answered, now: Timestamp) -> Option<Outcome> {
        let place = &mut self.answers[party as usize];
        if self.state != WithdrawalState::Requested || place.is_some() {
            return None;
        }
        *place = Some(answered);
        self.answers.iter().all(Option::is_some).then(|| self.decide(now))
    }

    /// Decides the attempt without the missing answers; `None` when it was decided before.
    pub fn time_out(&mut self, now: Timestamp) -> Option<Outcome> {
        (!self.is_over()).then(|| self.decide(now))
    }

    fn decide(&mut self, now: Timestamp) -> Outcome {
        let missing = Err(WithdrawalReason::NoAnswer);
        let answers = self.answers.iter().map(|answer| answer.unwrap_or(missing));
        self.reasons = answers.filter_map(Result::err).collect();
        self.reasons.sort_unstable();
        self.reasons.dedup();
        self.ended_at = Some(now);
        if self.reasons.is_empty() {
            self.state = WithdrawalState::Completed;
            Outcome::Closed
        } else {
            self.state = WithdrawalState::Refused;
            Outcome::Refused(self.reasons.clone())
        }
    }

    /// The attempt as its owner sees it.
    pub fn view(&self) -> user::Withdrawal {
        user::Withdrawal {
            attempt: self.attempt,
            user_id: self.user_id,
            forfeit: self.forfeit,
            state: self.state,
            reasons: self.reasons.clone(),
            requested_at: self.requested_at,
            ended_at: self.ended_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp(time::OffsetDateTime::UNIX_EPOCH).plus_secs(secs)
    }

    fn begun() -> Withdrawal {
        Withdrawal::begin(AttemptId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)), false, at(0))
    }

    const ALL: [Party; PARTIES] = [Party::Payment, Party::Reservation, Party::Point];

    #[test]
    fn the_last_of_three_clearances_closes_the_account_in_any_order() {
        for first in 0..PARTIES {
            let mut withdrawal = begun();
            let mut ends = Vec::new();
            for step in 0..PARTIES {
                ends.push(withdrawal.answer(ALL[(first + step) % PARTIES], Ok(()), at(1)));
            }
            assert_eq!(ends, [None, None, Some(Outcome::Closed)]);
            assert_eq!(withdrawal.state, WithdrawalState::Completed);
        }
    }

    #[test]
    fn an_attempt_is_refused_with_every_reason_once_all_services_have_answered() {
        let mut withdrawal = begun();
        let points = Err(WithdrawalReason::Points);
        assert_eq!(withdrawal.answer(Party::Point, points, at(1)), None);
        assert_eq!(withdrawal.answer(Party::Payment, Ok(()), at(1)), None);
        let tickets = Err(WithdrawalReason::Tickets);
        let reasons = vec![WithdrawalReason::Tickets, WithdrawalReason::Points];
        let outcome = withdrawal.answer(Party::Reservation, tickets, at(2));
        assert_eq!(outcome, Some(Outcome::Refused(reasons.clone())));
        assert_eq!((withdrawal.reasons, withdrawal.ended_at), (reasons, Some(at(2))));
    }

    #[test]
    fn the_first_answer_of_a_service_counts() {
        let mut withdrawal = begun();
        withdrawal.answer(Party::Point, Err(WithdrawalReason::Points), at(1));
        withdrawal.answer(Party::Point, Ok(()), at(1));
        withdrawal.answer(Party::Payment, Ok(()), at(1));
        let outcome = withdrawal.answer(Party::Reservation, Ok(()), at(1));
        assert_eq!(outcome, Some(Outcome::Refused(vec![WithdrawalReason::Points])));
    }

    #[test]
    fn an_attempt_without_all_answers_times_out_and_ignores_late_answers() {
        let mut withdrawal = begun();
        withdrawal.answer(Party::Point, Ok(()), at(1));
        let outcome = withdrawal.time_out(at(30));
        assert_eq!(outcome, Some(Outcome::Refused(vec![WithdrawalReason::NoAnswer])));
        let refused = withdrawal.clone();
        for party in ALL {
            assert_eq!(withdrawal.answer(party, Ok(()), at(31)), None);
        }
        assert_eq!(withdrawal.time_out(at(32)), None);
        assert_eq!(withdrawal, refused);
    }
}
