//! Which addresses are public, and which one the peers agree on.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// The address in a multiaddr under which a peer saw this node directly; through a relay it saw the relay.
pub(super) fn observed(address: &Multiaddr) -> Option<IpAddr> {
    if address.iter().any(|part| part == Protocol::P2pCircuit) {
        return None;
    }
    match address.iter().next()? {
        Protocol::Ip4(address) => Some(IpAddr::V4(address)),
        Protocol::Ip6(address) => Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)),
        _ => None,
    }
}

/// Whether an address means the same to everybody (IANA special-purpose registries, RFC 6890).
pub(super) fn is_public(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(*address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let shared = first == 100 && second & 0xc0 == 64;
    let benchmark = first == 198 && second & 0xfe == 18;
    let reserved = first == 0 || first >= 240;
    let special = address.is_private() || address.is_loopback() || address.is_link_local() || address.is_multicast();
    !(special || address.is_documentation() || shared || benchmark || reserved)
}

fn is_public_v6(address: &Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let documentation = first == 0x2001 && second == 0xdb8;
    // Only 2000::/3 is given out.
    first & 0xe000 == 0x2000 && !documentation
}

/// The address that more than half of the observers, and at least `quorum` of them, saw.
pub(super) fn agreed(observed: impl Iterator<Item = IpAddr>, quorum: usize) -> Option<IpAddr> {
    let mut votes: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut observers = 0;
    for address in observed {
        *votes.entry(address).or_default() += 1;
        observers += 1;
    }
    votes.into_iter().find(|(_, count)| *count >= quorum && count * 2 > observers).map(|(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_mean_the_same_to_all_are_public() {
        for address in ["1.2.3.4", "100.128.0.1", "198.20.0.1", "2a00:1450::1"] {
            assert!(is_public(&address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "10.1.1.1",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "2001:db8::1",
            "ff02::1",
        ] {
            assert!(!is_public(&address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_relayed_observation_says_nothing_and_a_mapped_address_is_the_one_inside() {
        let direct = "/ip6/::ffff:1.2.3.4/tcp/4001".parse().unwrap();
        assert_eq!(observed(&direct), Some("1.2.3.4".parse().unwrap()));
        assert_eq!(observed(&"/ip4/1.2.3.4/tcp/4001/p2p-circuit".parse().unwrap()), None);
        assert_eq!(observed(&"/dns4/example.org/tcp/1".parse().unwrap()), None);
    }
}
