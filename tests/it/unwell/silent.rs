//! Servers that are silent for longer than any timeout.

use std::time::{Duration, Instant};

use events::{Page, notification::Message, payment::PaymentState};
use harness::mesh::{Fan, Mesh, SOON, eventually, run};
use onsale::{development::lag::Observer, registry::LISTENERS};
use serde_json::json;

use super::{faults, process::Paused, servers};

/// Longer than the heartbeats, the pulls and the timeouts of anything that waits for a server.
const SILENCE: Duration = Duration::from_secs(36);
/// How long a command may take while the servers are silent.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
/// How long a shutdown may take while servers are silent.
const STOPPED_WITHIN: Duration = Duration::from_secs(25);

#[test]
fn services_recover_from_silent_servers_and_a_shutdown_does_not_wait_for_them() {
    run(async {
        let mesh = Mesh::own().await;
        let observer = Observer::open(&mesh.env.config, &LISTENERS).await.expect("an observer");
        sale(&mesh).await;
        observer.wait_until_caught_up(SOON).await.expect("every listener has caught up");

        let client = mesh.fan(0).await;
        let all = pause_all(&mesh);
        let silent_until = Instant::now() + SILENCE;
        let asked = Instant::now();
        let refused = client.post("/v1/points/charges", &json!({ "amount": 1 })).await;
        assert!(matches!(refused.status.as_u16(), 503 | 504), "{refused:?}");
        assert!(asked.elapsed() < ANSWERED_WITHIN, "{:?}", asked.elapsed());
        eventually("it is reported", || async { (!faults(&mesh).await.is_empty()).then_some(()) })
            .await;
        tokio::time::sleep_until(silent_until.into()).await;
        drop(all);

        eventually("it is ready", || async { faults(&mesh).await.is_empty().then_some(()) }).await;
        sale(&mesh).await;
        observer.wait_until_caught_up(SOON).await.expect("every listener has caught up");
        observer.close().await;

        let Mesh { fleet, env, .. } = mesh;
        let all = env
            .servers
            .as_ref()
            .map(|servers| [&servers.nats, &servers.postgres, &servers.valkey].map(Paused::of));
        let began = Instant::now();
        fleet.stop().await;
        assert!(began.elapsed() < STOPPED_WITHIN, "{:?}", began.elapsed());
        drop(all);
        env.stop().await;
    });
}

fn pause_all(mesh: &Mesh) -> [Paused; 3] {
    let servers = servers(mesh);
    [&servers.nats, &servers.postgres, &servers.valkey].map(Paused::of)
}

/// A fan buys a ticket and gets both messages.
async fn sale(mesh: &Mesh) {
    let schedule = mesh.open(1, |_| {}).await.schedule_id;
    let fan = mesh.fan(100).await;
    let hold = fan.hold(schedule, &["A-1-1"]).await;
    assert_eq!(fan.pay(&hold).await.state, PaymentState::Completed);
    eventually("both messages", || async { (messages(&fan).await == 2).then_some(()) }).await;
}

async fn messages(fan: &Fan<'_>) -> usize {
    let page = fan.get("/v1/me/messages").await.json::<Page<Message>>();
    page.map_or(0, |page| page.items.len())
}
