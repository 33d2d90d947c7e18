//! Every message on a book in memory: granted, refused, repeated, late.

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

/// One book, one message after another, as in a batch.
#[derive(Default)]
struct QueryContext {
    unit: UnitOfWork,
    config: Config,
    emitted: Vec<String>,
}

impl QueryContext {
    fn ask<C: events::Command>(
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

    /// Everybody lets this fan go.
    fn cleared(&mut self, user_id: UserId, attempt: AttemptId) {
        self.handle(PaymentWithdrawalCleared { user_id, attempt });
        self.handle(ReservationWithdrawalCleared { user_id, attempt });
        self.handle(PointWithdrawalCleared { user_id, attempt });
    }

    fn state(&self, attempt: AttemptId) -> WithdrawalState {
        self.unit.withdrawals.get(attempt).unwrap().state
    }

    fn registered(&mut self, n: u128) -> UserId {
        let card = self.ask(0, n, &Caller::Anonymous, add(&format!("fan{n}@example.org"))).unwrap();
        card.user_id
    }

    fn in_session(&mut self, n: u128, token: &str) -> UserId {
        let user_id = self.registered(n);
        self.ask(0, n, &Caller::Anonymous, open(user_id, token)).unwrap();
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
fn an_address_has_one_account_however_it_is_written_and_within_one_batch() {
    let mut ctx = QueryContext::default();
    ctx.ask(0, 1, &Caller::Anonymous, add("fan@example.org")).unwrap();
    let again = ctx.ask(0, 2, &Caller::Anonymous, add("FAN@Example.org"));
    assert_eq!(code(again), "email_taken");
    assert_eq!(ctx.emitted, ["onsale.user.registered.v1.-"]);
}

#[test]
fn the_address_of_a_closed_account_is_free_again() {
    let mut ctx = QueryContext::default();
    let user_id = ctx.registered(1);
    let attempt = ctx.ask(1, 2, &fan(1), LEAVE).unwrap().attempt;
    ctx.cleared(user_id, attempt);
    let card = ctx.ask(2, 3, &Caller::Anonymous, add("fan1@example.org")).unwrap();
    assert_eq!(card.user_id, UserId(id(3)));
}

#[test]
fn an_account_is_closed_with_its_sessions_when_all_have_let_go() {
    let mut ctx = QueryContext::default();
    let user_id = ctx.in_session(1, "a");
    let begun = ctx.ask(1, 2, &fan(1), LEAVE).unwrap();
    assert_eq!((begun.attempt.0, begun.state), (id(2), WithdrawalState::Requested));
    assert!(ctx.unit.accounts.get(user_id).unwrap().is_active());
    ctx.cleared(user_id, begun.attempt);
    ctx.cleared(user_id, begun.attempt);
    let emitted = ["user.registered", "user.withdrawal_requested", "user.withdrawn"];
    assert_eq!(ctx.emitted, emitted.map(|name| format!("onsale.{name}.v1.-")));
    assert!(ctx.unit.logged_out.contains(&user_id));
    assert!(!ctx.unit.accounts.get(user_id).unwrap().is_active());
    assert_eq!(code(ctx.ask(3, 4, &fan(1), open(user_id, "b"))), "bad_credentials");
    assert_eq!(code(ctx.ask(3, 5, &fan(1), rotate("a", "c"))), "unauthenticated");
    let grant = GrantRole { user_id, role: Role::Organizer };
    assert_eq!(code(ctx.ask(3, 6, &Caller::Mesh, grant)), "not_found");
}

#[test]
fn asking_again_is_the_same_attempt_until_it_is_refused() {
    let mut ctx = QueryContext::default();
    let user_id = ctx.registered(1);
    let first = ctx.ask(1, 2, &fan(1), LEAVE).unwrap().attempt;
    assert_eq!(ctx.ask(1, 3, &fan(1), LEAVE).unwrap().attempt, first);
    let forfeit = || Withdraw { forfeit: true };
    assert_eq!(code(ctx.ask(1, 4, &fan(1), forfeit())), "withdrawal_running");
    ctx.handle(PaymentWithdrawalCleared { user_id, attempt: first });
    ctx.handle(ReservationWithdrawalCleared { user_id, attempt: first });
    let reason = WithdrawalReason::Points;
    ctx.handle(PointWithdrawalBlocked { user_id, attempt: first, reason });
    assert_eq!(ctx.state(first), WithdrawalState::Refused);
    assert!(ctx.unit.accounts.get(user_id).unwrap().is_active());
    let second = ctx.ask(2, 5, &fan(1), forfeit()).unwrap();
    assert_eq!((second.attempt.0, second.forfeit), (id(5), true));
    // What was said of the first attempt says nothing of the second.
    ctx.cleared(user_id, first);
    assert_eq!(ctx.state(second.attempt), WithdrawalState::Requested);
    ctx.cleared(user_id, second.attempt);
    let closed = ctx.ask(3, 6, &fan(1), LEAVE).unwrap();
    assert_eq!((closed.attempt, closed.state), (second.attempt, WithdrawalState::Completed));
}

#[test]
fn an_attempt_that_is_not_answered_in_time_is_refused_and_answers_are_too_late() {
    let mut ctx = QueryContext::default();
    let user_id = ctx.registered(1);
    let attempt = ctx.ask(1, 2, &fan(1), LEAVE).unwrap().attempt;
    ctx.handle(PaymentWithdrawalCleared { user_id, attempt });
    let refuse = || RefuseWithdrawal { user_id, attempt };
    ctx.ask(31, 3, &Caller::Mesh, refuse()).unwrap();
    ctx.ask(32, 4, &Caller::Mesh, refuse()).unwrap();
    ctx.cleared(user_id, attempt);
    assert_eq!(ctx.emitted.last().unwrap(), "onsale.user.withdrawal_refused.v1.-");
    assert_eq!(ctx.emitted.len(), 3);
    assert_eq!(ctx.state(attempt), WithdrawalState::Refused);
}

#[test]
fn a_timer_that_looked_too_early_refuses_nothing() {
    let mut ctx = QueryContext::default();
    let user_id = ctx.registered(1);
    let attempt = ctx.ask(1, 2, &fan(1), LEAVE).unwrap().attempt;
    ctx.cleared(user_id, attempt);
    ctx.ask(31, 3, &Caller::Mesh, RefuseWithdrawal { user_id, attempt }).unwrap();
    assert_eq!(ctx.state(attempt), WithdrawalState::Completed);
    assert_eq!(ctx.emitted.len(), 3);
}

#[test]
fn an_answer_to_an_attempt_of_nobody_changes_nothing() {
    let mut ctx = QueryContext::default();
    let user_id = ctx.registered(1);
    ctx.cleared(user_id, AttemptId(id(9)));
    assert_eq!(ctx.emitted.len(), 1);
}

#[test]
fn somebody_without_account_has_none_to_close() {
    let mut ctx = QueryContext::default();
    assert_eq!(code(ctx.ask(0, 1, &fan(9), LEAVE)), "not_found");
    assert_eq!(code(ctx.ask(0, 1, &Caller::Anonymous, LEAVE)), "unauthenticated");
}

#[test]
fn a_refresh_token_is_exchanged_once_and_its_return_ends_the_family() {
    let mut ctx = QueryContext::default();
    let user_id = ctx.in_session(1, "a");
    let first = ctx.ask(10, 2, &Caller::Anonymous, rotate("a", "b")).unwrap();
    let Rotated::Session { account, successor } = first else { panic!("{first:?}") };
    assert_eq!((account.user_id, successor), (user_id, digest("b")));
    let again = ctx.ask(11, 3, &Caller::Anonymous, rotate("a", "x")).unwrap();
    assert!(matches!(again, Rotated::Stolen));
    assert!(ctx.unit.ended_families.contains(&id(7)));
    assert_eq!(code(ctx.ask(12, 4, &Caller::Anonymous, rotate("b", "c"))), "unauthenticated");
}

#[test]
fn a_refresh_token_runs_out_and_an_unknown_one_is_nothing() {
    let mut ctx = QueryContext::default();
    ctx.in_session(1, "a");
    let late = ctx.config.refresh_secs;
    assert_eq!(code(ctx.ask(late, 2, &Caller::Anonymous, rotate("a", "b"))), "token_expired");
    assert_eq!(code(ctx.ask(0, 3, &Caller::Anonymous, rotate("x", "y"))), "unauthenticated");
}

#[test]
fn five_attempts_are_let_through_and_success_wipes_the_slate() {
    let mut ctx = QueryContext::default();
    let user_id = ctx.registered(1);
    let email_hash: Digest = digest("fan1@example.org");
    for n in 0..5 {
        ctx.ask(n, 2, &Caller::Anonymous, BeginLogIn { email_hash }).unwrap();
    }
    let sixth = ctx.ask(5, 2, &Caller::Anonymous, BeginLogIn { email_hash });
    assert_eq!(code(sixth), "rate_limited");
    let other = BeginLogIn { email_hash: digest("other@example.org") };
    assert!(ctx.ask(5, 2, &Caller::Anonymous, other).is_ok());

    let success = OpenSession { succeeded: Some(email_hash), ..open(user_id, "a") };
    ctx.ask(6, 3, &Caller::Anonymous, success).unwrap();
    assert!(ctx.ask(7, 4, &Caller::Anonymous, BeginLogIn { email_hash }).is_ok());
}

#[test]
fn a_wish_makes_an_account_or_adds_to_the_one_there_is() {
    let mut ctx = QueryContext::default();
    let wish = || GrantWish {
        email: "boss@example.org".into(),
        password_hash: Secret("first".into()),
        roles: [Role::Operator].into(),
    };
    let card = ctx.ask(0, 1, &Caller::Mesh, wish()).unwrap();
    assert_eq!(card.roles, [Role::Fan, Role::Operator]);
    let other = GrantWish {
        password_hash: Secret("second".into()),
        roles: [Role::Organizer].into(),
        ..wish()
    };
    let card = ctx.ask(1, 2, &Caller::Mesh, other).unwrap();
    assert_eq!(card.roles, [Role::Fan, Role::Organizer, Role::Operator]);
    assert_eq!(ctx.emitted.len(), 3, "the account, and each role that was granted");
    let State::Active { password_hash, .. } = &ctx.unit.accounts.get(card.user_id).unwrap().state
    else {
        panic!("closed")
    };
    assert_eq!(password_hash.0, "first");
    assert!(ctx.unit.granted.contains("boss@example.org"));
}

#[test]
fn what_is_printed_of_a_message_holds_no_secret() {
    let printed = format!("{:?}", add("fan@example.org"));
    assert!(!printed.contains("hash\")"), "{printed}");
}
