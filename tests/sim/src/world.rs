//! The simulated world: one clock, one random generator, and everything that happens, in order.

mod tasks;

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    rc::Rc,
};

use events::Timestamp;
use mesh::{clock::simulated, message::Message};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use uuid::Uuid;

use crate::{
    Mutation, Options, Report, Trace,
    broker::Broker,
    checks::{self, Rest, Wrong},
    concert::Concert,
    faults::{EVERY_SECS, Fault, fires, is_poison},
    host::{EndpointSpec, Poison},
    node::Node,
    people::{Person, Town},
    services::{self, PRODUCERS, Stores},
};

/// The time at which every simulation begins, in Unix milliseconds.
const BEGIN: i64 = 1_800_000_000_000;
/// The most that clocks jump. Twice that is just within what the auditor takes for normal: it
/// compares the times of events, and a clock that goes back further looks like two owners.
const CLOCK_JUMP_MILLIS: i64 = 14_500;
/// A process that is about to die has fewer effects left than this.
const LAST_EFFECTS_MAX: u32 = 24;
/// How long everything may take to come to rest once the faults have ended.
const REST_SECS: i64 = 1_800;

/// Something that is scheduled for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Person(usize),
    Node(usize),
    Fault,
    Sync,
    Concert,
}

/// A simulated sale.
pub struct World<'a> {
    options: &'a Options,
    clock: simulated::Simulation,
    chance: StdRng,
    /// The time of the world, which never goes back.
    at: Timestamp,
    /// How far the clocks of the services are ahead of it, in milliseconds.
    ahead: i64,
    actions: BinaryHeap<Reverse<(i64, u64, Action)>>,
    wakes: Vec<Timestamp>,
    broker: Broker,
    stores: Stores,
    nodes: Vec<Node>,
    people: Vec<Person>,
    town: Town,
    concert: Concert,
    /// Everything that was ever emitted, in the order of the commits.
    emitted: Vec<Message>,
    counts: BTreeMap<Fault, u64>,
    trace: Trace,
    /// Whether the version that handles every event is deployed.
    is_mended: Rc<Cell<bool>>,
    /// The messages that each service has taken in, or may have.
    taken_in: BTreeSet<(usize, Uuid)>,
    /// What went wrong on the way.
    wrong: Wrong,
}

impl<'a> World<'a> {
    /// A world before anything has happened.
    pub fn new(seed: u64, options: &'a Options) -> Self {
        let at = time_of(BEGIN);
        let clock = simulated::begin(at, seed);
        let mut chance = StdRng::seed_from_u64(seed ^ 0x5eed);
        let stores = Stores::default();
        if let Some(mistake) = options.mutation.and_then(Mutation::of_stores) {
            stores.plant(mistake);
        }
        let is_mended = Rc::new(Cell::new(!options.faults.contains(&Fault::Poison)));
        let has_mended = is_mended.clone();
        let poison: Poison = Rc::new(move |event| !has_mended.get() && is_poison(event, seed));
        let nodes: Vec<Node> = services::hosts(&stores, &poison)
            .into_iter()
            .map(|(name, host)| Node::new(name, host, at))
            .collect();
        let concert = Concert::plan(&mut chance, at);
        let people = (0..options.people)
            .map(|_| Person::new(at.plus_millis(chance.random_range(0..20_000)), options.visits))
            .collect();
        let mut world = Self {
            broker: Broker::new(&PRODUCERS, services::filters(), at),
            wakes: vec![at; nodes.len()],
            town: Town { shows: concert.shows(), closes_at: at.plus_secs(options.open_secs) },
            options,
            clock,
            chance,
            at,
            ahead: 0,
            actions: BinaryHeap::new(),
            stores,
            nodes,
            people,
            concert,
            emitted: Vec::new(),
            counts: BTreeMap::new(),
            trace: Trace::default(),
            is_mended,
            taken_in: BTreeSet::new(),
            wrong: Wrong::new(),
        };
        for index in 0..world.people.len() {
            world.push(world.people[index].next, Action::Person(index));
        }
        for index in 0..world.nodes.len() {
            world.push(at, Action::Node(index));
        }
        for action in [Action::Fault, Action::Sync, Action::Concert] {
            world.push(at, action);
        }
        world
    }

