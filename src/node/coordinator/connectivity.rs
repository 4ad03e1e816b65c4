//! Staying connected: whom to dial, and when again.
//!
//! A node starts with nobody alive, says so, and keeps trying. Pure: it names addresses and times, the event loop
//! dials.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};

use crate::types::{Digest, Time, doubled};

/// The first pause after a failed dial.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest pause: a bootstrap peer that was down for hours is found again within two minutes.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Peers remembered across restarts; the longest unseen is forgotten first.
pub const MAX_REMEMBERED: usize = 64;
/// With this many connections, remembered peers are no longer dialled: discovery does the rest.
const ENOUGH_CONNECTIONS: usize = 8;

/// What a target is known by: the peer, or for a bootstrap address that names none, the address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Peer(PeerId),
    Address(Multiaddr),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

#[derive(Debug)]
struct Target {
    addresses: BTreeSet<Multiaddr>,
    bootstrap: bool,
    attempts: u32,
    next: Time,
    last_error: Option<String>,
    /// Connected peers that are this target: by name, or at one of its addresses.
    reached: BTreeSet<PeerId>,
}

/// The peers we want and the peers we have.
#[derive(Debug, Default)]
pub(super) struct Connectivity {
    targets: BTreeMap<Name, Target>,
    connected: BTreeMap<PeerId, BTreeSet<Multiaddr>>,
}

impl Connectivity {
    /// Adds a bootstrap address. It is dialled until connected, for ever.
    pub(super) fn add_bootstrap(&mut self, address: Multiaddr, now: Time) {
        let name = crate::identity::peer_of(&address).map_or_else(|| Name::Address(address.clone()), Name::Peer);
        self.add(name, [address], now).bootstrap = true;
    }

    /// Adds a peer that was connected before, or that the ledger or mDNS names.
    pub(super) fn remember(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>, now: Time) {
        let name = Name::Peer(peer);
        if self.targets.contains_key(&name) || self.targets.len() < MAX_REMEMBERED {
            self.add(name, addresses, now);
        }
    }

    fn add(&mut self, name: Name, addresses: impl IntoIterator<Item = Multiaddr>, now: Time) -> &mut Target {
        let target = self.targets.entry(name.clone()).or_insert_with(|| Target {
            addresses: BTreeSet::new(),
            bootstrap: false,
            attempts: 0,
            next: now,
            last_error: None,
            reached: BTreeSet::new(),
        });
        target.addresses.extend(addresses);
        let reached = |(peer, at): (&PeerId, &BTreeSet<Multiaddr>)| {
            let is_it = name == Name::Peer(*peer) || !at.is_disjoint(&target.addresses);
            is_it.then_some(*peer)
        };
        target.reached = self.connected.iter().filter_map(reached).collect();
        target
    }

    /// A connection opened.
    pub(super) fn on_connected(&mut self, peer: PeerId, address: Multiaddr) {
        for (name, target) in &mut self.targets {
            if *name == Name::Peer(peer) || target.addresses.contains(&address) {
                target.attempts = 0;
                target.last_error = None;
                target.reached.insert(peer);
            }
        }
        self.connected.entry(peer).or_default().insert(address);
    }

    /// The last connection to `peer` closed: it is wanted again soon.
    pub(super) fn on_disconnected(&mut self, peer: &PeerId, now: Time) {
        self.connected.remove(peer);
        for target in self.targets.values_mut() {
            target.reached.remove(peer);
        }
        if let Some(target) = self.targets.get_mut(&Name::Peer(*peer)) {
            target.next = now + FIRST_RETRY;
        }
    }

    /// A dial failed, with the transport's words.
    pub(super) fn on_dial_failed(&mut self, peer: Option<PeerId>, error: &str) {
        for (name, target) in &mut self.targets {
            let dialled = target.attempts > 0 && peer.is_none_or(|peer| *name == Name::Peer(peer));
            if dialled {
                target.last_error = Some(error.chars().take(200).collect());
            }
        }
    }

