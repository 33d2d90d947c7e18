//! A poison event parks its key only; what depends on it waits, in order.

use events::{
    ScheduleId,
    dead_letter::{
        DeadLetterState::{Discarded, Parked, Resolved, Waiting},
        Redriven,
    },
    payment::PaymentRequested,
    reservation::ReservationExpired,
};
use harness::mesh::{Fan, Mesh, eventually, run};
use onsale::dead_letters::Command;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    desk::{Desk, Due, emit, emit_all, event_of},
    requested,
};
use crate::rest::Stores;

/// Events of each fan before the poison in a message, and as many behind it.
const EACH: usize = 5;

/// A payment of the fan's for a show of its own.
pub fn payment(fan: &Fan<'_>, amount: i64) -> PaymentRequested {
    requested(fan.session.user_id, ScheduleId(Uuid::now_v7()), amount)
}

/// Makes of a payment one whose amount is missing.
fn unreadable(event: &mut Value) {
    event["data"].as_object_mut().expect("an object").remove("amount");
}

/// Makes of a payment one that no wallet can take in.
fn impossible(event: &mut Value) {
    event["data"]["amount"] = json!(-1);
}

/// Emits what claims to be a payment of the fan's and lacks its amount.
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
        let desk = Desk::of(&mesh).await;
        let (fan, other) = (mesh.fan(100).await, mesh.fan(100).await);
        let due = Due::of(&fan, &stores).await;
        let poison = emit(&mesh.env, &due.event).await;
        let first = desk.stand("point", &[Parked]).await.remove(0);
        assert_eq!(first.event_id, Some(poison));
        assert_eq!(first.key, fan.session.user_id.to_string());
        assert_eq!((first.attempts, first.stream.as_str()), (1, "RESERVATION"));
        assert!(first.cause.contains("nothing was taken"), "{}", first.cause);

        // What depends on it waits; the other wallet does not notice.
        for amount in [90, 20, 10] {
            emit(&mesh.env, &payment(&fan, amount)).await;
        }
        emit(&mesh.env, &payment(&other, 30)).await;
        balance_becomes(&other, 70).await;
        let line = desk.stand("point", &[Parked, Waiting, Waiting, Waiting]).await;
        for waiting in &line[1..] {
            assert_eq!((waiting.behind.as_ref(), waiting.attempts), (Some(&first.letter), 0));
        }
        assert_eq!(fan.balance().await, 100);

        // Still poison: it fails again, and nobody overtakes it.
        let again = desk.retry(&line[2].letter).await;
        let stopped = again.stopped.expect("it is still poison");
        assert_eq!((&stopped.letter, stopped.attempts), (&first.letter, 2));
        assert_eq!((again.resolved.len(), again.left), (0, 4));
        assert_eq!(fan.balance().await, 100);

        // The cause is gone: 40 that were taken come back, then 90, 20 and 10 are asked for
        // in this order: 90 are there, 20 are not, 10 are.
        due.mend(&stores, 40).await;
        let done = desk.retry(&first.letter).await;
        let all: Vec<_> = line.iter().map(|letter| letter.letter.clone()).collect();
        // What the service takes in by itself meanwhile is not the operator's.
        assert!(!done.resolved.is_empty() && all.starts_with(&done.resolved), "{done:?}");
        assert_eq!(done.stopped, None);
        balance_becomes(&fan, 0).await;
        desk.stand("point", &[]).await;
        assert_eq!(desk.try_retry(&first.letter).await.status, 404, "it is resolved");
        let opened = desk.letter(&first.letter).await;
        assert_eq!(opened.letter.state, Resolved);
        assert_eq!(opened.letter.event_id, Some(poison));
        assert_eq!(opened.letter.history.len(), 2);
        assert!(opened.letter.history.iter().all(|then| then.by.is_some()), "who had it tried");
        assert_eq!(opened.deliveries.len(), 4);
        assert!(opened.payload.contains(&due.event.payment_id.to_string()));

        // The wallet is free again.
        fan.charge(50).await;
        emit(&mesh.env, &payment(&fan, 50)).await;
        balance_becomes(&fan, 0).await;
        assert_eq!(desk.open("point").await, []);
        mesh.stop().await;
    });
}

