//! `onsale doctor` finds faults of the servers, each made for real: how the broker syncs, whom it
//! permits what, migrations, clocks, lag; and says what it could not check.

use std::{fs, path::Path, sync::Arc};

use events::{Event, ScheduleId, UserId, user::UserRegistered};
use harness::mesh::run;
use onsale::{
    config::{Config, OPERATOR},
    development::environment::Environment,
    doctor::{self, Finding, State},
};
use servers::Servers;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    broker::Broker,
    dead_letters::{
        client::{emit_all, event_of},
        requested,
    },
};

/// Servers without services: what doctor says of the servers is the same.
async fn environment() -> Environment {
    Environment::start(None, Arc::new(|_: &str| {})).await.expect("servers")
}

fn servers(env: &Environment) -> &Servers {
    env.servers.as_ref().expect("servers of our own")
}

async fn finding(config: &Config, what: &str) -> Finding {
    let findings = doctor::findings(config).await;
    findings.into_iter().find(|one| one.what == what).expect("it is checked")
}

/// Asserts that a part is in this state, and that doctor says so in words with all of these.
async fn is(env: &Environment, what: &str, state: State, words: &[&str]) {
    let found = finding(&env.config, what).await;
    assert_eq!(found.state, state, "{found:?}");
    for word in words {
        assert!(found.detail.contains(word), "{word}: {found:?}");
    }
}

/// What doctor has to say of the disk of this machine: less than a tenth of it is too little, and
/// less than a fiftieth is a fault.
fn state_of_disk(folder: &Path) -> State {
    let disk = rustix::fs::statvfs(folder).expect("a disk");
    match disk.f_bavail * 100 / disk.f_blocks {
        0..2 => State::Wrong,
        2..10 => State::Warning,
        _ => State::Ok,
    }
}

/// Restarts the broker with a changed configuration.
async fn configure(env: &Environment, change: impl FnOnce(String) -> String) {
    let conf = servers(env).folder().join("nats/nats.conf");
    let text = fs::read_to_string(&conf).expect("the configuration");
    let changed = change(text.clone());
    assert_ne!(text, changed, "it is changed");
    fs::write(&conf, changed).expect("written");
    servers(env).nats.restart().await.expect("the broker runs again");
}

async fn database(env: &Environment, service: &str) -> PgConnection {
    let url = env.config.database_url(service).expect("an address");
    PgConnection::connect(url).await.expect("connected")
}

async fn execute(database: &mut PgConnection, sql: &'static str) {
    sqlx::query(sql).execute(database).await.expect(sql);
}

#[test]
fn doctor_finds_a_broker_that_acknowledges_before_it_has_written() {
    run(async {
        let env = environment().await;
        is(&env, "sync_interval", State::Ok, &["always"]).await;
        let disk = state_of_disk(servers(&env).folder());
        is(&env, "disk of the broker", disk, &["stores", "of 16.0 GB", "free"]).await;
        // PostgreSQL does not say to a service's role where its data lies.
        let words = ["databases have", "not visible from here"];
        is(&env, "disk of the databases", State::Ok, &words).await;
        configure(&env, |conf| conf.replace("sync_interval: always", "sync_interval: \"90s\""))
            .await;
        is(&env, "sync_interval", State::Wrong, &["every 90 s", "sync_interval: always"]).await;

        // What doctor cannot see, it does not take for healthy.
        configure(&env, |conf| conf.replace("\"broker.jetstream\"\n", "\n")).await;
        is(&env, "sync_interval", State::NotChecked, &["broker.jetstream"]).await;
        let mut blind = env.config.clone();
        blind.nkey_seeds.remove(OPERATOR);
        let found = finding(&blind, "sync_interval").await;
        assert_eq!(found.state, State::NotChecked, "{found:?}");
        assert!(found.detail.contains("the operator's seed is not configured"), "{found:?}");
        env.stop().await;
    });
}