    /// Runs the whole sale, and checks the outcome.
    pub fn run(mut self) -> Report {
        let over = self.town.closes_at.plus_secs(REST_SECS);
        let mut look_at = self.town.closes_at;
        let mut is_at_rest = false;
        while let Some(Reverse((millis, _, action))) = self.actions.pop() {
            self.at = time_of(millis);
            self.set_clock();
            if self.at >= over {
                break;
            }
            if self.at >= look_at {
                look_at = self.at.plus_secs(5);
                self.is_mended.set(true);
                if self.is_at_rest() {
                    is_at_rest = true;
                    break;
                }
            }
            self.perform(action);
        }
        self.report(is_at_rest)
    }

    fn report(mut self, is_at_rest: bool) -> Report {
        let rest = Rest::of(&self.stores);
        let mut wrong = std::mem::take(&mut self.wrong);
        if !is_at_rest {
            wrong.extend(self.unrest());
        }
        wrong.extend(rest.check(&self.people));
        // The deadlines of holds that no timer looks at any more must have passed.
        self.ahead += 600_000;
        self.set_clock();
        let emitted = self.concert.emitted().chain(&self.emitted);
        wrong.extend(checks::audit(emitted));
        let timeline = if wrong.is_empty() { Vec::new() } else { self.trace.of(&wrong) };
        let (sagas, faults) = (rest.sagas(), std::mem::take(&mut self.counts));
        let (events, ends) = (self.emitted.len() as u64, rest.ends());
        Report { sagas, events, ends, faults, wrong, timeline }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Person(index) => self.person(index),
            Action::Node(index) if self.wakes[index] == self.at => self.node(index),
            // The node was woken earlier, so this entry is stale.
            Action::Node(_) => {}
            Action::Fault => self.fault(),
            Action::Sync => {
                self.broker.sync();
                let pause = self.chance.random_range(50..3_000);
                self.push(self.at.plus_millis(pause), Action::Sync);
            }
            Action::Concert => {
                self.concert.play(&mut self.broker, self.at, mesh::clock::now());
                self.wake_all(50);
                self.push(self.at.plus_millis(500), Action::Concert);
            }
        }
    }

    fn person(&mut self, index: usize) {
        let now = self.at;
        let person = &mut self.people[index];
        if let Some((wish, asking)) = person.act(&self.town, &mut self.chance, now) {
            let node = self.of(wish.service());
            self.trace.asked(now, &wish, &asking);
            let asked = EndpointSpec { wish, asking, person: Some(index), at: now };
            self.nodes[node].waiting.push_back(asked);
            self.wake(node, 5);
        }
        if !self.people[index].is_done() {
            self.push(self.people[index].next, Action::Person(index));
        }
    }

    fn node(&mut self, index: usize) {
        let now = self.at;
        if self.nodes[index].paused_until > now {
            return self.wake_at(index, self.nodes[index].paused_until);
        }
        if fires(Fault::Death, &self.options.faults, &mut self.chance) {
            let effects = self.chance.random_range(0..LAST_EFFECTS_MAX);
            self.nodes[index].host.die_after(effects);
        }
        // The order of its tasks is random, as between threads.
        for task in shuffled(&mut self.chance) {
            match task {
                0 => self.batch(index),
                1 => self.publish(index),
                2 => self.timers(index),
                3 => self.retry(index),
                4 => self.agree(index),
                _ => self.compare(index),
            }
            if self.nodes[index].host.is_dead() {
                self.trace.fault(now, Fault::Death, self.nodes[index].name);
                return self.die(index);
            }
        }
        let node = &self.nodes[index];
        let is_busy = !node.waiting.is_empty() || !node.handed.is_empty();
        let pause = if is_busy { 1..30 } else { 50..400 };
        let pause = self.chance.random_range(pause);
        self.wake_at(index, now.plus_millis(pause));
    }

    fn fault(&mut self) {
        let kinds = self.options.faults.iter().filter(|fault| fault.comes_by_itself());
        let kinds: Vec<Fault> = kinds.copied().collect();
        if kinds.is_empty() || self.at >= self.town.closes_at {
            return;
        }
        let pause = self.chance.random_range(200..EVERY_SECS * 2_000);
        self.push(self.at.plus_millis(pause), Action::Fault);
        let fault = kinds[self.chance.random_range(0..kinds.len())];
        let index = self.chance.random_range(0..self.nodes.len());
        *self.counts.entry(fault).or_default() += 1;
        self.trace.fault(self.at, fault, self.nodes[index].name);
        match fault {
            Fault::Kill => self.die(index),
            Fault::Pause => {
                let millis = self.chance.random_range(100..15_000);
                self.nodes[index].paused_until = self.at.plus_millis(millis);
            }
            Fault::Cut => {
                let millis = self.chance.random_range(100..15_000);
                self.nodes[index].cut_until = self.at.plus_millis(millis);
            }
            Fault::RollBack => {
                self.broker.roll_back();
                self.flush();
            }
            Fault::Wipe => {
                self.broker.wipe(self.at);
                self.flush();
            }
            Fault::Regrow => {
                let is_empty = self.chance.random_bool(0.3);
                self.broker.regrow(is_empty, self.at);
                self.flush();
            }
            Fault::ClockJump => {
                self.ahead = self.chance.random_range(-CLOCK_JUMP_MILLIS..CLOCK_JUMP_MILLIS);
            }
            Fault::Publish
            | Fault::Repeat
            | Fault::Delay
            | Fault::Acknowledgement
            | Fault::Death
            | Fault::Poison => {}
        }
    }

    /// What was stuck in the clients goes out with the new connection, out of order.
    fn flush(&mut self) {
        for node in &mut self.nodes {
            for message in std::mem::take(&mut node.stuck) {
                self.broker.publish(node.name, message, self.at);
            }
        }
    }

    fn die(&mut self, index: usize) {
        self.nodes[index].die();
        self.wake(index, 2_000);
    }

    fn record(&mut self, index: usize, emitted: &[Message]) {
        for message in emitted {
            self.trace.emitted(self.at, self.nodes[index].name, message);
        }
        self.emitted.extend_from_slice(emitted);
    }

    fn is_at_rest(&self) -> bool {
        let is_open = |node: &Node| !node.is_idle() || !node.host.parked().is_empty();
        self.people.iter().all(Person::is_done)
            && self.broker.is_drained()
            && !self.nodes.iter().any(is_open)
            && self.concert.is_over()
            && Rest::of(&self.stores).is_over()
    }

    /// What keeps everything from coming to rest.
    fn unrest(&self) -> Wrong {
        let mut wrong = vec!["it never came to rest".to_owned()];
        for node in &self.nodes {
            for parked in node.host.parked() {
                let (subject, state) = (&parked.subject, parked.state);
                wrong.push(format!("{}: {subject} is {state:?}: {}", node.name, parked.cause));
            }
            match node.host.unpublished() {
                0 => {}
                events => wrong.push(format!("{}: {events} events are not published", node.name)),
            }
        }
        wrong
    }

    fn of(&self, service: &str) -> usize {
        self.nodes.iter().position(|node| node.name == service).unwrap_or_default()
    }

    fn set_clock(&self) {
        self.clock.set(self.at.plus_millis(self.ahead));
    }

    fn push(&mut self, at: Timestamp, action: Action) {
        let at = at.max(self.at);
        // The order of what is scheduled for the same time is random.
        let tie = self.chance.random();
        self.actions.push(Reverse((at.unix_millis(), tie, action)));
    }

    fn wake(&mut self, index: usize, within_millis: i64) {
        let at = self.at.plus_millis(self.chance.random_range(1..=within_millis));
        if at < self.wakes[index] || self.wakes[index] <= self.at {
            self.wake_at(index, at);
        }
    }

    fn wake_at(&mut self, index: usize, at: Timestamp) {
        self.wakes[index] = at;
        self.push(at, Action::Node(index));
    }

    fn wake_all(&mut self, within_millis: i64) {
        for index in 0..self.nodes.len() {
            self.wake(index, within_millis);
        }
    }
}

/// The tasks of a service in any order.
fn shuffled(chance: &mut StdRng) -> [usize; 6] {
    let mut tasks = [0, 1, 2, 3, 4, 5];
    for last in (1..tasks.len()).rev() {
        tasks.swap(last, chance.random_range(0..=last));
    }
    tasks
}

fn time_of(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(millis).expect("a moment of this century")
}
