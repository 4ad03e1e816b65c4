//! The storm: inside a round, something happens to one node, and the job ends as if nothing had happened.
//!
//! `kills` has one such story a role; here are all that are left, which take minutes and run by `scripts/storm`.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    time::Duration,
};

use atlas_node::{
    api::JobDetail,
    identity,
    types::{NodeKey, rendezvous},
};
use libp2p::PeerId;
use nix::sys::signal::{Signal, kill};

use super::{
    cables::Cables,
    kills::undisturbed,
    lab::{Job, Lab, SLOW},
    node::Node,
};

/// Nodes: one carries the ledger, one submits, three work.
const NODES: usize = 5;
const LEDGER_HOST: usize = 0;
const SUBMITTER: usize = 1;
/// How long a frozen process stands still: longer than the offline limit, shorter than a lease.
const FREEZE: Duration = Duration::from_secs(20);
/// How long a disk is full, a cable out, a killed ledger host away.
const OUTAGE: Duration = Duration::from_secs(5);
/// A worker's disk. Only what is used takes memory.
const DISK: &str = "1200m";

/// Who suffers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Worker,
    Aggregator,
    Submitter,
    LedgerHost,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weather {
    Killed,
    Frozen,
    DiskFull,
    CableOut,
}

struct Storm {
    lab: Lab,
    cables: Option<Cables>,
}

impl Storm {
    async fn brew(weather: Weather) -> Self {
        let cables = (weather == Weather::CableOut).then(|| Cables::lay(NODES).expect("user and network namespaces"));
        let mut storm = Self { lab: Lab::new(), cables };
        let rpc = match storm.cables {
            Some(_) => format!("http://{}:26657", Cables::address(LEDGER_HOST)),
            None => format!("http://127.0.0.1:{}", super::lab::free_port()),
        };
        let idle = ["--chain-rpc", &rpc, "--cpu-cores", "0"];
        storm.start("ledger", &[&idle[..], &["--ledger", "embedded"]].concat(), weather).await;
        let bootstrap = storm.lab.nodes[LEDGER_HOST].address.clone();
        storm.start("submitter", &[&idle[..], &["--bootstrap", &bootstrap]].concat(), weather).await;
        let worker = ["--chain-rpc", &rpc, "--bootstrap", &bootstrap, "--cpu-cores", "1"];
        for label in ["first", "second", "third"] {
            storm.start(label, &worker, weather).await;
        }
        for node in &mut storm.lab.nodes {
            node.until_status("it is registered and knows the others", |status| {
                status.registered && status.peers as usize >= NODES - 1
            })
            .await;
        }
        storm
    }

    async fn start(&mut self, label: &str, flags: &[&str], weather: Weather) {
        let number = self.lab.nodes.len();
        let mut node = Node::new(self.lab.path(), label, flags);
        if let Some(cables) = &self.cables {
            node.within(cables.inside(number), &Cables::address(number));
        }
        if weather == Weather::DiskFull {
            node.on_a_disk_of(DISK);
        }
        node.start().await;
        self.lab.nodes.push(node);
    }

    /// The node of a role in the round that is open.
    fn place(&self, role: Role, detail: &JobDetail) -> usize {
        let holders = || detail.tasks.iter().filter_map(|task| task.node_id.as_deref());
        let name = match role {
            Role::LedgerHost => return LEDGER_HOST,
            Role::Submitter => return SUBMITTER,
            Role::Worker => holders().next().unwrap().to_owned(),
            Role::Aggregator => {
                let keys = holders().filter_map(|holder| identity::node_key(&holder.parse::<PeerId>().unwrap()));
                let parts: [&[u8]; 2] = [&detail.job.id.0, &detail.job.round.to_be_bytes()];
                let first: Vec<NodeKey> = rendezvous::first(rendezvous::AGGREGATOR, &parts, 1, keys);
                identity::peer_id(&first[0]).unwrap().to_string()
            }
        };
        self.lab.nodes.iter().position(|node| node.peer_id == name).expect("a holder is one of ours")
    }

