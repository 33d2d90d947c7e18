//! A poison event parks its key only; later events of the key wait, in order.

use events::{
    ScheduleId,
    dead_letter::{
        DeadLetterState::{Discarded, Parked, Resolved, Waiting},
        Retried,
    },
    payment::PaymentRequested,
    reservation::ReservationExpired,
};
use harness::mesh::{Fan, Mesh, eventually, run};
use onsale::dead_letters::Command;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    client::{DeadLetterClient, Due, emit, emit_all, event_of},
    requested,
};
use crate::rest::Stores;

/// The events of each fan before the poison in a message, and as many behind it.
const EACH: usize = 5;

/// A payment of the fan's for a show of its own.
pub fn payment(fan: &Fan<'_>, amount: i64) -> PaymentRequested {
    requested(fan.session.user_id, ScheduleId(Uuid::now_v7()), amount)
}

/// Removes the amount of a payment, so that it cannot be read.
fn unreadable(event: &mut Value) {
    event["data"].as_object_mut().expect("an object").remove("amount");
}

/// Gives a payment an amount that no wallet accepts.
fn impossible(event: &mut Value) {
    event["data"]["amount"] = json!(-1);
}

/// Emits a payment of the fan's that lacks its amount.
pub async fn poison(mesh: &Mesh, fan: &Fan<'_>) {
    let event = payment(fan, 1);
    let mut envelope = event_of(&event);
    unreadable(&mut envelope);
    emit_all::<PaymentRequested>(&mesh.env, Some(event.schedule_id), &[envelope]).await;
}

pub async fn balance_becomes(fan: &Fan<'_>, points: i64) {
    eventually(&format!("{points} points"), || async {
        // The service may have been started a moment ago.
        let answer = fan.get("/v1/points/balance").await;
        let balance: events::point::Balance = answer.json().ok()?;
        (balance.balance == points).then_some(())
    })
    .await;
}

#[test]
fn a_poison_event_of_one_wallet_parks_that_wallet_only_until_it_succeeds() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let stores = Stores::of(&mesh.env).await;
        let client = DeadLetterClient::of(&mesh).await;
        let (fan, other) = (mesh.fan(100).await, mesh.fan(100).await);
        let due = Due::of(&fan, &stores).await;
        let poison = emit(&mesh.env, &due.event).await;
        let first = client.open_becomes("point", &[Parked]).await.remove(0);
        assert_eq!(first.event_id, Some(poison));
        assert_eq!(first.key, fan.session.user_id.to_string());
        assert_eq!((first.attempts, first.stream.as_str()), (1, "RESERVATION"));
        assert!(first.cause.contains("nothing was taken"), "{}", first.cause);

        // Later events of this wallet wait; those of the other wallet do not.
        for amount in [90, 20, 10] {
            emit(&mesh.env, &payment(&fan, amount)).await;
        }
        emit(&mesh.env, &payment(&other, 30)).await;
        balance_becomes(&other, 70).await;
        let open = client.open_becomes("point", &[Parked, Waiting, Waiting, Waiting]).await;
        for waiting in &open[1..] {
            assert_eq!((waiting.behind.as_ref(), waiting.attempts), (Some(&first.letter), 0));
        }
        assert_eq!(fan.balance().await, 100);

        // It is still poison: it fails again, and no event overtakes it.
        let again = client.retry(&open[2].letter).await;
        let stopped = again.stopped.expect("it is still poison");
        assert_eq!((&stopped.letter, stopped.attempts), (&first.letter, 2));
        assert_eq!((again.resolved.len(), again.left), (0, 4));
        assert_eq!(fan.balance().await, 100);

        // The cause is gone: the 40 points that were debited are refunded, and then 90, 20 and 10
        // are debited in this order. The balance covers 90, not 20, and 10.
        due.mend(&stores, 40).await;
        let done = client.retry(&first.letter).await;
        let all: Vec<_> = open.iter().map(|dead_letter| dead_letter.letter.clone()).collect();
        // The answer leaves out what the service handles by itself meanwhile.
        assert!(!done.resolved.is_empty() && all.starts_with(&done.resolved), "{done:?}");
        assert_eq!(done.stopped, None);
        balance_becomes(&fan, 0).await;
        client.open_becomes("point", &[]).await;
        assert_eq!(client.try_retry(&first.letter).await.status, 404, "it is resolved");
        let opened = client.dead_letter(&first.letter).await;
        assert_eq!(opened.letter.state, Resolved);
        assert_eq!(opened.letter.event_id, Some(poison));
        assert_eq!(opened.letter.history.len(), 2);
        assert!(
            opened.letter.history.iter().all(|then| then.by.is_some()),
            "the operator is recorded"
        );
        assert_eq!(opened.deliveries.len(), 4);
        assert!(opened.payload.contains(&due.event.payment_id.to_string()));

        // The wallet is free again.
        fan.charge(50).await;
        emit(&mesh.env, &payment(&fan, 50)).await;
        balance_becomes(&fan, 0).await;
        assert_eq!(client.open("point").await, []);
        mesh.stop().await;
    });
}

