//! Lines outlive whoever moves them on: killed services, several instances.

use events::dead_letter::{
    DeadLetterId,
    DeadLetterState::{Parked, Waiting},
};
use harness::mesh::{Mesh, eventually, run};
use mesh::failpoint::Failpoint;
use onsale::fleet::{Fleet, ServiceConfigs};

use super::{
    desk::{Desk, emit},
    lines::{balance_becomes, payment, poison},
};

/// Payments that wait in one line.
const WAITING: usize = 12;

async fn point(mesh: &Mesh) -> Fleet {
    let configs = ServiceConfigs::default();
    Fleet::start(&mesh.env.config, &["point"], &configs).await.expect("an instance of point")
}

/// A poison message, and payments of one point each behind it.
async fn line(mesh: &Mesh, desk: &Desk, fan: &harness::mesh::Fan<'_>) -> DeadLetterId {
    poison(mesh, fan).await;
    let first = desk.stand("point", &[Parked]).await.remove(0).letter;
    for _ in 0..WAITING {
        emit(&mesh.env, &payment(fan, 1)).await;
    }
    let mut states = vec![Waiting; WAITING + 1];
    states[0] = Parked;
    desk.stand("point", &states).await;
    first
}

#[test]
fn a_service_killed_while_a_line_moves_leaves_every_effect_exact() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let first_instance = point(&mesh).await;
        let desk = Desk::of(&mesh).await;
        let fan = mesh.fan(100).await;
        let letter = line(&mesh, &desk, &fan).await;
        // The first payment is written, and the process dies before it is committed.
        first_instance.running()[0].failpoints().arm(Failpoint::BeforeCommit, 1);
        assert_eq!(desk.discard(&letter, "a test").await.status, 200);
        eventually("the line moves, and the process dies", || async {
            let hits = first_instance.running()[0].failpoints().hits(Failpoint::BeforeCommit);
            (hits == 1).then_some(())
        })
        .await;
        first_instance.abandon();
        // The next one finds the line in the store and goes on by itself.
        let second_instance = point(&mesh).await;
        balance_becomes(&fan, 100 - WAITING as i64).await;
        desk.stand("point", &[]).await;
        emit(&mesh.env, &payment(&fan, 1)).await;
        balance_becomes(&fan, 100 - WAITING as i64 - 1).await;
        second_instance.stop().await;
        mesh.stop().await;
    });
}

#[test]
fn a_message_that_comes_again_after_its_poison_was_parked_parks_nothing_twice() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let instance = point(&mesh).await;
        let desk = Desk::of(&mesh).await;
        let fan = mesh.fan(100).await;
        instance.running()[0].failpoints().arm(Failpoint::BeforeAck, 1);
        poison(&mesh, &fan).await;
        let health = instance.running()[0].health();
        eventually("it came again", || async { (health.counts().repeats >= 1).then_some(()) })
            .await;
        desk.stand("point", &[Parked]).await;
        let all = desk.letters("point", "&all=true").await.expect("letters");
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(health.counts().parked, 1);
        instance.stop().await;
        mesh.stop().await;
    });
}

#[test]
fn what_one_instance_parks_and_frees_the_other_parks_and_frees() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let instances = [point(&mesh).await, point(&mesh).await];
        let desk = Desk::of(&mesh).await;
        let fan = mesh.fan(100).await;
        let letter = line(&mesh, &desk, &fan).await;
        assert_eq!(fan.balance().await, 100, "neither instance lets any pass");
        // Payments go on coming while the line is freed.
        let coming = async {
            for _ in 0..WAITING {
                emit(&mesh.env, &payment(&fan, 1)).await;
            }
        };
        let (answer, ()) = tokio::join!(desk.discard(&letter, "a test"), coming);
        assert_eq!(answer.status, 200, "{answer:?}");
        balance_becomes(&fan, 100 - 2 * WAITING as i64).await;
        desk.stand("point", &[]).await;
        // Nothing stays parked: what comes now is not even kept.
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
fn a_line_is_still_parked_after_a_restart() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let first_instance = point(&mesh).await;
        let desk = Desk::of(&mesh).await;
        let (fan, other) = (mesh.fan(100).await, mesh.fan(100).await);
        let letter = line(&mesh, &desk, &fan).await;
        first_instance.stop().await;
        // They lie in the stream when the service comes back, and must not be taken in.
        emit(&mesh.env, &payment(&fan, 1)).await;
        emit(&mesh.env, &payment(&other, 1)).await;
        let second_instance = point(&mesh).await;
        balance_becomes(&other, 99).await;
        let mut states = vec![Waiting; WAITING + 2];
        states[0] = Parked;
        desk.stand("point", &states).await;
        assert_eq!(fan.balance().await, 100);
        assert_eq!(desk.discard(&letter, "a test").await.status, 200);
        balance_becomes(&fan, 100 - WAITING as i64 - 1).await;
        second_instance.stop().await;
        mesh.stop().await;
    });
}
