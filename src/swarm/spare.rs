//! One connection with each peer: what is dialled beside one that is there is closed again.
//!
//! A second connection gains nothing and costs much. Requests are spread over all connections with a peer, whatever each can
//! carry, so that the slowest sets the pace; each learns the line anew, at the others' cost; and each is kept alive. They
//! come from peers that dial each other at once, and from AutoNAT, which dials whoever asks whether it can be reached.
//! Only who dialled closes, so that the two sides never close both. A relayed connection is no reason to close a direct one.
//! Whether a peer may be connected at all is not asked here.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::Future;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};
use tokio::time::Sleep;

use crate::{clock, types::Time};

/// How long a spare connection is kept: whoever dialled it for a purpose of its own, as AutoNAT does, has come to an end by
/// then. It gives a peer that asks to be dialled 10 s.
const KEEP: Duration = Duration::from_secs(10);
/// Connections opened within this of each other were dialled at once, from both sides: each side may see another one first.
/// More than a round trip and a handshake on any line.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A connection with a peer that goes through no relay.
#[derive(Clone, Copy, Debug)]
struct Direct {
    id: ConnectionId,
    since: Time,
    dialled: bool,
    /// When it is closed, if it is one too many.
    until: Option<Time>,
}

impl Direct {
    /// Whether this one, which we dialled, is one too many as long as `other` is there.
    fn is_spare_beside(&self, other: &Self, us_first: bool) -> bool {
        let at_once = self.since.since(other.since).max(other.since.since(self.since)) < AT_ONCE;
        if at_once && !other.dialled { us_first } else { (other.since, other.id) < (self.since, self.id) }
    }
}

/// Which connections there are, and which of ours are spare. Knows no clock.
#[derive(Debug)]
struct Connections {
    us: PeerId,
    of: BTreeMap<PeerId, Vec<Direct>>,
}

impl Connections {
    fn opened(&mut self, peer: PeerId, id: ConnectionId, dialled: bool, now: Time) {
        let all = self.of.entry(peer).or_default();
        all.push(Direct { id, since: now, dialled, until: None });
        mark(all, self.us < peer, now);
    }

    fn closed(&mut self, peer: &PeerId, id: ConnectionId, now: Time) {
        if let Some(all) = self.of.get_mut(peer) {
            all.retain(|one| one.id != id);
            mark(all, self.us < *peer, now);
            if all.is_empty() {
                self.of.remove(peer);
            }
        }
    }

    /// What spare connections with `peer` were dialled for is done.
    fn done_with(&mut self, peer: &PeerId, now: Time) {
        for one in self.of.get_mut(peer).into_iter().flatten() {
            one.until = one.until.map(|until| until.min(now));
        }
    }

    fn next_time(&self) -> Option<Time> {
        self.of.values().flatten().filter_map(|one| one.until).min()
    }

    /// Those whose time is over, to be closed.
    fn due(&mut self, now: Time) -> Vec<(PeerId, ConnectionId)> {
        let mut due = Vec::new();
        for (peer, all) in &mut self.of {
            let (over, kept): (Vec<Direct>, Vec<Direct>) =
                all.drain(..).partition(|one| one.until.is_some_and(|until| until <= now));
            due.extend(over.iter().map(|one| (*peer, one.id)));
            *all = kept;
        }
        due
    }
}

/// Says of each connection with a peer until when it is kept.
fn mark(all: &mut [Direct], us_first: bool, now: Time) {
    for index in 0..all.len() {
        let one = all[index];
        let is_spare =
            one.dialled && all.iter().any(|other| other.id != one.id && one.is_spare_beside(other, us_first));
        all[index].until = is_spare.then(|| one.until.unwrap_or(now + KEEP));
    }
}

/// Closes spare connections.
pub struct Spare {
    connections: Connections,
    closing: VecDeque<(PeerId, ConnectionId)>,
    timer: Option<(Time, Pin<Box<Sleep>>)>,
    waker: Option<Waker>,
}

impl Spare {
    pub(crate) fn new(us: PeerId) -> Self {
        let connections = Connections { us, of: BTreeMap::new() };
        Self { connections, closing: VecDeque::new(), timer: None, waker: None }
    }