#[test]
fn a_dead_letter_is_discarded_with_a_reason_and_those_behind_it_are_handled() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let client = DeadLetterClient::of(&mesh).await;
        let fan = mesh.fan(100).await;
        poison(&mesh, &fan).await;
        let first = client.open_becomes("point", &[Parked]).await.remove(0);
        for amount in [90, 20] {
            emit(&mesh.env, &payment(&fan, amount)).await;
        }
        client.open_becomes("point", &[Parked, Waiting, Waiting]).await;
        poison(&mesh, &fan).await;
        emit(&mesh.env, &payment(&fan, 10)).await;
        let open = client.open_becomes("point", &[Parked, Waiting, Waiting, Parked, Waiting]).await;
        // It waits behind the first one, whatever is in between.
        assert_eq!(open[4].behind.as_ref(), Some(&first.letter));

        // Only an operator may decide.
        let path = format!("/v1/dead-letters/{}/retry", first.letter);
        assert_eq!(fan.post(&path, &json!({})).await.status, 403);
        assert_eq!(fan.get("/v1/dead-letters").await.status, 403);
        assert_eq!(client.discard(&first.letter, " ").await.code().as_deref(), Some("invalid"));

        let answer = client.discard(&first.letter, "discarded by a test").await;
        let done: Retried = answer.json().expect("discarded");
        assert_eq!((&done.letter, done.stopped), (&first.letter, None));
        let rest = client.open_becomes("point", &[Parked, Waiting]).await;
        assert_eq!(rest[0].letter, open[3].letter, "up to the next dead letter");
        assert_eq!(rest[1].behind.as_ref(), Some(&open[3].letter));
        assert_eq!(fan.balance().await, 10, "the balance covered 90, not 20");
        let kept = client.dead_letter(&first.letter).await.letter;
        let end = kept.history.last().expect("an end");
        assert_eq!((kept.state, end.became), (Discarded, Discarded));
        assert_eq!(end.why.as_deref(), Some("discarded by a test"));
        assert!(end.by.is_some() && end.at.is_some(), "{end:?}");
        client.discard(&open[3].letter, "as well").await;
        balance_becomes(&fan, 0).await;
        client.open_becomes("point", &[]).await;
        mesh.stop().await;
    });
}

#[test]
fn a_poison_event_in_the_middle_of_a_message_parks_itself_and_later_events_of_its_key() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let client = DeadLetterClient::of(&mesh).await;
        for spoil in [unreadable, impossible] {
            let (fan, other) = (mesh.fan(100).await, mesh.fan(100).await);
            let schedule = ScheduleId(Uuid::now_v7());
            let event = |of: &Fan<'_>| event_of(&requested(of.session.user_id, schedule, 1));
            // One point each, alternating.
            let mut events: Vec<Value> =
                (0..2 * EACH).flat_map(|_| [event(&fan), event(&other)]).collect();
            let mut bad = event(&fan);
            spoil(&mut bad);
            events.insert(2 * EACH, bad);
            emit_all::<PaymentRequested>(&mesh.env, Some(schedule), &events).await;

            balance_becomes(&other, 100 - 2 * EACH as i64).await;
            let mut states = vec![Waiting; EACH + 1];
            states[0] = Parked;
            let open = client.open_becomes("point", &states).await;
            assert_eq!(fan.balance().await, 100 - EACH as i64, "the events before it are handled");
            let ids = open.iter().map(|dead_letter| json!(dead_letter.event_id));
            let of_fan = json!(fan.session.user_id);
            let behind = events.iter().filter(|event| event["data"]["user_id"] == of_fan);
            let behind = behind.skip(EACH).map(|event| event["id"].clone());
            assert_eq!(ids.collect::<Vec<_>>(), behind.collect::<Vec<_>>(), "in their order");
            assert!(open.iter().all(|dead_letter| dead_letter.sequence == open[0].sequence));

            assert_eq!(client.discard(&open[0].letter, "a test").await.status, 200);
            balance_becomes(&fan, 100 - 2 * EACH as i64).await;
            client.open_becomes("point", &[]).await;
        }
        mesh.stop().await;
    });
}

