//! One life of a node: the very coordinator and protocol states of production, and what the event loop does for them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use libp2p::Multiaddr;

use super::{
    client::Client,
    host::{Carrier, Frame, Host},
    machine::Machine,
    scenario::Scenario,
    scripts::Scripts,
};
use crate::{
    api::{self, NodeEvent},
    chain::{rpc as ledger_rpc, wire::Message},
    codec, executor, gossip, health, network,
    node::{
        COMES_BACK,
        coordinator::{Config, Coordinator, Facts, GossipId, Input, Output, PeerEvent, Verdict},
        edges,
    },
    proof, recovery, round, shard,
    types::{Digest, Resources, Time},
    validator,
};

/// Gossip messages that wait for a peer who listens; the oldest is dropped for a new one (as in the event loop).
const MAX_UNPUBLISHED: usize = 256;
/// A message that nobody listened to for this long is dropped (as in the event loop).
const PUBLISH_WITHIN: Duration = Duration::from_secs(60);
/// What a task of a simulated job needs.
pub(super) const TASK: Resources =
    Resources { cpu_millicores: 500, memory_bytes: 256 << 20, storage_bytes: 256 << 20, gpu_count: 0 };

/// What a node wants of the world around it.
#[derive(Debug)]
pub(super) enum Effect {
    Send(Frame),
    Publish { topic: String, bytes: Bytes },
    Forward { id: GossipId },
    Subscribed { topic: String },
    Dial(Multiaddr),
    Edge { id: u64, request: edges::Request },
    ShardEdge(shard::edge::Request),
    Script(executor::edge::Request),
    Submit { id: u64, message: Message, durable: bool },
    FindProviders(crate::types::ContentId),
    Provide(crate::types::ContentId),
    Reply { id: u64, result: Box<Result<api::Reply, api::Error>> },
    Notify(NodeEvent),
    Exit,
}

/// A gossip message that this node has seen.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) topic: String,
    pub(super) bytes: Bytes,
}

/// The node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) coordinator: Coordinator,
    executor: Host<executor::State>,
    inference: Host<executor::inference::State>,
    health: Host<health::State>,
    proof: Host<proof::State>,
    shard: Host<shard::State>,
    ledger_rpc: Host<ledger_rpc::State>,
    pub(super) scripts: Scripts,
    pub(super) client: Client,
    pub(super) topics: BTreeSet<String>,
    pub(super) heard: BTreeMap<Digest, Heard>,
    heard_at: VecDeque<(Time, Digest)>,
    unpublished: VecDeque<(Time, String, Bytes)>,
    /// Machines to which a connection is open, as this node knows.
    pub(super) links: BTreeSet<usize>,
    /// The ledger answers.
    pub(super) connected: bool,
    /// The ledger's changes up to this height were sent to it, and arrive by then; `None` before the first.
    pub(super) told: Option<(u64, Time)>,
    /// The height up to which it has heard of the ledger's changes.
    pub(super) height: u64,
    /// When its last message to the ledger arrives: one connection keeps their order.
    pub(super) asked: Time,
    /// When it wakes next; an earlier wake takes its place.
    pub(super) armed: Option<Time>,
    /// Times that it woke within one millisecond, without anything else happening.
    pub(super) restless: u32,
}

