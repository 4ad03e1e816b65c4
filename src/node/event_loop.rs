//! The only owner of the `Swarm`: carries events to the coordinator and its outputs to whoever does them.
//!
//! It routes and never works: hashing, disk, aggregation and HTTP run in tasks of their own and come back as inputs.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, gossipsub, identify, kad, mdns,
    metrics::Registry,
    ping,
    swarm::{DialError, Swarm, SwarmEvent, dial_opts::DialOpts},
};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    coordinator::{GossipId, Input, Output, PeerEvent, Verdict},
    edges::Edges,
    ledgers::{Ledgers, PeerCall},
    ports::Ports,
    recorded::Recorded,
    remembered::Remembered,
};
use crate::{
    api::{self, NodeEvent, Reply},
    chain::rpc as ledger_rpc,
    clock, codec, conduct, executor, ipfs, shard,
    store::BlockStore,
    swarm::{Behaviour, BehaviourEvent, KADEMLIA_PROTOCOL},
    types::{ContentId, Signed, Time},
};

/// Gossip messages that wait for a peer who listens; the oldest is dropped for a new one.
const MAX_UNPUBLISHED: usize = 256;
/// A message that nobody listened to for this long is dropped: whatever it said is on the ledger by then.
const PUBLISH_WITHIN: Duration = Duration::from_secs(60);
/// Threads that work on the block store for transfers; more work waits. Each hashes or writes as fast as a core and a disk go,
/// and one that syncs leaves the others to go on.
const SHARD_WORKERS: usize = 4;
/// Calls of peers to a ledger that this node carries, answered at once; a further one is refused.
const MAX_LEDGER_CALLS: usize = 128;

/// Who asked, and when in microseconds of the clock.
type CommandAnswer = (oneshot::Sender<Result<Reply, api::Error>>, u64);

/// What the loop is made from.
pub(super) struct Parts {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) coordinator: Recorded,
    pub(super) edges: Edges,
    pub(super) ledgers: Ledgers,
    pub(super) store: Arc<BlockStore>,
    pub(super) supervisor: executor::edge::Supervisor,
    pub(super) workers: executor::inference::edge::Workers,
    pub(super) pinner: Option<ipfs::Pinner>,
    pub(super) remembered: Remembered,
    pub(super) ports: Ports,
    pub(super) registry: Registry,
    pub(super) events: broadcast::Sender<NodeEvent>,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) requests: mpsc::Receiver<api::Request>,
    pub(super) peer_calls: mpsc::Receiver<PeerCall>,
    pub(super) process_reports: mpsc::Receiver<executor::edge::Answer>,
    pub(super) worker_reports: mpsc::Receiver<executor::inference::edge::Answer>,
    pub(super) offences: mpsc::Receiver<conduct::Report>,
}

/// The running loop.
pub(super) struct EventLoop {
    parts: Parts,
    commands: BTreeMap<u64, CommandAnswer>,
    next_command: u64,
    calls: BTreeMap<u64, oneshot::Sender<Result<Vec<u8>, String>>>,
    next_call: u64,
    unpublished: VecDeque<(Time, String, Vec<u8>)>,
    ledger_calls: Arc<tokio::sync::Semaphore>,
    shard_answers: (mpsc::Sender<shard::edge::Answer>, mpsc::Receiver<shard::edge::Answer>),
    shard_workers: Arc<tokio::sync::Semaphore>,
    ledger_answers: (mpsc::Sender<LedgerAnswer>, mpsc::Receiver<LedgerAnswer>),
    exiting: bool,
}

/// What a peer asked of a ledger that this node carries, answered.
struct LedgerAnswer {
    token: crate::protocol::ResponseToken,
    result: Result<Vec<u8>, String>,
}

