//! Staying connected: whom to dial, and when again.
//!
//! A node starts with nobody alive, says so, and keeps trying. Pure: it names addresses and times, the event loop
//! dials.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};

use crate::types::{Digest, Time};

/// The first pause after a failed dial.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest pause: a bootstrap peer that was down for hours is found again within two minutes.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Peers remembered across restarts; the longest unseen is forgotten first.
pub const MAX_REMEMBERED: usize = 64;
/// With this many connections, remembered peers are no longer dialled: discovery does the rest.
const ENOUGH_CONNECTIONS: usize = 8;

#[derive(Debug)]
struct Target {
    addresses: BTreeSet<Multiaddr>,
    bootstrap: bool,
    attempts: u32,
    next: Time,
    last_error: Option<String>,
}

/// The peers we want and the peers we have.
#[derive(Debug, Default)]
pub(super) struct Connectivity {
    /// Named by peer id; bootstrap addresses without one are under their own text.
    targets: BTreeMap<String, Target>,
    connected: BTreeMap<PeerId, BTreeSet<Multiaddr>>,
}

impl Connectivity {
    /// Adds a bootstrap address. It is dialled until connected, for ever.
    pub(super) fn add_bootstrap(&mut self, address: Multiaddr, now: Time) {
        let name = crate::swarm::peer_of(&address).map_or_else(|| address.to_string(), |peer| peer.to_string());
        let target = self.target(name, now);
        target.bootstrap = true;
        target.addresses.insert(address);
    }

    /// Adds a peer that was connected before, or that the ledger or mDNS names.
    pub(super) fn remember(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>, now: Time) {
        let known = self.targets.contains_key(&peer.to_string());
        if !known && self.targets.len() >= MAX_REMEMBERED {
            return;
        }
        self.target(peer.to_string(), now).addresses.extend(addresses);
    }

    fn target(&mut self, name: String, now: Time) -> &mut Target {
        self.targets.entry(name).or_insert_with(|| Target {
            addresses: BTreeSet::new(),
            bootstrap: false,
            attempts: 0,
            next: now,
            last_error: None,
        })
    }

    /// A connection opened.
    pub(super) fn on_connected(&mut self, peer: PeerId, address: Multiaddr) {
        self.connected.entry(peer).or_default().insert(address.clone());
        for (name, target) in &mut self.targets {
            if *name == peer.to_string() || target.addresses.contains(&address) {
                target.attempts = 0;
                target.last_error = None;
            }
        }
    }

    /// The last connection to `peer` closed: it is wanted again soon.
    pub(super) fn on_disconnected(&mut self, peer: &PeerId, now: Time) {
        self.connected.remove(peer);
        if let Some(target) = self.targets.get_mut(&peer.to_string()) {
            target.next = now + FIRST_RETRY;
        }
    }

    /// A dial failed, with the transport's words.
    pub(super) fn on_dial_failed(&mut self, peer: Option<PeerId>, error: &str) {
        for (name, target) in &mut self.targets {
            let dialled = target.attempts > 0 && peer.is_none_or(|peer| *name == peer.to_string());
            if dialled {
                target.last_error = Some(error.chars().take(200).collect());
            }
        }
    }

    /// What to dial now. Each target then waits, twice as long each time, spread by up to a quarter so that nodes that
    /// lost the same peer do not return in step.
    pub(super) fn due(&mut self, now: Time) -> Vec<Multiaddr> {
        let enough = self.connected.len() >= ENOUGH_CONNECTIONS;
        let mut due = Vec::new();
        for (name, target) in &mut self.targets {
            let connected = is_connected(&self.connected, name, target);
            if connected || target.next > now || (enough && !target.bootstrap) {
                continue;
            }
            target.attempts += 1;
            target.next = now + pause(name, target.attempts);
            due.extend(target.addresses.iter().cloned());
        }
        due
    }

    /// When [`Connectivity::due`] is wanted next.
    pub(super) fn next_due(&self) -> Option<Time> {
        let enough = self.connected.len() >= ENOUGH_CONNECTIONS;
        self.targets
            .iter()
            .filter(|(name, target)| !is_connected(&self.connected, name, target) && (!enough || target.bootstrap))
            .map(|(_, target)| target.next)
            .min()
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

fn is_connected(connected: &BTreeMap<PeerId, BTreeSet<Multiaddr>>, name: &str, target: &Target) -> bool {
    connected.iter().any(|(peer, addresses)| {
        *name == peer.to_string() || addresses.iter().any(|address| target.addresses.contains(address))
    })
}

/// 0.5 s, 1 s, 2 s … 60 s, each longer by up to a quarter, which name and attempt decide.
fn pause(name: &str, attempts: u32) -> Duration {
    let base = FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LONGEST_RETRY);
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
}
