//! Connections, addresses and discovery.

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};

use super::{Coordinator, MAX_REMEMBERED, Output};
use crate::{
    api::NodeEvent,
    conduct::Offence,
    health, identity, network, shard,
    types::{ContentId, NodeKey, NodeStatus},
};

/// What happened between this node and a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerEvent {
    /// This node listens at an address.
    Listening(Multiaddr),
    /// It no longer does.
    NotListening(Multiaddr),
    /// Peers reach this node at an address.
    External(Multiaddr),
    /// A connection opened.
    Connected {
        /// To whom.
        peer: PeerId,
        /// Where it is.
        address: Multiaddr,
        /// Who began it: true for us.
        outbound: bool,
    },
    /// The last connection closed.
    Disconnected {
        /// To whom.
        peer: PeerId,
    },
    /// A peer said who it is.
    Identified {
        /// Who.
        peer: PeerId,
        /// Where it listens.
        listen: Vec<Multiaddr>,
        /// Where it sees us.
        observed: Multiaddr,
        /// What it runs.
        agent: String,
        /// It answers questions about the routing table. One that doesn't has no place there.
        routes: bool,
    },
    /// mDNS found a peer.
    Discovered {
        /// Who.
        peer: PeerId,
        /// Where.
        address: Multiaddr,
    },
    /// A dial failed.
    DialFailed {
        /// Whom, if it was known.
        peer: Option<PeerId>,
        /// The transport's words.
        error: String,
    },
    /// Ping measured a round trip.
    RoundTrip {
        /// With whom.
        peer: PeerId,
        /// In microseconds.
        micros: u64,
    },
    /// The service that the operator opted in to says where this node stands.
    Placed(network::Place),
    /// A peer did what no honest one does.
    Misbehaved {
        /// Who.
        peer: PeerId,
        /// What.
        offence: Offence,
    },
    /// The routing table names providers.
    Providers {
        /// Of what.
        root: ContentId,
        /// Who.
        peers: Vec<PeerId>,
    },
}

/// What this node knows of a connected peer.
#[derive(Clone, Debug, Default)]
pub(super) struct PeerInfo {
    pub(super) outbound: bool,
    pub(super) agent: Option<String>,
    pub(super) listen: Vec<Multiaddr>,
    pub(super) latency_micros: Option<u64>,
    pub(super) standing: Option<NodeStatus>,
}

