//! Whether the broker permits each identity what it needs, and refuses it what it must not do.
//!
//! Each identity tries it. What is tried is harmless where it is permitted (see
//! `mesh::misgranted`); what is refused is a line in the broker's log, three for each identity.

use anyhow::{Result, bail};
use events::producer_of;
use futures::{StreamExt, stream};
use mesh::{Attempt, LinkSettings, Wiring, misgranted};

use super::check::{Checked, Outcome, alone, skipped};
use crate::{
    config::{Config, OPERATOR, PROVISIONER, answers},
    registry,
};

/// The last token of a subject that nobody uses.
const NOBODY: &str = "doctor";
/// A stream that does not exist.
const NO_STREAM: &str = "NOT_A_STREAM";
/// Identities that try their rights at once.
const AT_ONCE: usize = 8;
/// Identities that are named when more of them have wrong rights.
const NAMED_MAX: usize = 3;

/// An identity, what it needs, and what it must be refused.
struct Identity {
    /// The service that it belongs to, or its own name.
    of: &'static str,
    user: String,
    wanted: Vec<Attempt>,
    unwanted: Vec<Attempt>,
}

fn publish(subject: impl Into<String>) -> Attempt {
    Attempt::Publish(subject.into())
}

fn subscribe(subject: impl Into<String>) -> Attempt {
    Attempt::Subscribe(subject.into())
}

/// A subject of the events of a service, which no event has.
fn event_of(service: &str) -> String {
    format!("onsale.{service}.{NOBODY}.v1.-")
}

/// Deleting a stream; there is none of that name.
fn delete() -> Attempt {
    publish(format!("$JS.API.STREAM.DELETE.{NO_STREAM}"))
}

/// The two identities of a service, by what it declares.
fn of_service(service: &'static str, wirings: &[Wiring]) -> [Identity; 2] {
    let own = || wirings.iter().filter(|wiring| wiring.service == service);
    let mut wanted = vec![subscribe(format!("_INBOX_{service}.{NOBODY}"))];
    if own().flat_map(Wiring::emits).next().is_some() {
        wanted.push(publish(event_of(service)));
    }
    for event in own().flat_map(|wiring| &wiring.consumes) {
        let place = format!("{}.{service}", stream_of(producer_of(event.0)));
        wanted.extend([
            publish(format!("$JS.API.CONSUMER.INFO.{place}")),
            publish(format!("$JS.API.CONSUMER.MSG.NEXT.{place}")),
            publish(format!("$JS.ACK.{place}.1.1.1.1.0")),
        ]);
    }
    for event in own().flat_map(|wiring| &wiring.follows) {
        wanted.push(publish(format!("$JS.API.DIRECT.GET.{}", stream_of(producer_of(event)))));
    }
    wanted.sort();
    wanted.dedup();
    // Any other service would do.
    let other = if service == payment::NAME { point::NAME } else { payment::NAME };
    [
        Identity {
            of: service,
            user: service.to_owned(),
            wanted,
            unwanted: vec![publish(event_of(other)), delete()],
        },
        Identity {
            of: service,
            user: answers(service),
            wanted: vec![
                subscribe(format!("cmd.{service}.{NOBODY}")),
                publish(format!("_INBOX_{OPERATOR}.{NOBODY}")),
            ],
            unwanted: vec![publish(event_of(service)), delete()],
        },
    ]
}

fn stream_of(service: &str) -> String {
    service.to_uppercase().replace('-', "_")
}

