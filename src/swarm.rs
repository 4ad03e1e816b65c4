//! The one root behaviour, its transports and its topics.
//!
//! Joins the protocol behaviours with what libp2p brings. Holds no policy: what to dial, whom to trust and what a
//! message means is decided elsewhere. Outside this file and the event loop nothing names a `Swarm`. [`gate`] counts
//! connections and [`mesh`] counts gossip; both report to [`crate::conduct`].
#![allow(missing_docs, reason = "the derive writes an event enum without docs; each item written here has its own")]

mod closing;
pub mod gate;
pub mod mesh;
mod muxer;
pub mod quic;
pub mod spare;

use std::{io, time::Duration};

use libp2p::{
    PeerId, StreamProtocol, Transport, allow_block_list as block_list, autonat,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    dcutr, identify, identity, kad, mdns, memory_connection_limits, metrics, noise, ping,
    pnet::{PnetConfig, PreSharedKey},
    relay,
    swarm::{NetworkBehaviour, Swarm, behaviour::toggle::Toggle},
    tcp, upnp, yamux,
};

pub use libp2p::swarm::SwarmEvent;

use self::{closing::Closing, gate::Gate, mesh::Mesh, spare::Spare};
use crate::{
    chain::rpc as ledger_rpc,
    conduct::{self, Offence, Reporter},
    executor, health,
    identity::Keypair,
    proof,
    protocol::{behaviour::Behaviour as Protocol, metered::Metered},
    record::Recording,
    shard,
};

/// Kademlia of this network alone: an Atlas node is no use to the public IPFS table, nor it to us.
pub(crate) const KADEMLIA_PROTOCOL: StreamProtocol = StreamProtocol::new(KADEMLIA);
const KADEMLIA: &str = "/atlas/kad/1";
/// What identify says this node speaks.
const IDENTIFY_PROTOCOL: &str = "/atlas/id/1";
/// A connection that nothing uses is closed after this long; beats (30 s) keep those of watchers open.
const IDLE_CONNECTION: Duration = Duration::from_secs(120);
/// What a node gives to its process, in bytes, before it refuses new connections: a node in a job has under 150 MiB, and a
/// connection takes 0.15 MiB (measured with 100 swarms, each connected with all).
pub const MAX_MEMORY: usize = 1 << 30;

/// What the swarm is made from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Find peers on the local network. Off in `testnet`.
    pub mdns: bool,
    /// Ask the router for an open port. Off in `testnet`.
    pub upnp: bool,
    /// The key of a private network (`/key/swarm/psk/1.0.0/`). It covers TCP alone, so QUIC is off with it.
    pub swarm_key: Option<PreSharedKey>,
    /// How often gossipsub tends its meshes; its own default is 1 s, `testnet` asks for less.
    pub gossip_heartbeat: Duration,
    /// Connections at once; a further one is refused.
    pub max_connections: u32,
    /// New connections are refused while the process is larger than this many bytes.
    pub max_memory: usize,
    /// If not empty, no other peer is talked to.
    pub allow: Vec<PeerId>,
    /// Peers never talked to.
    pub block: Vec<PeerId>,
    /// Where misbehaviour is told.
    pub reporter: Reporter,
    /// Where what the states are told is written down.
    pub recording: Option<Recording>,
}

/// The states of the protocols, to be put into the swarm.
pub struct States {
    /// `/atlas/task/1`.
    pub executor: executor::State,
    /// `/atlas/infer/1`.
    pub inference: executor::inference::State,
    /// `/atlas/health/1`.
    pub health: health::State,
    /// `/atlas/proof/1`.
    pub proof: proof::State,
    /// `/atlas/shard/1`.
    pub shard: shard::State,
    /// `/atlas/ledger-rpc/1`.
    pub ledger_rpc: ledger_rpc::State,
}

