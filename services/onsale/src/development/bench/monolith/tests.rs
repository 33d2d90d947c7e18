//! The guarantees of the monolith, on a real PostgreSQL.

use events::{
    Problem, UserId, codes,
    payment::{Payment, PaymentFailure, PaymentState},
    user::Session,
};
use servers::{Options, Servers};

use super::{
    cancel::cancel_now,
    server::{PayRequest, pay_now},
    *,
};

/// A monolith's database with holds in it; the servers stop when this goes.
struct Sale {
    _servers: Servers,
    pool: PgPool,
    fans: Vec<Fan>,
    holds: Vec<ReservationId>,
}

impl Sale {
    /// One hold for each of so many fans.
    async fn open(fans: usize) -> Self {
        let mut options = Options::temporary().databases([NAME]);
        options.say = std::sync::Arc::new(|_| {});
        let servers = Servers::start(options).await.unwrap();
        let url = servers.database_url(NAME);
        let pool = PgPoolOptions::new().max_connections(16).connect(&url).await.unwrap();
        sqlx::raw_sql(include_str!("schema.sql")).execute(&pool).await.unwrap();
        let fans: Vec<Fan> = (0..fans).map(|_| fan()).collect();
        open_wallets(&pool, &fans).await.unwrap();
        let holds = hold_all(&pool, Uuid::now_v7(), &fans).await.unwrap();
        let holds = holds.into_iter().map(ReservationId).collect();
        Self { _servers: servers, pool, fans, holds }
    }

    async fn pay(&self, fan: usize, hold: usize, key: Option<&str>) -> Result<Payment, Problem> {
        let (reservation, fan) = (self.holds[hold], self.fans[fan].user_id);
        let paid = pay_now(&self.pool, &PayRequest { reservation, fan, key }).await;
        paid.map_err(|refused| refused.0)
    }

    /// Gives every fan so many points, in the wallet and in the ledger.
    async fn points(&self, points: i64) {
        for sql in ["update wallets set balance = $1", "update entries set amount = $1"] {
            sqlx::query(sql).bind(points).execute(&self.pool).await.unwrap();
        }
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }
}

fn fan() -> Fan {
    Fan::from(Session {
        user_id: UserId(Uuid::now_v7()),
        roles: Vec::new(),
        access_token: String::new(),
        expires_in_secs: 0,
        refresh_token: String::new(),
    })
}

#[tokio::test]
async fn a_hold_is_paid_once_and_a_repeat_gets_the_same_answer() {
    let sale = Sale::open(2).await;
    let paid = sale.pay(0, 0, Some("key")).await.unwrap();
    assert_eq!((paid.state, paid.amount), (PaymentState::Completed, PRICE));
    assert_eq!(sale.pay(0, 0, Some("key")).await.unwrap(), paid);
    assert!(sale.pay(0, 1, Some("key")).await.unwrap_err().is(codes::IDEMPOTENCY_KEY_REUSED));
    assert!(sale.pay(0, 0, Some("other")).await.unwrap_err().is(codes::ALREADY_PAID));
    assert!(sale.pay(0, 0, None).await.unwrap_err().is(codes::ALREADY_PAID));
    assert!(sale.pay(0, 1, None).await.unwrap_err().is(codes::NOT_FOUND), "it is another fan's");
    check(&sale.pool).await.unwrap();
    assert_eq!(sale.count("select count(*) from entries where kind = 'debit'").await, 1);
    assert_eq!(sale.count("select sum(bought) from places where state = 'COMPLETED'").await, 1);
    assert_eq!(sale.count("select count(*) from outbox").await, 1);
}

#[tokio::test]
async fn a_wallet_that_cannot_pay_leaves_the_hold_as_it_was() {
    let sale = Sale::open(1).await;
    sale.points(PRICE - 1).await;
    let failed = sale.pay(0, 0, Some("poor")).await.unwrap();
    let reason = Some(PaymentFailure::InsufficientBalance);
    assert_eq!((failed.state, failed.reason), (PaymentState::Failed, reason));
    assert_eq!(sale.pay(0, 0, Some("poor")).await.unwrap(), failed);
    sqlx::query("update wallets set closed = true").execute(&sale.pool).await.unwrap();
    let failed = sale.pay(0, 0, None).await.unwrap();
    assert_eq!(failed.reason, Some(PaymentFailure::NoWallet));
    check(&sale.pool).await.unwrap();
    sqlx::query("update wallets set closed = false").execute(&sale.pool).await.unwrap();
    sale.points(PRICE).await;
    assert_eq!(sale.pay(0, 0, None).await.unwrap().state, PaymentState::Completed);
    check(&sale.pool).await.unwrap();
    assert_eq!(sale.count("select sum(balance)::bigint from wallets").await, 0);
}

#[tokio::test]
async fn a_hold_that_ran_out_is_not_paid() {
    let sale = Sale::open(1).await;
    let late = "update reservations set expires_at = now() - interval '1 second'";
    sqlx::query(late).execute(&sale.pool).await.unwrap();
    assert!(sale.pay(0, 0, None).await.unwrap_err().is(codes::HOLD_GONE));
    assert_eq!(sale.count("select count(*) from payments").await, 0);
}

#[tokio::test]
async fn a_payment_and_a_cancellation_at_once_never_leave_money_without_a_seat() {
    let sale = Sale::open(100).await;
    let both = (0..100).map(|index| {
        let sale = &sale;
        async move {
            let given_up = cancel_now(&sale.pool, sale.holds[index], sale.fans[index].user_id);
            let (paid, given_up) = tokio::join!(sale.pay(index, index, None), given_up);
            given_up.unwrap();
            match paid {
                Ok(payment) => assert_eq!(payment.state, PaymentState::Completed),
                Err(problem) => assert!(problem.is(codes::HOLD_GONE), "{problem}"),
            }
        }
    });
    futures::future::join_all(both).await;
    check(&sale.pool).await.unwrap();
    let kept = "select count(*) from reservations where state <> 'CANCELLED'";
    assert_eq!(sale.count(kept).await, 0);
    assert_eq!(sale.count("select count(*) from seats where reservation_id is not null").await, 0);
    let points = sale.count("select sum(balance)::bigint from wallets").await;
    assert_eq!(points, 100 * POINTS, "everything was given back");
}
