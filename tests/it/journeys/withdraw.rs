//! Withdraw: every service with something at stake clears the withdrawal, or blocks it with a
//! reason.

use events::{
    AttemptId, Page,
    concert::SeatState,
    payment::{Payment, PaymentState},
    point::{Entry, EntryKind},
    queue::{PlaceEnd, PlaceState},
    reservation::ReservationState,
    user::{Withdrawal, WithdrawalState},
    withdrawal::WithdrawalReason,
};
use harness::mesh::{Fan, Mesh, eventually, run, shared};
use onsale::{
    fleet::{Fleet, ServiceConfigs},
    registry::SERVICES,
};
use serde_json::json;
use sqlx::{Connection, PgConnection};

/// Asks to close the account and waits for the outcome.
async fn leave(mesh: &Mesh, fan: &Fan<'_>, forfeit: bool) -> Withdrawal {
    let path = format!("/v1/users/me?forfeit={forfeit}");
    let ask = mesh.http.delete(&path).token(fan.token()).header("prefer", "wait=20");
    let answer = ask.send().await.expect("sent");
    assert_eq!(answer.status, 200, "it is known in time");
    answer.json().expect("an outcome")
}

/// Asks to close the account, and does not wait for the outcome.
async fn begin(fan: &Fan<'_>) -> Withdrawal {
    let answer = fan.delete("/v1/users/me").await;
    assert_eq!(answer.status, 202);
    let begun: Withdrawal = answer.json().expect("an attempt");
    let location = answer.headers["location"].to_str().expect("where to look");
    assert_eq!(location, format!("/v1/users/me/withdrawals/{}", begun.attempt));
    begun
}

async fn look(fan: &Fan<'_>, attempt: AttemptId) -> Withdrawal {
    fan.get(&format!("/v1/users/me/withdrawals/{attempt}")).await.json().expect("an attempt")
}

async fn ends(fan: &Fan<'_>, begun: &Withdrawal) -> Withdrawal {
    eventually("the attempt is decided", || async {
        let seen = look(fan, begun.attempt).await;
        (seen.state != WithdrawalState::Requested).then_some(seen)
    })
    .await
}

/// Locks the wallet of a fan, so that nothing about it is decided.
async fn locked_wallet(mesh: &Mesh, fan: &Fan<'_>) -> PgConnection {
    let url = mesh.env.config.database_url("point").expect("an address");
    let mut point = PgConnection::connect(url).await.expect("a connection");
    for sql in ["begin", "select from wallets where user_id = $1 for update"] {
        let query = sqlx::query(sql);
        let query = if sql == "begin" { query } else { query.bind(fan.session.user_id.0) };
        query.execute(&mut point).await.expect("locked");
    }
    point
}

async fn unlock(mut wallet: PgConnection) {
    sqlx::query("rollback").execute(&mut wallet).await.expect("unlocked");
    wallet.close().await.expect("closed");
}

/// Waits until the payment service has answered.
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
        answer
    })
    .await;
}

async fn refuses(fan: &Fan<'_>, path: &str, body: &serde_json::Value, code: &str) {
    assert_eq!(fan.post(path, body).await.code().as_deref(), Some(code), "{path}");
}

#[test]
fn a_withdrawn_fan_leaves_nothing_behind() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(0).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let begun = begin(&fan).await;
        let ended = ends(&fan, &begun).await;
        assert_eq!((ended.state, ended.reasons), (WithdrawalState::Completed, vec![]));
        fan.reservation_becomes(&hold, ReservationState::Cancelled).await;
        fan.seat_becomes(schedule, "A-1-1", SeatState::Free).await;
        let place = fan.place_becomes(schedule, PlaceState::Expired).await;
        assert_eq!(place.reason, Some(PlaceEnd::Withdrawn));
        // The token is valid for some more minutes, but nothing can be started with it.
        refuses(&fan, "/v1/points/charges", &json!({ "amount": 1 }), "wallet_closed").await;
        let pay = json!({ "reservation_id": hold.reservation_id });
        eventually("no payment begins", || async {
            let code = fan.post("/v1/payments", &pay).await.code();
            (code.as_deref() == Some("hold_gone")).then_some(())
        })
        .await;
        let refresh = json!({ "refresh_token": fan.session.refresh_token });
        let refused = mesh.http.post("/v1/sessions/refresh").json(&refresh).send().await.unwrap();
        assert_eq!(refused.status, 401);
        // The account stays closed, however often that is requested.
        let again = leave(mesh, &fan, true).await;
        assert_eq!((again.attempt, again.state), (begun.attempt, WithdrawalState::Completed));
        mesh.receipt_is_clean(schedule).await;
    });
}

