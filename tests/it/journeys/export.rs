//! Export: everything that was sold reaches the data platform, in order, whatever happens to
//! the platform or to the service; and all of it can be exported again.

use std::{fs, path::Path, time::Duration};

use data_platform::{Config, PAYMENTS, RESERVATIONS, Row, Table, Totals};
use events::{
    ScheduleId,
    data_platform::{Export, ExportState},
    payment::PaymentState,
    user::Session,
};
use harness::{
    data_platform::{Mood, Platform},
    mesh::{Mesh, SOON, eventually, run},
};
use mesh::failpoint::Failpoint;
use onsale::{export, fleet, registry::SERVICES};

/// How many fans buy a ticket; two more do not.
const BUYERS: usize = 4;

async fn operator(mesh: &Mesh) -> Session {
    let login = mesh.http.post("/v1/sessions").json(&mesh.env.operator);
    login.send().await.expect("sent").json().expect("a session")
}

async fn state_of_export(mesh: &Mesh, operator: &Session) -> Export {
    let ask = mesh.http.get("/v1/export").token(&operator.access_token);
    ask.send().await.expect("sent").json().expect("the state of the export")
}

/// A sale with every outcome of a payment: tickets, one of them cancelled, one payment without
/// enough points, one hold cancelled.
async fn sale(mesh: &Mesh) -> ScheduleId {
    let schedule = mesh.open(BUYERS + 2, |_| {}).await.schedule_id;
    for buyer in 1..=BUYERS {
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &[&format!("A-1-{buyer}")]).await;
        let payment = fan.pay(&hold).await;
        assert_eq!(payment.state, PaymentState::Completed);
        if buyer == 1 {
            fan.delete(&format!("/v1/reservations/{}", hold.reservation_id)).await;
            fan.payment_becomes(&payment, PaymentState::Refunded).await;
        }
    }
    let poor = mesh.fan(0).await;
    let hold = poor.hold(schedule, &["A-1-5"]).await;
    assert_eq!(poor.pay(&hold).await.state, PaymentState::Failed);
    let hesitant = mesh.fan(0).await;
    let hold = hesitant.hold(schedule, &["A-1-6"]).await;
    hesitant.delete(&format!("/v1/reservations/{}", hold.reservation_id)).await;
    schedule
}

/// Whether the platform has everything of these many sales, as [`sale`] makes them.
fn is_whole(platform: &Platform, sales: usize) -> bool {
    let store = platform.store();
    let (sold, points) = (sales * (BUYERS - 1), (sales * (BUYERS - 1) * 100) as i64);
    store.rows_in("payment/", "COMPLETED") == (sold, points)
        && store.rows_in("payment/", "REFUNDED") == (sales, sales as i64 * 100)
        && store.rows_in("payment/", "FAILED") == (sales, sales as i64 * 100)
        && store.rows_in("reservation/", "CONFIRMED") == (sold, points)
        && store.rows_in("reservation/", "PENDING") == (sales, sales as i64 * 100)
        && store.rows_in("reservation/", "CANCELLED") == (2 * sales, 2 * sales as i64 * 100)
}

async fn becomes_whole(platform: &Platform, sales: usize) {
    let what = format!("{sales} sales are on the platform");
    eventually(&what, || async { is_whole(platform, sales).then_some(()) }).await;
    assert_eq!(platform.store().complaints, [""; 0]);
}

/// Every row of a table, from every file of a folder.
fn rows(folder: &Path, table: &Table) -> Vec<Row> {
    let mut rows = Vec::new();
    for day in fs::read_dir(folder.join(table.name)).expect("days") {
        for part in fs::read_dir(day.expect("a day").path()).expect("parts") {
            rows.extend(table.read(&part.expect("a part").path()).expect("a table"));
        }
    }
    rows.sort();
    rows
}