#[test]
fn doctor_finds_rights_that_are_missing_and_rights_that_nobody_should_have() {
    run(async {
        let env = environment().await;
        is(&env, "permissions", State::Ok, &["identities may do what they need"]).await;
        let own = "\"onsale.point.>\"\n";
        configure(&env, |conf| {
            let conf = conf.replace("\"$JS.API.CONSUMER.MSG.NEXT.PAYMENT.point\"\n", "\n");
            conf.replace(own, &format!("{own} \"onsale.payment.>\"\n"))
        })
        .await;
        let missing = "point may not publish to $JS.API.CONSUMER.MSG.NEXT.PAYMENT.point";
        let surplus = "point may publish to onsale.payment.";
        is(&env, "permissions", State::Wrong, &[missing, surplus, "jetstream/nats.conf"]).await;
        // The first one is that of `user`.
        let answers = "publish { allow: $INBOXES }";
        let with_events = "publish { allow: [\"_INBOX_operator.>\", \"onsale.>\"] }";
        configure(&env, |conf| conf.replacen(answers, with_events, 1)).await;
        is(&env, "permissions", State::Wrong, &["user-answers may publish to onsale.user."]).await;

        // What was permitted has left nothing behind.
        let broker = Broker::of(&env, OPERATOR).await;
        let ends = broker.ends().await;
        assert!(ends.values().all(|last| *last == 0), "{ends:?}");
        env.stop().await;
    });
}

#[test]
fn doctor_finds_a_database_that_is_older_or_newer_than_the_program() {
    run(async {
        let env = environment().await;
        is(&env, "database of point", State::Ok, &["is at migration 01"]).await;
        let mut point = database(&env, "point").await;
        execute(
            &mut point,
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (9999, 'of a newer version', true, '', 0)",
        )
        .await;
        let newer = ["at migration 9999", "a newer version has migrated it"];
        is(&env, "database of point", State::Wrong, &newer).await;
        execute(
            &mut point,
            "delete from _sqlx_migrations
             where version in (9999, (select max(version) from _sqlx_migrations where version < 9999))",
        )
        .await;
        let older = ["is not applied", "onsale migrate"];
        is(&env, "database of point", State::Wrong, &older).await;
        is(&env, "database of payment", State::Ok, &[]).await;
        env.stop().await;
    });
}

#[test]
fn doctor_warns_of_a_clock_that_is_a_second_off_and_finds_one_that_is_far_off() {
    run(async {
        let env = environment().await;
        is(&env, "clocks", State::Ok, &["clocks differ"]).await;
        let mut point = database(&env, "point").await;
        // The clock of this role: its own function is found before that of PostgreSQL.
        execute(
            &mut point,
            "create function public.clock_timestamp() returns timestamptz language sql as
             $$ select pg_catalog.clock_timestamp() - interval '3.9 seconds' $$",
        )
        .await;
        execute(&mut point, "alter role current_user set search_path = public, pg_catalog").await;
        let behind = ["the database of point is 3.", "behind this machine's", "time server"];
        is(&env, "clocks", State::Warning, &behind).await;
        execute(
            &mut point,
            "create or replace function public.clock_timestamp() returns timestamptz language sql as
             $$ select pg_catalog.clock_timestamp() + interval '60 seconds' $$",
        )
        .await;
        let ahead = ["the database of point is", "s ahead of this machine's"];
        is(&env, "clocks", State::Wrong, &ahead).await;
        env.stop().await;
    });
}

/// Emits an event as if that had been so many seconds ago.
async fn emit_aged<E: Event>(env: &Environment, event: &E, secs: i64) {
    let mut envelope = event_of(event);
    envelope["time"] = mesh::clock::now().plus_secs(-secs).to_string().into();
    emit_all::<E>(env, event.schedule(), &[envelope]).await;
}

#[test]
fn doctor_says_for_how_long_events_wait_to_be_published_and_to_be_consumed() {
    run(async {
        let env = environment().await;
        is(&env, "lag", State::Ok, &["no event waits"]).await;
        let event = requested(UserId(Uuid::now_v7()), ScheduleId(Uuid::now_v7()), 100);
        emit_aged(&env, &event, 300).await;
        let slow = ["one of payment for", "for 30", "run more instances"];
        is(&env, "lag", State::Warning, &slow).await;
        let event = UserRegistered { user_id: UserId(Uuid::now_v7()), at: mesh::clock::now() };
        emit_aged(&env, &event, 3 * 86_400).await;
        let late = ["has not taken in events of user since", "will be dropped", "/readyz"];
        is(&env, "lag", State::Wrong, &late).await;

        let mut point = database(&env, "point").await;
        execute(
            &mut point,
            "insert into mesh.outbox (id, subject, events, body, leased_until)
             values ((encode(substring(int8send((extract(epoch from now()) * 1000)::bigint - 90000)
                 from 3), 'hex') || '70008000000000000001')::uuid,
                 'onsale.point.charged.v1.-', 1, '', now())",
        )
        .await;
        let unpublished = ["1 events wait to be published", "the oldest for 9", "/readyz"];
        is(&env, "outbox of point", State::Wrong, &unpublished).await;
        env.stop().await;
    });
}