/// Everything the node speaks.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    blocked: block_list::Behaviour<block_list::BlockedPeers>,
    allowed: Toggle<block_list::Behaviour<block_list::AllowedPeers>>,
    gate: Gate,
    memory: memory_connection_limits::Behaviour,
    /// Closes what is dialled beside a connection that is there.
    pub(crate) spare: Spare,
    /// Keeps connections proven alive and measures their round trip.
    ping: ping::Behaviour,
    /// Tells peers who we are and learns who they are.
    identify: Metered<identify::Behaviour>,
    /// Finds peers and providers.
    pub kademlia: Metered<kad::Behaviour<kad::store::MemoryStore>>,
    mdns: Toggle<mdns::tokio::Behaviour>,
    upnp: Toggle<upnp::tokio::Behaviour>,
    autonat_client: autonat::v2::client::Behaviour,
    autonat_server: autonat::v2::server::Behaviour,
    relay: relay::client::Behaviour,
    dcutr: dcutr::Behaviour,
    /// Small signed messages to everybody.
    pub gossip: Metered<Mesh>,
    /// Tasks.
    pub executor: Protocol<executor::State>,
    /// Inference.
    pub inference: Protocol<executor::inference::State>,
    /// Heartbeats and probes.
    pub health: Protocol<health::State>,
    /// Receipts and challenges.
    pub proof: Protocol<proof::State>,
    /// Blocks.
    pub shard: Protocol<shard::State>,
    /// The ledger between peers.
    pub ledger_rpc: Protocol<ledger_rpc::State>,
}

impl Behaviour {
    /// Refuses `peer` from now on and closes its connections.
    pub fn block(&mut self, peer: PeerId) {
        self.blocked.block_peer(peer);
    }

    /// Talks to `peer` again.
    pub fn unblock(&mut self, peer: PeerId) {
        self.blocked.unblock_peer(peer);
    }
}

/// Why there is no swarm.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's name resolution is not set up.
    #[error("the resolver configuration (/etc/resolv.conf) can't be read")]
    Resolver(#[source] io::Error),
    /// A component refused its configuration.
    #[error("{component} can't be set up: {reason}")]
    Component {
        /// Which.
        component: &'static str,
        /// Its own words.
        reason: String,
    },
}

fn component(component: &'static str, reason: impl ToString) -> Error {
    Error::Component { component, reason: reason.to_string() }
}

/// Builds the swarm. It listens nowhere yet. Bytes sent and received are counted into `registry`.
pub fn build(
    keypair: &Keypair,
    config: &Config,
    states: States,
    registry: &mut metrics::Registry,
) -> Result<Swarm<Behaviour>, Error> {
    let swarm_key = config.swarm_key;
    let builder = libp2p::SwarmBuilder::with_existing_identity(keypair.to_libp2p())
        .with_tokio()
        .with_other_transport(|key| transport(key, swarm_key))
        .map_err(|error| component("the transport", error))?
        .with_dns()
        .map_err(Error::Resolver)?
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .map_err(|error| component("the relay client", error))?
        .with_bandwidth_metrics(registry)
        .with_behaviour(|key, relay| behaviour(key, relay, config, states))
        .map_err(|error| component("the behaviour", error))?;
    Ok(builder.with_swarm_config(of_swarm).build())
}

/// Streams do not wait for the peer's consent to their protocol. That is one round trip less for every message; and Yamux, which
/// widens the window of a stream whose first bytes come within two round trips of its opening, then does so at once: over 200 ms
/// a block of 1 MiB takes three round trips rather than five.
fn of_swarm(config: libp2p::swarm::Config) -> libp2p::swarm::Config {
    config.with_idle_connection_timeout(IDLE_CONNECTION).with_substream_upgrade_protocol_override(Version::V1Lazy)
}

type Connection = (PeerId, StreamMuxerBox);

