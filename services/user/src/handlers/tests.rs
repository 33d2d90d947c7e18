//! Every message on a unit of work in memory: granted, refused, repeated, late.

use events::{
    Timestamp, UserId,
    user::{Role, WithdrawalState},
    withdrawal::WithdrawalReason,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::{domain::State, inside::Digest, secrets::digest};

fn at(secs: i64) -> Timestamp {
    Timestamp(OffsetDateTime::UNIX_EPOCH).plus_secs(1_800_000_000 + secs)
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn fan(n: u128) -> Caller {
    Caller::User { user_id: UserId(id(n)), roles: vec![Role::Fan], expires_at: at(900) }
}

/// One unit of work that handles one message after another, as in a batch.
#[derive(Default)]
struct Harness {
    unit: UnitOfWork,
    config: Config,
    emitted: Vec<String>,
}

impl Harness {
    fn execute<C: events::Command>(
        &mut self,
        secs: i64,
        n: u128,
        caller: &Caller,
        command: C,
    ) -> Result<C::Reply, Refusal>
    where
        UnitOfWork: Execute<C>,
    {
        let mut ctx = Context::at(at(secs), &self.config, caller, id(n));
        let answer = self.unit.execute(&command, &mut ctx);
        self.emitted.extend(ctx.emitted().iter().map(|emitted| emitted.subject.clone()));
        answer
    }

    fn handle<E: events::Event>(&mut self, event: E)
    where
        UnitOfWork: Handle<E>,
    {
        let mut ctx = Context::at(at(0), &self.config, &Caller::Mesh, id(0));
        self.unit.handle(&event, &mut ctx).unwrap();
        self.emitted.extend(ctx.emitted().iter().map(|emitted| emitted.subject.clone()));
    }

    /// All three services clear this withdrawal.
    fn cleared(&mut self, user_id: UserId, attempt: AttemptId) {
        self.handle(PaymentWithdrawalCleared { user_id, attempt });
        self.handle(ReservationWithdrawalCleared { user_id, attempt });
        self.handle(PointWithdrawalCleared { user_id, attempt });
    }

    fn state(&self, attempt: AttemptId) -> WithdrawalState {
        self.unit.withdrawals.get(&attempt).unwrap().state
    }

    fn registered(&mut self, n: u128) -> UserId {
        let card =
            self.execute(0, n, &Caller::Anonymous, add(&format!("fan{n}@example.org"))).unwrap();
        card.user_id
    }

    fn in_session(&mut self, n: u128, token: &str) -> UserId {
        let user_id = self.registered(n);
        self.execute(0, n, &Caller::Anonymous, open(user_id, token)).unwrap();
        user_id
    }
}

fn add(email: &str) -> AddAccount {
    AddAccount { email: email.into(), password_hash: Secret("hash".into()) }
}

fn open(user_id: UserId, token: &str) -> OpenSession {
    OpenSession { user_id, token_hash: digest(token), family_id: id(7), succeeded: None }
}

fn rotate(presented: &str, successor: &str) -> RotateRefresh {
    RotateRefresh { presented: digest(presented), successor: digest(successor) }
}

const LEAVE: Withdraw = Withdraw { forfeit: false };

#[track_caller]
fn code<T>(answer: Result<T, Refusal>) -> String {
    match answer {
        Err(Refusal::No(problem) | Refusal::NotYet(problem)) => problem.code,
        Ok(_) => panic!("was granted"),
    }
}

#[test]
fn an_address_has_one_account_in_any_spelling_and_within_one_batch() {
    let mut harness = Harness::default();
    harness.execute(0, 1, &Caller::Anonymous, add("fan@example.org")).unwrap();
    let again = harness.execute(0, 2, &Caller::Anonymous, add("FAN@Example.org"));
    assert_eq!(code(again), "email_taken");
    assert_eq!(harness.emitted, ["onsale.user.registered.v1.-"]);
}

#[test]
fn the_address_of_a_closed_account_is_free_again() {
    let mut harness = Harness::default();
    let user_id = harness.registered(1);
    let attempt = harness.execute(1, 2, &fan(1), LEAVE).unwrap().attempt;
    harness.cleared(user_id, attempt);
    let card = harness.execute(2, 3, &Caller::Anonymous, add("fan1@example.org")).unwrap();
    assert_eq!(card.user_id, UserId(id(3)));
}

#[test]
fn an_account_is_closed_with_its_sessions_when_all_services_clear_it() {
    let mut harness = Harness::default();
    let user_id = harness.in_session(1, "a");
    let begun = harness.execute(1, 2, &fan(1), LEAVE).unwrap();
    assert_eq!((begun.attempt.0, begun.state), (id(2), WithdrawalState::Requested));
    assert!(harness.unit.accounts.get(&user_id).unwrap().is_active());
    harness.cleared(user_id, begun.attempt);
    harness.cleared(user_id, begun.attempt);
    let emitted = ["user.registered", "user.withdrawal_requested", "user.withdrawn"];
    assert_eq!(harness.emitted, emitted.map(|name| format!("onsale.{name}.v1.-")));
    assert!(harness.unit.logged_out.contains(&user_id));
    assert!(!harness.unit.accounts.get(&user_id).unwrap().is_active());
    assert_eq!(code(harness.execute(3, 4, &fan(1), open(user_id, "b"))), "bad_credentials");
    assert_eq!(code(harness.execute(3, 5, &fan(1), rotate("a", "c"))), "unauthenticated");
    let grant = GrantRole { user_id, role: Role::Organizer };
    assert_eq!(code(harness.execute(3, 6, &Caller::Mesh, grant)), "not_found");
}

#[test]
fn a_repeated_withdrawal_is_the_same_attempt_until_it_is_refused() {
    let mut harness = Harness::default();
    let user_id = harness.registered(1);
    let first = harness.execute(1, 2, &fan(1), LEAVE).unwrap().attempt;
    assert_eq!(harness.execute(1, 3, &fan(1), LEAVE).unwrap().attempt, first);
    let forfeit = || Withdraw { forfeit: true };
    assert_eq!(code(harness.execute(1, 4, &fan(1), forfeit())), "withdrawal_running");
    harness.handle(PaymentWithdrawalCleared { user_id, attempt: first });
    harness.handle(ReservationWithdrawalCleared { user_id, attempt: first });
    let reason = WithdrawalReason::Points;
    harness.handle(PointWithdrawalBlocked { user_id, attempt: first, reason });
    assert_eq!(harness.state(first), WithdrawalState::Refused);
    assert!(harness.unit.accounts.get(&user_id).unwrap().is_active());
    let second = harness.execute(2, 5, &fan(1), forfeit()).unwrap();
    assert_eq!((second.attempt.0, second.forfeit), (id(5), true));
    // Answers to the first attempt do not count for the second.
    harness.cleared(user_id, first);
    assert_eq!(harness.state(second.attempt), WithdrawalState::Requested);
    harness.cleared(user_id, second.attempt);
    let closed = harness.execute(3, 6, &fan(1), LEAVE).unwrap();
    assert_eq!((closed.attempt, closed.state), (second.attempt, WithdrawalState::Completed));
}

#[test]
fn an_attempt_that_is_not_answered_in_time_is_refused_and_ignores_late_answers() {
    let mut harness = Harness::default();
    let user_id = harness.registered(1);
    let attempt = harness.execute(1, 2, &fan(1), LEAVE).unwrap().attempt;
    harness.handle(PaymentWithdrawalCleared { user_id, attempt });
    let refuse = || RefuseWithdrawal { user_id, attempt };
    harness.execute(31, 3, &Caller::Mesh, refuse()).unwrap();
    harness.execute(32, 4, &Caller::Mesh, refuse()).unwrap();
    harness.cleared(user_id, attempt);
    assert_eq!(harness.emitted.last().unwrap(), "onsale.user.withdrawal_refused.v1.-");
    assert_eq!(harness.emitted.len(), 3);
    assert_eq!(harness.state(attempt), WithdrawalState::Refused);
}

#[test]
fn a_timer_refuses_no_attempt_that_was_decided_meanwhile() {
    let mut harness = Harness::default();
    let user_id = harness.registered(1);
    let attempt = harness.execute(1, 2, &fan(1), LEAVE).unwrap().attempt;
    harness.cleared(user_id, attempt);
    harness.execute(31, 3, &Caller::Mesh, RefuseWithdrawal { user_id, attempt }).unwrap();
    assert_eq!(harness.state(attempt), WithdrawalState::Completed);
    assert_eq!(harness.emitted.len(), 3);
}

#[test]
fn an_answer_to_an_unknown_attempt_changes_nothing() {
    let mut harness = Harness::default();
    let user_id = harness.registered(1);
    harness.cleared(user_id, AttemptId(id(9)));
    assert_eq!(harness.emitted.len(), 1);
}

#[test]
fn a_caller_without_account_cannot_close_one() {
    let mut harness = Harness::default();
    assert_eq!(code(harness.execute(0, 1, &fan(9), LEAVE)), "not_found");
    assert_eq!(code(harness.execute(0, 1, &Caller::Anonymous, LEAVE)), "unauthenticated");
}

#[test]
fn a_refresh_token_is_exchanged_once_and_a_second_use_ends_the_family() {
    let mut harness = Harness::default();
    let user_id = harness.in_session(1, "a");
    let first = harness.execute(10, 2, &Caller::Anonymous, rotate("a", "b")).unwrap();
    let Rotated::Session { account, successor } = first else { panic!("{first:?}") };
    assert_eq!((account.user_id, successor), (user_id, digest("b")));
    let again = harness.execute(11, 3, &Caller::Anonymous, rotate("a", "x")).unwrap();
    assert!(matches!(again, Rotated::Stolen));
    assert!(harness.unit.ended_families.contains(&id(7)));
    assert_eq!(
        code(harness.execute(12, 4, &Caller::Anonymous, rotate("b", "c"))),
        "unauthenticated"
    );
}

#[test]
fn an_expired_and_an_unknown_refresh_token_are_refused() {
    let mut harness = Harness::default();
    harness.in_session(1, "a");
    let late = harness.config.refresh_secs;
    assert_eq!(
        code(harness.execute(late, 2, &Caller::Anonymous, rotate("a", "b"))),
        "token_expired"
    );
    assert_eq!(
        code(harness.execute(0, 3, &Caller::Anonymous, rotate("x", "y"))),
        "unauthenticated"
    );
}

#[test]
fn five_attempts_are_allowed_and_a_success_clears_the_strikes() {
    let mut harness = Harness::default();
    let user_id = harness.registered(1);
    let email_hash: Digest = digest("fan1@example.org");
    for n in 0..5 {
        harness.execute(n, 2, &Caller::Anonymous, BeginLogIn { email_hash }).unwrap();
    }
    let sixth = harness.execute(5, 2, &Caller::Anonymous, BeginLogIn { email_hash });
    assert_eq!(code(sixth), "rate_limited");
    let other = BeginLogIn { email_hash: digest("other@example.org") };
    assert!(harness.execute(5, 2, &Caller::Anonymous, other).is_ok());

    let success = OpenSession { succeeded: Some(email_hash), ..open(user_id, "a") };
    harness.execute(6, 3, &Caller::Anonymous, success).unwrap();
    assert!(harness.execute(7, 4, &Caller::Anonymous, BeginLogIn { email_hash }).is_ok());
}

#[test]
fn a_wish_creates_an_account_or_adds_roles_to_the_existing_one() {
    let mut harness = Harness::default();
    let wish = || GrantWish {
        email: "boss@example.org".into(),
        password_hash: Secret("first".into()),
        roles: [Role::Operator].into(),
    };
    let card = harness.execute(0, 1, &Caller::Mesh, wish()).unwrap();
    assert_eq!(card.roles, [Role::Fan, Role::Operator]);
    let other = GrantWish {
        password_hash: Secret("second".into()),
        roles: [Role::Organizer].into(),
        ..wish()
    };
    let card = harness.execute(1, 2, &Caller::Mesh, other).unwrap();
    assert_eq!(card.roles, [Role::Fan, Role::Organizer, Role::Operator]);
    assert_eq!(harness.emitted.len(), 3, "the account, and each role that was granted");
    let State::Active { password_hash, .. } =
        &harness.unit.accounts.get(&card.user_id).unwrap().state
    else {
        panic!("closed")
    };
    assert_eq!(password_hash.0, "first");
    assert!(harness.unit.granted.contains("boss@example.org"));
}

#[test]
fn the_debug_output_of_a_message_has_no_secret() {
    let printed = format!("{:?}", add("fan@example.org"));
    assert!(!printed.contains("hash\")"), "{printed}");
}