impl Node {
    pub(super) fn new(
        machine: &Machine,
        scenario: &Scenario,
        chain_id: &str,
        bootstrap: Vec<Multiaddr>,
        now: Time,
    ) -> Self {
        let beat = Duration::from_millis(scenario.beat_millis);
        let keypair = &machine.keypair;
        let mut scripts = Scripts::new(scenario.script);
        scripts.slowness_percent = machine.slowness_percent;
        Self {
            coordinator: Coordinator::new(config(machine, scenario, chain_id, bootstrap), keypair.clone(), now),
            executor: Host::new(executor::State::new(executor::Config::default())),
            inference: Host::new(executor::inference::State::new(executor::inference::Config::default())),
            health: Host::new(health::State::new(
                health::Config::with_beats(beat, silence(scenario)),
                keypair.clone(),
                now,
            )),
            proof: Host::new(proof::State::new(proof::Config::default(), keypair.node_key())),
            shard: Host::new(shard::State::new(shard::Config::default(), machine.holds())),
            ledger_rpc: Host::new(ledger_rpc::State::new(ledger_rpc::Config::default())),
            scripts,
            client: Client::new(keypair.clone(), chain_id.to_owned(), &machine.journal),
            topics: [gossip::TOPIC_JOBS, gossip::TOPIC_ASSIGN, gossip::TOPIC_ROLLBACK, gossip::TOPIC_HEARTBEAT]
                .map(str::to_owned)
                .into(),
            heard: BTreeMap::new(),
            heard_at: VecDeque::new(),
            unpublished: VecDeque::new(),
            links: BTreeSet::new(),
            connected: false,
            told: None,
            height: 0,
            asked: now,
            armed: None,
            restless: 0,
        }
    }

    fn carriers(&mut self) -> [&mut dyn Carrier; 6] {
        [
            &mut self.executor,
            &mut self.inference,
            &mut self.health,
            &mut self.proof,
            &mut self.shard,
            &mut self.ledger_rpc,
        ]
    }

    fn carrier(&mut self, protocol: &str) -> Option<&mut dyn Carrier> {
        self.carriers().into_iter().find(|carrier| carrier.protocol() == protocol)
    }

    /// Whether a call of this node waits for its answer.
    pub(super) fn is_calling(&mut self, protocol: &str, call: super::host::Call) -> bool {
        self.carrier(protocol).is_some_and(|carrier| carrier.is_calling(call))
    }

    // What happens to it.

    pub(super) fn input(&mut self, input: Input, now: Time, out: &mut Vec<Effect>) {
        self.coordinator.handle(input, now);
        self.settle(now, out);
    }

    pub(super) fn on_frame(&mut self, frame: Frame, now: Time, out: &mut Vec<Effect>) {
        let mut frames = Vec::new();
        if let Some(carrier) = self.carrier(frame.protocol) {
            carrier.on_frame(frame, now, &mut frames);
        }
        out.extend(frames.into_iter().map(Effect::Send));
        self.settle(now, out);
    }

    pub(super) fn on_call_failed(
        &mut self,
        protocol: &str,
        call: super::host::Call,
        error: crate::protocol::SendError,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        if let Some(carrier) = self.carrier(protocol) {
            carrier.on_call_failed(call, error, now);
        }
        self.settle(now, out);
    }

    pub(super) fn on_peer(&mut self, event: PeerEvent, now: Time, out: &mut Vec<Effect>) {
        for carrier in self.carriers() {
            match &event {
                PeerEvent::Connected { peer, .. } => carrier.on_connected(*peer, now),
                PeerEvent::Disconnected { peer } => carrier.on_disconnected(*peer, now),
                _ => {}
            }
        }
        self.input(Input::Peer(event), now, out);
    }

    pub(super) fn on_script(&mut self, answers: Vec<executor::edge::Answer>, now: Time, out: &mut Vec<Effect>) {
        for answer in answers {
            protocol_handle(&mut self.executor, executor::Input::Edge(answer), now);
        }
        self.settle(now, out);
    }

    pub(super) fn on_shard_edge(&mut self, answer: shard::edge::Answer, now: Time, out: &mut Vec<Effect>) {
        protocol_handle(&mut self.shard, shard::Input::Edge(answer), now);
        self.settle(now, out);
    }

    /// The time of whatever waits for it has come.
    pub(super) fn on_wake(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.carriers().into_iter().for_each(|carrier| carrier.on_time(now));
        if self.coordinator.poll_timeout() <= now {
            self.coordinator.handle(Input::Tick, now);
        }
        self.settle(now, out);
    }