fn identities() -> Vec<Identity> {
    let wirings = registry::wirings();
    let mut services: Vec<&str> = wirings.iter().map(|wiring| wiring.service).collect();
    services.dedup();
    let mut identities: Vec<_> =
        services.into_iter().flat_map(|service| of_service(service, &wirings)).collect();
    let unwanted = || vec![publish(event_of(payment::NAME)), delete()];
    let edge = vec![
        publish(format!("cmd.{NOBODY}.{NOBODY}")),
        subscribe(format!("live.onsale.{NOBODY}")),
        subscribe(format!("_INBOX_{}.{NOBODY}", gateway::NAME)),
    ];
    let operator = vec![
        publish("broker.jetstream"),
        subscribe(format!("live.onsale.{NOBODY}")),
        subscribe(format!("_INBOX_{OPERATOR}.{NOBODY}")),
    ];
    let provisioner = vec![
        publish(format!("$JS.API.STREAM.INFO.{NO_STREAM}")),
        subscribe(format!("_INBOX_{PROVISIONER}.{NOBODY}")),
    ];
    for (of, wanted) in [(gateway::NAME, edge), (OPERATOR, operator)] {
        identities.push(Identity { of, user: of.to_owned(), wanted, unwanted: unwanted() });
    }
    identities.push(Identity {
        of: PROVISIONER,
        user: PROVISIONER.to_owned(),
        wanted: provisioner,
        unwanted: vec![publish(event_of(payment::NAME))],
    });
    identities
}

/// Tries the rights of every identity whose seed is configured.
pub(super) async fn granted(config: &Config) -> Outcome {
    if config.nats_url.is_empty() {
        bail!("set ONSALE_NATS_URL");
    }
    let mut identities = identities();
    identities.retain(|identity| config.nkey_seeds.contains_key(&identity.user));
    if identities.is_empty() {
        return skipped("no seeds are configured");
    }
    let all = &identities;
    let tried = stream::iter(0..all.len()).map(|at| attempt(config, &all[at]));
    let tried: Vec<_> = tried.buffered(AT_ONCE).collect().await;
    let mut wrong = Vec::new();
    for (identity, tried) in identities.iter().zip(tried) {
        let Some((refused, permitted)) = tried? else {
            return skipped("the broker has not answered in time; try it again");
        };
        let user = &identity.user;
        wrong.extend(refused.first().map(|one| format!("{user} may not {one}")));
        wrong.extend(permitted.first().map(|one| format!("{user} may {one}")));
    }
    match wrong.as_slice() {
        [] => Ok(Checked::Good(format!(
            "{} identities may do what they need, and are refused what they must not do",
            identities.len()
        ))),
        wrong => bail!(
            "{}{}; give the broker the users of jetstream/nats.conf and reload it",
            wrong[..wrong.len().min(NAMED_MAX)].join(", "),
            match wrong.len().saturating_sub(NAMED_MAX) {
                0 => String::new(),
                more => format!(" and {more} more"),
            }
        ),
    }
}

/// What an identity is wrongly refused, and wrongly permitted; `None` when that took too long.
type Tried = Option<(Vec<Attempt>, Vec<Attempt>)>;

async fn attempt(config: &Config, identity: &Identity) -> Result<Tried> {
    let settings = LinkSettings {
        service: identity.of,
        nats_url: config.nats_url.clone(),
        nkey_seed: config.nkey_seeds.get(&identity.user).cloned(),
    };
    misgranted(settings, &identity.user, &identity.wanted, &identity.unwanted).await.map_err(alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_needs_its_own_events_and_consumers_and_must_not_have_those_of_others() {
        let identities = identities();
        let point = identities.iter().find(|one| one.user == "point").expect("an identity");
        for wanted in ["onsale.point.doctor.v1.-", "$JS.API.CONSUMER.MSG.NEXT.PAYMENT.point"] {
            assert!(point.wanted.contains(&publish(wanted)), "{wanted}");
        }
        assert!(point.unwanted.contains(&publish("onsale.payment.doctor.v1.-")));
        let audit = identities.iter().find(|one| one.user == "audit").expect("an identity");
        assert!(
            audit.wanted.contains(&publish("$JS.API.DIRECT.GET.DATA_PLATFORM"))
                == registry::wirings().iter().any(|one| one
                    .follows
                    .iter()
                    .any(|event| producer_of(event) == "data-platform"))
        );
        assert!(identities.iter().all(|one| !one.unwanted.is_empty()), "each is refused something");
    }
}
