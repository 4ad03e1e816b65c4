//! Where the modules meet: "when this one reports X, that one does Y".
//!
//! The coordinator is as pure as a state: inputs with a time go in, [`Output`]s come out, nothing is read or written
//! here. It is level-triggered. It compares what the ledger has committed ([`view::View`]) with what this node has done
//! ([`work::Work`]) and asks for the next missing thing. After a crash it therefore needs nothing but the ledger: a
//! task that the ledger says is ours is simply taken up again.
//!
//! One file a source of events (`on_*.rs`), one a thing that spans several (`work`, `submission`, `shutdown`).
//!
//! What it never does: it never acts on what is not committed, never awaits, never touches a `Swarm`, and never lets
//! a request of another go without an answer.

mod aggregate;
mod connectivity;
mod data_keys;
mod gather;
mod inference;
mod interface;
mod on_command;
mod on_edge;
mod on_executor;
mod on_gossip;
mod on_health;
mod on_ledger;
mod on_peer;
mod on_proof;
mod on_recovery;
mod on_shard;
mod pending;
mod reports;
mod safekeeping;
mod shutdown;
mod status;
mod storing;
mod submission;
mod terms;
mod upkeep;
pub mod view;
mod volunteer;
mod wallet;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};

use self::{
    connectivity::Connectivity, gather::Gathers, inference::Inference, pending::Pending, status::RunLog,
    storing::Keeper, submission::Submission, view::View, work::Work,
};
pub use self::{
    connectivity::MAX_REMEMBERED,
    interface::{Input, Output},
    on_gossip::{GossipId, Verdict},
    on_peer::PeerEvent,
    status::{Counters, Facts, Host},
};
use super::edges;
use crate::{
    api,
    chain::wire::Message,
    conduct,
    gossip::Announcement,
    identity::Keypair,
    network, recovery,
    resource::Manager,
    round,
    types::{ContentId, Digest, Generation, JobId, LedgerId, NodeKey, Resources, TaskId, Time},
    validator,
};

/// How often the coordinator looks at what may have come due without an event.
const TICK: Duration = Duration::from_millis(250);

/// Ids are counted from the start's milliseconds times this, so that those of two runs never meet.
const IDS_A_MILLISECOND: u64 = 1_000;

/// What the operator fixes, and what the node found out about its host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// A label for people.
    pub label: String,
    /// Where rewards go; `None` for the node's own account.
    pub address: Option<String>,
    /// What this node lends. Zero cores: it takes no work.
    pub lends: Resources,
    /// The configured ledger.
    pub ledger: LedgerId,
    /// Whose work is taken.
    pub policy: validator::Policy,
    /// Bootstrap addresses.
    pub bootstrap: Vec<Multiaddr>,
    /// Peers remembered from earlier runs.
    pub remembered: Vec<(PeerId, Multiaddr)>,
    /// Commitments to the keys of sealed data that are here.
    pub data_keys: BTreeSet<Digest>,
    /// Where the node stands, as its operator says.
    pub place: network::Place,
    /// What `status` tells about the process and its host.
    pub facts: Facts,
    /// Pauses and turns of joint training.
    pub rounds: round::Config,
    /// Waits of checkpoints.
    pub recovery: recovery::Config,
    /// There is a Kubo that pins.
    pub kubo: bool,
    /// What is bonded on the configured ledger by itself, if that asks for stake: at most this, in its smallest unit.
    #[serde(default)]
    pub stake: u64,
    /// Bytes of room for content of others.
    #[serde(default)]
    pub keeps: u64,
    /// How long a holder of others' content that went offline is waited for, before another takes its place.
    #[serde(default)]
    pub comes_back: Duration,
    /// What is pinned for others at the start: owners and roots.
    #[serde(default)]
    pub kept: Vec<(NodeKey, ContentId)>,
    /// Longest time for checkpoints and handing back at shutdown.
    pub shutdown_grace: Duration,
}