/// Checks that the counts and sums of the payments in a folder agree with these [`Totals`].
fn payments_agree(folder: &Path, totals: &Totals) {
    let column = |name: &str| PAYMENTS.columns.iter().position(|(known, _)| *known == name);
    let (event, amount) = (column("type").expect("type"), column("amount").expect("amount"));
    for (name, tally) in totals.0.iter().filter(|(name, _)| name.starts_with("payment.")) {
        let found = rows(folder, &PAYMENTS);
        let of: Vec<&Row> = found
            .iter()
            .filter(|row| row[event] == data_platform::Cell::Text(name.clone()))
            .collect();
        let points = of.iter().map(|row| match row[amount] {
            data_platform::Cell::Number(points) => points,
            _ => 0,
        });
        assert_eq!((of.len() as u64, points.sum::<i64>()), (tally.records, tally.points), "{name}");
    }
    assert_eq!(
        (rows(folder, &PAYMENTS).len() + rows(folder, &RESERVATIONS).len()) as u64,
        totals.records()
    );
}

fn configs(platform: &Platform, folder: &Path) -> Config {
    Config {
        url: Some(platform.url()),
        folder: Some(folder.to_owned()),
        retry_max: Duration::from_millis(200),
        ..Config::default()
    }
}

#[test]
fn a_platform_that_was_down_gets_everything_in_order_and_all_of_it_again_after_a_loss() {
    run(async {
        let platform = Platform::start(Mood::Down).await.expect("a platform");
        let folder = tempfile::tempdir().expect("a folder");
        let own = configs(&platform, folder.path());
        let mesh = Mesh::with_configs(&SERVICES, |configs| configs.data_platform = own).await;
        let operator = operator(&mesh).await;
        let schedule = sale(&mesh).await;
        let stuck = eventually("the export reports that it is stuck", || async {
            let state = state_of_export(&mesh, &operator).await;
            state.trouble.as_ref().is_some_and(|trouble| trouble.attempts > 1).then_some(state)
        })
        .await;
        assert_eq!(stuck.state, ExportState::Stuck);
        assert!(stuck.trouble.expect("a trouble").cause.contains("closed for repairs"));
        assert_eq!((stuck.watermark, stuck.streams), (None, vec![]));
        assert!(platform.store().events.is_empty());
        let before = mesh::clock::now();
        platform.become_(Mood::Well);
        becomes_whole(&platform, 1).await;
        let running = eventually("the export runs, and is past the sale", || async {
            let state = state_of_export(&mesh, &operator).await;
            let is_past =
                state.watermark > Some(before) && platform.store().watermark > Some(before);
            (state.state == ExportState::Running && is_past).then_some(state)
        })
        .await;
        let exported = platform.store();
        let counts = running.streams.iter().map(|stream| stream.events);
        assert_eq!(counts.sum::<u64>(), exported.totals().records());
        assert!(running.streams.iter().all(|stream| stream.behind == Some(0)), "{running:?}");
        payments_agree(folder.path(), &exported.totals());
        // The platform loses everything, and the folder is new: all of it is exported again.
        platform.lose_everything();
        let second = tempfile::tempdir().expect("a folder");
        let servers = mesh.env.servers.as_ref().expect("servers of our own");
        mesh.env.announce(mesh.fleet.http_addr().expect("a gateway")).expect("announced");
        let options = export::Export {
            since: None,
            until: None,
            to: Some(platform.url()),
            folder: Some(second.path().to_owned()),
            data: servers.folder().to_owned(),
        };
        export::run(options.clone()).await.expect("a backfill");
        let again = platform.store();
        assert_eq!((&again.rows, &again.events), (&exported.rows, &exported.events));
        assert_eq!(again.totals(), exported.totals());
        assert!(again.watermark > exported.watermark);
        let differs = |table| rows(second.path(), table) != rows(folder.path(), table);
        assert!(![&PAYMENTS, &RESERVATIONS].into_iter().any(differs));
        // And in two pieces, cut at the time of an event: as neither is whole, neither has a watermark.
        // The service sends its own to the first platform.
        let platform = Platform::start(Mood::Well).await.expect("another platform");
        let options = export::Export { to: Some(platform.url()), ..options };
        let cut = exported.events.values().nth(exported.events.len() / 2).map(|record| record.at);
        for (since, until) in [(cut, None), (None, cut)] {
            let piece = export::Export { since, until, ..options.clone() };
            export::run(piece).await.expect("a backfill");
            assert!(platform.store().totals().records() > 0);
        }
        let pieces = platform.store();
        assert_eq!((&pieces.rows, &pieces.events), (&exported.rows, &exported.events));
        assert_eq!((pieces.repeats, pieces.watermark), (0, None));
        let receipt = mesh.receipt_is_clean(schedule).await;
        let (sold, points) = exported.rows_in("payment/", "COMPLETED");
        assert_eq!((receipt.payments["COMPLETED"], receipt.points_due), (sold as i64, points));
        mesh.stop().await;
    });
}

