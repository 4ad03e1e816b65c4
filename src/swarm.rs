//! The one root behaviour, its transports and its topics.
//!
//! Joins the protocol behaviours with what libp2p brings. Holds no policy: what to dial, whom to trust and what a
//! message means is decided elsewhere. Outside this file and the event loop nothing names a `Swarm`.
#![allow(missing_docs, reason = "the derive writes an event enum without docs; each item written here has its own")]

use std::{io, time::Duration};

use libp2p::{
    PeerId, StreamProtocol, Transport, allow_block_list as block_list, autonat, connection_limits,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    dcutr, gossipsub, identify, identity, kad, mdns, memory_connection_limits, metrics, noise, ping,
    pnet::{PnetConfig, PreSharedKey},
    quic, relay,
    swarm::{NetworkBehaviour, Swarm, behaviour::toggle::Toggle},
    tcp, upnp, yamux,
};

pub use libp2p::swarm::SwarmEvent;

use crate::{
    chain::rpc as ledger_rpc, executor, gossip, health, identity::Keypair, proof,
    protocol::behaviour::Behaviour as Protocol, record::Recording, shard,
};

/// Kademlia of this network alone: an Atlas node is no use to the public IPFS table, nor it to us.
pub(crate) const KADEMLIA_PROTOCOL: StreamProtocol = StreamProtocol::new("/atlas/kad/1");
/// What identify says this node speaks.
const IDENTIFY_PROTOCOL: &str = "/atlas/id/1";
/// A connection that nothing uses is closed after this long; beats (30 s) keep those of watchers open.
const IDLE_CONNECTION: Duration = Duration::from_secs(120);
/// Connections a peer may have: TCP and QUIC, both ways, and one being upgraded by hole punching.
const MAX_ESTABLISHED_PER_PEER: u32 = 5;
/// Handshakes that may be under way at once in each direction; a further one is refused.
const MAX_PENDING: u32 = 128;
/// New connections are refused while the process is larger than this many bytes.
const MAX_MEMORY: usize = 1 << 30;

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
    /// Connections at once; a further one is refused. 0.4 MiB each.
    pub max_connections: u32,
    /// If not empty, no other peer is talked to.
    pub allow: Vec<PeerId>,
    /// Peers never talked to.
    pub block: Vec<PeerId>,
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
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    /// Keeps connections proven alive and measures their round trip.
    ping: ping::Behaviour,
    /// Tells peers who we are and learns who they are.
    identify: identify::Behaviour,
    /// Finds peers and providers.
    pub kademlia: kad::Behaviour<kad::store::MemoryStore>,
    mdns: Toggle<mdns::tokio::Behaviour>,
    upnp: Toggle<upnp::tokio::Behaviour>,
    autonat_client: autonat::v2::client::Behaviour,
    autonat_server: autonat::v2::server::Behaviour,
    relay: relay::client::Behaviour,
    dcutr: dcutr::Behaviour,
    /// Small signed messages to everybody.
    pub gossip: gossipsub::Behaviour,
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

/// Builds the swarm. It listens nowhere yet. Bytes sent and received are counted into `registry`; what the states are
/// told goes into `recording`.
pub fn build(
    keypair: &Keypair,
    config: &Config,
    states: States,
    recording: Option<&Recording>,
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
        .with_behaviour(|key, relay| behaviour(key, relay, config, states, recording))
        .map_err(|error| component("the behaviour", error))?;
    Ok(builder.with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE_CONNECTION)).build())
}

type Connection = (PeerId, StreamMuxerBox);

/// TCP with Noise and Yamux, behind the pre-shared key if there is one; QUIC only without.
///
/// # Errors
/// If Noise can't sign with `key`.
pub fn transport(
    key: &identity::Keypair,
    swarm_key: Option<PreSharedKey>,
) -> Result<Boxed<Connection>, Box<dyn std::error::Error + Send + Sync>> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let noise = noise::Config::new(key)?;
    if let Some(swarm_key) = swarm_key {
        let private = tcp.and_then(move |socket, _| PnetConfig::new(swarm_key).handshake(socket));
        let connection = private.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux::Config::default());
        return Ok(connection.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed());
    }
    let tcp = tcp.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux::Config::default());
    let quic = quic::tokio::Transport::new(quic::Config::new(key));
    let either = tcp
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .or_transport(quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))));
    Ok(either.map(|either, _| either.into_inner()).boxed())
}

fn behaviour(
    key: &identity::Keypair,
    relay: relay::client::Behaviour,
    config: &Config,
    states: States,
    recording: Option<&Recording>,
) -> Result<Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let peer = key.public().to_peer_id();
    let mdns = config.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), peer)).transpose()?;
    let identify = identify::Config::new(IDENTIFY_PROTOCOL.into(), key.public())
        .with_agent_version(format!("atlas-node/{}", env!("CARGO_PKG_VERSION")))
        .with_push_listen_addr_updates(true);
    Ok(Behaviour {
        blocked: blocked(&config.block),
        allowed: allowed(&config.allow).into(),
        limits: connection_limits::Behaviour::new(
            connection_limits::ConnectionLimits::default()
                .with_max_pending_incoming(Some(MAX_PENDING))
                .with_max_pending_outgoing(Some(MAX_PENDING))
                .with_max_established(Some(config.max_connections))
                .with_max_established_per_peer(Some(MAX_ESTABLISHED_PER_PEER)),
        ),
        memory: memory_connection_limits::Behaviour::with_max_bytes(MAX_MEMORY),
        ping: ping::Behaviour::default(),
        identify: identify::Behaviour::new(identify),
        kademlia: kademlia(peer),
        mdns: mdns.into(),
        upnp: config.upnp.then(upnp::tokio::Behaviour::default).into(),
        autonat_client: autonat::v2::client::Behaviour::default(),
        autonat_server: autonat::v2::server::Behaviour::default(),
        relay,
        dcutr: dcutr::Behaviour::new(peer),
        gossip: gossip_behaviour(config)?,
        executor: Protocol::new(states.executor, recording),
        inference: Protocol::new(states.inference, recording),
        health: Protocol::new(states.health, recording),
        proof: Protocol::new(states.proof, recording),
        shard: Protocol::new(states.shard, recording),
        ledger_rpc: Protocol::new(states.ledger_rpc, recording),
    })
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
    let mut kademlia = kad::Behaviour::with_config(peer, kad::store::MemoryStore::new(peer), config);
    // Every node serves the table: the network is small, and a node behind a router still answers over its open connections.
    kademlia.set_mode(Some(kad::Mode::Server));
    kademlia
}

fn gossip_behaviour(config: &Config) -> Result<gossipsub::Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let gossip_config = gossipsub::ConfigBuilder::default()
        .heartbeat_interval(config.gossip_heartbeat)
        .heartbeat_initial_delay(config.gossip_heartbeat / 4)
        .max_transmit_size(gossip::MAX_MESSAGE + gossip::ENVELOPE)
        .duplicate_cache_time(gossip::MEMORY)
        // The envelope carries the one signature that counts; gossipsub would verify its own on every copy.
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| gossipsub::MessageId::from(crate::types::Digest::of(&message.data).0.to_vec()))
        .build()?;
    let mut behaviour = gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, gossip_config)?;
    for topic in [gossip::TOPIC_JOBS, gossip::TOPIC_ASSIGN, gossip::TOPIC_ROLLBACK, gossip::TOPIC_HEARTBEAT] {
        behaviour.subscribe(&gossipsub::IdentTopic::new(topic))?;
    }
    Ok(behaviour)
}
