//! Health: a service that cannot work says so, and so does `doctor`.

use harness::mesh::{Mesh, eventually, run};
use onsale::{config::PROVISIONER, doctor, fleet, health::Listener, http::Http};

use crate::broker::Broker;

#[test]
fn a_service_without_its_database_is_alive_but_not_ready_until_it_is_back() {
    run(async {
        let mesh = Mesh::own().await;
        let listener = Listener::open(([127, 0, 0, 1], 0).into()).await.expect("a port");
        let http = Http::new(format!("http://{}", listener.addr()));
        let becomes = async |status: u16| {
            eventually(&format!("/readyz answers {status}"), || async {
                let answer = http.get("/readyz").send().await.expect("an answer");
                (answer.status == status).then_some(())
            })
            .await;
        };
        becomes(503).await;
        listener.watch(&mesh.fleet);
        becomes(200).await;
        let postgres = mesh.env.servers.as_ref().expect("our own servers").postgres.clone();
        postgres.kill();
        becomes(503).await;
        assert_eq!(http.get("/healthz").send().await.expect("an answer").status, 200);
        postgres.restart().await.expect("PostgreSQL again");
        becomes(200).await;
        mesh.stop().await;
    });
}

#[test]
fn a_missing_stream_is_reported_and_everything_is_published_again_once_it_is_back() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        fan.pay(&hold).await;
        let is_well =
            || async { doctor::problems(&mesh.env.config).await.is_empty().then_some(()) };
        eventually("doctor finds nothing wrong", is_well).await;

        let provisioner = Broker::of(&mesh.env, PROVISIONER).await;
        provisioner.jetstream.delete_stream("PAYMENT").await.expect("deleted");
        let problems = doctor::problems(&mesh.env.config).await;
        for part in ["streams and consumers: ", "outbox of payment: "] {
            assert!(problems.iter().any(|ill| ill.starts_with(part)), "{part} {problems:?}");
        }
        eventually("its consumers report it", || async {
            let running = mesh.fleet.running().iter();
            let faults: Vec<String> = running.flat_map(|one| one.health().faults()).collect();
            faults.iter().any(|ail| ail.contains("PAYMENT")).then_some(())
        })
        .await;

        fleet::apply_topology(&mesh.env.config).await.expect("created again");
        eventually("everything is published again", is_well).await;
        let is_ready = || async {
            mesh.fleet.running().iter().all(|one| one.health().is_ready()).then_some(())
        };
        eventually("every service is ready again", is_ready).await;
        mesh.stop().await;
    });
}
