//! A service is down in the middle of a saga, and comes back: the saga ends.

use std::collections::BTreeMap;

use events::{
    concert::SeatState, payment::PaymentState, reservation::Reservation,
    withdrawal::WithdrawalReason,
};
use harness::mesh::{Mesh, eventually, run};
use onsale::fleet::{Fleet, ServiceConfigs};

use super::{
    scenario::{Fan, fan, open, payments, shows},
    twice::receipt_is_clean,
};
use crate::rest::Stores;

/// The services that run all the time: accounts, the gateway, and the listeners, which must miss
/// nothing.
const OTHERS: [&str; 6] = ["user", "ranking", "notification", "data-platform", "audit", "gateway"];
/// Every service that takes part in a payment.
const PARTS: [&str; 5] = ["concert", "queue", "reservation", "payment", "point"];

#[test]
fn a_saga_ends_although_a_service_was_down_in_the_middle_of_it() {
    run(async {
        let mesh = Mesh::with(&OTHERS).await;
        let stores = Stores::of(&mesh.env).await;
        let mut parts = BTreeMap::new();
        for part in PARTS {
            parts.insert(part, start(&mesh, part).await);
        }
        let schedule = open(&mesh, 2 * PARTS.len(), 300, 300).await;
        let mut seats = (1..).map(|seat| format!("A-1-{seat}"));
        for part in PARTS {
            for how in [How::Stopped, How::Killed] {
                let session = fan(&mesh, 100).await;
                let fan = Fan::new(&mesh, &session);
                let seat = seats.next().expect("a seat");
                let hold = fan.hold(schedule, &seat).await;
                known_to_payment(&stores, &hold).await;
                // The saga runs up to this service, and waits there.
                stores.broker.pause(part).await;
                let payment = fan.pay(&hold).await;
                how.leave(parts.remove(part).expect("a running service")).await;
                stores.broker.resume(part).await;
                parts.insert(part, start(&mesh, part).await);
                fan.payment(&payment, PaymentState::Completed).await;
                shows(&fan, schedule, &seat, SeatState::Sold).await;
                assert_eq!(payments(&fan).await.len(), 1);
                // Only the ticket blocks a withdrawal: no payment is running any more.
                assert_eq!(fan.leaves(false).await.reasons, [WithdrawalReason::Tickets]);
            }
        }
        stores.at_rest().await;
        receipt_is_clean(&mesh, &[schedule]).await;
        for part in parts.into_values() {
            part.stop().await;
        }
        mesh.stop().await;
    });
}

/// Waits until payment knows the hold: while its consumers are paused it would not learn of it, and
/// could not accept a payment for it.
async fn known_to_payment(stores: &Stores, hold: &Reservation) {
    eventually("payment knows the hold", || async {
        let known: bool =
            sqlx::query_scalar("select exists (select from holds where reservation_id = $1)")
                .bind(hold.reservation_id.0)
                .fetch_one(stores.database("payment"))
                .await
                .expect("a database");
        known.then_some(())
    })
    .await;
}

async fn start(mesh: &Mesh, part: &str) -> Fleet {
    Fleet::start(&mesh.env.config, &[part], &ServiceConfigs::default()).await.expect("a service")
}

/// How a service goes down.
#[derive(Clone, Copy)]
enum How {
    /// In order: it finishes what it has begun.
    Stopped,
    /// At once.
    Killed,
}

impl How {
    async fn leave(self, fleet: Fleet) {
        match self {
            Self::Stopped => fleet.stop().await,
            Self::Killed => fleet.abandon(),
        }
    }
}
