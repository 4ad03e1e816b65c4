//! Connections, messages and gossip between simulated machines.

use std::time::Duration;

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};

use super::{
    host::{Carried, Frame},
    scenario::LATE_MILLIS,
    world::{Delivery, Happening, World},
};
use crate::{
    gossip,
    node::coordinator::{GossipId, Input, PeerEvent},
    protocol::SendError,
    types::{ContentId, Digest},
};

/// A dial into the void is given up after this (the transport's own limit).
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// A connection over which nothing comes is closed after this (ping's interval and limit, design of the swarm).
pub(super) const CONNECTION_LIMIT: Duration = Duration::from_secs(35);
/// Peers that a message is forwarded to (gossipsub's degree and two).
const FORWARD: usize = 8;
/// The port that an outgoing connection seems to come from.
const EPHEMERAL_PORT: u16 = 50_000;

/// Messages that are lost for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) inside: Vec<usize>,
    pub(super) one_way: bool,
    pub(super) with_ledger: bool,
}

impl Cut {
    /// Whether a message between two machines is lost.
    fn blocks(&self, from: usize, to: usize) -> bool {
        let (out, back) = (self.inside.contains(&from), self.inside.contains(&to));
        (out && !back) || (!self.one_way && back && !out)
    }

    /// Whether a machine can't ask the ledger: an answer needs both ways.
    fn blocks_ledger(&self, machine: usize) -> bool {
        self.with_ledger && self.inside.contains(&machine)
    }
}

impl World {
    /// How long a message takes now.
    pub(super) fn one_way(&mut self) -> Duration {
        let network = &self.scenario.network;
        let (least, jitter) = (network.latency_millis, network.jitter_millis);
        let late = if self.loss.happens(self.scenario.network.late_permille) { LATE_MILLIS } else { 0 };
        Duration::from_millis(self.latency.within(least..=least + jitter) + late)
    }

    /// How long so many bytes take beside the way itself.
    fn transfer(&self, bytes: usize) -> Duration {
        Duration::from_millis(bytes as u64 * 8 / self.scenario.network.kilobits)
    }

    /// The longest that a small message takes.
    fn longest(&self) -> Duration {
        let network = &self.scenario.network;
        Duration::from_millis(network.latency_millis + network.jitter_millis)
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.iter().flatten().any(|cut| cut.blocks(from, to))
    }

    pub(super) fn reaches_ledger(&self, machine: usize) -> bool {
        self.chain.away_until <= self.now && !self.cuts.iter().flatten().any(|cut| cut.blocks_ledger(machine))
    }

    fn links(&self, index: usize) -> Vec<usize> {
        self.machines[index].node.iter().flat_map(|node| node.links.iter().copied()).collect()
    }

    fn has_link(&self, index: usize, other: usize) -> bool {
        self.machines[index].node.as_ref().is_some_and(|node| node.links.contains(&other))
    }

    // Connections.

    pub(super) fn dial(&mut self, index: usize, address: &Multiaddr) {
        let Some(other) = self.index_at(address) else { return };
        if let Err(after) = self.connect(index, other) {
            let error = "the connection was refused or timed out".to_owned();
            let event = PeerEvent::DialFailed { peer: Some(self.machines[other].peer), error };
            self.reach(index, self.now + after, Delivery::Peer { machine: None, event });
        }
    }

    /// Opens a connection; both know of it a message later. Otherwise, after how long it fails.
    fn connect(&mut self, index: usize, other: usize) -> Result<(), Duration> {
        if self.is_cut(index, other) || self.is_cut(other, index) {
            return Err(DIAL_LIMIT);
        }
        if self.machines[other].node.is_none() || index == other {
            return Err(self.one_way());
        }
        let at = self.now + self.longest();
        self.tell_connected(index, other, true, at);
        self.tell_connected(other, index, false, at);
        Ok(())
    }

