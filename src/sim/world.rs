//! The discrete-event world: virtual time, machines, and what happens to them next.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};

use super::{
    chain::{Chain, IDLE_BLOCK, Sender},
    chance::Chance,
    edges,
    fault::{self, Fault, Lie},
    host::{Call, Frame},
    invariant::{FULL_CHECK, Violation, Watch},
    ledger_link,
    machine::Machine,
    network::Cut,
    node::{Effect, Node},
    record::Record,
    report::Setup,
    scenario::Scenario,
    scripts::Tick,
    storage, workload,
};
use crate::{
    api::{self, NodeEvent},
    chain::ledger::TransactionResult,
    node::{
        coordinator::{Input, PeerEvent, view::View},
        edges::Request,
    },
    protocol::SendError,
    shard::edge::{Answer, EdgeId, Work},
    types::{ContentId, Digest, JobId, JobStatus, NodeKey, Time},
};

/// When every world begins: 2023-11-14T22:13:20Z.
pub(super) const BEGIN: Time = Time::from_millis(1_700_000_000_000);
/// A node that wakes so often within one millisecond without getting anything done is in an endless loop.
const MAX_RESTLESS: u32 = 1_000;

/// Something that happens.
#[derive(Debug)]
pub(super) enum Happening {
    /// A node starts on a machine.
    Start(usize),
    /// Something reaches a node, in the life that it was meant for.
    Reaches { machine: usize, life: u64, what: Delivery },
    /// Something reaches the ledger.
    AtLedger { machine: usize, life: u64, what: ledger_link::Ask },
    /// A block is made of what waits.
    Block,
    /// A second passed on the ledger.
    LedgerSecond,
    /// A fault strikes.
    Fault(usize),
    /// A fault that lasts ends.
    Heal(fault::Lasting),
    /// Connections across a cut are given up.
    GiveUp(usize),
    /// Nodes go on crashing.
    Churn(Churn),
    /// A person submits the job.
    Submit,
    /// A person has others keep content.
    Keep,
}

/// Crashes by chance, one each period.
#[derive(Clone, Copy, Debug)]
pub(super) struct Churn {
    pub(super) period: Duration,
    pub(super) down_millis: u64,
    pub(super) until: Time,
}

/// What can reach a node.
#[derive(Debug)]
pub(super) enum Delivery {
    Wake,
    Frame { from: usize, frame: Frame },
    CallFailed { protocol: &'static str, call: Call, error: SendError },
    Peer { machine: Option<usize>, event: PeerEvent },
    Gossip { from: PeerId, topic: String, id: Digest, bytes: Bytes },
    Listener,
    Edge { id: u64, request: Request },
    ShardEdge { id: EdgeId, work: Work },
    Script(Tick),
    LedgerSecond,
    Nonce(u64),
    Result { key: u64, height: u64, hash: Digest, result: TransactionResult },
    Changes(Rc<ledger_link::Page>),
    Shutdown,
}

/// What happened so far, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) starts: u64,
    pub(super) resumed: u32,
}

/// The world.
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) seed: u64,
    pub(super) now: Time,
    sequence: u64,
    queue: BTreeMap<(Time, u64), Happening>,
    pub(super) machines: Vec<Machine>,
    by_peer: BTreeMap<PeerId, usize>,
    by_address: BTreeMap<Multiaddr, usize>,
    pub(super) chain: Chain,
    /// The committed records, as anybody could read them.
    pub(super) view: View,
    pub(super) providers: BTreeMap<ContentId, Vec<usize>>,
    pub(super) latency: Chance,
    pub(super) loss: Chance,
    pub(super) choice: Chance,
    pub(super) cuts: Vec<Option<Cut>>,
    pub(super) faults: Vec<(Fault, bool)>,
    pub(super) record: Record,
    pub(super) watch: Watch,
    pub(super) counts: Counts,
    pub(super) job: Option<JobId>,
    /// What commands came to, by their ids.
    pub(super) replies: BTreeMap<u64, Result<api::Reply, api::Error>>,
    ended_at: Option<Time>,
    /// Until then something is broken.
    pub(super) troubled_until: Time,
    /// Events between two full checks.
    full_check: u64,
    /// What every node that starts gets wrong, to show that it is noticed.
    pub(super) plant: Option<super::Plant>,
    pub(super) violation: Option<Violation>,
}