    /// When it wants to wake next.
    pub(super) fn next_wake(&mut self) -> Time {
        let coordinator = self.coordinator.poll_timeout();
        self.carriers().into_iter().filter_map(|carrier| carrier.next_time()).fold(coordinator, Time::min)
    }

    /// Takes note of a gossip message; true if it is new and on a topic of this node.
    pub(super) fn hear(&mut self, id: Digest, topic: &str, bytes: &Bytes, now: Time) -> bool {
        while self.heard_at.front().is_some_and(|(at, _)| now.since(*at) >= crate::gossip::MEMORY) {
            if let Some((_, oldest)) = self.heard_at.pop_front() {
                self.heard.remove(&oldest);
            }
        }
        if !self.topics.contains(topic) || self.heard.contains_key(&id) {
            return false;
        }
        self.heard.insert(id, Heard { topic: topic.to_owned(), bytes: bytes.clone() });
        self.heard_at.push_back((now, id));
        true
    }

    /// Keeps a message until somebody listens.
    pub(super) fn publish_later(&mut self, topic: String, bytes: Bytes, now: Time) {
        if self.unpublished.len() >= MAX_UNPUBLISHED {
            self.unpublished.pop_front();
        }
        self.unpublished.push_back((now, topic, bytes));
    }

    /// Messages that wait for somebody who listens.
    pub(super) fn take_unpublished(&mut self, now: Time) -> Vec<(String, Bytes)> {
        let waiting = self.unpublished.drain(..).filter(|(since, ..)| now.since(*since) < PUBLISH_WITHIN);
        waiting.map(|(_, topic, bytes)| (topic, bytes)).collect()
    }

    /// Calls, fetches, transactions and whatever else is open, by name.
    pub(super) fn open(&mut self) -> Vec<(&'static str, usize)> {
        let calls = self.carriers().into_iter().map(|carrier| carrier.open_calls()).sum();
        let own = [("calls", calls), ("transactions", self.client.open()), ("transfers", self.shard.state.transfers())];
        own.into_iter().chain(self.coordinator.open()).collect()
    }

    // What it does, as the event loop carries it.

    /// Lets states and coordinator talk until nothing moves.
    fn settle(&mut self, now: Time, out: &mut Vec<Effect>) {
        loop {
            if let Some(output) = self.coordinator.poll_output() {
                self.perform(output, now, out);
            } else if let Some(input) = self.poll_states(now, out) {
                self.coordinator.handle(input, now);
            } else {
                return;
            }
        }
    }

    /// The next event of a state for the coordinator; edge requests go their own way.
    fn poll_states(&mut self, now: Time, out: &mut Vec<Effect>) -> Option<Input> {
        let mut frames = Vec::new();
        let input = loop {
            if let Some(event) = self.executor.poll(now, &mut frames) {
                match event {
                    executor::Event::Edge(request) => out.push(Effect::Script(request)),
                    event => break Some(Input::Executor(event)),
                }
            } else if let Some(event) = self.shard.poll(now, &mut frames) {
                match event {
                    shard::Event::Edge(request) => out.push(Effect::ShardEdge(request)),
                    event => break Some(Input::Shard(event)),
                }
            } else if let Some(event) = self.health.poll(now, &mut frames) {
                break Some(Input::Health(event));
            } else if let Some(event) = self.proof.poll(now, &mut frames) {
                break Some(Input::Proof(event));
            } else if let Some(event) = self.inference.poll(now, &mut frames) {
                break Some(Input::Inference(event));
            } else {
                // Nobody carries a ledger here, so nobody asks for one.
                while self.ledger_rpc.poll(now, &mut frames).is_some() {}
                break None;
            }
        };
        out.extend(frames.into_iter().map(Effect::Send));
        input
    }