#[test]
fn points_and_tickets_block_a_withdrawal_that_does_not_forfeit_them() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let fan = mesh.fan(150).await;
        let ticket = fan.hold(schedule, &["A-1-1"]).await;
        let payment = fan.pay(&ticket).await;
        let kept = leave(mesh, &fan, false).await;
        assert_eq!(kept.state, WithdrawalState::Refused);
        assert_eq!(kept.reasons, [WithdrawalReason::Tickets, WithdrawalReason::Points]);
        // The services that had cleared the withdrawal open again.
        fan.charge(50).await;
        let more = fan.hold(schedule, &["A-1-2"]).await;
        let second =
            eventually("payments may begin again", || async { fan.try_pay(&more).await.ok() })
                .await;
        assert_eq!(second.state, PaymentState::Completed);

        let gone = leave(mesh, &fan, true).await;
        assert_eq!((gone.state, gone.forfeit), (WithdrawalState::Completed, true));
        for seat in ["A-1-1", "A-1-2"] {
            fan.seat_becomes(schedule, seat, SeatState::Free).await;
        }
        fan.reservation_becomes(&ticket, ReservationState::Cancelled).await;
        assert_eq!(fan.payment(&payment).await.state, PaymentState::Completed);
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!((receipt.seats_sold, receipt.points_of_forfeits), (0, 200));
    });
}

#[test]
fn points_that_are_given_up_leave_by_an_entry_of_their_own_and_the_seat_is_sold_again() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(130).await;
        let ticket = fan.hold(schedule, &["A-1-1"]).await;
        fan.pay(&ticket).await;
        assert_eq!(leave(mesh, &fan, true).await.state, WithdrawalState::Completed);
        eventually("the points are gone", || async { (fan.balance().await == 0).then_some(()) })
            .await;
        let entries: Page<Entry> = fan.get("/v1/points/entries").await.json().expect("entries");
        let forfeit = &entries.items[0];
        assert_eq!((forfeit.kind, forfeit.amount, forfeit.balance), (EntryKind::Forfeit, -30, 0));
        fan.seat_becomes(schedule, "A-1-1", SeatState::Free).await;
        let next = mesh.fan(100).await;
        let hold = next.hold(schedule, &["A-1-1"]).await;
        assert_eq!(next.pay(&hold).await.state, PaymentState::Completed);
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!((receipt.seats_sold, receipt.points_taken), (1, 200));
    });
}

#[test]
fn a_running_payment_blocks_the_withdrawal_and_comes_to_its_end() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let wallet = locked_wallet(mesh, &fan).await;
        let pay = json!({ "reservation_id": hold.reservation_id });
        let payment: Payment = fan.post("/v1/payments", &pay).await.json().expect("accepted");
        let begun = begin(&fan).await;
        payment_answers(mesh, &begun).await;
        assert_eq!(look(&fan, begun.attempt).await.state, WithdrawalState::Requested);
        unlock(wallet).await;
        let kept = ends(&fan, &begun).await;
        assert!(kept.reasons.contains(&WithdrawalReason::PaymentRunning), "{kept:?}");
        let end = fan.payment_becomes(&payment, PaymentState::Completed).await;
        assert_eq!(end.amount, 100);
        mesh.receipt_is_clean(schedule).await;
    });
}

#[test]
fn a_withdrawal_during_a_payment_never_loses_money() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(10, |_| {}).await.schedule_id;
        for n in 1..=10 {
            let fan = mesh.fan(100).await;
            let hold = fan.hold(schedule, &[&format!("A-1-{n}")]).await;
            let (paid, left) = tokio::join!(fan.try_pay(&hold), leave(mesh, &fan, true));
            match paid {
                Ok(payment) => assert_ne!(payment.state, PaymentState::Requested),
                Err(code) => {
                    assert!(matches!(code.as_str(), "account_closing" | "hold_gone"), "{code}");
                    assert_eq!(left.state, WithdrawalState::Completed, "{left:?}");
                }
            }
        }
        mesh.receipt_is_clean(schedule).await;
    });
}