impl EventLoop {
    pub(super) fn new(parts: Parts) -> Self {
        /// Answers of the disk that wait for the loop; workers wait when it is full.
        const ANSWER_QUEUE: usize = 256;
        Self {
            parts,
            commands: BTreeMap::new(),
            next_command: 1,
            calls: BTreeMap::new(),
            next_call: 1,
            unpublished: VecDeque::new(),
            ledger_calls: Arc::new(tokio::sync::Semaphore::new(MAX_LEDGER_CALLS)),
            shard_workers: Arc::new(tokio::sync::Semaphore::new(SHARD_WORKERS)),
            shard_answers: mpsc::channel(ANSWER_QUEUE),
            ledger_answers: mpsc::channel(ANSWER_QUEUE),
            exiting: false,
        }
    }

    /// Runs until the coordinator says exit.
    pub(super) async fn run(mut self) {
        self.input(Input::Tick);
        while !self.exiting {
            let tick = tokio::time::Instant::from_std(clock::instant_at(self.parts.coordinator.poll_timeout()));
            tokio::select! {
                event = self.parts.swarm.select_next_some() => self.on_swarm(event),
                Some(input) = self.parts.inputs.recv() => self.input(input),
                Some(request) = self.parts.requests.recv() => self.on_request(request),
                Some(call) = self.parts.peer_calls.recv() => self.on_peer_call(call),
                Some(report) = self.parts.process_reports.recv() => {
                    self.parts.swarm.behaviour_mut().executor.handle(executor::Input::Edge(report));
                }
                Some(report) = self.parts.worker_reports.recv() => {
                    self.parts.swarm.behaviour_mut().inference.handle(executor::inference::Input::Edge(report));
                }
                Some(conduct::Report { peer, offence }) = self.parts.offences.recv() => {
                    self.input(Input::Peer(PeerEvent::Misbehaved { peer, offence }));
                }
                Some(answer) = self.shard_answers.1.recv() => {
                    self.parts.swarm.behaviour_mut().shard.handle(shard::Input::Edge(answer));
                }
                Some(answer) = self.ledger_answers.1.recv() => {
                    let input = ledger_rpc::Input::Answer { token: answer.token, result: answer.result };
                    self.parts.swarm.behaviour_mut().ledger_rpc.handle(input);
                }
                () = tokio::time::sleep_until(tick) => self.input(Input::Tick),
            }
        }
        self.parts.ledgers.stop().await;
    }

