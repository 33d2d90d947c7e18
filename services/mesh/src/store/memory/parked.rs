//! Parked events in memory.

use std::time::Duration;

use async_trait::async_trait;
use events::{UserId, dead_letter::DeadLetterState};

use super::{InMemory, Memory, rows::later, table::happened};
use crate::{
    parked::{Parked, ParkedState, one_line},
    store::engine::{Failure, ParkedOpen, Parking, Show, Verdict, Which},
};

#[async_trait]
impl<B: InMemory> Parking for Memory<B> {
    async fn lease(&self, which: Which, lease: Duration) -> Result<Vec<Parked>, Failure> {
        self.database.spend()?;
        let now = crate::clock::now();
        let until = Some(later(now, lease));
        let table = &mut self.database.kept.lock().await.parked;
        let mut leased = Vec::new();
        for number in table.wanted(&which, now) {
            if let Some(row) = table.0.get_mut(&number) {
                row.parked.attempts += 1;
                row.parked.unsettled += 1;
                (row.due_at, row.leased_until) = (until, until);
                leased.push(row.parked.clone());
            }
        }
        leased.sort_unstable_by_key(|parked| parked.number);
        Ok(leased)
    }

    async fn settle(&self, number: u64, verdict: Verdict) -> Result<(), Failure> {
        self.database.spend()?;
        let now = crate::clock::now();
        let table = &mut self.database.kept.lock().await.parked;
        let Some(row) = table.0.get_mut(&number).filter(|row| row.parked.state.is_open()) else {
            return Ok(());
        };
        let before = row.parked.state;
        row.parked.unsettled = 0;
        row.leased_until = None;
        match verdict {
            Verdict::Again { after, cause, counts } => {
                row.parked.cause = one_line(&cause);
                if counts {
                    row.parked.state = ParkedState::Early;
                } else {
                    row.parked.attempts -= 1;
                }
                let is_dead = before == ParkedState::Dead && !counts;
                row.due_at = (!is_dead).then(|| later(now, after));
            }
            Verdict::Dead { cause, by } => {
                row.parked.cause = one_line(&cause);
                row.parked.state = ParkedState::Dead;
                row.due_at = None;
                row.parked.history.push(happened(
                    DeadLetterState::Parked,
                    by,
                    Some(&one_line(&cause)),
                ));
            }
        }
        if before != ParkedState::Early && row.parked.state == ParkedState::Early {
            let key = row.parked.key.clone();
            table.wake(&key, now);
        }
        Ok(())
    }

    async fn discard(&self, number: u64, by: UserId, why: &str) -> Result<bool, Failure> {
        self.database.spend()?;
        let how = happened(DeadLetterState::Discarded, Some(by), Some(why));
        let table = &mut self.database.kept.lock().await.parked;
        Ok(table.end(number, ParkedState::Discarded, how, crate::clock::now()))
    }

    async fn parked_open(&self) -> Result<ParkedOpen, Failure> {
        let table = &self.database.kept.lock().await.parked;
        let mut open = ParkedOpen::default();
        for row in table.0.values().filter(|row| row.parked.state.is_open()) {
            match row.parked.state {
                ParkedState::Dead => open.dead += 1,
                _ => open.waiting += 1,
            }
        }
        Ok(open)
    }

    async fn parked(&self, show: Show) -> Result<Vec<Parked>, Failure> {
        let table = &self.database.kept.lock().await.parked;
        let rows = table.0.values().map(|row| &row.parked);
        Ok(match show {
            Show::All(with_ended, most) => {
                let mut newest: Vec<Parked> = rows
                    .rev()
                    .filter(|parked| with_ended || parked.state.is_open())
                    .take(most)
                    .cloned()
                    .collect();
                newest.reverse();
                newest
            }
            Show::Key(key) => rows.filter(|parked| parked.key == key).cloned().collect(),
            Show::Number(number) => rows.filter(|row| row.number == number).cloned().collect(),
        })
    }
}