    fn tell_connected(&mut self, index: usize, other: usize, outbound: bool, at: crate::types::Time) {
        let there = &self.machines[other];
        let (peer, listen, full) = (there.peer, there.address.clone(), there.full_address());
        let mut inbound = there.address.clone();
        inbound.pop();
        let inbound = inbound.with(libp2p::multiaddr::Protocol::Tcp(EPHEMERAL_PORT));
        let address = if outbound { full } else { inbound };
        let observed = self.machines[index].address.clone();
        let event = PeerEvent::Connected { peer, address, outbound };
        self.reach(index, at, Delivery::Peer { machine: Some(other), event });
        let agent = "atlas-node/simulated".to_owned();
        let event = PeerEvent::Identified { peer, listen: vec![listen], observed, agent, routes: true };
        self.reach(index, at + self.longest(), Delivery::Peer { machine: None, event });
    }

    /// A connection opened or closed, or something else about a peer is known.
    pub(super) fn on_peer(&mut self, index: usize, other: Option<usize>, event: PeerEvent) {
        let Some(node) = &mut self.machines[index].node else { return };
        let news = match (&event, other) {
            (PeerEvent::Connected { .. }, Some(other)) => node.links.insert(other),
            (PeerEvent::Disconnected { .. }, Some(other)) => node.links.remove(&other),
            _ => true,
        };
        let opened = matches!(event, PeerEvent::Connected { .. });
        if news {
            self.with_node(index, |node, now, out| node.on_peer(event, now, out));
        }
        if opened {
            self.publish_waiting(index);
        }
    }

    /// A node is gone: those connected to it notice after a while.
    pub(super) fn hang_up(&mut self, index: usize, after: Duration) {
        for other in 0..self.machines.len() {
            if self.has_link(other, index) {
                self.disconnect(other, index, after);
            }
        }
    }

    fn disconnect(&mut self, index: usize, other: usize, after: Duration) {
        let event = PeerEvent::Disconnected { peer: self.machines[other].peer };
        self.reach(index, self.now + after, Delivery::Peer { machine: Some(other), event });
    }

    /// Connections over which nothing has come for too long are closed.
    pub(super) fn give_up(&mut self, cut: usize) {
        let Some(Some(cut)) = self.cuts.get(cut).cloned() else { return };
        for index in 0..self.machines.len() {
            for other in self.links(index) {
                if cut.blocks(index, other) || cut.blocks(other, index) {
                    self.disconnect(index, other, Duration::ZERO);
                }
            }
        }
    }

    // Requests and answers.

    pub(super) fn send(&mut self, index: usize, frame: Frame) {
        self.count(&frame.carried);
        let Some(other) = self.index_of(&frame.peer) else { return };
        let Frame { protocol, call, timeout_millis, .. } = frame;
        let is_request = matches!(frame.carried, Carried::Request(_));
        let mut at = self.now + self.one_way();
        if !self.has_link(index, other) {
            if !is_request {
                return;
            }
            if let Err(after) = self.connect(index, other) {
                let failed = Delivery::CallFailed { protocol, call, error: SendError::Unreachable };
                return self.reach(index, self.now + after, failed);
            }
            at = self.now + self.longest() * 2 + Duration::from_millis(1);
        }
        if is_request {
            let timeout = Delivery::CallFailed { protocol, call, error: SendError::Timeout };
            self.reach(index, self.now + Duration::from_millis(timeout_millis), timeout);
        }
        at = at + self.transfer(frame.carried.length());
        if self.loss.happens(self.scenario.network.loss_permille) {
            // Transports repeat what is lost; what can break is the stream, and then the caller hears of it.
            let caller = if is_request { index } else { other };
            return self.reach(caller, at, Delivery::CallFailed { protocol, call, error: SendError::Closed });
        }
        if !self.is_cut(index, other) {
            let frame = Frame { peer: self.machines[index].peer, ..frame };
            self.reach(other, at, Delivery::Frame { from: index, frame });
        }
    }

    pub(super) fn on_frame(&mut self, index: usize, from: usize, frame: Frame) {
        // Over a connection that one side has forgotten nothing arrives.
        if self.has_link(index, from) {
            self.with_node(index, |node, now, out| node.on_frame(frame, now, out));
        } else if self.has_link(from, index) {
            self.disconnect(from, index, self.longest());
        }
    }

    pub(super) fn find_providers(&mut self, index: usize, root: ContentId) {
        let known = self.providers.get(&root).cloned().unwrap_or_default();
        let alive = known.into_iter().filter(|other| *other != index && self.machines[*other].node.is_some());
        let peers: Vec<PeerId> = alive.map(|other| self.machines[other].peer).collect();
        if !peers.is_empty() {
            let event = PeerEvent::Providers { root, peers };
            let at = self.now + self.one_way() * 4;
            self.reach(index, at, Delivery::Peer { machine: None, event });
        }
    }