impl Coordinator {
    pub(super) fn on_peer(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Listening(address) => {
                self.listen.insert(address);
            }
            PeerEvent::NotListening(address) => {
                self.listen.remove(&address);
            }
            PeerEvent::External(address) => {
                self.external.insert(address);
            }
            PeerEvent::Connected { peer, address, outbound } => self.on_connected(peer, address, outbound),
            PeerEvent::Disconnected { peer } => self.on_disconnected(peer),
            PeerEvent::Identified { peer, listen, observed, agent, routes } => {
                self.on_identified(peer, listen, &observed, agent, routes);
            }
            PeerEvent::Discovered { peer, address } => {
                self.output(Output::AddAddress { peer, address: address.clone() });
                self.connectivity.remember(peer, [address], self.now);
            }
            PeerEvent::DialFailed { peer, error } => {
                tracing::debug!(?peer, error, "a dial failed");
                self.connectivity.on_dial_failed(peer, &error);
            }
            PeerEvent::RoundTrip { peer, micros } => {
                if let Some(info) = self.peers.get_mut(&peer) {
                    info.latency_micros = Some(micros);
                }
            }
            PeerEvent::Misbehaved { peer, offence } => self.on_offence(peer, offence),
            PeerEvent::Placed(place) => self.network.handle(network::Input::Placed(place), self.now),
            PeerEvent::Providers { root, peers } => {
                for id in self.wanting.get(&root).cloned().unwrap_or_default() {
                    self.output(Output::Shard(shard::Input::AddProviders { id, providers: peers.clone() }));
                }
            }
        }
    }

    /// Counts it, and cuts off whoever did too much.
    pub(super) fn on_offence(&mut self, peer: PeerId, offence: Offence) {
        let Some(cut_off) = self.conduct.offend(peer, offence, self.now) else { return };
        let seconds = cut_off.until.since(self.now).as_secs();
        tracing::warn!(
            %peer,
            seconds,
            times = cut_off.times,
            reason = cut_off.why,
            "a peer is cut off: its connections are closed and refused for so long"
        );
        self.output(Output::CutOff(peer));
    }

    /// Lets those back whose time is over.
    pub(super) fn readmit(&mut self) {
        for peer in self.conduct.readmit(self.now) {
            tracing::info!(%peer, "a peer that was cut off may come back");
            self.output(Output::Readmit(peer));
        }
    }

    fn on_connected(&mut self, peer: PeerId, address: Multiaddr, outbound: bool) {
        self.connectivity.on_connected(peer, address.clone());
        if self.peers.contains_key(&peer) {
            return;
        }
        self.peers.insert(peer, PeerInfo { outbound, ..PeerInfo::default() });
        self.notify(NodeEvent::PeerConnected { peer_id: peer.to_string(), address: address.to_string() });
        self.update_members(identity::node_key(&peer));
        self.name_holders();
        self.ask_for_wanted(peer);
    }

    /// Who comes while content is wanted may have it, and tells nobody unasked.
    fn ask_for_wanted(&mut self, peer: PeerId) {
        for id in self.wanting.values().flatten().copied().collect::<Vec<_>>() {
            self.output(Output::Shard(shard::Input::AddProviders { id, providers: vec![peer] }));
        }
    }

    fn on_disconnected(&mut self, peer: PeerId) {
        self.connectivity.on_disconnected(&peer, self.now);
        self.peers.remove(&peer);
        self.notify(NodeEvent::PeerDisconnected { peer_id: peer.to_string() });
        self.update_members(identity::node_key(&peer));
        self.name_holders();
    }

    fn on_identified(
        &mut self,
        peer: PeerId,
        listen: Vec<Multiaddr>,
        observed: &Multiaddr,
        agent: String,
        routes: bool,
    ) {
        /// Addresses of one peer that are kept; a peer may name any number.
        const MAX_ADDRESSES: usize = 16;
        let listen: Vec<Multiaddr> = listen.into_iter().take(MAX_ADDRESSES).collect();
        for address in listen.iter().filter(|_| routes) {
            self.output(Output::AddAddress { peer, address: address.clone() });
        }
        if routes {
            self.provide_again();
        }
        self.connectivity.remember(peer, listen.iter().cloned(), self.now);
        self.network.handle(network::Input::Observed { by: peer, address: observed.clone() }, self.now);
        let Some(info) = self.peers.get_mut(&peer) else { return };
        info.listen = listen;
        info.agent = Some(agent.chars().take(64).collect());
        let known: Vec<(PeerId, Multiaddr)> = self
            .peers
            .iter()
            .filter_map(|(peer, info)| info.listen.first().map(|address| (*peer, address.clone())))
            .take(MAX_REMEMBERED)
            .collect();
        self.output(Output::RememberPeers(known));
        // A few paths are measured, for the registration; not the peer's own business, so not with each of them.
        if self.network.begin_measuring(peer, self.now) {
            let id = self.wait_for(super::Pending::Speed);
            self.output(Output::Health(health::Input::MeasureSpeed { id, peer }));
        }
    }

    /// Tells health which of `changed` there are: who is connected, or stands on a ledger and is not offline.
    pub(super) fn update_members(&mut self, changed: impl IntoIterator<Item = NodeKey>) {
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        for node in changed {
            let peer = identity::peer_id_of_known(&node);
            let here =
                self.peers.contains_key(&peer) || self.ledgers.keys().any(|ledger| self.is_present(ledger, &node));
            if here && node != self.me && self.members.insert(node) {
                joined.push((node, peer));
            } else if !here && self.members.remove(&node) {
                left.push(node);
            }
        }
        if !joined.is_empty() || !left.is_empty() {
            self.output(Output::Health(health::Input::Members { joined, left }));
        }
    }
}