    fn perform(&mut self, output: Output, now: Time, out: &mut Vec<Effect>) {
        match output {
            Output::Executor(input) => protocol_handle(&mut self.executor, input, now),
            Output::Inference(input) => protocol_handle(&mut self.inference, input, now),
            Output::Health(input) => protocol_handle(&mut self.health, input, now),
            Output::Proof(input) => protocol_handle(&mut self.proof, input, now),
            Output::Shard(input) => protocol_handle(&mut self.shard, input, now),
            Output::LedgerRpc(input) => protocol_handle(&mut self.ledger_rpc, input, now),
            Output::Subscribe(topic) => {
                self.topics.insert(topic.clone());
                out.push(Effect::Subscribed { topic });
            }
            Output::Unsubscribe(topic) => {
                self.topics.remove(&topic);
            }
            Output::Publish { topic, message } => {
                out.push(Effect::Publish { topic, bytes: codec::encode(&message).into() });
            }
            Output::GossipVerdict { id, verdict: Verdict::Accept } => out.push(Effect::Forward { id }),
            Output::GossipVerdict { .. } => {}
            Output::Dial(address) => out.push(Effect::Dial(address)),
            Output::Edge { id, request } => out.push(Effect::Edge { id, request }),
            Output::Submit { id, message, durable, .. } => out.push(Effect::Submit { id, message, durable }),
            Output::FindProviders(root) => out.push(Effect::FindProviders(root)),
            Output::Provide(root) => out.push(Effect::Provide(root)),
            Output::Reply { id, result } => out.push(Effect::Reply { id, result }),
            Output::Notify(event) => out.push(Effect::Notify(event)),
            Output::Exit => out.push(Effect::Exit),
            // Addresses are known to the world; job ledgers, Kubo and the peers' file are not simulated.
            // Nobody misbehaves here but by forging gossip, which no network forwards.
            Output::CutOff(_)
            | Output::Readmit(_)
            | Output::AddAddress { .. }
            | Output::OpenLedger { .. }
            | Output::CloseLedger(_)
            | Output::Pin { .. }
            | Output::Unpin { .. }
            | Output::RememberPeers(_) => {}
        }
    }
}

fn protocol_handle<S: crate::protocol::State>(host: &mut Host<S>, input: S::Input, now: Time) {
    host.state.handle(input, now);
}

/// How long peers wait for a beat.
fn silence(scenario: &Scenario) -> Duration {
    Duration::from_millis(scenario.beat_millis) * 3
}

fn config(machine: &Machine, scenario: &Scenario, chain_id: &str, bootstrap: Vec<Multiaddr>) -> Config {
    let times = |amount: u64| amount.saturating_mul(scenario.room);
    let lends = Resources {
        cpu_millicores: times(TASK.cpu_millicores),
        memory_bytes: times(TASK.memory_bytes),
        storage_bytes: times(TASK.storage_bytes),
        gpu_count: 0,
    };
    let peer = machine.peer.to_string();
    Config {
        label: format!("node-{}", &peer[peer.len().saturating_sub(8)..]),
        address: None,
        lends,
        ledger: chain_id.to_owned(),
        policy: validator::Policy::default(),
        bootstrap,
        remembered: Vec::new(),
        data_keys: std::collections::BTreeSet::new(),
        place: network::Place::default(),
        facts: Facts {
            pid: 1,
            data_dir: PathBuf::from("/sim"),
            protections: Vec::new(),
            python: api::Python { path: Some("python3".into()), version: Some("simulated".into()) },
            resource_notes: Vec::new(),
            warnings: Vec::new(),
            class_id: Digest::of(b"simulated"),
            kat_root: Digest::of(b"simulated"),
            ipfs_endpoint: String::new(),
            carries_ledger: false,
        },
        rounds: round::Config::testnet(),
        recovery: recovery::Config::default(),
        kubo: false,
        // What the ledger asks for, whatever that is.
        stake: u64::MAX,
        keeps: scenario.storage.map_or(0, |storage| storage.room_bytes),
        comes_back: silence(scenario) * COMES_BACK,
        kept: machine.kept(),
        shutdown_grace: Duration::from_secs(10),
    }
}
