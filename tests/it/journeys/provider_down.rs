//! Provider down: the sale goes on without the message provider, and each message arrives once.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use events::{
    Page,
    notification::{Channel, Message, MessageKind, MessageState},
    payment::PaymentState,
};
use harness::mesh::{Fan, Mesh, eventually, run};
use onsale::registry::SERVICES;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A receiver of webhooks, which can be made to fail.
#[derive(Default)]
struct Receiver {
    trouble: Trouble,
    /// The messages that arrived, by id: how often, and the body.
    came: BTreeMap<String, (usize, Value)>,
    /// How many attempts were not accepted.
    turned_away: usize,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Trouble {
    /// Never answers.
    #[default]
    Hangs,
    /// Answers, but with an error.
    Fails,
    /// Accepts every message.
    None,
}

type Shared = Arc<Mutex<Receiver>>;

async fn receive(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let trouble = {
        let mut receiver = shared.lock().expect("no panic");
        receiver.turned_away += usize::from(receiver.trouble != Trouble::None);
        receiver.trouble
    };
    match trouble {
        Trouble::Hangs => std::future::pending().await,
        Trouble::Fails => StatusCode::SERVICE_UNAVAILABLE,
        Trouble::None => {
            let id = headers["webhook-id"].to_str().expect("an id").to_owned();
            let body = serde_json::from_slice(&body).expect("JSON");
            let mut receiver = shared.lock().expect("no panic");
            receiver.came.entry(id).or_insert((0, body)).0 += 1;
            StatusCode::NO_CONTENT
        }
    }
}

async fn receiver() -> (Shared, SocketAddr) {
    let shared = Shared::default();
    let router = Router::new().route("/", post(receive)).with_state(shared.clone());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (shared, addr)
}

async fn mesh_with(addr: SocketAddr) -> Mesh {
    Mesh::with_configs(&SERVICES, |configs| {
        let webhook = notification::Config::webhook(&format!("http://{addr}/"), "of the receiver");
        configs.notification = webhook.expect("a configuration");
        // Ten minutes in a few seconds.
        configs.notification.try_within = Duration::from_secs(2);
        configs.notification.pace.first = Duration::from_millis(50);
        configs.notification.pace.longest = Duration::from_millis(200);
    })
    .await
}

async fn messages(fan: &Fan<'_>) -> Vec<Message> {
    let page: Page<Message> = fan.get("/v1/me/messages").await.json().expect("messages");
    page.items
}

/// The text of the message of this kind. It is found by kind, because the list is in the order in
/// which events are handled, and two streams are consumed in any order.
fn text_of(messages: &[Message], kind: MessageKind) -> &str {
    let message = messages.iter().find(|message| message.kind == kind);
    &message.unwrap_or_else(|| panic!("no {kind:?} in {messages:?}")).text
}

/// Waits until all messages of a fan were sent.
async fn all_sent(fan: &Fan<'_>, kinds: &[MessageKind]) -> Vec<Message> {
    eventually(&format!("{kinds:?} are sent"), || async {
        let messages = messages(fan).await;
        let sent = messages.iter().filter(|message| message.state == MessageState::Sent).count();
        (sent == kinds.len() && messages.len() == sent).then_some(messages)
    })
    .await
}

#[test]
fn a_sale_does_not_wait_for_messages_and_each_arrives_once_when_the_provider_is_back() {
    run(async {
        let (shared, addr) = receiver().await;
        let mesh = mesh_with(addr).await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let (fan, poor) = (mesh.fan(100).await, mesh.fan(0).await);
        let contact = json!({ "phone": "+821012345678", "locale": "ko" });
        let path = "/v1/me/contact";
        let put = mesh.http.ask(hyper::Method::PUT, path).token(fan.token()).json(&contact);
        assert_eq!(put.send().await.expect("sent").status, 200);
        let kept: Value = fan.get(path).await.json().expect("a contact");
        assert_eq!((&kept["phone"], &kept["locale"]), (&contact["phone"], &contact["locale"]));

        // The provider hangs; the sale is not affected.
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let payment = fan.pay(&hold).await;
        assert_eq!(payment.state, PaymentState::Completed);
        let unpaid = poor.hold(schedule, &["A-1-2"]).await;
        assert_eq!(poor.pay(&unpaid).await.state, PaymentState::Failed);
        mesh.receipt_is_clean(schedule).await;
        let tries = || shared.lock().expect("no panic").turned_away;
        eventually("attempts while it hangs", || async { (tries() >= 8).then_some(()) }).await;
        shared.lock().expect("no panic").trouble = Trouble::Fails;
        eventually("attempts while it fails", || async { (tries() >= 16).then_some(()) }).await;
        let waiting = messages(&fan).await;
        assert!(waiting.iter().all(|message| message.state == MessageState::Pending));

        shared.lock().expect("no panic").trouble = Trouble::None;
        let bought = [MessageKind::PaymentCompleted, MessageKind::ReservationMade];
        let sent = all_sent(&fan, &bought).await;
        let text = text_of(&sent, MessageKind::PaymentCompleted);
        assert!(text.contains("결제가 완료되어"), "{text}");
        assert!(sent.iter().all(|message| message.attempts > 1), "{sent:?}");
        assert!(sent.iter().all(|message| message.channel == Some(Channel::Webhook)));
        let failed = [MessageKind::PaymentFailed, MessageKind::ReservationMade];
        let sent = all_sent(&poor, &failed).await;
        let text = text_of(&sent, MessageKind::PaymentFailed);
        assert!(text.contains("too few points"), "{text}");

        // The show is cancelled: both fans get a message, and one gets the money back.
        let token = &mesh.organizer.access_token;
        let path = format!("/v1/schedules/{schedule}");
        assert_eq!(mesh.http.delete(&path).token(token).send().await.expect("sent").status, 202);
        let owner = [MessageKind::ShowCancelled, MessageKind::MoneyReturned];
        all_sent(&fan, &[owner, bought].concat()).await;
        all_sent(&poor, &[&[MessageKind::ShowCancelled][..], &failed].concat()).await;
        let came = shared.lock().expect("no panic").came.clone();
        assert_eq!(came.len(), 7, "{came:?}");
        assert!(came.values().all(|(times, _)| *times == 1), "{came:?}");
        mesh.stop().await;
    });
}