/// TCP with Noise and Yamux, behind the pre-shared key if there is one; QUIC only without.
///
/// # Errors
/// If no certificate can be made with `key`.
pub fn transport(
    key: &identity::Keypair,
    swarm_key: Option<PreSharedKey>,
) -> Result<Boxed<Connection>, Box<dyn std::error::Error + Send + Sync>> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)).map(|socket, _| muxer::buffered(socket));
    let noise = noise::Config::new(key)?;
    if let Some(swarm_key) = swarm_key {
        let private = tcp.and_then(move |socket, _| PnetConfig::new(swarm_key).handshake(socket));
        let connection = private.upgrade(Version::V1Lazy).authenticate(noise).multiplex(muxer::Yamux);
        return Ok(connection.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Closing::new(muxer)))).boxed());
    }
    let tcp = tcp.upgrade(Version::V1Lazy).authenticate(noise).multiplex(muxer::Yamux);
    let quic = quic::Transport::new(key)?;
    let either = tcp
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Closing::new(muxer))))
        .or_transport(quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Closing::new(muxer)))));
    Ok(either.map(|either, _| either.into_inner()).boxed())
}

fn behaviour(
    key: &identity::Keypair,
    relay: relay::client::Behaviour,
    config: &Config,
    states: States,
) -> Result<Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let peer = key.public().to_peer_id();
    let mdns = config.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), peer)).transpose()?;
    let identify = identify::Config::new(IDENTIFY_PROTOCOL.into(), key.public())
        .with_agent_version(format!("atlas-node/{}", env!("CARGO_PKG_VERSION")))
        .with_push_listen_addr_updates(true);
    Ok(Behaviour {
        blocked: blocked(&config.block),
        allowed: allowed(&config.allow).into(),
        gate: Gate::new(config.max_connections, config.reporter.clone()),
        memory: memory_connection_limits::Behaviour::with_max_bytes(config.max_memory),
        spare: Spare::new(peer),
        ping: ping::Behaviour::default(),
        identify: Metered::new(
            identify::Behaviour::new(identify),
            "identify",
            conduct::IDENTIFY_STREAMS,
            config.reporter.clone(),
        ),
        kademlia: Metered::new(kademlia(peer), KADEMLIA, conduct::KADEMLIA_STREAMS, config.reporter.clone()),
        mdns: mdns.into(),
        upnp: config.upnp.then(upnp::tokio::Behaviour::default).into(),
        autonat_client: autonat::v2::client::Behaviour::default(),
        autonat_server: autonat::v2::server::Behaviour::default(),
        relay,
        dcutr: dcutr::Behaviour::new(peer),
        gossip: Metered::of_connection(
            Mesh::new(config.gossip_heartbeat, config.reporter.clone())?,
            conduct::GOSSIP_STREAMS,
            |count| Offence::GossipAgain { count },
            config.reporter.clone(),
        ),
        executor: watched(states.executor, config),
        inference: watched(states.inference, config),
        health: watched(states.health, config),
        proof: watched(states.proof, config),
        shard: watched(states.shard, config),
        ledger_rpc: watched(states.ledger_rpc, config),
    })
}

fn watched<S: crate::protocol::State>(state: S, config: &Config) -> Protocol<S> {
    Protocol::watched(state, config.reporter.clone(), config.recording.as_ref())
}

fn blocked(peers: &[PeerId]) -> block_list::Behaviour<block_list::BlockedPeers> {
    let mut behaviour = block_list::Behaviour::default();
    for peer in peers {
        behaviour.block_peer(*peer);
    }
    behaviour
}

fn allowed(peers: &[PeerId]) -> Option<block_list::Behaviour<block_list::AllowedPeers>> {
    let mut behaviour = block_list::Behaviour::default();
    for peer in peers {
        behaviour.allow_peer(*peer);
    }
    (!peers.is_empty()).then_some(behaviour)
}

fn kademlia(peer: PeerId) -> kad::Behaviour<kad::store::MemoryStore> {
    let mut config = kad::Config::new(KADEMLIA_PROTOCOL);
    config.set_periodic_bootstrap_interval(Some(Duration::from_secs(300)));
    // Values are no part of this network: nobody can have a node keep some.
    let store = kad::store::MemoryStoreConfig { max_records: 0, ..Default::default() };
    let store = kad::store::MemoryStore::with_config(peer, store);
    let mut kademlia = kad::Behaviour::with_config(peer, store, config);
    // Every node serves the table: the network is small, and a node behind a router still answers over its open connections.
    kademlia.set_mode(Some(kad::Mode::Server));
    kademlia
}
