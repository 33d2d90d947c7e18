//! Following one's own events on a broker whose streams are recreated or rolled back: an open
//! connection misses nothing, and a client that resumes gets everything or a refusal.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use events::{Problem, ScheduleId, codes};
use harness::{
    mesh::{Fan, Mesh, eventually, run},
    sse::{self, Events},
};
use onsale::{config::PROVISIONER, fleet};
use uuid::Uuid;

use crate::broker::Broker;

/// The streams that a fan's events are in.
const FOLLOWED: [&str; 4] = ["PAYMENT", "POINT", "QUEUE", "RESERVATION"];
const PATH: &str = "/v1/me/events";

async fn follow(mesh: &Mesh, fan: &Fan<'_>, last: Option<String>) -> Events {
    sse::open(mesh.http.base(), PATH, fan.token(), last).await
}

async fn is_refused(mesh: &Mesh, fan: &Fan<'_>, last: &str) -> bool {
    let opened = sse::try_open(mesh.http.base(), PATH, fan.token(), Some(last.to_owned())).await;
    let Err(problem) = opened else { return false };
    let problem: Problem = problem.expect("a problem");
    assert!(problem.is(codes::INVALID), "{problem}");
    assert!(problem.detail.contains("read the lists"), "{problem}");
    true
}

/// Buys a seat and waits for the outcome. Returns the events that the fan gets, as far as they
/// can be known from the answers.
async fn buy(fan: &Fan<'_>, schedule: ScheduleId, seat: &str) -> Vec<String> {
    let hold = fan.hold(schedule, &[seat]).await;
    let payment = fan.pay(&hold).await;
    let saga = payment.payment_id.0.to_string();
    ["payment.requested", "point.debited", "reservation.confirmed", "payment.completed"]
        .map(|name| format!("{name} {saga}"))
        .into()
}

/// Reads until all of these have come: each is an event's name and its saga.
async fn until_all(events: &mut Events, wanted: impl IntoIterator<Item = String>) -> String {
    let mut wanted: BTreeSet<String> = wanted.into_iter().collect();
    let mut last = String::new();
    while !wanted.is_empty() {
        let event = events.next().await;
        let value: serde_json::Value = event.json();
        let saga = value["saga_id"].as_str().unwrap_or_default();
        wanted.remove(&format!("{} {saga}", event.event()));
        last = event.id.unwrap_or(last);
    }
    last
}

/// Deletes streams, with their consumers, and creates them again.
async fn recreate(mesh: &Mesh, streams: &[&str]) {
    let provisioner = Broker::of(&mesh.env, PROVISIONER).await;
    for stream in streams {
        provisioner.jetstream.delete_stream(stream).await.expect("deleted");
    }
    fleet::apply_topology(&mesh.env.config).await.expect("created again");
}

async fn schedule(mesh: &Mesh) -> ScheduleId {
    mesh.open(20, |opening| opening.seats_per_fan_max = Some(20)).await.schedule_id
}

#[test]
fn a_resume_after_a_stream_was_recreated_is_refused_with_the_advice_to_read_the_lists() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = schedule(&mesh).await;
        let fan = mesh.fan(100_000).await;
        let mut events = follow(&mesh, &fan, None).await;
        let bought = buy(&fan, schedule, "A-1-1").await;
        let mut last = until_all(&mut events, bought).await;
        drop(events);
        for (round, stream) in FOLLOWED.into_iter().enumerate() {
            let at_first = last.clone();
            recreate(&mesh, &[stream]).await;
            for seat in [2 * round + 2, 2 * round + 3] {
                buy(&fan, schedule, &format!("A-1-{seat}")).await;
            }
            assert!(is_refused(&mesh, &fan, &at_first).await, "{stream}: {at_first}");
            // A client that follows from the beginning can resume as usual.
            let mut events = follow(&mesh, &fan, None).await;
            let bought = buy(&fan, schedule, &format!("A-1-{}", 2 * round + 11)).await;
            last = until_all(&mut events, bought).await;
            drop(events);
            let mut events = follow(&mesh, &fan, Some(last.clone())).await;
            let bought = buy(&fan, schedule, &format!("A-1-{}", 2 * round + 12)).await;
            last = until_all(&mut events, bought).await;
            assert!(is_refused(&mesh, &fan, &at_first).await, "still, and for good");
        }
        mesh.stop().await;
    });
}

