//! Streams have limits, and nothing is lost by them: a full stream refuses messages and the outbox
//! keeps them, and a message that is dropped before a consumer got it is published again.

use std::time::Duration;

use events::payment::{Payment, PaymentState};
use harness::mesh::{Fan, Mesh, eventually, run};
use onsale::{
    config::PROVISIONER,
    doctor,
    fleet::{Fleet, ServiceConfigs},
    registry::SERVICES,
};
use serde_json::json;

use crate::broker::{Broker, WINDOW_MIN};

/// A maximum age after which a stream drops its messages.
const SOON_DROPPED: Duration = Duration::from_millis(500);

/// Changes the configuration of a stream, and returns what it was before.
async fn change(
    provisioner: &Broker,
    stream: &str,
    change: impl FnOnce(&mut async_nats::jetstream::stream::Config),
) -> async_nats::jetstream::stream::Config {
    let found = provisioner.jetstream.get_stream(stream).await.expect("a stream");
    let before = found.cached_info().config.clone();
    let mut config = before.clone();
    change(&mut config);
    provisioner.jetstream.update_stream(&config).await.expect("changed");
    before
}

/// Makes the stream drop everything that it has.
async fn drop_all(provisioner: &Broker, stream: &str) {
    let before = change(provisioner, stream, |config| {
        config.max_age = SOON_DROPPED;
        config.duplicate_window = WINDOW_MIN;
    })
    .await;
    eventually(&format!("{stream} has dropped everything"), || async {
        let found = provisioner.jetstream.get_stream(stream).await.expect("a stream");
        (found.cached_info().state.messages == 0).then_some(())
    })
    .await;
    // It goes on as before, except that it remembers message ids for less time.
    let as_before = |config: &mut async_nats::jetstream::stream::Config| {
        config.max_age = before.max_age;
    };
    change(provisioner, stream, as_before).await;
}

/// Begins a payment and waits for nothing.
async fn begin(fan: &Fan<'_>, hold: &events::reservation::Reservation) -> Payment {
    let body = json!({ "reservation_id": hold.reservation_id });
    let answer = fan.post("/v1/payments", &body).await;
    assert_eq!(answer.status.as_u16(), 202, "{answer:?}");
    answer.json().expect("a payment")
}

/// The problems that the running services report.
fn faults(mesh: &Mesh) -> Vec<String> {
    mesh.fleet.running().iter().flat_map(|one| one.health().faults()).collect()
}

#[test]
fn a_full_stream_delays_events_and_everything_is_published_once_it_has_room() {
    run(async {
        let mesh = Mesh::own().await;
        let provisioner = Broker::of(&mesh.env, PROVISIONER).await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let fan = mesh.fan(1_000).await;
        let holds = [fan.hold(schedule, &["A-1-1"]).await, fan.hold(schedule, &["A-1-2"]).await];
        fan.pay(&holds[0]).await;
        eventually("doctor finds nothing wrong", || async {
            doctor::problems(&mesh.env.config).await.is_empty().then_some(())
        })
        .await;
        // Room for less than a message, in two of the streams that a payment needs.
        let mut before = Vec::new();
        for stream in ["PAYMENT", "POINT"] {
            let found = provisioner.jetstream.get_stream(stream).await.expect("a stream");
            let bytes = found.cached_info().state.bytes as i64;
            before.push(change(&provisioner, stream, |config| config.max_bytes = bytes + 64).await);
        }
        let payment = begin(&fan, &holds[1]).await;
        fan.charge(5).await;
        eventually("the services report that their streams are full", || async {
            let full = faults(&mesh).into_iter().filter(|ail| ail.contains("stream is full"));
            (full.count() == 2).then_some(())
        })
        .await;
        let problems = doctor::problems(&mesh.env.config).await;
        for part in ["outbox of payment: the stream PAYMENT is full", "outbox of point: the stream"]
        {
            assert!(problems.iter().any(|ill| ill.starts_with(part)), "{part}: {problems:?}");
        }
        let found = fan.payment(&payment).await;
        assert_eq!(found.state, PaymentState::Requested, "the payment is kept, but cannot go on");

        for config in before {
            provisioner.jetstream.update_stream(&config).await.expect("as it was");
        }
        fan.payment_becomes(&payment, PaymentState::Completed).await;
        eventually("no service reports a problem", || async {
            (faults(&mesh).is_empty() && doctor::problems(&mesh.env.config).await.is_empty())
                .then_some(())
        })
        .await;
        mesh.receipt_is_clean(schedule).await;
        mesh.stop().await;
    });
}

#[test]
fn a_message_dropped_before_a_consumer_got_it_is_published_again() {
    run(async {
        let mesh = Mesh::own().await;
        let provisioner = Broker::of(&mesh.env, PROVISIONER).await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let fan = mesh.fan(1_000).await;
        let holds = [fan.hold(schedule, &["A-1-1"]).await, fan.hold(schedule, &["A-1-2"]).await];
        fan.pay(&holds[0]).await;
        for away in ["point", "reservation"] {
            provisioner.pause(away).await;
        }
        let payment = begin(&fan, &holds[1]).await;
        let stream = provisioner.jetstream.get_stream("PAYMENT").await.expect("a stream");
        assert!(stream.cached_info().state.messages > 0);
        drop_all(&provisioner, "PAYMENT").await;
        eventually("its publisher reports it", || async {
            let payment = mesh.fleet.running().iter().find(|one| one.name() == "payment");
            let missed = payment.expect("it runs").health().counts().missed;
            (missed > 0).then_some(())
        })
        .await;
        for away in ["point", "reservation"] {
            provisioner.resume(away).await;
        }
        fan.payment_becomes(&payment, PaymentState::Completed).await;
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!((receipt.seats_sold, receipt.points_taken), (2, 200));
        mesh.stop().await;
    });
}

#[test]
fn a_message_dropped_before_a_stream_reader_got_it_is_published_again() {
    run(async {
        let others: Vec<&str> = SERVICES.into_iter().filter(|name| *name != audit::NAME).collect();
        let mesh = Mesh::with(&others).await;
        let provisioner = Broker::of(&mesh.env, PROVISIONER).await;
        let reading = async || {
            Fleet::start(&mesh.env.config, &[audit::NAME], &ServiceConfigs::default())
                .await
                .expect("audit")
        };
        let schedule = mesh.open(3, |_| {}).await.schedule_id;
        let fan = mesh.fan(1_000).await;
        let hold = async |seat: &str| fan.hold(schedule, &[seat]).await;
        let known = async |payment: &Payment| {
            let path = format!("/v1/sagas/{}", payment.payment_id);
            eventually("audit knows the end of the saga", || async {
                let saga: serde_json::Value = fan.get(&path).await.json().ok()?;
                (saga["state"] == "completed").then_some(())
            })
            .await;
        };
        let first = reading().await;
        known(&fan.pay(&hold("A-1-1").await).await).await;
        first.stop().await;
        let missed = fan.pay(&hold("A-1-2").await).await;
        for stream in ["PAYMENT", "POINT", "RESERVATION"] {
            drop_all(&provisioner, stream).await;
        }
        let second = reading().await;
        // A message behind the gap, by which the reader notices the gap.
        known(&fan.pay(&hold("A-1-3").await).await).await;
        known(&missed).await;
        let counted = second.running()[0].health().counts();
        assert!(counted.missed > 0, "{counted:?}");
        second.stop().await;
        mesh.stop().await;
    });
}
