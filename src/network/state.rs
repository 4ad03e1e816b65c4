//! Collects what peers measured and observed, and says what this node registers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};

use super::{Place, address};
use crate::types::{Speed, Time};

/// Peers remembered, for speeds and for observations; beyond it the oldest is forgotten.
const MAX_PEERS: usize = 256;
/// An older measurement counts no more: routes change.
const MAX_AGE: Duration = Duration::from_secs(24 * 3_600);
/// Peers measured for a registration: a median needs three.
const MEASURED: usize = 3;
/// A path measured more recently is not measured again for a registration.
const FRESH: Duration = Duration::from_secs(3_600);
/// Peers that must agree on this node's address: one alone could name any.
const QUORUM: usize = 2;

/// What the coordinator tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The path to a peer was measured.
    Measured {
        /// With whom.
        peer: PeerId,
        /// What came out.
        speed: Speed,
    },
    /// The path to a peer could not be measured: another one may be.
    NotMeasured {
        /// With whom.
        peer: PeerId,
    },
    /// A peer told the address under which it sees this node (identify).
    Observed {
        /// Who saw it.
        by: PeerId,
        /// What it saw.
        address: Multiaddr,
    },
    /// The location, from the configuration or from [`super::look_up`].
    Placed(Place),
}

/// What is known of this node's network. Pure.
#[derive(Debug, Default)]
pub struct State {
    speeds: BTreeMap<PeerId, (Time, Speed)>,
    /// Measurements under way; each ends in [`Input::Measured`] or [`Input::NotMeasured`].
    measuring: BTreeSet<PeerId>,
    observed: BTreeMap<PeerId, (Time, IpAddr)>,
    place: Place,
}

impl State {
    /// A state that knows nothing but where the operator says the machine stands.
    pub fn new(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    /// Takes in what is new.
    pub fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Measured { peer, speed } => {
                self.measuring.remove(&peer);
                remember(&mut self.speeds, peer, speed, now);
            }
            Input::NotMeasured { peer } => {
                self.measuring.remove(&peer);
            }
            Input::Observed { by, address } => {
                if let Some(address) = address::observed(&address).filter(address::is_public) {
                    remember(&mut self.observed, by, address, now);
                }
            }
            Input::Placed(place) => self.place = place,
        }
    }

    /// The last measurement with `peer`, if it still counts.
    pub fn speed(&self, peer: &PeerId, now: Time) -> Option<Speed> {
        self.speeds.get(peer).filter(|(at, _)| now.since(*at) <= MAX_AGE).map(|(_, speed)| *speed)
    }

    /// The public address that most of the peers that see one agree on.
    pub fn public_address(&self, now: Time) -> Option<IpAddr> {
        address::agreed(current(&self.observed, now), QUORUM)
    }

    /// Which of the connected peers to measure before a registration: at most three in all, and none measured within
    /// the last hour.
    pub fn to_measure(&self, connected: impl IntoIterator<Item = PeerId>, now: Time) -> Vec<PeerId> {
        let is_fresh = |peer: &PeerId| self.speeds.get(peer).is_some_and(|(at, _)| now.since(*at) <= FRESH);
        let (fresh, stale): (Vec<_>, Vec<_>) = connected.into_iter().partition(is_fresh);
        stale.into_iter().take(MEASURED.saturating_sub(fresh.len())).collect()
    }

    /// Whether to measure a peer that has just been met: not if three are measured, or about to be.
    pub fn begin_measuring(&mut self, peer: PeerId, now: Time) -> bool {
        let fresh = self.speeds.values().filter(|(at, _)| now.since(*at) <= FRESH).count();
        let known = self.measuring.contains(&peer) || self.to_measure([peer], now).is_empty();
        let begins = !known && fresh + self.measuring.len() < MEASURED;
        if begins {
            self.measuring.insert(peer);
        }
        begins
    }

    /// What this node registers on the ledger (`RegisterNode.attributes`), by the origin's keys:
    /// `network_{download_mbps,upload_mbps,latency_ms}` are medians over peers (of an even count the lower), `ip` is
    /// [`State::public_address`], `country region city latitude longitude` the operator's. What is unknown is left out.
    pub fn attributes(&self, now: Time) -> BTreeMap<String, String> {
        let median = |field: fn(&Speed) -> u64| {
            let mut values: Vec<_> = current(&self.speeds, now).map(|speed| field(&speed)).collect();
            values.sort_unstable();
            values.get(values.len().saturating_sub(1) / 2).map(|value| thousandths(*value))
        };
        let known = [
            ("network_download_mbps", median(|speed| speed.download_kbps)),
            ("network_upload_mbps", median(|speed| speed.upload_kbps)),
            ("network_latency_ms", median(|speed| speed.latency_micros)),
            ("ip", self.public_address(now).map(|address| address.to_string())),
        ];
        let mut attributes = self.place.attributes();
        attributes.extend(known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        attributes
    }
}

