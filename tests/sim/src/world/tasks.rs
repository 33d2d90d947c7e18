//! The tasks of a service: run a batch, publish, run timers, retry parked events, and compare
//! outbox and stream.

use mesh::{engine::Mark, memory::Incoming};
use rand::RngExt as _;

use super::{Action, World};
use crate::{
    faults::{Fault, Luck, Mutation, fires, luck},
    node::EndpointSpec,
};

/// A batch takes fewer messages than this, and fewer commands.
const BATCH_MAX: usize = 40;
/// How long a command waits for what it depends on.
const PATIENCE_SECS: i64 = 4;

impl World<'_> {
    /// Runs what is waiting as one batch, and settles it.
    pub(super) fn batch(&mut self, index: usize) {
        let (now, mutation) = (self.at, self.options.mutation);
        let node = &mut self.nodes[index];
        let most = self.chance.random_range(1..BATCH_MAX);
        let is_cut = node.cut_until > now;
        let mut incoming = match is_cut {
            true => Vec::new(),
            false => self.broker.deliver(node.name, most, now),
        };
        let asked: Vec<EndpointSpec> = match is_cut {
            true => Vec::new(),
            false => node.waiting.drain(..node.waiting.len().min(most)).collect(),
        };
        if incoming.is_empty() && asked.is_empty() {
            return;
        }
        if mutation == Some(Mutation::AcknowledgedBefore) {
            for one in &incoming {
                self.broker.acknowledge(node.name, one.stream, one.sequence);
            }
        }
        if mutation == Some(Mutation::HalfHandled) {
            incoming.iter_mut().for_each(forget_last);
        }
        if fires(Fault::Death, &self.options.faults, &mut self.chance) {
            node.host.die_before_commit();
        }
        match node.host.take(&incoming, &asked) {
            Err(_) => self.die(index),
            Ok(taken) => {
                let emitted = taken.emitted;
                self.record(index, &emitted);
                if fires(Fault::Death, &self.options.faults, &mut self.chance) {
                    return self.die(index);
                }
                self.nodes[index].handed.extend(emitted);
                self.settle(index, &incoming, asked, taken.answers);
            }
        }
    }

    /// Acknowledges messages and answers fans.
    fn settle(
        &mut self,
        index: usize,
        incoming: &[Incoming],
        asked: Vec<EndpointSpec>,
        answers: Vec<Option<mesh::Answered>>,
    ) {
        let (now, faults) = (self.at, &self.options.faults);
        let name = self.nodes[index].name;
        for one in incoming {
            if !fires(Fault::Acknowledgement, faults, &mut self.chance) {
                self.broker.acknowledge(name, one.stream, one.sequence);
            }
            if fires(Fault::Repeat, faults, &mut self.chance) {
                self.broker.repeat(name, one.stream, one.sequence, now);
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
        for wish in node.host.due(mesh::clock::now()) {
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
        match node.host.retry() {
            Ok(emitted) => {
                self.record(index, &emitted);
                self.nodes[index].handed.extend(emitted);
            }
            Err(_) => self.die(index),
        }
    }

    pub(super) fn compare(&mut self, index: usize) {
        let now = self.at;
        let node = &mut self.nodes[index];
        let is_due = node.next.verify <= now || node.must_verify(&self.broker);
        if is_due && node.cut_until <= now {
            node.next.verify = now.plus_secs(5);
            node.verify(&self.broker, self.options.mutation);
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
