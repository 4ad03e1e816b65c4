//! What this node tells about itself.

use std::{collections::VecDeque, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::Coordinator;
use crate::{
    api::{self, views::peer_text},
    conduct::CutOff,
    executor::RunSpec,
    identity,
    resource::Manager,
    types::{ContentId, Digest, NodeKey, NodeStatus, Resources, Round, TaskId, Time},
};

/// Script runs remembered for `runs`; the oldest goes first. A demo of 20 rounds and 4 tasks has 80.
const MAX_RUNS: usize = 1_024;

/// What was found out about process and host at the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// This process.
    pub pid: u32,
    /// Where its files are.
    pub data_dir: PathBuf,
    /// What keeps scripts away from the rest of the machine.
    pub protections: Vec<api::Protection>,
    /// The interpreter.
    pub python: api::Python,
    /// How resources were found, and what limited them.
    pub resource_notes: Vec<String>,
    /// Anything an operator should change.
    pub warnings: Vec<String>,
    /// Names architecture, effective instruction set, library builds and threads (proof.md, `class_id`).
    pub class_id: Digest,
    /// The root of the known-answer run; zero until it has ended.
    pub kat_root: Digest,
    /// Where Kubo is looked for.
    pub ipfs_endpoint: String,
    /// This process carries the configured ledger.
    pub carries_ledger: bool,
}

/// What a look at the host brought. It takes longer than a start should.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// What keeps scripts away from the rest of the machine.
    pub protections: Vec<api::Protection>,
    /// The interpreter.
    pub python: api::Python,
    /// Anything an operator should change.
    pub warnings: Vec<String>,
    /// As in [`Facts`].
    pub class_id: Digest,
    /// What this node lends. Zero cores: it takes no work.
    pub lends: Resources,
}

/// What this node counted since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Bytes of content fetched that are no updates.
    pub shard_bytes_received: u64,
    /// Bytes of updates fetched, with the checkpoints that their receipts name.
    pub update_bytes_received: u64,
    /// Bytes of gossip messages received, duplicates not counted.
    pub gossip_bytes_received: u64,
    /// Bytes of gossip messages published.
    pub gossip_bytes_sent: u64,
    /// Receipts of others that this node attested.
    pub receipts_verified: u64,
    /// Receipts of others that it refused.
    pub receipts_refused: u64,
    /// Questions answered by this node's workers.
    pub inference_answered: u64,
}

/// Script runs of this node, oldest first.
#[derive(Debug, Default)]
pub(super) struct RunLog(VecDeque<api::Run>);

impl RunLog {
    pub(super) fn begin(&mut self, spec: &RunSpec, from: (Option<ContentId>, Option<NodeKey>), now: Time) {
        if self.0.len() >= MAX_RUNS {
            self.0.pop_front();
        }
        self.0.push_back(api::Run {
            task: spec.task,
            round: spec.round,
            generation: spec.generation,
            attempt: spec.attempt,
            from_step: spec.start_step(),
            checkpoint_cid: from.0,
            checkpoint_node: from.1.as_ref().map(peer_text),
            started_at: now,
            outcome: None,
        });
    }

    pub(super) fn end(&mut self, task: TaskId, round: Round, outcome: &str) {
        let run = self.0.iter_mut().rev().find(|run| run.task == task && run.round == round && run.outcome.is_none());
        if let Some(run) = run {
            run.outcome = Some(outcome.to_owned());
        }
    }

    pub(super) fn is_running(&self, task: &TaskId) -> bool {
        self.0.iter().any(|run| run.task == *task && run.outcome.is_none())
    }

    pub(super) fn knows(&self, task: &TaskId) -> bool {
        self.0.iter().any(|run| run.task == *task)
    }

    pub(super) fn list(&self) -> Vec<api::Run> {
        self.0.iter().cloned().collect()
    }
}

