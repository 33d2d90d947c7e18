//! An instance whose store is reachable, but cannot be used.

use harness::mesh::{Mesh, eventually, run};
use onsale::{
    config::Config,
    fleet::{self, Fleet, ServiceConfigs},
};
use sqlx::{Connection, PgConnection};

use super::servers;

/// How many commands are spread over the instances.
const COMMANDS: usize = 40;

async fn point(config: &Config) -> Fleet {
    Fleet::start(config, &["point"], &ServiceConfigs::default())
        .await
        .expect("an instance of point")
}

fn with_database(config: &Config, url: String) -> Config {
    let mut config = config.clone();
    config.database_urls.insert("point".into(), url);
    config
}

/// The problem with its store that the instance reports.
async fn ail(instance: &Fleet) -> String {
    let health = instance.running()[0].health();
    eventually("it reports that it cannot use its store", || async {
        health.faults().into_iter().find(|ail| ail.starts_with("the store cannot be used: "))
    })
    .await
}

/// An empty database that belongs to the role of point.
async fn empty_database(mesh: &Mesh) -> String {
    let mut admin = PgConnection::connect(servers(mesh).postgres.url()).await.expect("connected");
    sqlx::query("create database onsale_other owner onsale_point")
        .execute(&mut admin)
        .await
        .expect("made");
    let own = mesh.env.config.database_url("point").expect("an address");
    own.replace("/onsale_point?", "/onsale_other?")
}

#[test]
fn an_instance_that_cannot_use_its_store_leaves_all_work_to_the_others_until_it_can() {
    run(async {
        let mesh = Mesh::own().await;
        let config = &mesh.env.config;
        let own = config.database_url("point").expect("an address").to_owned();
        let at = own.find('@').expect("an address");
        let strange = config.database_url("payment").expect("an address").to_owned();
        let other = empty_database(&mesh).await;
        let instances = [
            point(&with_database(config, format!("postgres://onsale_point:wrong{}", &own[at..])))
                .await,
            point(&with_database(config, own.replace("/onsale_point?", "/no_such?"))).await,
            point(&with_database(config, strange)).await,
            point(&with_database(config, other.clone())).await,
        ];
        for (instance, reason) in instances.iter().zip([
            "password authentication failed",
            "does not exist",
            "another service's database",
            "onsale migrate",
        ]) {
            let ail = ail(instance).await;
            assert!(ail.contains(reason), "{reason}: {ail}");
        }

        let schedule = mesh.open(COMMANDS, |_| {}).await.schedule_id;
        for seat in 1..=COMMANDS / 4 {
            let fan = mesh.fan(100).await;
            let hold = fan.hold(schedule, &[&format!("A-1-{seat}")]).await;
            fan.pay(&hold).await;
            for _ in 0..4 {
                let charged = fan.charge_once(1).await;
                assert!(charged.status.is_success(), "{charged:?}");
            }
        }
        mesh.receipt_is_clean(schedule).await;

        // Only the last one can be repaired from here.
        fleet::migrate(&with_database(config, other), &["point"]).await.expect("migrated");
        let [.., last] = &instances;
        let health = last.running()[0].health();
        eventually("it can do its work", || async { health.is_ready().then_some(()) }).await;
        for instance in instances {
            instance.stop().await;
        }
        mesh.stop().await;
    });
}
