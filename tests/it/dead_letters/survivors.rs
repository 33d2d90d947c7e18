//! Parked events survive killed services and restarts, and are shared by several instances.

use events::dead_letter::{
    DeadLetterId,
    DeadLetterState::{Parked, Waiting},
};
use harness::mesh::{Mesh, eventually, run};
use mesh::failpoint::Failpoint;
use onsale::fleet::{Fleet, ServiceConfigs};

use super::{
    client::{DeadLetterClient, emit},
    lines::{balance_becomes, payment, poison},
};

/// How many payments wait behind one dead letter.
const WAITING: usize = 12;

async fn point(mesh: &Mesh) -> Fleet {
    let configs = ServiceConfigs::default();
    Fleet::start(&mesh.env.config, &["point"], &configs).await.expect("an instance of point")
}

/// Emits a poison message, and payments of one point each that wait behind it.
async fn park(
    mesh: &Mesh,
    client: &DeadLetterClient,
    fan: &harness::mesh::Fan<'_>,
) -> DeadLetterId {
    poison(mesh, fan).await;
    let first = client.open_becomes("point", &[Parked]).await.remove(0).letter;
    for _ in 0..WAITING {
        emit(&mesh.env, &payment(fan, 1)).await;
    }
    let mut states = vec![Waiting; WAITING + 1];
    states[0] = Parked;
    client.open_becomes("point", &states).await;
    first
}

#[test]
fn a_service_killed_while_waiting_events_are_handled_applies_each_of_them_once() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let first_instance = point(&mesh).await;
        let client = DeadLetterClient::of(&mesh).await;
        let fan = mesh.fan(100).await;
        let parked = park(&mesh, &client, &fan).await;
        // The first payment is written, and the process dies before the commit.
        first_instance.running()[0].failpoints().arm(Failpoint::BeforeCommit, 1);
        assert_eq!(client.discard(&parked, "a test").await.status, 200);
        eventually("the waiting events are handled, and the process dies", || async {
            let hits = first_instance.running()[0].failpoints().hits(Failpoint::BeforeCommit);
            (hits == 1).then_some(())
        })
        .await;
        first_instance.abandon();
        // The next instance finds the waiting events in the store and handles them by itself.
        let second_instance = point(&mesh).await;
        balance_becomes(&fan, 100 - WAITING as i64).await;
        client.open_becomes("point", &[]).await;
        emit(&mesh.env, &payment(&fan, 1)).await;
        balance_becomes(&fan, 100 - WAITING as i64 - 1).await;
        second_instance.stop().await;
        mesh.stop().await;
    });
}

#[test]
fn a_poison_message_that_is_redelivered_is_parked_once() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let instance = point(&mesh).await;
        let client = DeadLetterClient::of(&mesh).await;
        let fan = mesh.fan(100).await;
        instance.running()[0].failpoints().arm(Failpoint::BeforeAck, 1);
        poison(&mesh, &fan).await;
        let health = instance.running()[0].health();
        eventually("it is redelivered", || async { (health.counts().repeats >= 1).then_some(()) })
            .await;
        client.open_becomes("point", &[Parked]).await;
        let all = client.dead_letters("point", "&all=true").await.expect("dead letters");
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(health.counts().parked, 1);
        instance.stop().await;
        mesh.stop().await;
    });
}

#[test]
fn a_key_that_one_instance_parks_or_frees_is_parked_or_freed_in_the_other() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let instances = [point(&mesh).await, point(&mesh).await];
        let client = DeadLetterClient::of(&mesh).await;
        let fan = mesh.fan(100).await;
        let parked = park(&mesh, &client, &fan).await;
        assert_eq!(fan.balance().await, 100, "neither instance handles any");
        // Payments keep coming while the key is freed.
        let coming = async {
            for _ in 0..WAITING {
                emit(&mesh.env, &payment(&fan, 1)).await;
            }
        };
        let (answer, ()) = tokio::join!(client.discard(&parked, "a test"), coming);
        assert_eq!(answer.status, 200, "{answer:?}");
        balance_becomes(&fan, 100 - 2 * WAITING as i64).await;
        client.open_becomes("point", &[]).await;
        // The key is free: events that come now are handled at once, and not parked.
        let handled = |of: usize| instances[of].running()[0].health().counts().handled;
        let before = handled(0) + handled(1);
        for _ in 0..WAITING {
            emit(&mesh.env, &payment(&fan, 1)).await;
        }
        balance_becomes(&fan, 100 - 3 * WAITING as i64).await;
        eventually("all are counted", || async {
            (handled(0) + handled(1) >= before + WAITING as u64).then_some(())
        })
        .await;
        for instance in instances {
            instance.stop().await;
        }
        mesh.stop().await;
    });
}

#[test]
fn a_key_is_still_parked_after_a_restart() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let first_instance = point(&mesh).await;
        let client = DeadLetterClient::of(&mesh).await;
        let (fan, other) = (mesh.fan(100).await, mesh.fan(100).await);
        let parked = park(&mesh, &client, &fan).await;
        first_instance.stop().await;
        // Both are in the stream when the service comes back; the fan's must not be handled.
        emit(&mesh.env, &payment(&fan, 1)).await;
        emit(&mesh.env, &payment(&other, 1)).await;
        let second_instance = point(&mesh).await;
        balance_becomes(&other, 99).await;
        let mut states = vec![Waiting; WAITING + 2];
        states[0] = Parked;
        client.open_becomes("point", &states).await;
        assert_eq!(fan.balance().await, 100);
        assert_eq!(client.discard(&parked, "a test").await.status, 200);
        balance_becomes(&fan, 100 - WAITING as i64 - 1).await;
        second_instance.stop().await;
        mesh.stop().await;
    });
}
