//! Charge: buying points, once for each idempotency key.

use events::{Page, point::Entry};
use harness::mesh::{run, shared};
use serde_json::json;

#[test]
fn charges_add_up_and_are_listed_newest_first() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(0).await;
        let (first, second) = (fan.charge(30).await, fan.charge(12).await);
        assert_eq!((first.balance, second.balance, fan.balance().await), (30, 42, 42));
        let page: Page<Entry> = fan.get("/v1/points/entries").await.json().unwrap();
        let listed: Vec<_> = page.items.iter().map(|entry| entry.entry_id).collect();
        assert_eq!(listed, [second.entry_id, first.entry_id]);
    });
}

#[test]
fn the_same_key_charges_once_however_many_requests_come_at_once() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(0).await;
        let charge = |_| async {
            let ask = mesh.http.post("/v1/points/charges").token(fan.token());
            let ask = ask.json(&json!({ "amount": 5 })).header("idempotency-key", "five-points");
            ask.send().await.unwrap().json::<Entry>().unwrap()
        };
        let entries = futures::future::join_all((0..12).map(charge)).await;
        assert!(entries.iter().all(|entry| *entry == entries[0]), "{entries:?}");
        assert_eq!(fan.balance().await, 5);
    });
}