    // Gossip.

    fn listeners(&self, index: usize, topic: &str) -> Vec<usize> {
        let listens = |other: &usize| {
            let node = self.machines[*other].node.as_ref();
            node.is_some_and(|node| node.topics.contains(topic) && node.links.contains(&index))
        };
        self.links(index).into_iter().filter(listens).collect()
    }

    pub(super) fn publish(&mut self, index: usize, topic: String, bytes: Bytes) {
        let listeners = self.listeners(index, &topic);
        let now = self.now;
        let Some(node) = &mut self.machines[index].node else { return };
        if listeners.is_empty() {
            return node.publish_later(topic, bytes, now);
        }
        let id = Digest::of(&bytes);
        node.hear(id, &topic, &bytes, now);
        self.spread(index, &listeners, &topic, id, &bytes);
    }

    fn spread(&mut self, index: usize, listeners: &[usize], topic: &str, id: Digest, bytes: &Bytes) {
        let from = self.machines[index].peer;
        for other in listeners {
            let copies = 1 + usize::from(self.loss.happens(self.scenario.network.duplicate_permille));
            for _ in 0..copies {
                self.counts.messages += 1;
                self.counts.bytes += bytes.len() as u64;
                let lost = self.loss.happens(self.scenario.network.loss_permille);
                if !lost && !self.is_cut(index, *other) {
                    let at = self.now + self.one_way() + self.transfer(bytes.len());
                    let what = Delivery::Gossip { from, topic: topic.to_owned(), id, bytes: bytes.clone() };
                    self.reach(*other, at, what);
                }
            }
        }
    }

    pub(super) fn on_gossip(&mut self, index: usize, from: PeerId, topic: String, id: Digest, bytes: Bytes) {
        let now = self.now;
        let Some(node) = &mut self.machines[index].node else { return };
        let limit = gossip::MAX_MESSAGE + gossip::ENVELOPE;
        if bytes.len() > limit || !node.hear(id, &topic, &bytes, now) {
            return;
        }
        let id = GossipId { message: id.0.to_vec(), source: from };
        let input = Input::Gossip { topic, id, bytes: bytes.to_vec() };
        self.with_node(index, |node, now, out| node.input(input, now, out));
    }

    /// A message was found good: it goes on to some of those who have not sent it.
    pub(super) fn forward(&mut self, index: usize, id: &GossipId) {
        let Some(digest) = Digest::from_slice(&id.message) else { return };
        let source = self.index_of(&id.source);
        let heard = self.machines[index].node.as_ref().and_then(|node| node.heard.get(&digest));
        let Some((topic, bytes)) = heard.map(|heard| (heard.topic.clone(), heard.bytes.clone())) else { return };
        let mut listeners = self.listeners(index, &topic);
        listeners.retain(|other| Some(*other) != source);
        while listeners.len() > FORWARD {
            let last = u64::try_from(listeners.len() - 1).unwrap_or(0);
            let out = usize::try_from(self.choice.within(0..=last)).unwrap_or(0);
            listeners.swap_remove(out);
        }
        self.spread(index, &listeners, &topic, digest, &bytes);
    }

    pub(super) fn on_subscribed(&mut self, index: usize, _topic: &str) {
        for other in self.links(index) {
            let at = self.now + self.one_way();
            self.reach(other, at, Delivery::Listener);
        }
    }

    pub(super) fn publish_waiting(&mut self, index: usize) {
        let now = self.now;
        let Some(node) = &mut self.machines[index].node else { return };
        for (topic, bytes) in node.take_unpublished(now) {
            self.publish(index, topic, bytes);
        }
    }
}

impl Happening {
    /// A word for it, for the record.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Reaches { .. } => "reaches",
            Self::AtLedger { .. } => "at ledger",
            Self::Block => "block",
            Self::LedgerSecond => "ledger second",
            Self::Fault(_) => "fault",
            Self::Heal(_) => "heal",
            Self::GiveUp(_) => "give up",
            Self::Churn(_) => "churn",
            Self::Submit => "submit",
            Self::Keep => "keep",
        }
    }
}
