//! The tasks of a service: run a batch, publish, run timers, retry parked events, compare outbox
//! and stream, and compare stream and consumer.

use std::collections::BTreeSet;

use mesh::{
    engine::Mark,
    memory::{Incoming, Taken},
};
use rand::RngExt as _;

use super::{Action, World};
use crate::{
    Mutation,
    faults::{Fault, Luck, fires, luck},
    host::EndpointSpec,
    plant,
};

/// A batch takes fewer messages than this, and fewer commands.
const BATCH_MAX: usize = 40;
/// How long a command waits for what it depends on.
const PATIENCE_SECS: i64 = 4;
/// The longest delay of a message, in milliseconds.
const DELAY_MILLIS_MAX: i64 = 6_000;

impl World<'_> {
    /// Runs what is waiting as one batch, and settles it.
    pub(super) fn batch(&mut self, index: usize) {
        let mutation = self.options.mutation;
        let (mut incoming, asked) = self.pull(index);
        if incoming.is_empty() && asked.is_empty() {
            return;
        }
        if mutation == Some(Mutation::AcknowledgedBefore) {
            for one in &incoming {
                self.broker.acknowledge(self.nodes[index].name, one.stream, one.sequence);
            }
        }
        if mutation == Some(Mutation::HalfHandled) {
            incoming.iter_mut().for_each(forget_last);
        }
        let held = self.nodes[index].host.held_keys();
        let name = self.nodes[index].name;
        let planted = plant::before(mutation, name, &self.stores, &mut incoming, &asked);
        let taken = self.nodes[index].host.take(&incoming, &asked);
        plant::after(mutation, &self.stores, planted);
        let Taken { emitted, answers, lost } = taken;
        self.record(index, &emitted);
        if lost.is_some() {
            // Some of them may have been taken in.
            self.taken_in.extend(incoming.iter().map(|one| (index, one.message.id)));
            return;
        }
        self.must_wait(index, &incoming, &held);
        self.nodes[index].handed.extend(emitted);
        self.settle(index, &incoming, asked, answers);
    }

    /// The messages and commands of the next batch.
    fn pull(&mut self, index: usize) -> (Vec<Incoming>, Vec<EndpointSpec>) {
        let now = self.at;
        let most = self.chance.random_range(1..BATCH_MAX);
        let node = &mut self.nodes[index];
        if node.cut_until > now {
            return (Vec::new(), Vec::new());
        }
        let (faults, chance) = (&self.options.faults, &mut self.chance);
        let incoming = self.broker.deliver(node.name, most, now, || {
            let is_late = fires(Fault::Delay, faults, chance);
            is_late.then(|| chance.random_range(1..DELAY_MILLIS_MAX))
        });
        (incoming, node.waiting.drain(..node.waiting.len().min(most)).collect())
    }

    /// Checks that events waited behind what was parked with their keys before.
    fn must_wait(&mut self, index: usize, incoming: &[Incoming], held: &BTreeSet<String>) {
        let fresh: Vec<&Incoming> =
            incoming.iter().filter(|one| self.taken_in.insert((index, one.message.id))).collect();
        if held.is_empty() {
            return;
        }
        let host = &self.nodes[index].host;
        let parked: Vec<_> = host.parked().into_iter().map(|parked| parked.envelope).collect();
        for (event, key) in fresh.into_iter().flat_map(|one| host.keys_of(one)) {
            let id = event.0.to_string();
            let has_id = |envelope: &bytes::Bytes| {
                envelope.windows(id.len()).any(|text| text == id.as_bytes())
            };
            if held.contains(&key) && !parked.iter().any(has_id) {
                let name = self.nodes[index].name;
                self.wrong.push(format!("{name} handled {id} before what is parked for {key}"));
            }
        }
    }

    /// Acknowledges messages and answers fans, until it dies.
    fn settle(
        &mut self,
        index: usize,
        incoming: &[Incoming],
        asked: Vec<EndpointSpec>,
        answers: Vec<Option<mesh::Answered>>,
    ) {
        let (now, faults) = (self.at, &self.options.faults);
        for one in incoming {
            let node = &mut self.nodes[index];
            if !node.host.spend() {
                return;
            }
            if !fires(Fault::Acknowledgement, faults, &mut self.chance) {
                self.broker.acknowledge(node.name, one.stream, one.sequence);
                let mark = Mark { id: one.message.id, sequence: one.sequence };
                node.note_reached(one.stream, mark);
            }
            if fires(Fault::Repeat, faults, &mut self.chance) {
                self.broker.repeat(node.name, one.stream, one.sequence, now);
            }
        }
        // A message that had to run alone comes before the others; commands come last.
        let first = answers.len().saturating_sub(asked.len());
        for (asked, answered) in asked.into_iter().zip(answers.into_iter().skip(first)) {
            let Some(answered) = answered else {
                if asked.at.plus_secs(PATIENCE_SECS) > now {
                    self.nodes[index].waiting.push_back(asked);
                }
                continue;
            };
            let Some(person) = asked.person else { continue };
            if !self.nodes[index].host.spend() {
                return;
            }
            // When an answer is lost, the fan retries with the same idempotency key.
            if !fires(Fault::Acknowledgement, faults, &mut self.chance) {
                self.people[person].receive(&asked.wish, &answered, &mut self.chance, now);
                let next = self.people[person].next;
                self.push(next, Action::Person(person));
            }
        }
    }

    pub(super) fn publish(&mut self, index: usize) {
        let (now, mutation) = (self.at, self.options.mutation);
        let node = &mut self.nodes[index];
        if node.next.mark <= now {
            node.next.mark = now.plus_millis(250);
            node.write_marks(&self.broker);
        }
        if node.cut_until > now {
            return;
        }
        if node.next.sweep <= now && mutation != Some(Mutation::SweepOff) {
            node.next.sweep = now.plus_millis(500);
            let swept = node.host.sweep();
            node.handed.extend(swept);
        }
        let mut has_sent = false;
        let silenced = mutation.and_then(Mutation::silenced);
        while let Some(mut message) = node.handed.pop_front() {
            if !node.host.spend() {
                break;
            }
            if silenced.is_some() && events::event_of_subject(&message.subject) == silenced {
                message.body = "[]".into();
            }
            let luck = luck(&self.options.faults, &mut self.chance);
            if mutation == Some(Mutation::MarkedBefore) && luck != Luck::Good {
                let mark = Mark { id: message.id, sequence: 1 };
                node.host.mark(&[mark]);
            }
            node.send(&mut self.broker, message, luck, now);
            has_sent = true;
        }
        if has_sent {
            self.wake_all(30);
        }
    }

    pub(super) fn timers(&mut self, index: usize) {
        let now = self.at;
        let node = &mut self.nodes[index];
        if node.next.timer > now || self.options.mutation == Some(Mutation::TimersOff) {
            return;
        }
        node.next.timer = now.plus_millis(self.chance.random_range(200..1_000));
        let stale = plant::stale_due(self.options.mutation, node.name, &self.stores);
        for wish in node.host.due(mesh::clock::now()).into_iter().chain(stale) {
            let asking = mesh::memory::DecodedCommand {
                caller: mesh::Caller::Mesh,
                idempotency: None,
                id: mesh::clock::new_id(),
            };
            node.waiting.push_back(EndpointSpec { wish, asking, person: None, at: now });
        }
    }

    pub(super) fn retry(&mut self, index: usize) {
        let now = self.at;
        let node = &mut self.nodes[index];
        if node.next.retry > now || self.options.mutation == Some(Mutation::ParkedForgotten) {
            return;
        }
        node.next.retry = now.plus_millis(self.chance.random_range(50..500));
        let taken = node.host.retry();
        self.retried(index, taken);
        // Once a version is deployed that handles them, an operator retries the dead letters.
        if self.is_mended.get() {
            let taken = self.nodes[index].host.retry_dead();
            self.retried(index, taken);
        }
    }

    fn retried(&mut self, index: usize, taken: Taken) {
        self.record(index, &taken.emitted);
        self.nodes[index].handed.extend(taken.emitted);
    }

    pub(super) fn compare(&mut self, index: usize) {
        let now = self.at;
        let node = &mut self.nodes[index];
        let is_due = node.next.verify <= now || node.must_verify(&self.broker);
        if is_due && node.cut_until <= now {
            node.next.verify = now.plus_secs(5);
            if self.options.mutation != Some(Mutation::RollBackUnnoticed) {
                node.verify(&self.broker);
            }
        }
    }

    pub(super) fn agree(&mut self, index: usize) {
        let now = self.at;
        let node = &mut self.nodes[index];
        if node.next.agree > now {
            return;
        }
        node.next.agree = now.plus_secs(1);
        if node.cut_until <= now {
            node.agree(&mut self.broker, now);
        }
    }
}

/// Drops the last event of a message.
fn forget_last(incoming: &mut Incoming) {
    let Ok(mut events) = serde_json::from_slice::<Vec<serde_json::Value>>(&incoming.message.body)
    else {
        return;
    };
    if events.len() > 1 {
        events.pop();
        incoming.message.body = serde_json::Value::Array(events).to_string().into();
    }
}
