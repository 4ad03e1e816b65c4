//! The gate: how many connections there may be, of whom and from where.
//!
//! Peer ids cost nothing, addresses do: so a peer has its limits, and so has each address, whoever it says it is. A
//! connection over a limit is refused, over an address's before its handshake. Nothing is kept of a peer that is gone.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv6Addr},
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};

use crate::{
    clock,
    conduct::{self, Buckets, Offence, Reporter},
    types::Time,
};

/// Connections a peer may have: TCP and QUIC, both ways, and one being upgraded by hole punching.
pub const MAX_ESTABLISHED_PER_PEER: u32 = 5;
/// Handshakes that may be under way at once in each direction; a further one is refused.
pub const MAX_PENDING: u32 = 128;
/// Of these, incoming from one address: it can't keep the others out.
pub const MAX_PENDING_PER_ADDRESS: u32 = 32;
/// The part of all connections that peers at one address may have opened.
pub const ADDRESS_SHARE: u32 = 2;
/// Between two lines in the log about one address.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Addresses that were complained of and are remembered for [`SAY_AGAIN`]; with more, no line is written.
const MAX_COMPLAINTS: usize = 256;

/// Where a connection comes from: an IPv4 address, or what a site has of IPv6, its first 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Source(IpAddr);

impl Source {
    /// `None` for a relayed one, which its relay answers for.
    fn of(address: &Multiaddr) -> Option<Self> {
        match address.iter().next()? {
            Protocol::Ip4(address) => Some(Self(address.into())),
            Protocol::Ip6(address) => match address.to_ipv4_mapped() {
                Some(address) => Some(Self(address.into())),
                None => Some(Self(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into())),
            },
            _ => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("{0} handshakes are under way already")]
    Pending(u32),
    #[error("{MAX_PENDING_PER_ADDRESS} handshakes with this address are under way already")]
    PendingOfAddress,
    #[error("this address opens more connections than {} a minute", conduct::CONNECTIONS_OF_ADDRESS.per_minute)]
    Flood,
    #[error("{0} connections are open already; `network.max_connections` allows no more")]
    Total(u32),
    #[error("{0} connections from this address are open already")]
    OfAddress(u32),
    #[error("{MAX_ESTABLISHED_PER_PEER} connections with this peer are open already")]
    OfPeer,
}

/// Incoming and outgoing connections, counted.
pub struct Gate {
    max_connections: u32,
    incoming: HashMap<ConnectionId, Option<Source>>,
    outgoing: HashMap<ConnectionId, ()>,
    established: HashMap<ConnectionId, Option<Source>>,
    per_peer: HashMap<PeerId, u32>,
    opened_by_peer: Buckets<PeerId>,
    opened_by_address: Buckets<Source>,
    complained: BTreeMap<Source, Time>,
    reporter: Reporter,
}

impl Gate {
    pub(crate) fn new(max_connections: u32, reporter: Reporter) -> Self {
        Self {
            max_connections,
            incoming: HashMap::new(),
            outgoing: HashMap::new(),
            established: HashMap::new(),
            per_peer: HashMap::new(),
            opened_by_peer: Buckets::new(conduct::CONNECTIONS),
            opened_by_address: Buckets::new(conduct::CONNECTIONS_OF_ADDRESS),
            complained: BTreeMap::new(),
            reporter,
        }
    }

    fn admit(&mut self, source: Option<Source>, now: Time) -> Result<(), Refused> {
        if count(&self.incoming, |_| true) >= MAX_PENDING {
            return Err(Refused::Pending(MAX_PENDING));
        }
        let Some(source) = source else { return Ok(()) };
        if count(&self.incoming, |other| *other == Some(source)) >= MAX_PENDING_PER_ADDRESS {
            return Err(Refused::PendingOfAddress);
        }
        if self.opened_by_address.take(&source, 1, now) > 0 {
            return Err(Refused::Flood);
        }
        let share = (self.max_connections / ADDRESS_SHARE).max(1);
        if count(&self.established, |other| *other == Some(source)) >= share {
            return Err(Refused::OfAddress(share));
        }
        Ok(())
    }

    fn room_for(&self, peer: &PeerId) -> Result<(), Refused> {
        if count(&self.established, |_| true) >= self.max_connections {
            return Err(Refused::Total(self.max_connections));
        }
        if self.per_peer.get(peer).is_some_and(|count| *count >= MAX_ESTABLISHED_PER_PEER) {
            return Err(Refused::OfPeer);
        }
        Ok(())
    }

