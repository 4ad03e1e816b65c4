//! Counts the streams that a peer opens, around any behaviour: the handler of a protocol drops a stream over its limit
//! without a word, and one on which nothing comes is never heard of.
//!
//! It decides nothing: what is over the [`Budget`] is reported. The inner behaviour sees everything that it saw before.

use std::{
    ops::{Deref, DerefMut},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, handler::ConnectionEvent,
    },
};

use crate::{
    clock,
    conduct::{Buckets, Budget, Offence, Reporter},
};

/// What is too much.
enum Limit {
    /// Streams of one peer over a budget.
    Budget { protocol: &'static str, streams: Buckets<PeerId> },
    /// Streams on one connection over a number.
    Connection { most: u32, offence: fn(u32) -> Offence },
}

/// A behaviour whose peers' streams are counted.
pub struct Metered<B> {
    inner: B,
    limit: Limit,
    reporter: Reporter,
}

impl<B> Metered<B> {
    /// Reports who opens more streams of `protocol` than `budget` allows.
    pub fn new(inner: B, protocol: &'static str, budget: Budget, reporter: Reporter) -> Self {
        Self { inner, limit: Limit::Budget { protocol, streams: Buckets::new(budget) }, reporter }
    }

    /// Reports as `offence` who opens more than `most` streams on one connection.
    pub fn of_connection(inner: B, most: u32, offence: fn(u32) -> Offence, reporter: Reporter) -> Self {
        Self { inner, limit: Limit::Connection { most, offence }, reporter }
    }

    fn on_opened(&mut self, peer: PeerId, streams: u32, before: u32) {
        let (count, offence) = match &mut self.limit {
            Limit::Budget { protocol, streams: left } => {
                let count = left.take(&peer, streams, clock::now());
                (count, Offence::Streams { protocol: (*protocol).into(), count })
            }
            Limit::Connection { most, offence } => {
                let count = (before + streams).saturating_sub(before.max(*most));
                (count, offence(count))
            }
        };
        if count > 0 {
            self.reporter.report(peer, offence);
        }
    }
}

impl<B> Deref for Metered<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B> DerefMut for Metered<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

/// The handler of one connection, with the streams that the peer opened on it.
pub struct Counted<H> {
    inner: H,
    /// Since the behaviour was told.
    opened: u32,
    /// Before.
    told: u32,
}

/// What a handler tells: its own words, or how many streams the peer opened.
#[derive(Debug)]
pub enum Told<E> {
    /// Its own.
    Own(E),
    /// So many streams, and so many that were told before.
    Opened(u32, u32),
}

impl<H: ConnectionHandler> ConnectionHandler for Counted<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = Told<H::ToBehaviour>;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if self.opened > 0 {
            let told = Told::Opened(self.opened, self.told);
            self.told = self.told.saturating_add(std::mem::take(&mut self.opened));
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told));
        }
        self.inner.poll(cx).map(|event| event.map_custom(Told::Own))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx).map(|event| event.map(Told::Own))
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        if matches!(event, ConnectionEvent::FullyNegotiatedInbound(_)) {
            self.opened = self.opened.saturating_add(1);
        }
        self.inner.on_connection_event(event);
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Metered<B> {
    type ConnectionHandler = Counted<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(id, peer, local, remote)?;
        Ok(Counted { inner, opened: 0, told: 0 })
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)?;
        Ok(Counted { inner, opened: 0, told: 0 })
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            Told::Own(event) => self.inner.on_connection_handler_event(peer, id, event),
            Told::Opened(streams, before) => self.on_opened(peer, streams, before),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}