    /// What to dial now. Each target then waits, twice as long each time, spread by up to a quarter so that nodes that
    /// lost the same peer do not return in step.
    pub(super) fn due(&mut self, now: Time) -> Vec<Multiaddr> {
        if self.next_due().is_none_or(|next| next > now) {
            return Vec::new();
        }
        let enough = self.connected.len() >= ENOUGH_CONNECTIONS;
        let mut due = Vec::new();
        for (name, target) in &mut self.targets {
            if !target.reached.is_empty() || target.next > now || (enough && !target.bootstrap) {
                continue;
            }
            target.attempts += 1;
            target.next = now + pause(&name.to_string(), target.attempts);
            due.extend(target.addresses.iter().cloned());
        }
        due
    }

    /// When [`Connectivity::due`] is wanted next.
    pub(super) fn next_due(&self) -> Option<Time> {
        let enough = self.connected.len() >= ENOUGH_CONNECTIONS;
        let wanted = |target: &&Target| target.reached.is_empty() && (!enough || target.bootstrap);
        self.targets.values().filter(wanted).map(|target| target.next).min()
    }

    /// The connected peers and the addresses they are reached by.
    pub(super) fn connected(&self) -> &BTreeMap<PeerId, BTreeSet<Multiaddr>> {
        &self.connected
    }

    /// Why nobody is connected, in words; `None` if somebody is.
    pub(super) fn alone(&self) -> Option<String> {
        if !self.connected.is_empty() {
            return None;
        }
        if self.targets.is_empty() {
            return Some(
                "no bootstrap peer is configured and none is remembered; start with --bootstrap MULTIADDR".into(),
            );
        }
        let tried = self.targets.values().filter(|target| target.attempts > 0).count();
        let total = self.targets.len();
        let error = self.targets.values().find_map(|target| target.last_error.clone());
        let error = error.map(|error| format!(" (last: {error})")).unwrap_or_default();
        Some(format!("none of {total} known peers is connected, {tried} tried{error}; trying again"))
    }
}

/// 0.5 s, 1 s, 2 s … 60 s, each longer by up to a quarter, which name and attempt decide.
fn pause(name: &str, attempts: u32) -> Duration {
    let base = doubled(FIRST_RETRY, attempts.saturating_sub(1), LONGEST_RETRY);
    let spread = Digest::of_parts("atlas/redial/v1", &[&attempts.to_be_bytes(), name.as_bytes()]).0[0];
    base + base / 4 * u32::from(spread) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_dead_bootstrap_peer_is_tried_for_ever_with_growing_pauses() {
        let mut connectivity = Connectivity::default();
        connectivity.add_bootstrap(address(1), Time::ZERO);
        let mut now = Time::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..20 {
            assert_eq!(connectivity.due(now), [address(1)]);
            assert!(connectivity.due(now).is_empty(), "not twice at one time");
            let next = connectivity.next_due().unwrap();
            pauses.push(next.since(now));
            now = next;
        }
        assert!(pauses[1] > pauses[0] && pauses[3] > pauses[2]);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_RETRY * 5 / 4));
        assert!(connectivity.alone().unwrap().contains("none of 1 known peers"));
    }

    #[test]
    fn a_lost_peer_is_dialled_again_soon() {
        let mut connectivity = Connectivity::default();
        let peer = crate::identity::Keypair::from_secret(&[1; 32]).peer_id();
        connectivity.remember(peer, [address(2)], Time::ZERO);
        assert_eq!(connectivity.due(Time::ZERO).len(), 1);
        connectivity.on_connected(peer, address(2));
        assert_eq!((connectivity.next_due(), connectivity.alone()), (None, None));
        connectivity.on_disconnected(&peer, Time(10_000));
        assert_eq!(connectivity.next_due(), Some(Time(10_500)));
    }

    #[test]
    fn a_bootstrap_address_without_a_name_counts_as_connected_while_whoever_is_there_is() {
        let mut connectivity = Connectivity::default();
        let peer = crate::identity::Keypair::from_secret(&[2; 32]).peer_id();
        connectivity.on_connected(peer, address(3));
        connectivity.add_bootstrap(address(3), Time::ZERO);
        assert!(connectivity.due(Time::ZERO).is_empty(), "connected before it was added");
        connectivity.on_disconnected(&peer, Time(1_000));
        assert_eq!(connectivity.due(Time(1_000)), [address(3)]);
        connectivity.on_connected(peer, address(3));
        assert_eq!(connectivity.next_due(), None);
    }
}