#[test]
fn the_waiting_room_parks_the_events_of_a_fan_as_well() {
    run(async {
        let mesh = Mesh::with(&["user", "concert", "queue", "gateway"]).await;
        let client = DeadLetterClient::of(&mesh).await;
        let (fan, other) = (mesh.fan(0).await, mesh.fan(0).await);
        let expired = |fan: &Fan<'_>| ReservationExpired {
            reservation_id: events::ReservationId(Uuid::now_v7()),
            schedule_id: ScheduleId(Uuid::now_v7()),
            user_id: fan.session.user_id,
            seats: Vec::new(),
            hold_version: 1,
        };
        let bad = expired(&fan);
        let mut event = event_of(&bad);
        event["data"]["seats"] = json!(7);
        emit_all::<ReservationExpired>(&mesh.env, Some(bad.schedule_id), &[event]).await;
        let first = client.open_becomes("queue", &[Parked]).await.remove(0);
        assert_eq!(first.key, fan.session.user_id.to_string());
        emit(&mesh.env, &expired(&other)).await;
        emit(&mesh.env, &expired(&fan)).await;
        let open = client.open_becomes("queue", &[Parked, Waiting]).await;
        assert_eq!(open[1].key, first.key);
        assert!(client.retry(&first.letter).await.stopped.is_some());
        assert_eq!(client.discard(&first.letter, "seats that are a number").await.status, 200);
        eventually("the other event is handled by itself", || async {
            let state = client.dead_letter(&open[1].letter).await.letter.state;
            (state == Resolved).then_some(())
        })
        .await;
        client.open_becomes("queue", &[]).await;
        mesh.stop().await;
    });
}

#[test]
fn the_command_reports_the_outcome_of_a_retry_and_fails_when_the_retry_fails() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let stores = Stores::of(&mesh.env).await;
        let client = DeadLetterClient::of(&mesh).await;
        let fan = mesh.fan(100).await;
        let due = Due::of(&fan, &stores).await;
        emit(&mesh.env, &due.event).await;
        let dead_letter = client.open_becomes("point", &[Parked]).await.remove(0).letter;
        let addr = mesh.env.config.http_addr.expect("a gateway");
        mesh.env.announce(addr).expect("a ready file");
        let folder = mesh.env.servers.as_ref().expect("our own").folder().to_owned();
        let command = |line: &str| {
            let words = ["onsale"].into_iter().chain(line.split(' ')).map(str::to_owned);
            let words = words.chain(["--data".to_owned(), folder.display().to_string()]);
            onsale::dead_letters::run(Command::read(words).expect("a command"))
        };
        command("ls --service point").await.expect("a list");
        command("ls --all --json").await.expect("a list without the services that do not run");
        command(&format!("show {dead_letter}")).await.expect("a dead letter");
        let failed = command(&format!("retry {dead_letter}")).await.expect_err("still poison");
        assert!(failed.to_string().contains("failed again"), "{failed}");
        let failed = command("retry-all --cause nothing").await.expect_err("still poison");
        assert!(failed.to_string().contains("failed again"), "{failed}");
        due.mend(&stores, 40).await;
        command("retry-all --service point --cause TAKEN").await.expect("mended");
        balance_becomes(&fan, 100).await;
        let failed = command("retry-all --cause nothing").await.expect_err("there is none");
        assert!(failed.to_string().contains("not asked for their letters"), "{failed}");
        let failed = command("retry-all --service point --cause nothing").await;
        let failed = failed.expect_err("there is none");
        assert!(failed.to_string().contains("no parked letter"), "{failed}");
        command(&format!("discard {dead_letter} --reason late")).await.expect_err("it is resolved");
        command("ls").await.expect("an empty list");
        mesh.stop().await;
    });
}
