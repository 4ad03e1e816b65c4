//! Many real swarms in one process, over loopback: what the simulated world can't show. How long gossip takes to form its
//! mesh, what a message costs, and how soon a newcomer hears what others say.
//!
//! The swarms are the node's own, with every behaviour; nobody is behind them, so that what is measured is the network's.

use std::{collections::BTreeSet, fmt, time::Duration};

use atlas_node::{
    chain::rpc as ledger_rpc,
    clock, executor, gossip, health,
    identity::Keypair,
    node::traffic,
    proof, shard,
    swarm::{self, BehaviourEvent, SwarmEvent},
    types::{Digest, Time},
};
use futures::StreamExt as _;
use libp2p::{Multiaddr, gossipsub, metrics::Registry};
use tokio::sync::{mpsc, watch};

/// Peers that each node dials when it starts, as `simulations/` has it.
const BOOTSTRAP: usize = 4;
/// A mesh is formed once each node has so many neighbours in it (gossipsub's `mesh_n_low`, less one that may be late).
const NEIGHBOURS: usize = 4;
/// Messages that are published and counted.
const MESSAGES: usize = 20;
/// Bytes of a message: a status change with its signature.
const MESSAGE_BYTES: usize = 300;
/// How often a node says how many neighbours it has.
const REPORT: Duration = Duration::from_millis(50);
/// And how often what it has sent.
const COUNT: Duration = Duration::from_millis(500);
/// How long it is counted what nodes send that have nothing to say, and again until it is settled.
const IDLE: Duration = Duration::from_secs(3);
/// Every node may be connected with every other, both ways: they find each other in the routing tables.
const MAX_CONNECTIONS: u32 = 2_048;
/// Nothing here takes longer, or something is broken.
const LIMIT: Duration = Duration::from_secs(120);

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("a swarm can't be built")]
    Swarm(#[from] swarm::Error),
    #[error("no thread for the swarms")]
    Runtime(#[from] std::io::Error),
    #[error("{0} did not happen within {limit} s", limit = LIMIT.as_secs())]
    Late(&'static str),
}

/// What came out.
#[derive(Debug)]
pub(super) struct Figures {
    nodes: usize,
    formed: Duration,
    /// From publishing to the last node's hearing: the median message, and the slowest.
    spread: (Duration, Duration),
    /// Bytes that all nodes sent for one message, less what they send anyway.
    bytes_a_message: u64,
    /// Bytes a second that a node sends when nobody says anything.
    idle_bytes_a_second: u64,
    join: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |time: Duration| format!("{} ms", time.as_millis());
        let heard = (self.nodes - 1).max(1) as u64;
        let rows = [
            ("nodes", self.nodes.to_string()),
            ("mesh formed after", millis(self.formed)),
            (
                "a message reaches all within",
                format!("{} (slowest of {MESSAGES}: {})", millis(self.spread.0), millis(self.spread.1)),
            ),
            (
                "bytes sent for a message",
                format!("{} a node that hears it ({MESSAGE_BYTES} bytes long)", self.bytes_a_message / heard),
            ),
            ("bytes sent when idle", format!("{} a second and node", self.idle_bytes_a_second)),
            ("a newcomer hears all within", millis(self.join)),
        ];
        rows.iter().try_for_each(|(name, value)| writeln!(f, "{name:<30}{value}"))
    }
}

/// What a node knows.
#[derive(Clone, Debug, Default)]
struct Known {
    address: Option<Multiaddr>,
    neighbours: usize,
    heard: BTreeSet<Digest>,
    sent_bytes: u64,
}

/// What a node is told.
enum Command {
    Dial(Multiaddr),
    Publish(Vec<u8>),
}

struct Node {
    commands: mpsc::Sender<Command>,
    known: watch::Receiver<Known>,
}

/// Runs so many swarms.
pub(super) fn measure(nodes: usize) -> Result<Figures, Error> {
    tokio::runtime::Runtime::new()?.block_on(run(nodes.max(2)))
}

async fn run(count: usize) -> Result<Figures, Error> {
    let mut nodes = Vec::new();
    let began = clock::now();
    for index in 0..count {
        let node = start(index, count)?;
        introduce(&node, &nodes).await?;
        nodes.push(node);
    }
    let enough = NEIGHBOURS.min(count - 1).min(BOOTSTRAP);
    wait_all(&nodes, "the mesh", |known| known.neighbours >= enough).await?;
    let formed = clock::now().since(began);

    let idle = settled(&nodes).await?;

    let (before, talk_since) = (counted(&nodes).await, clock::now());
    let mut times = Vec::new();
    for number in 0..MESSAGES {
        times.push(publish(&nodes, number).await?);
    }
    let talked = counted(&nodes).await - before;
    let anyway = idle * millis(talk_since) / 1_000;
    times.sort();

    let joins = clock::now();
    let newcomer = start(count, count)?;
    introduce(&newcomer, &nodes).await?;
    nodes.push(newcomer);
    wait_all(&nodes[count..], "the newcomer's mesh", |known| known.neighbours > 0).await?;
    publish(&nodes, MESSAGES).await?;
    Ok(Figures {
        nodes: count,
        formed,
        spread: (times[MESSAGES / 2], times[MESSAGES - 1]),
        bytes_a_message: talked.saturating_sub(anyway) / MESSAGES as u64,
        idle_bytes_a_second: idle / count as u64,
        join: clock::now().since(joins),
    })
}

fn millis(since: Time) -> u64 {
    u64::try_from(clock::now().since(since).as_millis()).unwrap_or(u64::MAX)
}

fn rate(bytes: u64, since: Time) -> u64 {
    bytes * 1_000 / millis(since).max(1)
}

/// Bytes that all nodes send in a second once they have found each other: when it falls no more.
async fn settled(nodes: &[Node]) -> Result<u64, Error> {
    let wait = async {
        let mut last = u64::MAX;
        loop {
            let (before, since) = (counted(nodes).await, clock::now());
            tokio::time::sleep(IDLE).await;
            let now = rate(counted(nodes).await - before, since);
            if now > last / 10 * 9 {
                return now.min(last);
            }
            last = now;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.map_err(|_| Error::Late("an idle mesh"))
}

/// What all nodes have sent by now.
async fn counted(nodes: &[Node]) -> u64 {
    tokio::time::sleep(COUNT * 2).await;
    nodes.iter().map(|node| node.known.borrow().sent_bytes).sum()
}

/// Tells a node of some that were there before it.
async fn introduce(node: &Node, others: &[Node]) -> Result<(), Error> {
    wait_all(std::slice::from_ref(node), "listening", |known| known.address.is_some()).await?;
    let step = (others.len() / BOOTSTRAP).max(1);
    for other in others.iter().rev().step_by(step).take(BOOTSTRAP) {
        let address = other.known.borrow().address.clone();
        if let Some(address) = address {
            node.commands.send(Command::Dial(address)).await.ok();
        }
    }
    Ok(())
}

/// Publishes from one of the nodes; how long it takes until all have heard.
async fn publish(nodes: &[Node], number: usize) -> Result<Duration, Error> {
    let mut bytes = vec![0; MESSAGE_BYTES];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    let name = Digest::of(&bytes);
    let began = clock::now();
    nodes[number * 7 % nodes.len()].commands.send(Command::Publish(bytes)).await.ok();
    wait_all(nodes, "a message's arrival", |known| known.heard.contains(&name)).await?;
    Ok(clock::now().since(began))
}

async fn wait_all(nodes: &[Node], what: &'static str, holds: impl Fn(&Known) -> bool) -> Result<(), Error> {
    let all = async {
        for node in nodes {
            node.known.clone().wait_for(|known| holds(known)).await.map_err(|_| Error::Late(what))?;
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, all).await.map_err(|_| Error::Late(what))?
}

/// A swarm, one of so many in this process.
fn start(index: usize, nodes: usize) -> Result<Node, Error> {
    let keypair = Keypair::from_secret(&Digest::of(&(index as u64).to_be_bytes()).0);
    let config = swarm::Config {
        reporter: atlas_node::conduct::Reporter::silent(),
        recording: None,
        mdns: false,
        upnp: false,
        swarm_key: None,
        gossip_heartbeat: Duration::from_secs(1),
        max_connections: MAX_CONNECTIONS,
        max_memory: nodes * swarm::MAX_MEMORY,
        allow: Vec::new(),
        block: Vec::new(),
    };
    let states = swarm::States {
        executor: executor::State::new(executor::Config::default()),
        inference: executor::inference::State::new(executor::inference::Config::default()),
        health: health::State::new(health::Config::default(), keypair.clone(), clock::now()),
        proof: proof::State::new(proof::Config::default(), keypair.node_key()),
        shard: shard::State::new(shard::Config::default(), Vec::new()),
        ledger_rpc: ledger_rpc::State::new(ledger_rpc::Config::default()),
    };
    let mut registry = Registry::default();
    let mut swarm = swarm::build(&keypair, &config, states, &mut registry)?;
    let (commands, mut inbox) = mpsc::channel(64);
    let (tell, known) = watch::channel(Known::default());
    let topic = gossipsub::IdentTopic::new(gossip::TOPIC_HEARTBEAT);
    let listen: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().expect("it is an address");
    tokio::spawn(async move {
        swarm.listen_on(listen).ok();
        let (mut report, mut count) = (tokio::time::interval(REPORT), tokio::time::interval(COUNT));
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    None => return,
                    Some(Command::Dial(address)) => drop(swarm.dial(address)),
                    Some(Command::Publish(bytes)) => {
                        let name = Digest::of(&bytes);
                        if swarm.behaviour_mut().gossip.publish(topic.clone(), bytes).is_ok() {
                            tell.send_modify(|known| { known.heard.insert(name); });
                        }
                    }
                },
                event = swarm.select_next_some() => match event {
                    SwarmEvent::NewListenAddr { address, .. } => tell.send_modify(|known| known.address = Some(address)),
                    SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message })) => {
                        let accept = gossipsub::MessageAcceptance::Accept;
                        swarm.behaviour_mut().gossip.report_message_validation_result(&message_id, &propagation_source, accept);
                        tell.send_modify(|known| { known.heard.insert(Digest::of(&message.data)); });
                    }
                    _ => {}
                },
                _ = report.tick() => {
                    let neighbours = swarm.behaviour().gossip.mesh_peers(&topic.hash()).count();
                    tell.send_modify(|known| known.neighbours = neighbours);
                }
                _ = count.tick() => {
                    let sent = traffic::total(&registry).sent;
                    tell.send_modify(|known| known.sent_bytes = sent);
                }
            }
        }
    });
    Ok(Node { commands, known })
}
