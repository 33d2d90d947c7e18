//! One look at everything.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use mesh::{clock, deadline::within};

use super::{
    broker::{Broker, Shown},
    gateway::{Answered, Gateway},
    look::{ConsumerLine, Look, Part, ServiceLine},
    stores::{Stored, Stores},
};
use crate::{config::Config, operator::Where, registry::SERVICES};

/// How long a look may take: what has not answered by then is not reachable.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// Where a mesh is looked at.
pub(super) struct Sources {
    broker: Broker,
    gateway: Gateway,
    stores: Stores,
}

impl Sources {
    pub(super) fn new(config: Config, at: Where) -> Self {
        Self {
            broker: Broker::new(&config),
            gateway: Gateway::new(at),
            stores: Stores::new(&config),
        }
    }

    /// Looks at everything at once; rates are those since `before`.
    pub(super) async fn look(&mut self, before: Option<&Look>) -> Look {
        let at = clock::now();
        let stores = &self.stores;
        let (broker, answered, stored, sale, payments, sagas) = tokio::join!(
            within(LOOK_WITHIN, "the broker", self.broker.look()),
            within(LOOK_WITHIN, "the gateway", self.gateway.look()),
            join_all(SERVICES.map(|service| async move {
                (service, stores.stored(service, LOOK_WITHIN).await)
            })),
            stores.sale(at, LOOK_WITHIN),
            stores.payments(at, LOOK_WITHIN),
            stores.sagas(LOOK_WITHIN),
        );
        let broker = broker.unwrap_or_else(|late| Part::NotReachable(late.to_string()));
        let Answered { faults, stalls, dead_letters } = answered.unwrap_or_else(|late| {
            let why = late.to_string();
            Answered {
                faults: Part::NotReachable(why.clone()),
                stalls: Part::NotReachable(why.clone()),
                dead_letters: Part::NotReachable(why),
            }
        });
        let stored: BTreeMap<_, _> = stored.into_iter().collect();
        let consumers = consumers(broker.seen(), &stored);
        let mut look = Look {
            at,
            services: services(broker.seen(), &faults, &stored, &consumers),
            broker: broker.map(|shown| shown.faults),
            gateway: faults,
            schedules: sale.schedules,
            schedules_total: sale.total,
            seats: sale.seats,
            rooms: sale.rooms,
            payments,
            consumers,
            sagas,
            stalls,
            dead_letters,
        };
        if let Some(before) = before {
            look.rate(before);
        }
        look
    }

    pub(super) async fn close(&mut self) {
        self.broker.close().await;
        self.stores.close().await;
    }
}

/// The consumers of the broker, and the readers by position.
fn consumers(
    broker: Option<&Shown>,
    stored: &BTreeMap<&'static str, Part<Stored>>,
) -> Vec<ConsumerLine> {
    let Some(broker) = broker else { return Vec::new() };
    let mut consumers = broker.consumers.clone();
    for (service, stored) in stored {
        let positions = stored.seen().map(|stored| stored.positions.as_slice()).unwrap_or_default();
        consumers.extend(positions.iter().filter_map(|(producer, at)| {
            Some(ConsumerLine {
                service: (*service).to_owned(),
                producer,
                pending: broker.last.get(producer)?.saturating_sub(*at),
                ack_pending: 0,
                redelivered: 0,
                consumed: *at,
            })
        }));
    }
    consumers
        .sort_by(|one, other| (&one.service, one.producer).cmp(&(&other.service, other.producer)));
    consumers
}

fn services(
    broker: Option<&Shown>,
    gateway: &Part<Vec<String>>,
    stored: &BTreeMap<&'static str, Part<Stored>>,
    consumers: &[ConsumerLine],
) -> Vec<ServiceLine> {
    let now = clock::now();
    let line = |service: &'static str| {
        let own: Vec<_> = consumers.iter().filter(|one| one.service == service).collect();
        let sum = |of: fn(&ConsumerLine) -> u64| {
            (!own.is_empty()).then(|| own.iter().map(|one| of(one)).sum())
        };
        // The gateway has no store.
        let stored = stored.get(service).and_then(Part::seen).filter(|_| service != gateway::NAME);
        let age =
            |since: events::Timestamp| (now.0 - since.0).whole_seconds().max(0).unsigned_abs();
        ServiceLine {
            service,
            is_ready: is_ready(service, broker, gateway),
            consumed: sum(|one| one.consumed),
            published: broker.and_then(|broker| broker.last.get(service).copied()),
            unpublished: stored.map(|stored| stored.unpublished),
            oldest_secs: stored.and_then(|stored| stored.since).map(age),
            pending: sum(|one| one.pending),
            ack_pending: sum(|one| one.ack_pending),
            redelivered: sum(|one| one.redelivered),
            parked: stored.map(|stored| stored.parked),
            dead: stored.map(|stored| stored.dead),
            ..ServiceLine::default()
        }
    };
    SERVICES.into_iter().map(line).collect()
}

/// Whether a service answers, and its process reports nothing that keeps it from its work.
fn is_ready(service: &str, broker: Option<&Shown>, gateway: &Part<Vec<String>>) -> Option<bool> {
    let faults = gateway.seen();
    if service == gateway::NAME {
        // What others in its process report begins with their names.
        let is_of_other =
            |fault: &String| SERVICES.iter().any(|other| fault.starts_with(&format!("{other}: ")));
        return faults.map(|faults| faults.iter().all(is_of_other));
    }
    let answers = broker?.answers.get(service).copied()?;
    let own = format!("{service}: ");
    let has_fault = faults.is_some_and(|faults| faults.iter().any(|fault| fault.starts_with(&own)));
    Some(answers && !has_fault)
}