    async fn strike(&mut self, weather: Weather, role: Role, place: usize) {
        let node = &mut self.lab.nodes[place];
        match weather {
            Weather::Killed => {
                node.kill();
                if role == Role::LedgerHost {
                    pass(OUTAGE).await;
                    node.start().await;
                }
            }
            Weather::Frozen => {
                kill(node.pid(), Signal::SIGSTOP).unwrap();
                pass(FREEZE).await;
                kill(node.pid(), Signal::SIGCONT).unwrap();
            }
            Weather::DiskFull => {
                let path = node.disk().join("ballast");
                fill(&path);
                pass(OUTAGE).await;
                std::fs::remove_file(path).unwrap();
            }
            Weather::CableOut => {
                let cables = self.cables.as_ref().unwrap();
                cables.set(place, false);
                pass(OUTAGE).await;
                cables.set(place, true);
            }
        }
    }
}

/// The outage is the story, not a wait for something.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

fn fill(path: &std::path::Path) {
    let mut file = OpenOptions::new().create_new(true).write(true).open(path).unwrap();
    let block = vec![1; 1 << 20];
    // First in large pieces, then to the last byte.
    for piece in [&block[..], &block[..4096], &block[..1]] {
        loop {
            match file.write(piece) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

async fn storm(weather: Weather, role: Role) {
    let expected = undisturbed().await;
    let mut storm = Storm::brew(weather).await;
    let job = Job { copies: 2, ..SLOW };
    let submitted = storm.lab.submit(SUBMITTER, &job).await;
    // Inside the second round, and another node holds a checkpoint of it.
    let inside = |detail: &JobDetail| {
        let task = &detail.tasks[0];
        let inside = task.checkpoint_round == Some(1) && task.checkpoint_step < Some(job.local_steps);
        detail.job.round == 1 && inside && detail.tasks.iter().all(|task| task.node_id.is_some())
    };
    let observer = if role == Role::Submitter { LEDGER_HOST } else { SUBMITTER };
    let detail = storm.lab.until_job(observer, submitted.job_id, "a checkpoint inside the second round", inside).await;
    let place = storm.place(role, &detail);
    storm.strike(weather, role, place).await;
    let detail = storm.lab.completed(observer, submitted.job_id).await;
    assert_eq!(
        detail.job.model_root.map(|root| root.to_string().into()).as_ref(),
        Some(expected),
        "{weather:?} {role:?}"
    );
    if weather != Weather::Killed || role == Role::LedgerHost {
        let node = &mut storm.lab.nodes[place];
        node.until_status("it is among the others again", |status| status.peers as usize >= NODES - 1).await;
    }
}

macro_rules! storms {
    ($($name:ident: $weather:ident, $role:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "takes up to a minute: run by scripts/storm"]
        async fn $name() {
            storm(Weather::$weather, Role::$role).await;
        }
    )*};
}

storms! {
    a_killed_worker: Killed, Worker;
    a_killed_aggregator: Killed, Aggregator;
    a_killed_submitter: Killed, Submitter;
    a_killed_ledger_host: Killed, LedgerHost;
    a_frozen_worker: Frozen, Worker;
    a_frozen_aggregator: Frozen, Aggregator;
    a_frozen_submitter: Frozen, Submitter;
    a_frozen_ledger_host: Frozen, LedgerHost;
    a_workers_full_disk: DiskFull, Worker;
    an_aggregators_full_disk: DiskFull, Aggregator;
    a_submitters_full_disk: DiskFull, Submitter;
    a_ledger_hosts_full_disk: DiskFull, LedgerHost;
    a_worker_cut_off: CableOut, Worker;
    an_aggregator_cut_off: CableOut, Aggregator;
    a_submitter_cut_off: CableOut, Submitter;
    a_ledger_host_cut_off: CableOut, LedgerHost;
}