impl Coordinator {
    /// Until [`super::Input::Host`] comes, this node lends nothing and registers nowhere; all else it does.
    #[must_use]
    pub fn awaiting_host(mut self) -> Self {
        self.awaiting_host = true;
        self.config.lends = Resources::default();
        self.resources = Manager::new(Resources::default());
        self
    }

    /// The host was looked at: from now on this node lends what it has.
    pub(super) fn on_host(&mut self, host: Host) {
        self.awaiting_host = false;
        let facts = &mut self.config.facts;
        (facts.protections, facts.python, facts.class_id) = (host.protections, host.python, host.class_id);
        facts.warnings.extend(host.warnings);
        self.config.lends = host.lends;
        self.resources = Manager::new(host.lends);
        let read = self.ledgers.iter().filter(|(_, state)| state.read);
        for ledger in read.map(|(ledger, _)| ledger.clone()).collect::<Vec<_>>() {
            self.register_if_needed(&ledger);
        }
    }

    /// How much of each kind is open, by name: bounded at any time, and gone once nothing is left to do.
    pub fn open(&self) -> [(&'static str, usize); 8] {
        [
            ("answers", self.pending.len()),
            ("gathers", self.gathers.len()),
            ("wanted roots", self.wanting.len()),
            ("works", self.works.len()),
            ("submissions", self.submissions.len()),
            ("pending tasks", self.seen_pending.len()),
            ("refusals", self.refusals.len()),
            ("subscriptions", self.subscribed.len()),
        ]
    }

    /// What this node has read of a ledger.
    pub fn view(&self, ledger: &str) -> Option<&super::view::View> {
        self.ledgers.get(ledger).map(|state| &state.view)
    }

    pub(super) fn health_reply(&self) -> api::Health {
        api::Health {
            status: "ok".into(),
            peer_id: self.keypair.peer_id().to_string(),
            uptime_seconds: self.now.since(self.started_at).as_secs(),
        }
    }

    /// Everything but the Kubo daemon's state, which its edge adds.
    pub(super) fn status_reply(&self) -> api::Status {
        let facts = &self.config.facts;
        let peer = self.keypair.peer_id();
        let state = self.ledgers.get(&self.config.ledger);
        let job_ledgers = self.ledgers.keys().filter(|ledger| **ledger != self.config.ledger);
        api::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node_id: self.config.label.clone(),
            peer_id: peer.to_string(),
            account: identity::address(&self.me),
            address: self.config.address.clone(),
            pid: facts.pid,
            data_dir: facts.data_dir.clone(),
            uptime_seconds: self.now.since(self.started_at).as_secs(),
            listen: self.listen.iter().map(|address| format!("{address}/p2p/{peer}")).collect(),
            external: self.external.iter().map(ToString::to_string).collect(),
            peers: u32::try_from(self.connectivity.connected().len()).unwrap_or(u32::MAX),
            alone: self.connectivity.alone(),
            registered: state.is_some_and(|state| state.view.nodes.contains_key(&self.me)),
            tasks: self.task_summaries(),
            resources: api::ResourceStatus {
                total: self.config.lends.into(),
                booked: self.resources.booked().into(),
                free: self.resources.free().into(),
                notes: facts.resource_notes.clone(),
            },
            ledger: self.ledger_status(&self.config.ledger),
            job_ledgers: job_ledgers.map(|ledger| self.ledger_status(ledger)).collect(),
            storage: self.storage_status(),
            ipfs: api::IpfsStatus { endpoint: facts.ipfs_endpoint.clone(), ..api::IpfsStatus::default() },
            protections: facts.protections.clone(),
            python: facts.python.clone(),
            cut_off: self.conduct.cut_off().into_iter().map(cut_off).collect(),
            warnings: facts.warnings.clone(),
        }
    }

    fn task_summaries(&self) -> Vec<api::TaskSummary> {
        let summary = |work: &super::work::Work| {
            let record = self.ledgers.get(&work.ledger)?.view.tasks.get(&work.task)?;
            Some(api::TaskSummary {
                id: work.task,
                status: record.status,
                process: work.phase.word().into(),
                round: work.round,
                step: work.step,
                progress: f64::from(record.progress) / 10_000.0,
            })
        };
        self.works.values().filter_map(summary).collect()
    }