    /// Hands one input to the coordinator and carries out what it wants.
    fn input(&mut self, input: Input) {
        self.parts.coordinator.handle(input, clock::now());
        while let Some(output) = self.parts.coordinator.poll_output() {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        let swarm = &mut self.parts.swarm;
        match output {
            Output::Reply { id, result } => self.reply(id, *result),
            Output::Notify(event) => {
                // An error means that nobody watches.
                let _ = self.parts.events.send(event);
            }
            Output::Executor(input) => swarm.behaviour_mut().executor.handle(input),
            Output::Inference(input) => swarm.behaviour_mut().inference.handle(input),
            Output::Health(input) => swarm.behaviour_mut().health.handle(input),
            Output::Proof(input) => swarm.behaviour_mut().proof.handle(input),
            Output::Shard(input) => swarm.behaviour_mut().shard.handle(input),
            Output::LedgerRpc(input) => swarm.behaviour_mut().ledger_rpc.handle(input),
            Output::Publish { topic, message } => self.publish(&topic, &message),
            Output::Subscribe(topic) => self.subscribe(&topic, true),
            Output::Unsubscribe(topic) => self.subscribe(&topic, false),
            Output::GossipVerdict { id, verdict } => self.report_verdict(&id, verdict),
            Output::CutOff(peer) => swarm.behaviour_mut().block(peer),
            Output::Readmit(peer) => swarm.behaviour_mut().unblock(peer),
            Output::Dial(address) => self.dial(address),
            Output::AddAddress { peer, address } => {
                swarm.behaviour_mut().kademlia.add_address(&peer, address);
            }
            Output::FindProviders(root) => {
                swarm.behaviour_mut().kademlia.get_providers(provider_key(&root));
            }
            Output::Provide(root) => {
                if let Err(error) = swarm.behaviour_mut().kademlia.start_providing(provider_key(&root)) {
                    tracing::debug!(%root, %error, "not announced as provided");
                }
            }
            Output::Submit { ledger, id, message, durable } => self.submit(&ledger, id, message, durable),
            Output::OpenLedger { ledger, host } => {
                if let Err(error) = self.parts.ledgers.follow_through(&ledger, host) {
                    tracing::warn!(ledger, %host, %error, "the ledger can't be followed");
                }
            }
            Output::CloseLedger(ledger) => self.parts.ledgers.close(&ledger),
            Output::Edge { id, request } => self.parts.edges.perform(id, request),
            Output::Pin { root, name } => self.wish(move |pinner| pinner.pin(root, &name)),
            Output::Unpin { root } => self.wish(move |pinner| pinner.unpin(root)),
            Output::RememberPeers(peers) => self.parts.remembered.save(peers),
            Output::Exit => self.exiting = true,
        }
    }

    /// Tells the pinner, which writes it to disk.
    fn wish(&self, wish: impl FnOnce(&ipfs::Pinner) -> Result<(), ipfs::pinner::Error> + Send + 'static) {
        let Some(pinner) = self.parts.pinner.clone() else { return };
        tokio::task::spawn_blocking(move || {
            if let Err(error) = wish(&pinner) {
                tracing::warn!(%error, "the wish to pin was not kept");
            }
        });
    }

    fn submit(&mut self, ledger: &str, id: u64, message: crate::chain::wire::Message, durable: bool) {
        if let Err(reason) = self.parts.ledgers.submit(ledger, id, message, durable) {
            let event = crate::chain::client::Event::Rejected { id, reason };
            let input = Input::Ledger { ledger: ledger.to_owned(), event };
            // Not through `input`: the coordinator's outputs are being carried out right now.
            self.parts.coordinator.handle(input, clock::now());
        }
    }

    // Commands.

    fn on_request(&mut self, request: api::Request) {
        let id = self.next_command;
        self.next_command += 1;
        self.commands.insert(id, (request.answer, clock::now_micros()));
        self.input(Input::Command { id, command: request.command });
    }

    fn reply(&mut self, id: u64, mut result: Result<Reply, api::Error>) {
        let Some((answer, asked)) = self.commands.remove(&id) else { return };
        match &mut result {
            Ok(Reply::Status(status)) => {
                if let Some(pinner) = &self.parts.pinner {
                    let endpoint = std::mem::take(&mut status.ipfs.endpoint);
                    status.ipfs = ipfs_status(endpoint, &pinner.status());
                }
            }
            // Finer than the coordinator's milliseconds.
            Ok(Reply::Inference(inference)) => {
                inference.latency_ms = Duration::from_micros(clock::now_micros() - asked).as_secs_f64() * 1e3;
            }
            Ok(Reply::Metrics(metrics)) => metrics.bytes.total = super::traffic::total(&self.parts.registry),
            _ => {}
        }
        // An error means that whoever asked is gone.
        let _ = answer.send(result);
    }

    // Gossip.

    fn publish(&mut self, topic: &str, message: &Signed) {
        let bytes = codec::encode(message);
        if !self.try_publish(topic, bytes.clone()) {
            if self.unpublished.len() >= MAX_UNPUBLISHED {
                self.unpublished.pop_front();
            }
            self.unpublished.push_back((clock::now(), topic.to_owned(), bytes));
        }
    }

    /// False if nobody listens yet.
    fn try_publish(&mut self, topic: &str, bytes: Vec<u8>) -> bool {
        let published = self.parts.swarm.behaviour_mut().gossip.publish(gossipsub::IdentTopic::new(topic), bytes);
        match published {
            Ok(_) | Err(gossipsub::PublishError::Duplicate) => true,
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic | gossipsub::PublishError::AllQueuesFull(_)) => false,
            Err(error) => {
                tracing::warn!(topic, %error, "a message was not published");
                true
            }
        }
    }

