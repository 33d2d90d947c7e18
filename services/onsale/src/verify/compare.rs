//! Compares the services' databases with the events.

use std::{collections::HashMap, hash::Hash};

use anyhow::Result;
use auditor::Auditor;
use events::Timestamp;
use futures::TryStreamExt;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::report::{Compared, Difference};
use crate::databases::Databases;

/// The databases, side by side with the events.
pub(super) struct Comparison<'a> {
    pub(super) databases: &'a Databases,
    pub(super) auditor: &'a Auditor,
}

impl Comparison<'_> {
    /// Compares everything that the events know of.
    pub(super) async fn run(&self) -> Result<(Compared, Vec<Difference>)> {
        let mut differences = Vec::new();
        let compared = Compared {
            payments: self.payments(&mut differences).await?,
            reservations: self.reservations(&mut differences).await?,
            seats: self.seats(&mut differences).await?,
            wallets: self.wallets(&mut differences).await?,
            messages: 0,
        };
        Ok((compared, differences))
    }

    async fn payments(&self, differences: &mut Vec<Difference>) -> Result<usize> {
        let emitted = self.auditor.payments().map(|(id, state)| (id.0, name(&state)));
        let mut sides = Sides::of("payment", emitted);
        let sql = "select id, state::text, requested_at from payments";
        let mut rows =
            sqlx::query_as::<_, (Uuid, String, OffsetDateTime)>(sql).fetch(&self.databases.payment);
        while let Some((id, state, at)) = rows.try_next().await? {
            sides.meet(id, state, is_known(self.auditor.since(), at), differences);
        }
        Ok(sides.end(differences))
    }

    async fn reservations(&self, differences: &mut Vec<Difference>) -> Result<usize> {
        let emitted = self.auditor.reservations().map(|(id, state)| (id.0, name(&state)));
        let mut sides = Sides::of("reservation", emitted);
        let sql = "select id, state, created_at from reservations";
        let mut rows = sqlx::query_as::<_, (Uuid, String, OffsetDateTime)>(sql)
            .fetch(&self.databases.reservation);
        while let Some((id, state, at)) = rows.try_next().await? {
            sides.meet(id, state, is_known(self.auditor.since(), at), differences);
        }
        Ok(sides.end(differences))
    }

    async fn seats(&self, differences: &mut Vec<Difference>) -> Result<usize> {
        let owner = |owner: Option<Uuid>, hold_version: i64| match owner {
            Some(owner) => format!("{owner} as owner {hold_version}"),
            None => format!("free after owner {hold_version}"),
        };
        let emitted = self.auditor.seats().map(|seat| {
            let owner = owner(seat.owner.map(|owner| owner.0), seat.hold_version);
            (format!("{} of {}", seat.seat, seat.schedule_id), owner)
        });
        let mut sides = Sides::of("seat", emitted);
        let sql = "select schedule_id, seat, reservation_id, hold_version from seats
                   where hold_version > 0";
        let mut rows = sqlx::query_as::<_, (Uuid, String, Option<Uuid>, i64)>(sql)
            .fetch(&self.databases.reservation);
        while let Some((schedule, seat, holder, hold_version)) = rows.try_next().await? {
            let owner = owner(holder, hold_version);
            let must_be_emitted = self.auditor.since().is_none();
            sides.meet(format!("{seat} of {schedule}"), owner, must_be_emitted, differences);
        }
        Ok(sides.end(differences))
    }

    async fn wallets(&self, differences: &mut Vec<Difference>) -> Result<usize> {
        let emitted = self.auditor.wallets().map(|(user, balance)| (user.0, balance.to_string()));
        let mut sides = Sides::of("wallet", emitted);
        let sql = "select user_id, balance from wallets";
        let mut rows = sqlx::query_as::<_, (Uuid, i64)>(sql).fetch(&self.databases.point);
        while let Some((user, balance)) = rows.try_next().await? {
            let must_be_emitted = self.auditor.since().is_none() && balance != 0;
            sides.meet(user, balance.to_string(), must_be_emitted, differences);
        }
        Ok(sides.end(differences))
    }
}

/// A state as it is written in databases.
fn name(state: &impl Serialize) -> String {
    let name = serde_json::to_value(state).ok();
    name.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// Whether an event about what was made at that time must be stored.
fn is_known(since: Option<Timestamp>, made_at: OffsetDateTime) -> bool {
    since.is_none_or(|since| since.plus_secs(auditor::SLACK_SECS).0 < made_at)
}

/// What the events say of each thing, while the rows of the database are read.
struct Sides<K> {
    what: &'static str,
    emitted: HashMap<K, String>,
    compared: usize,
}

impl<K: Eq + Hash + std::fmt::Display> Sides<K> {
    fn of(what: &'static str, emitted: impl Iterator<Item = (K, String)>) -> Self {
        Self { what, emitted: emitted.collect(), compared: 0 }
    }

    /// Compares a row of the database.
    fn meet(&mut self, key: K, stored: String, must_be_emitted: bool, to: &mut Vec<Difference>) {
        let emitted = self.emitted.remove(&key);
        self.compared += usize::from(emitted.is_some());
        let is_wrong = emitted.as_ref().map_or(must_be_emitted, |emitted| *emitted != stored);
        if is_wrong {
            let what = format!("{} {key}", self.what);
            to.push(Difference { what, events: emitted, database: Some(stored) });
        }
    }

    /// After the last row: adds what the events know and the database lacks. Returns how many
    /// were compared.
    fn end(self, to: &mut Vec<Difference>) -> usize {
        let missing = self.emitted.into_iter().map(|(key, emitted)| {
            let what = format!("{} {key}", self.what);
            Difference { what, events: Some(emitted), database: None }
        });
        to.extend(missing);
        self.compared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_one_side_knows_is_a_difference_unless_its_events_may_be_gone() {
        let emitted =
            [("a", "1"), ("b", "1"), ("c", "1")].map(|(key, state)| (key, state.to_owned()));
        let mut sides = Sides::of("thing", emitted.into_iter());
        let mut differences = Vec::new();
        sides.meet("a", "1".into(), true, &mut differences);
        sides.meet("b", "2".into(), true, &mut differences);
        sides.meet("d", "1".into(), true, &mut differences);
        sides.meet("e", "1".into(), false, &mut differences);
        assert_eq!(sides.end(&mut differences), 2);
        let found: Vec<_> = differences
            .iter()
            .map(|one| (one.what.as_str(), one.events.as_deref(), one.database.as_deref()))
            .collect();
        let expected = [
            ("thing b", Some("1"), Some("2")),
            ("thing d", None, Some("1")),
            ("thing c", Some("1"), None),
        ];
        assert_eq!(found, expected);
    }
}