fn remember<T>(map: &mut BTreeMap<PeerId, (Time, T)>, peer: PeerId, value: T, now: Time) {
    map.insert(peer, (now, value));
    if map.len() > MAX_PEERS
        && let Some(oldest) = map.iter().min_by_key(|(_, (at, _))| *at).map(|(peer, _)| *peer)
    {
        map.remove(&oldest);
    }
}

/// The values that are not too old.
fn current<T: Copy>(map: &BTreeMap<PeerId, (Time, T)>, now: Time) -> impl Iterator<Item = T> {
    map.values().filter(move |(at, _)| now.since(*at) <= MAX_AGE).map(|(_, value)| *value)
}

/// A number of thousandths as a decimal, exactly.
fn thousandths(value: u64) -> String {
    format!("{}.{:03}", value / 1_000, value % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000);

    fn speed(download_kbps: u64) -> Speed {
        Speed { latency_micros: 1_250, download_kbps, upload_kbps: download_kbps / 2 }
    }

    fn measured(speeds: &[u64]) -> State {
        let mut state = State::default();
        for download in speeds {
            state.handle(Input::Measured { peer: PeerId::random(), speed: speed(*download) }, NOW);
        }
        state
    }

    fn observe(state: &mut State, address: &str) {
        let address = format!("/ip4/{address}/tcp/4001").parse().unwrap();
        state.handle(Input::Observed { by: PeerId::random(), address }, NOW);
    }

    #[test]
    fn of_many_peers_met_at_once_three_are_measured_and_another_for_one_that_failed() {
        let mut state = State::default();
        let peers: Vec<PeerId> =
            (1..7).map(|seed| crate::identity::Keypair::from_secret(&[seed; 32]).peer_id()).collect();
        let begun: Vec<bool> = peers.iter().map(|peer| state.begin_measuring(*peer, NOW)).collect();
        assert_eq!(begun, [true, true, true, false, false, false]);
        state.handle(Input::NotMeasured { peer: peers[1] }, NOW);
        assert!(state.begin_measuring(peers[3], NOW) && !state.begin_measuring(peers[4], NOW));
    }

    #[test]
    fn what_is_unknown_is_not_registered() {
        assert_eq!(State::default().attributes(NOW), BTreeMap::new());
    }

    #[test]
    fn speeds_are_medians_of_what_was_measured_and_expire() {
        let state = measured(&[90_000, 10_500, 20_000]);
        let attributes = state.attributes(NOW);
        assert_eq!(attributes["network_download_mbps"], "20.000");
        assert_eq!(attributes["network_upload_mbps"], "10.000");
        assert_eq!(attributes["network_latency_ms"], "1.250");
        assert_eq!(measured(&[4, 3, 2, 1]).attributes(NOW)["network_download_mbps"], "0.002");
        assert_eq!(state.attributes(NOW + MAX_AGE + Duration::from_millis(1)), BTreeMap::new());
    }

    #[test]
    fn one_peer_alone_does_not_decide_this_nodes_address_and_a_minority_does_not_either() {
        let mut state = State::default();
        observe(&mut state, "1.2.3.4");
        assert_eq!(state.public_address(NOW), None);
        observe(&mut state, "10.0.0.1");
        observe(&mut state, "1.2.3.4");
        assert_eq!(state.public_address(NOW), Some("1.2.3.4".parse().unwrap()));
        assert_eq!(state.attributes(NOW)["ip"], "1.2.3.4");
        observe(&mut state, "5.6.7.8");
        observe(&mut state, "5.6.7.8");
        assert_eq!(state.public_address(NOW), None, "two against two is no majority");
    }

    #[test]
    fn a_place_is_registered_as_it_is_stated() {
        let place = Place {
            country: Some("CH".into()),
            latitude: Some(47.376_9),
            city: Some(String::new()),
            ..Place::default()
        };
        let expected = [("country", "CH"), ("latitude", "47.3769")].map(|(key, value)| (key.into(), value.into()));
        assert_eq!(State::new(place).attributes(NOW), BTreeMap::from(expected));
    }

    #[test]
    fn a_registration_measures_three_peers_and_none_twice_within_an_hour() {
        let peers: Vec<_> = (0..5).map(|_| PeerId::random()).collect();
        let mut state = State::default();
        assert_eq!(state.to_measure(peers.clone(), NOW), peers[..3]);
        for peer in &peers[..2] {
            state.handle(Input::Measured { peer: *peer, speed: speed(1) }, NOW);
        }
        assert_eq!(state.to_measure(peers.clone(), NOW), [peers[2]]);
        assert_eq!(state.to_measure(peers.clone(), NOW + FRESH * 2), peers[..3]);
    }

    #[test]
    fn memory_is_bounded_however_many_peers_pass_by() {
        let mut state = measured(&[1; MAX_PEERS + 50]);
        for _ in 0..MAX_PEERS + 50 {
            observe(&mut state, "1.2.3.4");
        }
        assert_eq!((state.speeds.len(), state.observed.len()), (MAX_PEERS, MAX_PEERS));
    }
}
