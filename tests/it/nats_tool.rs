//! The page about the `nats` command: each of its lines does what the page says.

mod page;
mod shape;
mod shell;

use std::{sync::Arc, time::Duration};

use events::{ScheduleId, payment::Payment};
use harness::{
    mesh::{Fan, Mesh, run},
    project, tools,
};
use onsale::development::environment::Environment;
use serde_json::{Value, json};

use crate::broker::Broker;
use page::{Line, lines};
use shell::Shell;

/// The service whose consumers are paused while a live line is begun: a payment that was asked
/// for goes no further.
const PAUSED: &str = "point";

/// A mesh with something to see for each line of the page.
struct Scene<'a> {
    mesh: &'a Mesh,
    fan: Fan<'a>,
    schedule: ScheduleId,
    provisioner: Broker,
    /// Payments that were asked for.
    payments: u64,
}

impl<'a> Scene<'a> {
    /// A sold seat, and an event that nobody can handle.
    async fn set(mesh: &'a Mesh) -> Self {
        let schedule =
            mesh.open(8, |opening| opening.seats_per_fan_max = Some(8)).await.schedule_id;
        let fan = mesh.fan(10_000).await;
        let provisioner = Broker::of(&mesh.env, "provisioner").await;
        fan.pay(&fan.hold(schedule, &["A-1-1"]).await).await;
        let poison = Broker::of(&mesh.env, "payment").await;
        let subject = events::subject("payment.requested", 1, Some(schedule));
        let sent = poison.jetstream.publish(subject, "no batch of events".into()).await;
        sent.expect("sent").await.expect("stored");
        let operator = Broker::of(&mesh.env, "operator").await;
        harness::mesh::eventually("the dead letter is copied", || async {
            (!operator.stored("DEAD_LETTERS", 0).await.is_empty()).then_some(())
        })
        .await;
        Self { mesh, fan, schedule, provisioner, payments: 1 }
    }

    /// A payment that goes no further until [`PAUSED`] is resumed.
    async fn begin_payment(&mut self) -> Payment {
        self.payments += 1;
        let hold = self.fan.hold(self.schedule, &[&format!("A-1-{}", self.payments)]).await;
        self.provisioner.pause(PAUSED).await;
        let body = json!({ "reservation_id": hold.reservation_id });
        self.fan.post("/v1/payments", &body).await.json().expect("a payment")
    }

    /// Runs a line that follows something live, and lets a payment happen meanwhile.
    async fn follow(&mut self, shell: &Shell, line: &Line) {
        let payment = self.begin_payment().await;
        let saga = payment.payment_id.to_string();
        let monitor = self.mesh.env.servers.as_ref().expect("our own").nats_monitor_url();
        // That of the line before may not be gone yet.
        shell::subscribed(line, &monitor, false).await;
        let mut following = shell.start(line, &[("SAGA", &saga)]);
        shell::subscribed(line, &monitor, true).await;
        self.provisioner.resume(PAUSED).await;
        following.shows(&line.shows).await;
        following.stop().await;
    }
}

#[test]
fn every_line_about_the_nats_command_does_what_the_page_says() {
    run(async {
        let Some(nats) = tools::find("nats") else { return };
        let mesh = Mesh::own().await;
        let mut scene = Scene::set(&mesh).await;
        let shell = Shell::new(&mesh.env, &nats, &scene.schedule.to_string());
        for line in lines() {
            if !line.tools().iter().all(|tool| shell::is_there(tool)) {
                eprintln!("skipped, because a tool of it is not installed: {}", line.command);
            } else if line.is_live() {
                scene.follow(&shell, &line).await;
            } else {
                shell.run(&line).await;
            }
        }
        let stats = Line::of("nats micro stats onsale-payment --json");
        let stats: Value = serde_json::from_str(&shell.run(&stats).await).expect("JSON");
        let endpoints = stats[0]["endpoints"].as_array().expect("endpoints").iter();
        let pay = endpoints.clone().find(|endpoint| endpoint["name"] == "pay").expect("pay");
        assert_eq!(pay["num_requests"], scene.payments, "{pay}");
        tokio::time::timeout(Duration::from_secs(60), mesh.stop()).await.expect("stopped");
    });
}

#[test]
fn the_nats_command_reads_every_member_of_our_streams_and_consumers() {
    run(async {
        let Some(nats) = tools::find("nats") else { return };
        let env = Environment::start(None, Arc::new(|_: &str| {})).await.expect("servers");
        let shell = Shell::new(&env, &nats, "-");
        for line in lines().iter().filter(|line| line.command.starts_with("nats context ")) {
            shell.run(line).await;
        }
        let names = |folder| project::names(folder, "json").into_iter();
        let streams = names("jetstream/streams")
            .map(|name| (format!("jetstream/streams/{name}.json"), "stream add".to_owned()));
        let consumers = names("jetstream/consumers").map(|name| {
            let stream = name.split('.').next().unwrap_or_default();
            (format!("jetstream/consumers/{name}.json"), format!("consumer add {stream}"))
        });
        for (file, command) in streams.chain(consumers) {
            let line = Line::of(&format!("nats {command} --config {file} --validate"));
            let said = shell.run(&line).await;
            let (json, verdict) = said.rsplit_once('}').expect("what was read, and a verdict");
            assert!(verdict.contains("is a valid"), "{file}: {verdict}");
            let read: Value = serde_json::from_str(&format!("{json}}}")).expect("JSON");
            let ours = project::read_json(&file);
            for (name, value) in ours.as_object().expect("an object") {
                assert_eq!(read.get(name), Some(value), "{name} of {file}");
            }
        }
        env.stop().await;
    });
}