#[test]
fn a_letter_is_discarded_with_a_reason_and_those_behind_it_go_on() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let desk = Desk::of(&mesh).await;
        let fan = mesh.fan(100).await;
        poison(&mesh, &fan).await;
        let first = desk.stand("point", &[Parked]).await.remove(0);
        for amount in [90, 20] {
            emit(&mesh.env, &payment(&fan, amount)).await;
        }
        desk.stand("point", &[Parked, Waiting, Waiting]).await;
        poison(&mesh, &fan).await;
        emit(&mesh.env, &payment(&fan, 10)).await;
        let line = desk.stand("point", &[Parked, Waiting, Waiting, Parked, Waiting]).await;
        // Behind the first of all, whatever stands between.
        assert_eq!(line[4].behind.as_ref(), Some(&first.letter));

        // Nobody but an operator decides.
        let path = format!("/v1/dead-letters/{}/retry", first.letter);
        assert_eq!(fan.post(&path, &json!({})).await.status, 403);
        assert_eq!(fan.get("/v1/dead-letters").await.status, 403);
        assert_eq!(desk.discard(&first.letter, " ").await.code().as_deref(), Some("invalid"));

        let answer = desk.discard(&first.letter, "told by a test").await;
        let done: Redriven = answer.json().expect("discarded");
        assert_eq!((&done.letter, done.stopped), (&first.letter, None));
        let rest = desk.stand("point", &[Parked, Waiting]).await;
        assert_eq!(rest[0].letter, line[3].letter, "up to the next that was tried");
        assert_eq!(rest[1].behind.as_ref(), Some(&line[3].letter));
        assert_eq!(fan.balance().await, 10, "90 were there, 20 were not");
        let kept = desk.letter(&first.letter).await.letter;
        let end = kept.history.last().expect("an end");
        assert_eq!((kept.state, end.became), (Discarded, Discarded));
        assert_eq!(end.why.as_deref(), Some("told by a test"));
        assert!(end.by.is_some() && end.at.is_some(), "{end:?}");
        desk.discard(&line[3].letter, "as well").await;
        balance_becomes(&fan, 0).await;
        desk.stand("point", &[]).await;
        mesh.stop().await;
    });
}

#[test]
fn poison_in_the_middle_of_a_message_parks_itself_and_what_depends_on_it() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let desk = Desk::of(&mesh).await;
        for spoil in [unreadable, impossible] {
            let (fan, other) = (mesh.fan(100).await, mesh.fan(100).await);
            let schedule = ScheduleId(Uuid::now_v7());
            let event = |of: &Fan<'_>| event_of(&requested(of.session.user_id, schedule, 1));
            // One point each, by turns.
            let mut events: Vec<Value> =
                (0..2 * EACH).flat_map(|_| [event(&fan), event(&other)]).collect();
            let mut bad = event(&fan);
            spoil(&mut bad);
            events.insert(2 * EACH, bad);
            emit_all::<PaymentRequested>(&mesh.env, Some(schedule), &events).await;

            balance_becomes(&other, 100 - 2 * EACH as i64).await;
            let mut states = vec![Waiting; EACH + 1];
            states[0] = Parked;
            let line = desk.stand("point", &states).await;
            assert_eq!(fan.balance().await, 100 - EACH as i64, "what is before it is taken in");
            let ids = line.iter().map(|letter| json!(letter.event_id));
            let of_fan = json!(fan.session.user_id);
            let behind = events.iter().filter(|event| event["data"]["user_id"] == of_fan);
            let behind = behind.skip(EACH).map(|event| event["id"].clone());
            assert_eq!(ids.collect::<Vec<_>>(), behind.collect::<Vec<_>>(), "in their order");
            assert!(line.iter().all(|letter| letter.sequence == line[0].sequence));

            assert_eq!(desk.discard(&line[0].letter, "a test").await.status, 200);
            balance_becomes(&fan, 100 - 2 * EACH as i64).await;
            desk.stand("point", &[]).await;
        }
        mesh.stop().await;
    });
}

#[test]
fn the_waiting_room_parks_a_fan_as_well() {
    run(async {
        let mesh = Mesh::with(&["user", "concert", "queue", "gateway"]).await;
        let desk = Desk::of(&mesh).await;
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
        let first = desk.stand("queue", &[Parked]).await.remove(0);
        assert_eq!(first.key, fan.session.user_id.to_string());
        emit(&mesh.env, &expired(&other)).await;
        emit(&mesh.env, &expired(&fan)).await;
        let line = desk.stand("queue", &[Parked, Waiting]).await;
        assert_eq!(line[1].key, first.key);
        assert!(desk.retry(&first.letter).await.stopped.is_some());
        assert_eq!(desk.discard(&first.letter, "seats that are a number").await.status, 200);
        eventually("the other one is taken in by itself", || async {
            let state = desk.letter(&line[1].letter).await.letter.state;
            (state == Resolved).then_some(())
        })
        .await;
        desk.stand("queue", &[]).await;
        mesh.stop().await;
    });
}

#[test]
fn the_command_says_what_became_of_a_letter_and_fails_with_it() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let stores = Stores::of(&mesh.env).await;
        let desk = Desk::of(&mesh).await;
        let fan = mesh.fan(100).await;
        let due = Due::of(&fan, &stores).await;
        emit(&mesh.env, &due.event).await;
        let letter = desk.stand("point", &[Parked]).await.remove(0).letter;
        let addr = mesh.env.config.http_addr.expect("a gateway");
        mesh.env.announce(addr).expect("a ready file");
        let folder = mesh.env.servers.as_ref().expect("our own").folder().to_owned();
        let command = |line: &str| {
            let words = ["onsale"].into_iter().chain(line.split(' ')).map(str::to_owned);
            let words = words.chain(["--data".to_owned(), folder.display().to_string()]);
            onsale::dead_letters::run(Command::read(words).expect("a command"))
        };
        command("ls --service point").await.expect("a list");
        command("ls --all --json").await.expect("a list without those that do not run");
        command(&format!("show {letter}")).await.expect("a letter");
        let failed = command(&format!("retry {letter}")).await.expect_err("still poison");
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
        command(&format!("discard {letter} --reason late")).await.expect_err("it is resolved");
        command("ls").await.expect("an empty list");
        mesh.stop().await;
    });
}