/// One ledger that this node follows.
#[derive(Debug, Default)]
struct LedgerState {
    view: View,
    connected: bool,
    endpoint: Option<String>,
    /// The way to it leads through a peer.
    through_peer: bool,
    reason: Option<String>,
    /// Endpoints that lied or are stale, and what did not match.
    distrusted: BTreeMap<String, String>,
    /// It was read to its end at least once; that end may be empty.
    read: bool,
    /// A registration is on its way.
    registering: bool,
    /// What it asks of nodes, and what this one has bonded; `None` until it said.
    terms: Option<edges::Terms>,
    /// It was asked for them at this time, and has not answered.
    asking_terms: bool,
    terms_at: Time,
    /// A bond is on its way.
    bonding: bool,
    /// When one was sent last.
    bonded_at: Time,
    /// Transactions on their way.
    outbox: u32,
    /// For a job's own ledger: the peer that carries it.
    host: Option<PeerId>,
    /// When it last told of something.
    changed_at: Time,
}

/// The state of the whole node.
#[derive(Debug)]
pub struct Coordinator {
    config: Config,
    /// Peer, account and signer.
    keypair: Keypair,
    me: NodeKey,
    /// The time of the input that is being handled.
    now: Time,
    started_at: Time,
    next_id: u64,
    outputs: VecDeque<Output>,
    pending: BTreeMap<u64, Pending>,
    gathers: Gathers,
    /// Fetches for which nobody is known, by root.
    wanting: BTreeMap<ContentId, BTreeSet<u64>>,
    ledgers: BTreeMap<LedgerId, LedgerState>,
    works: BTreeMap<TaskId, Work>,
    /// Tasks that this node gave back, with the generation and when: it does not take them again at once.
    given_back: BTreeMap<TaskId, (Generation, Time)>,
    /// When a pending task of a generation was first seen, for the volunteers' order.
    seen_pending: BTreeMap<(TaskId, Generation), Time>,
    /// Why tasks wait: who refused an offer and why.
    refusals: BTreeMap<TaskId, String>,
    announcements: BTreeMap<JobId, Announcement>,
    subscribed: BTreeSet<JobId>,
    resources: Manager,
    rounds: round::State,
    recovery: recovery::State,
    connectivity: Connectivity,
    network: network::State,
    conduct: conduct::State,
    /// What may be forwarded of others' gossip; there is one bucket.
    forwarded: conduct::Buckets<()>,
    peers: BTreeMap<PeerId, on_peer::PeerInfo>,
    /// The nodes that health was told of.
    members: BTreeSet<NodeKey>,
    listen: BTreeSet<Multiaddr>,
    external: BTreeSet<Multiaddr>,
    /// The checkpoint of each task that Kubo was asked to pin last: one a task, so that its pins stay few.
    pinned: BTreeMap<TaskId, ContentId>,
    /// What Kubo is asked to keep of jobs beside their checkpoints.
    safe: BTreeMap<(JobId, safekeeping::Part), ContentId>,
    submissions: BTreeMap<u64, Submission>,
    /// Commitments to the keys of sealed data that are here.
    data_keys: BTreeSet<Digest>,
    inference: Inference,
    runs: RunLog,
    counters: Counters,
    receipts: BTreeMap<(TaskId, u32), on_proof::OwnReceipt>,
    /// What others signed, and what of it was reported.
    reports: reports::Reports,
    /// What this node keeps for others.
    keeper: Keeper,
    /// What is pinned was told to the mesh.
    provided: bool,
    stopping: Option<shutdown::Stopping>,
    last_tick: Time,
    /// The host is being looked at: until then nothing is lent, and nothing said about it on a ledger.
    awaiting_host: bool,
}