    /// AutoNAT has dialled `peer`, and told it what came of that.
    pub(crate) fn done_with(&mut self, peer: &PeerId) {
        self.connections.done_with(peer, clock::now());
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready when the next spare connection's time is over.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.connections.next_time() else {
            self.timer = None;
            return Poll::Pending;
        };
        let (_, sleep) = match &mut self.timer {
            Some(timer) if timer.0 == at => timer,
            timer => timer.insert((at, Box::pin(tokio::time::sleep(at.since(clock::now()))))),
        };
        sleep.as_mut().poll(cx)
    }
}

impl NetworkBehaviour for Spare {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(opened) if !opened.endpoint.is_relayed() => {
                let dialled = opened.endpoint.is_dialer();
                self.connections.opened(opened.peer_id, opened.connection_id, dialled, clock::now());
                self.wake();
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.connections.closed(&closed.peer_id, closed.connection_id, clock::now());
                self.wake();
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        while self.closing.is_empty() && self.poll_timer(cx).is_ready() {
            self.timer = None;
            self.closing.extend(self.connections.due(clock::now()));
        }
        if let Some((peer_id, id)) = self.closing.pop_front() {
            tracing::debug!(peer = %peer_id, connection = %id, "a connection beside another is closed");
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use libp2p::{
        Swarm, SwarmBuilder, noise,
        swarm::{
            SwarmEvent,
            dial_opts::{DialOpts, PeerCondition},
        },
        tcp, yamux,
    };

    use super::*;

    const DIALLED: bool = true;
    const ACCEPTED: bool = false;

    /// What one side of a pair knows of their connections.
    struct Side {
        connections: Connections,
        peer: PeerId,
    }

    impl Side {
        /// The two sides, the one whose peer id is the lesser first.
        fn pair() -> [Self; 2] {
            let mut ids = [PeerId::random(), PeerId::random()];
            ids.sort();
            let side = |us, peer| Self { connections: Connections { us, of: BTreeMap::new() }, peer };
            [side(ids[0], ids[1]), side(ids[1], ids[0])]
        }

        fn opened(&mut self, id: usize, dialled: bool, at: u64) {
            self.connections.opened(self.peer, ConnectionId::new_unchecked(id), dialled, Time::from_millis(at));
        }

        fn closes(&mut self, at: u64) -> Vec<ConnectionId> {
            self.connections.due(Time::from_millis(at)).into_iter().map(|(_, id)| id).collect()
        }
    }

    fn ids<const N: usize>(ids: [usize; N]) -> Vec<ConnectionId> {
        ids.map(ConnectionId::new_unchecked).into()
    }

    #[test]
    fn a_connection_that_was_dialled_beside_one_is_closed_by_who_dialled_it_when_its_time_is_over() {
        for turned in [false, true] {
            let mut pair = Side::pair();
            if turned {
                pair.reverse();
            }
            let [mut dialling, mut accepting] = pair;
            dialling.opened(1, ACCEPTED, 0);
            accepting.opened(1, DIALLED, 0);
            dialling.opened(2, DIALLED, 60_000);
            accepting.opened(2, ACCEPTED, 60_000);
            assert_eq!(dialling.closes(69_999), ids([]));
            assert_eq!(dialling.closes(70_000), ids([2]));
            assert_eq!(accepting.closes(1_000_000), ids([]), "who accepted leaves it to the other");
        }
    }

    #[test]
    fn it_is_closed_at_once_when_what_it_was_dialled_for_is_done() {
        let [mut one, _] = Side::pair();
        one.opened(1, ACCEPTED, 0);
        one.opened(2, DIALLED, 60_000);
        let peer = one.peer;
        one.connections.done_with(&peer, Time::from_millis(60_500));
        assert_eq!(one.closes(60_500), ids([2]));
        one.connections.done_with(&peer, Time::from_millis(70_000));
        assert_eq!(one.closes(70_000), ids([]), "the one that is left is no spare");
    }

    #[test]
    fn of_two_that_were_dialled_at_once_exactly_one_stays_in_whatever_order_each_side_saw_them() {
        for orders in 0..4 {
            let mut sides = Side::pair();
            let mut closed = Vec::new();
            for (index, side) in sides.iter_mut().enumerate() {
                // Connection 0 is dialled by the first side, 1 by the second.
                let order = if orders >> index & 1 == 0 { [0, 1] } else { [1, 0] };
                for (at, id) in order.into_iter().enumerate() {
                    side.opened(id, id == index, 100 * at as u64);
                }
                closed.extend(side.closes(20_000));
            }
            assert_eq!(closed, ids([0]), "the lesser peer id's is closed, by its own side, order {orders}");
        }
    }

    #[test]
    fn the_last_one_stays_when_the_other_broke_before_its_time() {
        let [mut one, _] = Side::pair();
        one.opened(1, ACCEPTED, 0);
        one.opened(2, DIALLED, 60_000);
        let peer = one.peer;
        one.connections.closed(&peer, ConnectionId::new_unchecked(1), Time::from_millis(61_000));
        assert_eq!(one.closes(1_000_000), ids([]));
        one.connections.closed(&peer, ConnectionId::new_unchecked(2), Time::from_millis(62_000));
        assert!(one.connections.of.is_empty(), "nothing is kept of a peer that is gone");
    }

    #[test]
    fn when_the_first_breaks_of_two_spare_ones_the_older_stays() {
        let [mut one, _] = Side::pair();
        one.opened(1, ACCEPTED, 0);
        one.opened(2, DIALLED, 60_000);
        one.opened(3, DIALLED, 61_000);
        let peer = one.peer;
        one.connections.closed(&peer, ConnectionId::new_unchecked(1), Time::from_millis(62_000));
        assert_eq!(one.closes(1_000_000), ids([3]));
    }

    #[test]
    fn of_two_dialled_by_the_same_side_over_two_transports_the_first_stays() {
        let [mut one, _] = Side::pair();
        one.opened(1, DIALLED, 0);
        one.opened(2, DIALLED, 10);
        assert_eq!(one.closes(20_000), ids([2]));
    }

    fn swarm() -> Swarm<Spare> {
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key| Spare::new(key.public().to_peer_id()))
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::MAX))
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        swarm
    }

    /// Drives both until an event of either is as wanted.
    async fn until(swarms: &mut [Swarm<Spare>; 2], wanted: impl Fn(usize, &SwarmEvent<Infallible>) -> bool) {
        let [a, b] = swarms;
        loop {
            let (index, event) = tokio::select! {
                event = a.select_next_some() => (0, event),
                event = b.select_next_some() => (1, event),
            };
            if wanted(index, &event) {
                return;
            }
        }
    }

    async fn dials_back_and_is_done() {
        let mut swarms = [swarm(), swarm()];
        let [us, them] = [0, 1].map(|index: usize| *swarms[index].local_peer_id());
        while swarms.iter().any(|swarm| swarm.listeners().count() == 0) {
            until(&mut swarms, |_, event| matches!(event, SwarmEvent::NewListenAddr { .. })).await;
        }
        let address = |swarm: &Swarm<Spare>| swarm.listeners().next().cloned().unwrap();
        let (here, there) = (address(&swarms[0]), address(&swarms[1]));
        let is_opened = |event: &SwarmEvent<Infallible>, count: u32| matches!(event, SwarmEvent::ConnectionEstablished { num_established, .. } if num_established.get() == count);
        swarms[0].dial(there).unwrap();
        until(&mut swarms, |at, event| at == 1 && is_opened(event, 1)).await;
        // As AutoNAT does; the first was opened long before.
        for swarm in &mut swarms {
            for one in swarm.behaviour_mut().connections.of.values_mut().flatten() {
                one.since = Time::ZERO;
            }
        }
        let back = DialOpts::peer_id(us).addresses(vec![here]).condition(PeerCondition::Always).build();
        swarms[1].dial(back).unwrap();
        until(&mut swarms, |at, event| at == 1 && is_opened(event, 2)).await;
        swarms[1].behaviour_mut().done_with(&us);
        until(&mut swarms, |_, event| matches!(event, SwarmEvent::ConnectionClosed { num_established: 1, .. })).await;
        assert!(swarms[0].is_connected(&them) && swarms[1].is_connected(&us));
    }

    #[tokio::test]
    async fn two_swarms_keep_one_connection_when_one_has_dialled_back_and_is_done() {
        let story = dials_back_and_is_done();
        tokio::time::timeout(Duration::from_secs(30), story).await.expect("the story ends in time");
    }
}