#[test]
fn a_ticket_cancelled_during_a_withdrawal_is_refunded_or_forfeited_and_never_both() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(10, |_| {}).await.schedule_id;
        for n in 1..=10 {
            let fan = mesh.fan(100).await;
            let hold = fan.hold(schedule, &[&format!("A-1-{n}")]).await;
            let payment = fan.pay(&hold).await;
            let path = format!("/v1/reservations/{}", hold.reservation_id);
            let (back, left) = tokio::join!(fan.delete(&path), leave(mesh, &fan, true));
            let paid = match back.status.as_u16() {
                // It was cancelled: the refund blocks the withdrawal, or was made before it.
                202 => fan.payment_becomes(&payment, PaymentState::Refunded).await,
                _ => {
                    let code = back.code();
                    let closing = ["account_closing", "not_cancellable"];
                    assert!(
                        code.as_deref().is_some_and(|code| closing.contains(&code)),
                        "{code:?}"
                    );
                    fan.payment(&payment).await
                }
            };
            let is_gone = left.state == WithdrawalState::Completed;
            let is_refunded = paid.state == PaymentState::Refunded;
            assert!(is_gone || is_refunded || left.reasons.contains(&WithdrawalReason::RefundDue));
            fan.reservation_becomes(
                &hold,
                match is_gone || is_refunded {
                    true => ReservationState::Cancelled,
                    false => ReservationState::Confirmed,
                },
            )
            .await;
            // A fan who was blocked can leave once the money is back.
            if !is_gone {
                eventually("the withdrawal is completed", || async {
                    (leave(mesh, &fan, true).await.state == WithdrawalState::Completed)
                        .then_some(())
                })
                .await;
            }
            eventually("nothing is left in the wallet", || async {
                (fan.balance().await == 0).then_some(())
            })
            .await;
        }
        mesh.receipt_is_clean(schedule).await;
    });
}

#[test]
fn a_show_cancelled_during_a_withdrawal_is_refunded_once() {
    run(async {
        let mesh = shared().await;
        for _ in 0..5 {
            let schedule = mesh.open(1, |_| {}).await.schedule_id;
            let fan = mesh.fan(100).await;
            let hold = fan.hold(schedule, &["A-1-1"]).await;
            let payment = fan.pay(&hold).await;
            let off = mesh.http.delete(format!("/v1/schedules/{schedule}"));
            let off = off.token(&mesh.organizer.access_token);
            let (off, left) = tokio::join!(off.send(), leave(mesh, &fan, true));
            assert_eq!(off.expect("sent").status, 202);
            fan.reservation_becomes(&hold, ReservationState::Cancelled).await;
            let kept = left.state == WithdrawalState::Refused;
            if kept {
                fan.payment_becomes(&payment, PaymentState::Refunded).await;
            }
            mesh.receipt_is_clean(schedule).await;
        }
    });
}

#[test]
fn a_withdrawal_without_an_answer_in_time_is_refused_and_a_late_answer_changes_nothing() {
    run(async {
        const GONE: &str = "payment";
        let others: Vec<&str> = SERVICES.into_iter().filter(|name| *name != GONE).collect();
        let quick = |configs: &mut ServiceConfigs| configs.withdrawal_secs = Some(1);
        let mesh = Mesh::with_configs(&others, quick).await;
        let part = start(&mesh, GONE).await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(0).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        part.stop().await;

        let refused = leave(&mesh, &fan, false).await;
        assert_eq!(refused.state, WithdrawalState::Refused);
        assert_eq!(refused.reasons, [WithdrawalReason::NoAnswer]);
        // The services that had cleared the withdrawal open again.
        let charge = json!({ "amount": 100 });
        eventually("the wallet is open again", || async {
            let answer = fan.post("/v1/points/charges", &charge).await;
            answer.status.is_success().then_some(())
        })
        .await;

        // The late service answers, and its answer changes nothing.
        let part = start(&mesh, GONE).await;
        let payment = eventually("payments may begin", || async { fan.try_pay(&hold).await.ok() });
        assert_eq!(payment.await.state, PaymentState::Completed);
        assert_eq!(look(&fan, refused.attempt).await, refused);
        mesh.receipt_is_clean(schedule).await;
        part.stop().await;
        mesh.stop().await;
    });
}

async fn start(mesh: &Mesh, name: &str) -> Fleet {
    Fleet::start(&mesh.env.config, &[name], &ServiceConfigs::default()).await.expect("a service")
}
