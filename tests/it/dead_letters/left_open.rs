//! Discarding a dead letter can leave a saga open; the operator is asked first.

use events::{
    Event, PaymentId, ReservationId, ScheduleId,
    dead_letter::{DeadLetterState::Parked, Retried},
    payment::PaymentCompleted,
};
use harness::mesh::{Mesh, eventually, run};
use onsale::dead_letters::Command;
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{DeadLetterClient, Due, emit, emit_all, event_of};
use crate::rest::Stores;

#[test]
fn a_step_of_a_saga_is_discarded_only_after_the_operator_saw_what_stays_open() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "audit", "gateway"]).await;
        let (stores, client) = (Stores::of(&mesh.env).await, DeadLetterClient::of(&mesh).await);
        let fan = mesh.fan(100).await;
        let due = Due::of(&fan, &stores).await;
        emit(&mesh.env, &due.event).await;
        let dead_letter = client.open_becomes("point", &[Parked]).await.remove(0);
        let reason = json!({ "reason": "a test" });
        // Audit may receive the event a moment later.
        let refused = eventually("audit knows the saga", || async {
            let answer = client.discard_as(&dead_letter.letter, &reason).await;
            let problem: Value = serde_json::from_slice(&answer.body).expect("a problem");
            assert_eq!((answer.status.as_u16(), &problem["code"]), (409, &json!("saga_open")));
            problem["saga"].is_object().then_some(problem)
        })
        .await;
        assert_eq!(refused["event"], "reservation.confirm_refused");
        assert_eq!(refused["would_follow"], json!(["point.refunded"]));
        assert_eq!(refused["saga_id"], json!(dead_letter.saga_id));
        assert_eq!(refused["saga"]["awaited"], json!(["point"]));
        client.open_becomes("point", &[Parked]).await;

        // The command line asks as well.
        let addr = mesh.env.config.http_addr.expect("a gateway");
        mesh.env.announce(addr).expect("a ready file");
        let folder = mesh.env.servers.as_ref().expect("our own").folder().to_owned();
        let command = |line: String| {
            let words = ["onsale"].into_iter().chain(line.split(' ')).map(str::to_owned);
            let words: Vec<String> =
                words.chain(["--data".to_owned(), folder.display().to_string()]).collect();
            onsale::dead_letters::run(Command::read(words).expect("a command"))
        };
        let discard = format!("discard {} --reason tested", dead_letter.letter);
        let asked = command(discard.clone()).await.expect_err("it asks").to_string();
        for part in
            ["point.refunded", "--leave-open", &dead_letter.saga_id.expect("a saga").to_string()]
        {
            assert!(asked.contains(part), "{asked}");
        }
        command(format!("{discard} --leave-open")).await.expect("discarded");
        client.open_becomes("point", &[]).await;
        let kept = client.dead_letter(&dead_letter.letter).await.letter;
        assert!(kept.history.last().is_some_and(|end| end.by.is_some()), "{kept:?}");
        mesh.stop().await;
    });
}

#[test]
fn a_dead_letter_of_a_listener_leaves_nothing_open() {
    run(async {
        let mesh = Mesh::with(&["user", "concert", "payment", "ranking", "gateway"]).await;
        let client = DeadLetterClient::of(&mesh).await;
        let fan = mesh.fan(0).await;
        let now = mesh::clock::now();
        let paid = PaymentCompleted {
            payment_id: PaymentId(Uuid::now_v7()),
            reservation_id: ReservationId(Uuid::now_v7()),
            schedule_id: ScheduleId(Uuid::now_v7()),
            user_id: fan.session.user_id,
            amount: 1,
            seats: 1,
            requested_at: now,
            ended_at: now,
        };
        let mut event = event_of(&paid);
        event["data"]["seats"] = json!("one");
        emit_all::<PaymentCompleted>(&mesh.env, paid.schedule(), &[event]).await;
        let id = client.open_becomes("ranking", &[Parked]).await.remove(0).letter;
        let answer = client.discard_as(&id, &json!({ "reason": "a test" })).await;
        let done: Retried = answer.json().expect("discarded");
        assert_eq!(done.left_open, None);
        mesh.stop().await;
    });
}