    fn ledger_status(&self, ledger: &str) -> api::LedgerStatus {
        let state = self.ledgers.get(ledger);
        let connected = state.is_some_and(|state| state.connected);
        let host = state.and_then(|state| state.host);
        let way = match (connected, host) {
            (false, _) => api::LedgerWay::Unreachable,
            (true, Some(host)) if host == self.keypair.peer_id() => api::LedgerWay::Here,
            (true, Some(_)) => api::LedgerWay::Peer,
            (true, None) if ledger == self.config.ledger && self.config.facts.carries_ledger => api::LedgerWay::Here,
            (true, None) if state.is_some_and(|state| state.through_peer) => api::LedgerWay::Peer,
            (true, None) => api::LedgerWay::Rpc,
        };
        api::LedgerStatus {
            id: ledger.to_owned(),
            way,
            endpoint: state.and_then(|state| state.endpoint.clone()),
            height: state.map_or(0, |state| state.view.height),
            // Changes arrive with each block: a ledger that answers is followed without a lag that could be told.
            lag: connected.then_some(0),
            app_hash: state.and_then(|state| state.view.app_hash),
            outbox: state.map_or(0, |state| state.outbox),
            reason: state.and_then(|state| state.reason.clone()),
            distrusted: state.map(|state| state.distrusted.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn peers_reply(&self) -> Vec<api::Peer> {
        self.connectivity
            .connected()
            .iter()
            .map(|(peer, addresses)| {
                let info = self.peers.get(peer).cloned().unwrap_or_default();
                let speed = self.network.speed(peer, self.now);
                let key = identity::node_key(peer);
                let node = key.and_then(|key| self.ledgers.values().find_map(|state| state.view.nodes.get(&key)));
                api::Peer {
                    peer_id: peer.to_string(),
                    node_id: node.map(|node| node.node_id.clone()),
                    addresses: addresses.iter().map(ToString::to_string).collect(),
                    direction: if info.outbound { "outbound" } else { "inbound" }.into(),
                    latency_ms: info.latency_micros.or(speed.map(|speed| speed.latency_micros)).map(thousandths),
                    download_mbps: speed.map(|speed| thousandths(speed.download_kbps)),
                    upload_mbps: speed.map(|speed| thousandths(speed.upload_kbps)),
                    agent: info.agent,
                    health: if info.standing == Some(NodeStatus::Offline) { "offline" } else { "alive" }.into(),
                }
            })
            .collect()
    }

    pub(super) fn metrics_reply(&self) -> api::Metrics {
        let counters = &self.counters;
        let traffic = |received, sent| api::Traffic { received, sent };
        let named = [
            ("receipts_verified", counters.receipts_verified),
            ("receipts_refused", counters.receipts_refused),
            ("inference_answered", counters.inference_answered),
            ("peers_cut_off", self.conduct.cut_offs()),
        ];
        api::Metrics {
            uptime_seconds: self.now.since(self.started_at).as_secs(),
            peers: u32::try_from(self.connectivity.connected().len()).unwrap_or(u32::MAX),
            bytes: api::BytesMoved {
                shards: traffic(counters.shard_bytes_received, 0),
                updates: traffic(counters.update_bytes_received, 0),
                gossip: traffic(counters.gossip_bytes_received, counters.gossip_bytes_sent),
                total: api::Traffic::default(),
            },
            ledger_height: self.ledgers.get(&self.config.ledger).map_or(0, |state| state.view.height),
            booked: self.resources.booked().into(),
            free: self.resources.free().into(),
            counters: named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }
}

fn cut_off(cut_off: CutOff) -> api::CutOff {
    let CutOff { peer, why, until, times } = cut_off;
    api::CutOff { peer_id: peer.to_string(), reason: why, until, times }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn thousandths(value: u64) -> f64 {
    value as f64 / 1e3
}