impl World {
    /// A world in which nothing has happened yet.
    pub(super) fn new(scenario: Scenario, seed: u64, setup: &Setup) -> Self {
        let machines: Vec<Machine> = (0..scenario.nodes).map(|index| Machine::new(seed, index)).collect();
        let by_peer = machines.iter().enumerate().map(|(index, machine)| (machine.peer, index)).collect();
        let by_address = machines.iter().enumerate().map(|(index, machine)| (machine.full_address(), index)).collect();
        let chain = Chain::new(workload::genesis(&scenario, &machines[0])).expect("the genesis is sound");
        let faults = scenario.fault.iter().map(|fault| (fault.clone(), false)).collect();
        let mut world = Self {
            watch: Watch::new(&scenario),
            seed,
            now: BEGIN,
            sequence: 0,
            queue: BTreeMap::new(),
            machines,
            by_peer,
            by_address,
            chain,
            view: View::default(),
            providers: BTreeMap::new(),
            latency: Chance::new(seed, "latency"),
            loss: Chance::new(seed, "loss"),
            choice: Chance::new(seed, "choice"),
            cuts: Vec::new(),
            faults,
            record: Record::default(),
            counts: Counts::default(),
            job: None,
            replies: BTreeMap::new(),
            ended_at: None,
            troubled_until: BEGIN,
            plant: setup.plant,
            full_check: if setup.thorough { 1 } else { FULL_CHECK },
            violation: None,
            scenario,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        workload::store(&self.scenario, &self.machines[0]);
        storage::store(&self.scenario, &self.machines[0]);
        let mut spread = Chance::new(self.seed, "start");
        for index in 0..self.machines.len() {
            // The first is there when the others look for it.
            let delay = if index == 0 { 0 } else { spread.within(0..=self.scenario.start_millis) };
            self.after(Duration::from_millis(delay), Happening::Start(index));
        }
        self.after(IDLE_BLOCK, Happening::LedgerSecond);
        self.after(Duration::from_millis(self.scenario.job.submit_millis), Happening::Submit);
        if let Some(storage) = self.scenario.storage {
            self.after(Duration::from_millis(storage.ask_millis), Happening::Keep);
        }
        for index in 0..self.faults.len() {
            if let fault::When::AtMillis(millis) = self.faults[index].0.when {
                self.faults[index].1 = true;
                self.after(Duration::from_millis(millis), Happening::Fault(index));
            }
        }
    }

    /// Lets things happen until the job has ended and the world has settled, an invariant is broken, or time is up.
    pub(super) fn run(&mut self) {
        let limit = BEGIN + Duration::from_secs(self.scenario.limit_seconds);
        let settle = Duration::from_secs(self.scenario.settle_seconds);
        while self.violation.is_none()
            && let Some(((at, _), happening)) = self.queue.pop_first()
        {
            // What was broken when the job ended has time to mend too.
            let end = self.ended_at.map_or(limit, |ended| (ended.max(self.troubled_until) + settle).min(limit));
            if at > end {
                self.now = end;
                break;
            }
            self.now = at;
            if self.is_void(&happening) {
                continue;
            }
            self.counts.events += 1;
            self.record.happening(at, &happening);
            self.happen(happening);
            if self.violation.is_none() && self.counts.events.is_multiple_of(self.full_check) {
                self.violation = Watch::full_check(self).err();
            }
        }
        if self.violation.is_none() {
            self.violation = Watch::last_check(self).err();
        }
    }

    /// Virtual milliseconds since the beginning.
    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.now.since(BEGIN).as_millis()).unwrap_or(u64::MAX)
    }

    /// Schedules.
    pub(super) fn at(&mut self, at: Time, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), happening);
    }

    pub(super) fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    /// Schedules something for the present life of a machine's node.
    pub(super) fn reach(&mut self, machine: usize, at: Time, what: Delivery) {
        let life = self.machines[machine].life;
        self.at(at, Happening::Reaches { machine, life, what });
    }

    pub(super) fn index_of(&self, peer: &PeerId) -> Option<usize> {
        self.by_peer.get(peer).copied()
    }

    pub(super) fn index_at(&self, address: &Multiaddr) -> Option<usize> {
        self.by_address.get(address).copied()
    }

    pub(super) fn index_of_key(&self, key: &NodeKey) -> Option<usize> {
        self.index_of(&crate::identity::peer_id(key)?)
    }

    /// Whether it was meant for an earlier life of a node, or for something that was settled since.
    fn is_void(&mut self, happening: &Happening) -> bool {
        let Happening::Reaches { machine, life, what } = happening else { return false };
        let machine = &mut self.machines[*machine];
        let Some(node) = machine.node.as_mut().filter(|_| machine.life == *life) else { return true };
        match what {
            Delivery::CallFailed { protocol, call, .. } => !node.is_calling(protocol, *call),
            Delivery::Wake => node.armed != Some(self.now),
            _ => false,
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start(machine) => self.start(machine),
            Happening::Reaches { machine, life, what } => self.reaches(machine, life, what),
            Happening::AtLedger { machine, life, what } => self.at_ledger(machine, life, what),
            Happening::Block => self.make_block(),
            Happening::LedgerSecond => self.on_ledger_second(),
            Happening::Fault(index) => self.strike(index),
            Happening::Heal(lasting) => self.heal(lasting),
            Happening::GiveUp(cut) => self.give_up(cut),
            Happening::Churn(churn) => self.churn(churn),
            Happening::Submit => self.submit(),
            Happening::Keep => self.ask_to_keep(),
        }
    }

    fn start(&mut self, index: usize) {
        let machine = &self.machines[index];
        if machine.node.is_some() || machine.gone {
            return;
        }
        let bootstrap = self.bootstrap(index);
        let mut node = Node::new(machine, &self.scenario, workload::CHAIN_ID, bootstrap, machine.clock(self.now));
        node.scripts.redo_a_batch = self.plant == Some(super::Plant::BatchTwice);
        let listening = Input::Peer(PeerEvent::Listening(machine.address.clone()));
        let machine = &mut self.machines[index];
        machine.forgets_to_sync = self.plant == Some(super::Plant::NoSync);
        machine.node = Some(node);
        self.counts.starts += 1;
        self.with_node(index, |node, now, out| {
            node.input(listening, now, out);
            node.input(Input::Tick, now, out);
        });
        self.reach(index, self.now, Delivery::LedgerSecond);
    }

    /// The nodes that this one is told of: spread over those with a smaller number.
    fn bootstrap(&self, index: usize) -> Vec<Multiaddr> {
        let mut choice = Chance::new(self.seed, &format!("bootstrap of {index}"));
        let mut known = std::collections::BTreeSet::new();
        let wanted = self.scenario.bootstrap.min(index);
        while known.len() < wanted {
            let last = u64::try_from(index - 1).unwrap_or(0);
            known.insert(usize::try_from(choice.within(0..=last)).unwrap_or(0));
        }
        known.into_iter().map(|other| self.machines[other].full_address()).collect()
    }

    fn reaches(&mut self, index: usize, life: u64, what: Delivery) {
        let machine = &mut self.machines[index];
        if machine.paused_until > self.now {
            if let (Delivery::Wake, Some(node)) = (&what, &mut machine.node) {
                node.armed = Some(machine.paused_until);
            }
            let resumes = machine.paused_until;
            return self.at(resumes, Happening::Reaches { machine: index, life, what });
        }
        match what {
            Delivery::Wake => self.wake(index),
            Delivery::Frame { from, frame } => self.on_frame(index, from, frame),
            Delivery::CallFailed { protocol, call, error } => {
                self.with_node(index, |node, now, out| node.on_call_failed(protocol, call, error, now, out));
            }
            Delivery::Peer { machine, event } => self.on_peer(index, machine, event),
            Delivery::Gossip { from, topic, id, bytes } => self.on_gossip(index, from, topic, id, bytes),
            Delivery::Listener => self.publish_waiting(index),
            Delivery::Edge { id, request } => self.on_edge(index, id, request),
            Delivery::ShardEdge { id, work } => {
                let mut done = edges::perform_shard(&self.machines[index], work);
                if self.machines[index].lie == Some(Lie::Bytes) {
                    edges::corrupt(&mut done);
                }
                let result = Ok(done);
                self.with_node(index, |node, now, out| node.on_shard_edge(Answer { id, result }, now, out));
            }
            Delivery::Script(tick) => self.on_script(index, tick),
            Delivery::LedgerSecond => self.on_node_second(index),
            Delivery::Nonce(nonce) => self.with_client(index, |client, _| {
                client.on_nonce(nonce);
                None
            }),
            Delivery::Result { key, height, hash, result } => self.on_result(index, key, height, hash, result),
            Delivery::Changes(changes) => self.on_changes(index, changes),
            Delivery::Shutdown => {
                let reason = "simulated SIGTERM".to_owned();
                self.with_node(index, |node, now, out| node.input(Input::Shutdown { reason }, now, out));
            }
        }
    }

    fn wake(&mut self, index: usize) {
        let now = self.now;
        let Some(node) = &mut self.machines[index].node else { return };
        if node.armed != Some(now) {
            return;
        }
        node.armed = None;
        self.with_node(index, |node, now, out| node.on_wake(now, out));
    }

    fn on_edge(&mut self, index: usize, id: u64, request: Request) {
        let Some(mut answer) = self.edge_answer(index, request) else { return };
        let machine = &self.machines[index];
        if let Some(lie) = machine.lie {
            edges::lie(lie, machine, &mut answer);
        }
        if self.plant == Some(super::Plant::OtherModel) && index == 1 {
            edges::spoil(&mut answer);
        }
        if machine.lie.is_none()
            && let Err(violation) = self.watch.on_answer(index, machine, &answer)
        {
            self.violation = Some(violation);
        }
        if self.plant == Some(super::Plant::LostAnswers) && matches!(answer, crate::node::edges::Answer::Pinned(_)) {
            return;
        }
        self.with_node(index, |node, now, out| node.input(Input::Edge { id, answer }, now, out));
    }

    fn on_script(&mut self, index: usize, tick: Tick) {
        let (now, store) = (self.now, self.machines[index].store.clone());
        let Some(node) = &mut self.machines[index].node else { return };
        let answers = node.scripts.on_tick(tick, &store, now);
        self.with_node(index, |node, now, out| node.on_script(answers, now, out));
    }

    /// Lets something happen in a node, then does what it wants, and sees to it that it wakes when it wants.
    pub(super) fn with_node(&mut self, index: usize, act: impl FnOnce(&mut Node, Time, &mut Vec<Effect>)) {
        let now = self.machines[index].clock(self.now);
        let Some(node) = &mut self.machines[index].node else { return };
        let mut effects = Vec::new();
        act(node, now, &mut effects);
        if effects.is_empty() {
            node.restless += 1
        } else {
            node.restless = 0
        }
        for effect in effects {
            self.take_effect(index, effect);
        }
        self.settle(index);
    }

    fn settle(&mut self, index: usize) {
        let now = self.now;
        let Some(node) = &mut self.machines[index].node else { return };
        let wanted = node.next_wake();
        let due = node.scripts.take_due();
        let wake = self.machines[index].time_of(wanted);
        let Some(node) = &mut self.machines[index].node else { return };
        // Who was just woken and wants to be at once again gets a millisecond later what a busy loop would give it.
        let wake = if wake <= now { now + Duration::from_millis(u64::from(node.restless > 0)) } else { wake };
        let arm = node.armed.is_none_or(|armed| wake < armed);
        if arm {
            node.armed = Some(wake);
        }
        let restless = node.restless > MAX_RESTLESS && wake <= now + Duration::from_millis(1);
        if arm {
            self.reach(index, wake, Delivery::Wake);
        }
        for (at, tick) in due {
            self.reach(index, at, Delivery::Script(tick));
        }
        self.drain_client(index);
        if restless {
            self.violation = Some(Violation::new("bounded", format!("node {index} is in an endless loop of wakes")));
        }
    }

    pub(super) fn on_event(&mut self, index: usize, event: &NodeEvent) {
        self.record.event(index, event);
        tracing::info!(millis = self.millis(), node = index, ?event);
        if let NodeEvent::RunStarted { from_step, generation, .. } = event
            && *from_step > 0
            && *generation > 1
        {
            self.counts.resumed += 1;
        }
        if let Err(violation) = self.watch.on_event(index, event) {
            self.violation = Some(violation);
        }
        if let NodeEvent::Progress { task, round, step, .. } = event {
            self.strike_at_progress(task.slot, *round, *step);
        }
    }

    /// Takes over what a block changed; returns it.
    pub(super) fn read_block(&mut self) {
        loop {
            let mut changes = self.chain.page(self.view.height).changes;
            if self.plant == Some(super::Plant::MoneyLost) {
                changes.jobs.iter_mut().for_each(|job| job.escrow = job.escrow.saturating_sub(1));
            }
            if self.plant == Some(super::Plant::RolledBack) {
                let rolled = changes.tasks.iter_mut().filter(|task| task.generation > 1);
                rolled.for_each(|task| task.checkpoint = None);
            }
            let more = changes.more;
            if let Err(violation) = self.watch.on_changes(&changes, self.now) {
                self.violation = Some(violation);
            }
            self.job = self.job.or_else(|| changes.jobs.first().map(|job| job.id));
            self.view.apply(changes);
            if !more {
                break;
            }
        }
        let job = self.job.and_then(|job| self.view.jobs.get(&job));
        let (round, open) = job.map_or((0, true), |job| (job.round, job.status == JobStatus::Open));
        if job.is_some() {
            self.strike_at_round(round);
        }
        if !open {
            self.ended_at.get_or_insert(self.now);
        }
    }

    pub(super) fn sender(&self, machine: usize, life: u64, key: u64) -> Sender {
        Sender { node: machine, life, key }
    }
}