    /// Says once a minute that an address is refused: peer ids are many, and the log is for people.
    fn complain(&mut self, source: Source, why: Refused, now: Time) {
        self.complained.retain(|_, at| now.since(*at) < SAY_AGAIN);
        if self.complained.len() < MAX_COMPLAINTS && !self.complained.contains_key(&source) {
            self.complained.insert(source, now);
            tracing::warn!(address = %source, reason = %why, "connections from an address are refused");
        }
    }
}

fn count(connections: &HashMap<ConnectionId, Option<Source>>, which: impl Fn(&Option<Source>) -> bool) -> u32 {
    u32::try_from(connections.values().filter(|source| which(source)).count()).unwrap_or(u32::MAX)
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let (source, now) = (Source::of(remote), clock::now());
        if let Err(refused) = self.admit(source, now) {
            if let Some(source) = source {
                self.complain(source, refused, now);
            }
            return Err(ConnectionDenied::new(refused));
        }
        self.incoming.insert(id, source);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.incoming.remove(&id);
        let count = self.opened_by_peer.take(&peer, 1, clock::now());
        if count > 0 {
            self.reporter.report(peer, Offence::Connections { count });
        }
        self.room_for(&peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.outgoing.len() >= MAX_PENDING as usize {
            return Err(ConnectionDenied::new(Refused::Pending(MAX_PENDING)));
        }
        self.outgoing.insert(id, ());
        Ok(vec![])
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.outgoing.remove(&id);
        self.room_for(&peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(opened) => {
                // Who we dialled is not charged to its address.
                let source = match opened.endpoint {
                    ConnectedPoint::Listener { send_back_addr, .. } => Source::of(send_back_addr),
                    ConnectedPoint::Dialer { .. } => None,
                };
                self.established.insert(opened.connection_id, source);
                *self.per_peer.entry(opened.peer_id).or_default() += 1;
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.established.remove(&closed.connection_id);
                if let Some(count) = self.per_peer.get_mut(&closed.peer_id) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.per_peer.remove(&closed.peer_id);
                    }
                }
            }
            FromSwarm::DialFailure(failed) => {
                self.outgoing.remove(&failed.connection_id);
            }
            FromSwarm::ListenFailure(failed) => {
                self.incoming.remove(&failed.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000_000);

    fn source(text: &str) -> Source {
        Source::of(&text.parse().unwrap()).unwrap()
    }

    #[test]
    fn an_address_is_one_of_ipv4_or_a_site_of_ipv6() {
        assert_eq!(source("/ip4/127.0.0.1/tcp/1"), source("/ip4/127.0.0.1/udp/2/quic-v1"));
        assert_eq!(source("/ip6/2001:db8::1/tcp/1"), source("/ip6/2001:db8::ffff:2/tcp/1"));
        assert_ne!(source("/ip6/2001:db8::1/tcp/1"), source("/ip6/2001:db8:0:1::1/tcp/1"));
        assert_eq!(source("/ip6/::ffff:10.0.0.1/tcp/1"), source("/ip4/10.0.0.1/tcp/1"));
    }

    #[test]
    fn one_address_keeps_no_other_out() {
        let mut gate = Gate::new(512, Reporter::silent());
        let (greedy, other) = (source("/ip4/10.0.0.1/tcp/1"), source("/ip4/10.0.0.2/tcp/1"));
        for number in 0..MAX_PENDING_PER_ADDRESS {
            assert_eq!(gate.admit(Some(greedy), NOW), Ok(()));
            gate.incoming.insert(ConnectionId::new_unchecked(number as usize), Some(greedy));
        }
        assert_eq!(gate.admit(Some(greedy), NOW), Err(Refused::PendingOfAddress));
        assert_eq!(gate.admit(Some(other), NOW), Ok(()));
        gate.incoming.clear();
        while gate.admit(Some(greedy), NOW).is_ok() {}
        assert_eq!(gate.admit(Some(greedy), NOW), Err(Refused::Flood));
        assert_eq!(gate.admit(Some(greedy), NOW + Duration::from_secs(1)), Ok(()), "some come in again");
        assert_eq!(gate.admit(Some(other), NOW), Ok(()));
    }

    #[test]
    fn an_address_fills_no_more_than_its_share() {
        let mut gate = Gate::new(8, Reporter::silent());
        let (greedy, other) = (source("/ip4/10.0.0.1/tcp/1"), source("/ip4/10.0.0.2/tcp/1"));
        for number in 0..4 {
            gate.established.insert(ConnectionId::new_unchecked(number), Some(greedy));
        }
        assert_eq!(gate.admit(Some(greedy), NOW), Err(Refused::OfAddress(4)));
        assert_eq!(gate.admit(Some(other), NOW), Ok(()));
    }
}
