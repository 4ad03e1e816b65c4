//! One address that is listened at: who comes, and under which addresses of this machine it is reached.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::{FutureExt, Stream, future::BoxFuture};
use if_watch::{IfEvent, tokio::IfWatcher};
use libp2p::core::transport::{ListenerId, TransportEvent};

use super::{Connecting, Error, multiaddr};

type Event = TransportEvent<Connecting, Error>;

/// A listener. It ends with [`TransportEvent::ListenerClosed`].
pub(super) struct Listener {
    id: ListenerId,
    endpoint: quinn::Endpoint,
    /// The same socket, for the packets that punch a hole.
    socket: UdpSocket,
    local: SocketAddr,
    accept: BoxFuture<'static, Option<quinn::Incoming>>,
    /// If it listens at every address of the machine: which there are.
    watcher: Option<IfWatcher>,
    /// Addresses of the machine that reach it.
    reached_at: BTreeSet<IpAddr>,
    events: VecDeque<Event>,
    closed: bool,
    waker: Option<Waker>,
}

impl Listener {
    pub(super) fn new(id: ListenerId, endpoint: quinn::Endpoint, socket: UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let everywhere = local.ip().is_unspecified();
        let watcher = everywhere.then(IfWatcher::new).transpose()?;
        let accept = accept(endpoint.clone());
        let mut listener = Self {
            id,
            endpoint,
            socket,
            local,
            accept,
            watcher,
            reached_at: BTreeSet::new(),
            events: VecDeque::new(),
            closed: false,
            waker: None,
        };
        if !everywhere {
            listener.up(local.ip());
        }
        Ok(listener)
    }

    pub(super) fn id(&self) -> ListenerId {
        self.id
    }

    pub(super) fn endpoint(&self) -> quinn::Endpoint {
        self.endpoint.clone()
    }

    pub(super) fn socket(&self) -> io::Result<UdpSocket> {
        self.socket.try_clone()
    }

    /// Whether this address can be dialled from here.
    pub(super) fn reaches(&self, remote: SocketAddr) -> bool {
        let same_machine = !remote.ip().is_loopback() || self.reached_at.iter().any(IpAddr::is_loopback);
        !self.closed && self.local.is_ipv6() == remote.is_ipv6() && same_machine
    }

    /// Listens no more. Connections over this port end too: they share its socket.
    pub(super) fn close(&mut self, reason: Result<(), Error>) {
        if !self.closed {
            self.closed = true;
            self.endpoint.close(0_u32.into(), &[]);
            self.events.push_back(TransportEvent::ListenerClosed { listener_id: self.id, reason });
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    fn up(&mut self, ip: IpAddr) {
        if ip.is_ipv6() == self.local.is_ipv6() && self.reached_at.insert(ip) {
            let listen_addr = multiaddr(SocketAddr::new(ip, self.local.port()));
            self.events.push_back(TransportEvent::NewAddress { listener_id: self.id, listen_addr });
        }
    }

    fn down(&mut self, ip: IpAddr) {
        if self.reached_at.remove(&ip) {
            let listen_addr = multiaddr(SocketAddr::new(ip, self.local.port()));
            self.events.push_back(TransportEvent::AddressExpired { listener_id: self.id, listen_addr });
        }
    }

    /// Takes up all changes of the machine's addresses.
    fn poll_addresses(&mut self, cx: &mut Context<'_>) {
        while let Some(Poll::Ready(event)) = self.watcher.as_mut().map(|watcher| watcher.poll_if_event(cx)) {
            match event {
                Ok(IfEvent::Up(network)) => self.up(network.addr()),
                Ok(IfEvent::Down(network)) => self.down(network.addr()),
                Err(error) => {
                    let event = TransportEvent::ListenerError { listener_id: self.id, error: error.into() };
                    self.events.push_back(event);
                    return;
                }
            }
        }
    }

    fn incoming(&self, incoming: quinn::Incoming) -> Event {
        match incoming.accept() {
            Ok(connecting) => TransportEvent::Incoming {
                listener_id: self.id,
                local_addr: multiaddr(self.local),
                send_back_addr: multiaddr(connecting.remote_address()),
                upgrade: Connecting::new(connecting),
            },
            Err(error) => TransportEvent::ListenerError { listener_id: self.id, error: error.into() },
        }
    }
}

fn accept(endpoint: quinn::Endpoint) -> BoxFuture<'static, Option<quinn::Incoming>> {
    async move { endpoint.accept().await }.boxed()
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if !self.closed {
                self.poll_addresses(cx);
            }
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            if self.closed {
                return Poll::Ready(None);
            }
            match self.accept.poll_unpin(cx) {
                Poll::Ready(Some(incoming)) => {
                    self.accept = accept(self.endpoint.clone());
                    return Poll::Ready(Some(self.incoming(incoming)));
                }
                Poll::Ready(None) => self.close(Ok(())),
                Poll::Pending => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}
