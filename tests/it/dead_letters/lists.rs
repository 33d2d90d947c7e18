//! One list of the dead letters of all services.

use std::{cmp::Reverse, collections::BTreeSet};

use events::{
    dead_letter::{
        DeadLetter, DeadLetterId,
        DeadLetterState::{self, Early, Parked, Resolved},
        DeadLetters,
    },
    reservation::ReservationCancelled,
};
use harness::{
    mesh::{Mesh, eventually, run},
    wiring,
};

use serde_json::json;

use super::{
    client::{DeadLetterClient, Due, emit, emit_all},
    lines::{balance_becomes, payment},
};
use crate::rest::Stores;

/// The whole list, in pages of this size.
async fn paged(client: &DeadLetterClient, size: usize) -> Vec<DeadLetter> {
    let (mut all, mut before) = (Vec::new(), String::new());
    loop {
        let page: DeadLetters =
            client.list(&format!("limit={size}{before}")).await.json().expect("a page");
        assert!(page.items.len() <= size, "{page:?}");
        all.extend(page.items);
        match page.next_before {
            Some(next) => before = format!("&before={next}"),
            None => return all,
        }
    }
}

/// Waits until all dead letters of point are in these states, those that have ended included.
async fn all_become(client: &DeadLetterClient, states: &[DeadLetterState]) {
    eventually(&format!("all dead letters: {states:?}"), || async {
        let all = client.dead_letters("point", "&all=true").await?;
        all.iter().map(|dead_letter| dead_letter.state).eq(states.iter().copied()).then_some(())
    })
    .await;
}

#[test]
fn a_list_has_the_dead_letters_of_every_service_newest_first_page_by_page() {
    run(async {
        let mesh = Mesh::with(&["user", "concert", "queue", "point", "gateway"]).await;
        let client = DeadLetterClient::of(&mesh).await;
        // Three services consume the event, and none can read it.
        for number in 0..3 {
            let events = [json!({ "poison": number })];
            emit_all::<ReservationCancelled>(&mesh.env, None, &events).await;
        }
        for service in ["concert", "queue", "point"] {
            client.open_becomes(service, &[Parked; 3]).await;
        }
        let all = paged(&client, 100).await;
        let place =
            |dead_letter: &DeadLetter| Reverse((dead_letter.kept_at, dead_letter.letter.number()));
        assert!(all.is_sorted_by_key(place), "{all:?}");
        let ids: BTreeSet<&DeadLetterId> =
            all.iter().map(|dead_letter| &dead_letter.letter).collect();
        assert_eq!(ids.len(), 9);
        for size in [1, 2, 4, 5, 9] {
            assert_eq!(paged(&client, size).await, all, "in pages of {size}");
        }
        let some: DeadLetters = client.list("cause=AN%20EVENT").await.json().expect("dead letters");
        assert_eq!(some.items, all);
        let none: DeadLetters = client.list("cause=else").await.json().expect("dead letters");
        assert_eq!(none.items, []);
        mesh.stop().await;
    });
}

#[test]
fn a_list_names_every_service_that_could_not_be_asked() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let client = DeadLetterClient::of(&mesh).await;
        let page: DeadLetters = client.list("").await.json().expect("a page");
        let unasked: BTreeSet<&str> = page.unasked.iter().map(|one| &*one.service).collect();
        let consuming = wiring::all().into_iter().filter(|wiring| !wiring.consumes.is_empty());
        let mut expected: BTreeSet<&str> = consuming.map(|wiring| wiring.service).collect();
        assert!(expected.remove("user"), "it runs");
        assert_eq!(unasked, expected);
        for one in &page.unasked {
            assert!(one.why.contains("not running"), "{one:?}");
        }
        // A list of one service alone fails when that service cannot be asked.
        let codes = [
            ("service=payment", "unavailable"),
            ("service=accounting", "invalid"),
            ("before=last", "invalid"),
        ];
        for (query, code) in codes {
            assert_eq!(client.list(query).await.code().as_deref(), Some(code), "{query}");
        }
        let codes = [
            ("payment-1", "unavailable"),
            ("user-1", "not_found"),
            ("accounting-1", "not_found"),
            ("17", "not_found"),
        ];
        for (id, code) in codes {
            let answer = client.try_dead_letter(id).await;
            assert_eq!(answer.code().as_deref(), Some(code), "{id}");
        }
        mesh.stop().await;
    });
}

#[test]
fn an_early_event_needs_no_operator_and_is_listed_only_on_request() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let stores = Stores::of(&mesh.env).await;
        let client = DeadLetterClient::of(&mesh).await;
        let (fan, other) = (mesh.fan(100).await, mesh.fan(100).await);
        let due = Due::early(&fan);
        emit(&mesh.env, &due.event).await;
        all_become(&client, &[Early]).await;
        // It blocks nothing: later events of this wallet are handled, as those of the other one.
        emit(&mesh.env, &payment(&fan, 20)).await;
        emit(&mesh.env, &payment(&other, 30)).await;
        balance_becomes(&fan, 80).await;
        balance_becomes(&other, 70).await;
        all_become(&client, &[Early]).await;
        assert_eq!(client.open("point").await, [], "no operator has to decide anything");
        // The ledger now has the payment: the 40 points that were debited are refunded.
        due.mend(&stores, 40).await;
        all_become(&client, &[Resolved]).await;
        assert_eq!(fan.balance().await, 80);
        mesh.stop().await;
    });
}
