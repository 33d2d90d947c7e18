//! One list of what every service keeps for itself.

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
    desk::{Desk, Due, emit, emit_all},
    lines::{balance_becomes, payment},
};
use crate::rest::Stores;

/// The whole list, in pages of this size.
async fn paged(desk: &Desk, size: usize) -> Vec<DeadLetter> {
    let (mut all, mut before) = (Vec::new(), String::new());
    loop {
        let page: DeadLetters =
            desk.list(&format!("limit={size}{before}")).await.json().expect("a page");
        assert!(page.items.len() <= size, "{page:?}");
        all.extend(page.items);
        match page.next_before {
            Some(next) => before = format!("&before={next}"),
            None => return all,
        }
    }
}

/// Waits until all letters of point stand like this, whoever they concern.
async fn all_become(desk: &Desk, states: &[DeadLetterState]) {
    eventually(&format!("all letters: {states:?}"), || async {
        let all = desk.letters("point", "&all=true").await?;
        all.iter().map(|letter| letter.state).eq(states.iter().copied()).then_some(())
    })
    .await;
}

#[test]
fn a_list_has_the_letters_of_every_service_newest_first_page_by_page() {
    run(async {
        let mesh = Mesh::with(&["user", "concert", "queue", "point", "gateway"]).await;
        let desk = Desk::of(&mesh).await;
        // Three services consume it, and none can read it.
        for number in 0..3 {
            let events = [json!({ "poison": number })];
            emit_all::<ReservationCancelled>(&mesh.env, None, &events).await;
        }
        for service in ["concert", "queue", "point"] {
            desk.stand(service, &[Parked; 3]).await;
        }
        let all = paged(&desk, 100).await;
        let places = |letter: &DeadLetter| Reverse((letter.kept_at, letter.letter.number()));
        assert!(all.is_sorted_by_key(places), "{all:?}");
        let ids: BTreeSet<&DeadLetterId> = all.iter().map(|letter| &letter.letter).collect();
        assert_eq!(ids.len(), 9);
        for size in [1, 2, 4, 5, 9] {
            assert_eq!(paged(&desk, size).await, all, "in pages of {size}");
        }
        let some: DeadLetters = desk.list("cause=AN%20EVENT").await.json().expect("letters");
        assert_eq!(some.items, all);
        let none: DeadLetters = desk.list("cause=else").await.json().expect("letters");
        assert_eq!(none.items, []);
        mesh.stop().await;
    });
}

#[test]
fn a_list_names_every_service_that_could_not_be_asked() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let desk = Desk::of(&mesh).await;
        let page: DeadLetters = desk.list("").await.json().expect("a page");
        let unasked: BTreeSet<&str> = page.unasked.iter().map(|one| &*one.service).collect();
        let consuming = wiring::all().into_iter().filter(|wiring| !wiring.consumes.is_empty());
        let mut expected: BTreeSet<&str> = consuming.map(|wiring| wiring.service).collect();
        assert!(expected.remove("user"), "it runs");
        assert_eq!(unasked, expected);
        for one in &page.unasked {
            assert!(one.why.contains("not running"), "{one:?}");
        }
        // Asked for alone, it is no list without it.
        let codes = [
            ("service=payment", "unavailable"),
            ("service=accounting", "invalid"),
            ("before=last", "invalid"),
        ];
        for (query, code) in codes {
            assert_eq!(desk.list(query).await.code().as_deref(), Some(code), "{query}");
        }
        let codes = [
            ("payment-1", "unavailable"),
            ("user-1", "not_found"),
            ("accounting-1", "not_found"),
            ("17", "not_found"),
        ];
        for (letter, code) in codes {
            assert_eq!(
                desk.try_dead_letter(letter).await.code().as_deref(),
                Some(code),
                "{letter}"
            );
        }
        mesh.stop().await;
    });
}

#[test]
fn an_event_that_comes_too_early_needs_no_operator_and_is_listed_when_asked_for() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let stores = Stores::of(&mesh.env).await;
        let desk = Desk::of(&mesh).await;
        let (fan, other) = (mesh.fan(100).await, mesh.fan(100).await);
        let due = Due::early(&fan);
        emit(&mesh.env, &due.event).await;
        all_become(&desk, &[Early]).await;
        // It holds nobody up: what comes for this wallet is taken in, as for the other one.
        emit(&mesh.env, &payment(&fan, 20)).await;
        emit(&mesh.env, &payment(&other, 30)).await;
        balance_becomes(&fan, 80).await;
        balance_becomes(&other, 70).await;
        all_become(&desk, &[Early]).await;
        assert_eq!(desk.open("point").await, [], "nobody has to decide anything");
        // The ledger knows of it at last: 40 that were taken come back.
        due.mend(&stores, 40).await;
        all_become(&desk, &[Resolved]).await;
        assert_eq!(fan.balance().await, 80);
        mesh.stop().await;
    });
}