#[test]
fn an_open_connection_misses_nothing_of_streams_that_are_recreated() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = schedule(&mesh).await;
        let fan = mesh.fan(100_000).await;
        let mut events = follow(&mesh, &fan, None).await;
        let bought = buy(&fan, schedule, "A-1-1").await;
        until_all(&mut events, bought).await;
        for (round, streams) in [&FOLLOWED[..1], &FOLLOWED[1..], &FOLLOWED].into_iter().enumerate()
        {
            // One connection has received everything, the other one nothing yet.
            let mut quiet = follow(&mesh, &fan, None).await;
            recreate(&mesh, streams).await;
            let mut wanted = buy(&fan, schedule, &format!("A-1-{}", 2 * round + 2)).await;
            wanted.extend(buy(&fan, schedule, &format!("A-1-{}", 2 * round + 3)).await);
            until_all(&mut events, wanted.clone()).await;
            let last = until_all(&mut quiet, wanted).await;
            drop(quiet);
            // Its last event id is a place in the new stream.
            eventually("it is resumed", || async {
                (!is_refused(&mesh, &fan, &last).await).then_some(())
            })
            .await;
        }
        mesh.stop().await;
    });
}

#[test]
fn no_follower_misses_anything_on_a_broker_that_is_rolled_back() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = schedule(&mesh).await;
        let fan = mesh.fan(100_000).await;
        let mut events = follow(&mesh, &fan, None).await;
        let bought = buy(&fan, schedule, "A-1-1").await;
        let before = until_all(&mut events, bought).await;
        let servers = mesh.env.servers.as_ref().expect("servers of our own");
        let (store, copy) =
            (servers.folder().join("nats/jetstream"), servers.folder().join("copy"));
        stop_while(servers.nats.pid().expect("a broker"), || copy_folder(&store, &copy));
        let lost = buy(&fan, schedule, "A-1-2").await;
        let beyond = until_all(&mut events, lost).await;

        servers.nats.kill();
        fs::remove_dir_all(&store).expect("removed");
        copy_folder(&copy, &store);
        servers.nats.restart().await.expect("the broker is back");
        let again = fan_buys_again(&fan, schedule).await;
        until_all(&mut events, again.clone()).await;
        // When other messages have taken the place of the lost ones, the resume is refused; when
        // the same ones are there again, nothing is missing.
        if !is_refused(&mesh, &fan, &beyond).await {
            let mut back = follow(&mesh, &fan, Some(beyond)).await;
            until_all(&mut back, again).await;
        }
        // What was stored before the copy was made is still there.
        let mut back = follow(&mesh, &fan, Some(before)).await;
        back.until("payment.completed").await;
        mesh.stop().await;
    });
}

/// Buys as soon as the mesh sells again.
async fn fan_buys_again(fan: &Fan<'_>, schedule: ScheduleId) -> Vec<String> {
    eventually("the mesh sells again", || async {
        let path = format!("/v1/schedules/{schedule}/queue/me");
        (fan.get(&path).await.status == 200).then_some(())
    })
    .await;
    buy(fan, schedule, "A-1-3").await
}

fn stop_while(pid: u32, act: impl FnOnce()) {
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &pid.to_string()]).status();
        assert!(sent.expect("sent").success());
    };
    signal("-STOP");
    act();
    signal("-CONT");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).expect("copied")),
        }
    }
}

#[test]
fn a_cursor_beyond_the_end_of_every_stream_is_refused() {
    run(async {
        let mesh = Mesh::own().await;
        let fan = mesh.fan(100).await;
        let cursor = |position: u64| {
            let mark = Uuid::now_v7().as_u64_pair().1;
            (0..4).fold("3".to_owned(), |text, _| format!("{text}.{position:x}-{mark:x}"))
        };
        assert!(is_refused(&mesh, &fan, &cursor(1 << 40)).await);
        assert!(is_refused(&mesh, &fan, &cursor(1_024)).await, "another message is there");
        assert!(!is_refused(&mesh, &fan, &cursor(0)).await, "the beginning is always valid");
        mesh.stop().await;
    });
}