#[test]
fn nothing_is_skipped_when_an_answer_or_the_service_is_lost_in_the_middle() {
    run(async {
        let platform = Platform::start(Mood::Forgetful).await.expect("a platform");
        let folder = tempfile::tempdir().expect("a folder");
        let others: Vec<&str> =
            SERVICES.into_iter().filter(|name| *name != data_platform::NAME).collect();
        let mesh = Mesh::with(&others).await;
        let all = fleet::ServiceConfigs {
            data_platform: configs(&platform, folder.path()),
            ..fleet::ServiceConfigs::default()
        };
        let start = || fleet::Fleet::start(&mesh.env.config, &[data_platform::NAME], &all);
        // The platform stores batches and answers that it has not. Then the service is killed while
        // it waits for an answer, and its next transaction is lost.
        let first = start().await.expect("a service");
        sale(&mesh).await;
        eventually("repeats", || async { (platform.store().repeats > 0).then_some(()) }).await;
        platform.become_(Mood::Slow(Duration::from_millis(300)));
        let batches = platform.store().batches;
        sale(&mesh).await;
        eventually("a batch", || async { (platform.store().batches > batches).then_some(()) })
            .await;
        first.abandon();
        let second = start().await.expect("a service");
        second.running()[0].failpoints().arm(Failpoint::BeforeCommit, 2);
        platform.become_(Mood::Well);
        sale(&mesh).await;
        becomes_whole(&platform, 3).await;
        eventually("both were lost", || async {
            (second.running()[0].failpoints().hits(Failpoint::BeforeCommit) == 2).then_some(())
        })
        .await;
        let store = platform.store();
        assert!(store.repeats > 0);
        payments_agree(folder.path(), &store.totals());
        // A service that is stuck can still be stopped.
        platform.become_(Mood::Down);
        mesh.fan(100).await.hold(mesh.open(1, |_| {}).await.schedule_id, &["A-1-1"]).await;
        let operator = operator(&mesh).await;
        eventually("it is stuck", || async {
            (state_of_export(&mesh, &operator).await.state == ExportState::Stuck).then_some(())
        })
        .await;
        tokio::time::timeout(SOON, second.stop()).await.expect("stopped");
        mesh.stop().await;
    });
}

#[test]
fn without_a_target_the_export_stands_idle_and_only_an_operator_sees_it() {
    run(async {
        let few = ["user", "data-platform", "gateway"];
        let mesh =
            Mesh::with_configs(&few, |configs| configs.data_platform = Default::default()).await;
        let operator = operator(&mesh).await;
        let state = state_of_export(&mesh, &operator).await;
        assert_eq!((state.state, state.streams), (ExportState::Idle, vec![]));
        let fan = mesh.fan(0).await;
        assert_eq!(fan.get("/v1/export").await.code().as_deref(), Some("forbidden"));
        mesh.stop().await;
    });
}
