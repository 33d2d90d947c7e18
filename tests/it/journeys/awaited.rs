//! Awaited: a service is down in the middle of a saga. The saga names the service that it awaits,
//! a stall is reported after the deadline, and the saga ends when the service is back.

use events::{
    audit::{Saga, SagaStalled, SagaState},
    payment::{Payment, PaymentState},
};
use harness::mesh::{Fan, Mesh, eventually, run};
use mesh::{Link, LinkSettings, MeshClient, StoredEvent, trace::Tracer};
use onsale::{
    config::OPERATOR,
    fleet::{Fleet, ServiceConfigs},
    registry::SERVICES,
};
use serde_json::json;

/// The service that is down.
const GONE: &str = "point";
/// How soon after its deadline a stall is emitted, in milliseconds.
const EMITTED_WITHIN: i64 = 1_000;
/// How long a payment waits for the point service, in milliseconds, as its flow declares.
const PATIENCE: i64 = 10_000;

#[test]
fn a_saga_names_the_service_it_awaits_is_reported_once_when_late_and_ends_when_it_is_back() {
    run(async {
        let others: Vec<&str> = SERVICES.into_iter().filter(|service| *service != GONE).collect();
        let mesh = Mesh::with(&others).await;
        let part = start(&mesh).await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        part.stop().await;

        let body = json!({ "reservation_id": hold.reservation_id });
        let payment: Payment = fan.post("/v1/payments", &body).await.json().expect("accepted");
        let running = saga_in(&fan, &payment, SagaState::Running).await;
        assert_eq!(running.line.awaited, [GONE]);
        let [awaited] = &running.to_come[..] else { panic!("{running:?}") };
        assert_eq!((awaited.service.as_str(), awaited.is_overdue), (GONE, false));
        assert_eq!(awaited.after, "payment.requested");
        let due_at = awaited.due_at;
        let requested = running.steps.iter().find(|step| step.event_id == awaited.after_id);
        let requested = requested.expect("the event that it follows").at;
        assert_eq!(due_at.unix_millis() - requested.unix_millis(), PATIENCE);

        let stalled = saga_in(&fan, &payment, SagaState::Stalled).await;
        assert_eq!(stalled.line.awaited, [GONE]);
        assert!(stalled.to_come[0].is_overdue, "{stalled:?}");
        let emitted = eventually("the stall is emitted", || async {
            let emitted = emitted_by_audit(&mesh).await;
            (!emitted.is_empty()).then_some(emitted)
        })
        .await;
        let stall: SagaStalled = serde_json::from_slice(emitted[0].payload()).expect("a stall");
        assert_eq!((stall.saga_id, stall.due_at), (stalled.line.saga_id, due_at));
        assert_eq!((stall.service.as_str(), stall.flow.as_str()), (GONE, "pay"));
        assert_eq!(stall.awaited, ["point.debited", "point.debit_refused"]);
        let emitted_at = emitted[0].at().expect("when it was emitted").unix_millis();
        let late = emitted_at - due_at.unix_millis();
        assert!((0..=EMITTED_WITHIN).contains(&late), "emitted {late} ms after its deadline");

        let part = start(&mesh).await;
        fan.payment_becomes(&payment, PaymentState::Completed).await;
        let ended = saga_in(&fan, &payment, SagaState::Completed).await;
        assert!(ended.to_come.is_empty() && ended.line.awaited.is_empty(), "{ended:?}");
        mesh.receipt_is_clean(schedule).await;
        let emitted: Vec<_> =
            emitted_by_audit(&mesh).await.iter().map(StoredEvent::event_id).collect();
        assert_eq!(emitted.len(), 1, "{emitted:?}");
        part.stop().await;
        mesh.stop().await;
    });
}

async fn start(mesh: &Mesh) -> Fleet {
    Fleet::start(&mesh.env.config, &[GONE], &ServiceConfigs::default()).await.expect("a service")
}

async fn saga_in(fan: &Fan<'_>, payment: &Payment, state: SagaState) -> Saga {
    let path = format!("/v1/sagas/{}", payment.payment_id);
    eventually(&format!("the saga is {}", state.as_str()), || async {
        let saga: Option<Saga> = fan.get(&path).await.json().ok();
        saga.filter(|saga| saga.line.state == state)
    })
    .await
}

/// All events that audit has ever emitted.
async fn emitted_by_audit(mesh: &Mesh) -> Vec<StoredEvent> {
    let config = &mesh.env.config;
    let settings = LinkSettings {
        service: OPERATOR,
        nats_url: config.nats_url.clone(),
        nkey_seed: config.nkey_seeds.get(OPERATOR).cloned(),
    };
    let link = Link::connect(settings, Tracer::off()).await.expect("a connection");
    let emitted =
        MeshClient::new(link.clone()).stored_since(audit::NAME, 0, 100).await.expect("events");
    link.drain().await;
    emitted
}