impl Coordinator {
    /// A coordinator that knows nothing yet but its configuration.
    pub fn new(config: Config, keypair: Keypair, now: Time) -> Self {
        let me = keypair.node_key();
        let mut connectivity = Connectivity::default();
        for address in &config.bootstrap {
            connectivity.add_bootstrap(address.clone(), now);
        }
        for (peer, address) in &config.remembered {
            connectivity.remember(*peer, [address.clone()], now);
        }
        let ledgers = BTreeMap::from([(config.ledger.clone(), LedgerState::default())]);
        Self {
            me,
            now,
            started_at: now,
            // Above every id of an earlier run, whose durable transactions may still be reported.
            next_id: now.as_millis() * IDS_A_MILLISECOND,
            outputs: VecDeque::new(),
            pending: BTreeMap::new(),
            gathers: Gathers::default(),
            wanting: BTreeMap::new(),
            ledgers,
            works: BTreeMap::new(),
            given_back: BTreeMap::new(),
            seen_pending: BTreeMap::new(),
            refusals: BTreeMap::new(),
            announcements: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            resources: Manager::new(config.lends),
            rounds: round::State::new(config.rounds.clone(), keypair.clone()),
            recovery: recovery::State::new(config.recovery.clone()),
            connectivity,
            network: network::State::new(config.place.clone()),
            conduct: conduct::State::default(),
            forwarded: conduct::Buckets::new(conduct::GOSSIP_FORWARDED),
            peers: BTreeMap::new(),
            members: BTreeSet::new(),
            listen: BTreeSet::new(),
            external: BTreeSet::new(),
            pinned: BTreeMap::new(),
            safe: BTreeMap::new(),
            submissions: BTreeMap::new(),
            data_keys: config.data_keys.clone(),
            inference: Inference::default(),
            runs: RunLog::default(),
            counters: Counters::default(),
            receipts: BTreeMap::new(),
            reports: reports::Reports::default(),
            keeper: Keeper::new(me, config.keeps, config.comes_back, &config.kept),
            provided: false,
            stopping: None,
            last_tick: now,
            awaiting_host: false,
            keypair,
            config,
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Time) {
        self.now = self.now.max(now);
        match input {
            Input::Command { id, command } => self.on_command(id, command),
            Input::Peer(event) => self.on_peer(event),
            Input::Gossip { topic, id, bytes } => self.on_gossip(&topic, id, &bytes),
            Input::Host(host) => self.on_host(*host),
            Input::KnownAnswer(root) => self.config.facts.kat_root = root,
            Input::Ledger { ledger, event } => self.on_ledger(&ledger, event),
            Input::Executor(event) => self.on_executor(event),
            Input::Inference(event) => self.on_inference(event),
            Input::Health(event) => self.on_health(event),
            Input::Proof(event) => self.on_proof(event),
            Input::Shard(event) => self.on_shard(event),
            Input::LedgerRpc(event) => self.on_ledger_rpc(event),
            Input::Edge { id, answer } => self.on_edge(id, answer),
            Input::Rotten => self.on_rotten(),
            Input::Shutdown { reason } => self.on_shutdown(reason),
            Input::Tick => {}
        }
        self.tick();
        self.drain_rounds();
        self.drain_recovery();
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is wanted next.
    pub fn poll_timeout(&self) -> Time {
        let dial = self.connectivity.next_due();
        let round = self.rounds.poll_timeout();
        let recovery = self.recovery.poll_timeout();
        let soonest = [dial, round, recovery].into_iter().flatten().min();
        soonest.unwrap_or(Time(u64::MAX)).min(self.last_tick + TICK).max(self.now)
    }

    fn tick(&mut self) {
        for address in self.connectivity.due(self.now) {
            self.output(Output::Dial(address));
        }
        if self.rounds.poll_timeout().is_some_and(|at| at <= self.now) {
            self.rounds.on_timeout(self.now);
        }
        if self.recovery.poll_timeout().is_some_and(|at| at <= self.now) {
            self.recovery.on_timeout(self.now);
        }
        if self.now.since(self.last_tick) >= TICK {
            self.last_tick = self.now;
            self.readmit();
            self.lose_patience();
            self.reconcile_all();
            self.close_finished_ledgers();
            self.tend_terms();
            self.tend_storage();
            self.tend_submissions();
            self.tend_shutdown();
        }
    }

    fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn notify(&mut self, event: api::NodeEvent) {
        self.output(Output::Notify(event));
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// A new id under which `pending` waits.
    fn wait_for(&mut self, pending: Pending) -> u64 {
        let id = self.new_id();
        self.pending.insert(id, pending);
        id
    }

    fn submit(&mut self, ledger: &str, message: Message, durable: bool, pending: Pending) {
        let id = self.wait_for(pending);
        if let Some(state) = self.ledgers.get_mut(ledger) {
            state.outbox += 1;
        }
        self.output(Output::Submit { ledger: ledger.to_owned(), id, message, durable });
    }

    fn edge(&mut self, request: edges::Request, pending: Pending) {
        let id = self.wait_for(pending);
        self.output(Output::Edge { id, request });
    }

    fn reply(&mut self, id: u64, reply: api::Reply) {
        self.output(Output::Reply { id, result: Box::new(Ok(reply)) });
    }

    fn reply_error(&mut self, id: u64, code: api::ErrorCode, message: impl Into<String>) {
        self.output(Output::Reply { id, result: Box::new(Err(api::Error::new(code, message))) });
    }
}