    fn publish_waiting(&mut self) {
        for _ in 0..self.unpublished.len() {
            let Some((since, topic, bytes)) = self.unpublished.pop_front() else { return };
            if clock::now().since(since) < PUBLISH_WITHIN && !self.try_publish(&topic, bytes.clone()) {
                self.unpublished.push_back((since, topic, bytes));
            }
        }
    }

    fn subscribe(&mut self, topic: &str, join: bool) {
        let gossip = &mut self.parts.swarm.behaviour_mut().gossip;
        if !join {
            gossip.unsubscribe(&gossipsub::IdentTopic::new(topic));
        } else if let Err(error) = gossip.join(topic) {
            tracing::warn!(topic, %error, "the topic can't be joined");
        }
    }

    fn report_verdict(&mut self, id: &GossipId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => gossipsub::MessageAcceptance::Accept,
            Verdict::Ignore => gossipsub::MessageAcceptance::Ignore,
            Verdict::Reject => gossipsub::MessageAcceptance::Reject,
        };
        let message = gossipsub::MessageId::from(id.message.clone());
        let gossip = &mut self.parts.swarm.behaviour_mut().gossip;
        gossip.report_message_validation_result(&message, &id.source, acceptance);
    }

    // The ledger between peers.

    fn on_peer_call(&mut self, call: PeerCall) {
        let id = self.next_call;
        self.next_call += 1;
        self.calls.insert(id, call.answer);
        let input = ledger_rpc::Input::Call { id, peer: call.peer, ledger: call.ledger, body: call.body };
        self.parts.swarm.behaviour_mut().ledger_rpc.handle(input);
    }

    fn on_ledger_rpc(&mut self, event: ledger_rpc::Event) {
        match event {
            ledger_rpc::Event::Called { token, ledger, body, .. } => {
                let Ok(permit) = Arc::clone(&self.ledger_calls).try_acquire_owned() else {
                    let input = ledger_rpc::Input::Answer { token, result: Err("busy; ask again".into()) };
                    return self.parts.swarm.behaviour_mut().ledger_rpc.handle(input);
                };
                let (ledgers, answers) = (self.parts.ledgers.clone(), self.ledger_answers.0.clone());
                tokio::spawn(async move {
                    let result = ledgers.answer(&ledger, &body).await;
                    drop(permit);
                    let _ = answers.send(LedgerAnswer { token, result }).await;
                });
            }
            ledger_rpc::Event::Answered { id, result } => {
                if let Some(answer) = self.calls.remove(&id) {
                    let _ = answer.send(result.map_err(|error| error.to_string()));
                }
            }
        }
    }

    // The swarm.

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::NewListenAddr { address, .. } => {
                self.parts.ports.note(&address);
                self.input(Input::Peer(PeerEvent::Listening(address)));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.input(Input::Peer(PeerEvent::NotListening(address))),
            SwarmEvent::ExternalAddrConfirmed { address } => self.input(Input::Peer(PeerEvent::External(address))),
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                let (address, outbound) = (endpoint.get_remote_address().clone(), endpoint.is_dialer());
                self.input(Input::Peer(PeerEvent::Connected { peer: peer_id, address, outbound }));
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.input(Input::Peer(PeerEvent::Disconnected { peer: peer_id }));
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. }
                if !matches!(error, DialError::DialPeerConditionFalse(_)) =>
            {
                self.input(Input::Peer(PeerEvent::DialFailed { peer: peer_id, error: error.to_string() }));
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener failed"),
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                let routes = info.protocols.contains(&KADEMLIA_PROTOCOL);
                let (listen, observed, agent) = (info.listen_addrs, info.observed_addr, info.agent_version);
                self.input(Input::Peer(PeerEvent::Identified { peer: peer_id, listen, observed, agent, routes }));
            }
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(round_trip), .. }) => {
                let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
                self.input(Input::Peer(PeerEvent::RoundTrip { peer, micros }));
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.input(Input::Peer(PeerEvent::Discovered { peer, address }));
                }
            }
            BehaviourEvent::Kademlia(event) => self.on_kademlia(event),
            BehaviourEvent::AutonatServer(event) => self.parts.swarm.behaviour_mut().spare.done_with(&event.client),
            BehaviourEvent::Executor(executor::Event::Edge(request)) => self.parts.supervisor.perform(request),
            BehaviourEvent::Executor(event) => self.input(Input::Executor(event)),
            BehaviourEvent::Inference(executor::inference::Event::Edge(request)) => self.parts.workers.perform(request),
            BehaviourEvent::Inference(event) => self.input(Input::Inference(event)),
            BehaviourEvent::Health(event) => self.input(Input::Health(event)),
            BehaviourEvent::Proof(event) => self.input(Input::Proof(event)),
            BehaviourEvent::Shard(shard::Event::Edge(request)) => self.perform_shard(request),
            BehaviourEvent::Shard(event) => self.input(Input::Shard(event)),
            BehaviourEvent::LedgerRpc(event) => self.on_ledger_rpc(event),
            _ => {}
        }
    }

    fn perform_shard(&self, request: shard::edge::Request) {
        let (store, answers) = (Arc::clone(&self.parts.store), self.shard_answers.0.clone());
        let workers = Arc::clone(&self.shard_workers);
        tokio::spawn(async move {
            let Ok(_worker) = workers.acquire_owned().await else { return };
            let answer = tokio::task::spawn_blocking(move || shard::edge::perform(&store, request)).await;
            // The edge answers its own panics; a join error means that the runtime is going down.
            if let Ok(answer) = answer {
                let _ = answers.send(answer).await;
            }
        });
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let id = GossipId { message: message_id.0, source: propagation_source };
                self.input(Input::Gossip { topic: message.topic.into_string(), id, bytes: message.data });
            }
            gossipsub::Event::Subscribed { .. } => self.publish_waiting(),
            _ => {}
        }
    }

    fn on_kademlia(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed { result: kad::QueryResult::GetProviders(Ok(found)), .. } = event
        else {
            return;
        };
        if let kad::GetProvidersOk::FoundProviders { key, providers } = found
            && let Some(root) = content_of(&key)
        {
            let peers: Vec<PeerId> = providers.into_iter().collect();
            self.input(Input::Peer(PeerEvent::Providers { root, peers }));
        }
    }

    fn dial(&mut self, address: Multiaddr) {
        let failed = |this: &mut Self, error: String| {
            let event = PeerEvent::DialFailed { peer: None, error };
            this.parts.coordinator.handle(Input::Peer(event), clock::now());
        };
        if let Err(error) = self.parts.swarm.dial(DialOpts::from(address)) {
            failed(self, error.to_string());
        }
    }
}

/// The pinner's state in the words of the API.
fn ipfs_status(endpoint: String, status: &ipfs::Status) -> api::IpfsStatus {
    let (answers, reason) = match &status.daemon {
        ipfs::pinner::Daemon::Answers { .. } => (true, None),
        ipfs::pinner::Daemon::Away { reason } => (false, Some(reason.clone())),
        ipfs::pinner::Daemon::Unknown => (false, Some("not asked yet".into())),
    };
    let queued = u32::try_from(status.queued).unwrap_or(u32::MAX);
    api::IpfsStatus { endpoint, answers, queued, reason }
}

/// The key of a root's provider records: its CID, so that the answer says which root it is about.
fn provider_key(root: &ContentId) -> kad::RecordKey {
    kad::RecordKey::new(&root.0.to_bytes())
}

fn content_of(key: &kad::RecordKey) -> Option<ContentId> {
    ContentId::from_bytes(key.as_ref())
}
