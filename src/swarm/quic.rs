//! QUIC as libp2p speaks it, with a congestion control of our own choice.
//!
//! On the wire and towards the swarm this is libp2p's own transport (`libp2p-quic`), which leaves the congestion control to
//! Quinn's default and lets nobody choose another. So this file sets up Quinn itself, and [`congestion`] says what for. Never
//! here: the meaning of streams, or whom to dial.

mod congestion;
mod connection;
mod cubic;
#[cfg(test)]
mod line;
mod listener;

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{FutureExt, StreamExt, channel::oneshot, future::BoxFuture, stream::SelectAll};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        self, Endpoint,
        multiaddr::Protocol,
        transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    },
    identity::Keypair,
    tls::{self, certificate},
};
use quinn::{crypto::rustls as quinn_tls, rustls::pki_types::CertificateDer};

pub use self::connection::{Connecting, Connection, Stream};
use self::listener::Listener;
use crate::clock;

/// A handshake takes two round trips; what takes longer than this is nobody there.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection of which nothing is heard for so many milliseconds is dead.
const IDLE_MILLIS: u32 = 10_000;
/// Half of that, so that one lost packet ends nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Streams that a peer may have open: those of every protocol together (each has a limit of its own), and some to spare.
const MAX_STREAMS: u32 = 256;
/// Bytes of one stream on their way: an answer of the shard protocol, 2 MiB at most, four times.
const STREAM_WINDOW: u32 = 8 << 20;
/// Bytes of one connection on their way, and so its memory when nobody reads: 16 requests of 1 MiB, which is the most that are
/// asked of one peer. It fills 640 Mbit/s at 200 ms.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Packets of random bytes that open a router's way to us, 10 to 200 ms apart (DCUtR).
const PUNCH_BYTES: usize = 64;
/// What a reset that is made after a restart is signed with comes from the key under this name, which is libp2p's.
const RESET_KEY: &[u8] = b"libp2p quic stateless reset key";

/// Why there is no connection, or no more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer can't be dialled.
    #[error("the peer can't be dialled")]
    Dial(#[from] quinn::ConnectError),
    /// The connection broke.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// The socket failed.
    #[error("the socket failed")]
    Socket(#[from] io::Error),
    /// Nobody answered in time.
    #[error("the handshake took longer than {} s", HANDSHAKE.as_secs())]
    Handshake,
    /// The peer proved no identity.
    #[error("the peer has no certificate of libp2p")]
    Certificate,
    /// A hole can only be punched from an address that is listened at.
    #[error("no address is listened at from which a hole could be punched")]
    NoListener,
    /// One is being punched.
    #[error("a hole is being punched to {0} already")]
    Punching(SocketAddr),
}

/// What a transport can't be made of.
type Unusable = Box<dyn std::error::Error + Send + Sync>;

/// How Quinn is set up.
#[derive(Clone)]
struct Setup {
    client: quinn::ClientConfig,
    server: quinn::ServerConfig,
    endpoint: quinn::EndpointConfig,
}

impl Setup {
    fn new(key: &Keypair) -> Result<Self, Unusable> {
        let transport = Arc::new(transport());
        let tls = quinn_tls::QuicClientConfig::try_from(tls::make_client_config(key, None)?)?;
        let mut client = quinn::ClientConfig::new(Arc::new(tls));
        client.transport_config(Arc::clone(&transport));
        let tls = quinn_tls::QuicServerConfig::try_from(tls::make_server_config(key)?)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
        // A connection's address is the peer's address all its life, as everything above believes.
        server.transport_config(transport).migration(false);
        let secret = key.derive_secret(RESET_KEY).ok_or("the key can derive no secret")?;
        let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
        let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset_key));
        endpoint.supported_versions(vec![1]);
        Ok(Self { client, server, endpoint })
    }

    fn endpoint(&self, socket: UdpSocket, listens: bool) -> io::Result<quinn::Endpoint> {
        let server = listens.then(|| self.server.clone());
        quinn::Endpoint::new(self.endpoint.clone(), server, socket, Arc::new(quinn::TokioRuntime))
    }
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport
        .congestion_controller_factory(Arc::new(congestion::Config))
        .max_concurrent_uni_streams(0_u32.into())
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(quinn::VarInt::from_u32(IDLE_MILLIS).into()))
        .allow_spin(false)
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(CONNECTION_WINDOW.into());
    transport
}

/// QUIC.
pub struct Transport {
    setup: Setup,
    listeners: SelectAll<Listener>,
    /// Where connections begin of a family that is not listened at, by whether it is IPv6.
    dialers: HashMap<bool, quinn::Endpoint>,
    /// Holes that are being punched: who waits for the peer's connection.
    punches: HashMap<SocketAddr, oneshot::Sender<Connecting>>,
    waker: Option<Waker>,
}

impl Transport {
    /// A transport that listens nowhere yet.
    ///
    /// # Errors
    /// If no certificate can be made with `key`.
    pub fn new(key: &Keypair) -> Result<Self, Unusable> {
        Ok(Self {
            setup: Setup::new(key)?,
            listeners: SelectAll::new(),
            dialers: HashMap::new(),
            punches: HashMap::new(),
            waker: None,
        })
    }

    /// A listener from whose port this address can be dialled.
    fn listener_for(&mut self, remote: SocketAddr) -> Option<&mut Listener> {
        self.listeners.iter_mut().find(|listener| listener.reaches(remote))
    }

    fn endpoint_for(&mut self, remote: SocketAddr, port: PortUse) -> Result<quinn::Endpoint, Error> {
        if port == PortUse::New {
            return Ok(self.setup.endpoint(any_port(remote)?, false)?);
        }
        if let Some(listener) = self.listener_for(remote) {
            return Ok(listener.endpoint());
        }
        if let Some(endpoint) = self.dialers.get(&remote.is_ipv6()) {
            return Ok(endpoint.clone());
        }
        let endpoint = self.setup.endpoint(any_port(remote)?, false)?;
        self.dialers.insert(remote.is_ipv6(), endpoint.clone());
        Ok(endpoint)
    }

    /// Waits for the connection of a peer that dials us at this moment, and opens the way for it.
    fn punch(&mut self, remote: SocketAddr, peer: PeerId) -> Result<BoxFuture<'static, Dialled>, Error> {
        let socket = self.listener_for(remote).ok_or(Error::NoListener)?.socket()?;
        if self.punches.get(&remote).is_some_and(|waiting| !waiting.is_canceled()) {
            return Err(Error::Punching(remote));
        }
        let (sender, comes) = oneshot::channel();
        self.punches.insert(remote, sender);
        Ok(async move {
            let punching = tokio::time::timeout(HANDSHAKE, punch(socket, remote));
            let connecting = tokio::select! {
                Ok(connecting) = comes => connecting,
                punched = punching => match punched {
                    Ok(Err(error)) => return Err(error.into()),
                    Ok(Ok(never)) => match never {},
                    Err(_) => return Err(Error::Handshake),
                },
            };
            let (found, connection) = connecting.await?;
            if found != peer {
                tracing::debug!(%peer, %found, %remote, "another peer came through the hole");
            }
            Ok((found, connection))
        }
        .boxed())
    }
}

type Dialled = Result<(PeerId, Connection), Error>;

impl core::Transport for Transport {
    type Output = (PeerId, Connection);
    type Error = Error;
    type ListenerUpgrade = Connecting;
    type Dial = BoxFuture<'static, Dialled>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Error>> {
        let Some((local, _)) = socket_address(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let socket = bind(local).map_err(|error| TransportError::Other(error.into()))?;
        let listener = listen(&self.setup, id, socket).map_err(TransportError::Other)?;
        self.listeners.push(listener);
        // From now on what is dialled is dialled from this port; the other ends with its last connection.
        self.dialers.remove(&local.is_ipv6());
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        match self.listeners.iter_mut().find(|listener| listener.id() == id) {
            Some(listener) => {
                listener.close(Ok(()));
                true
            }
            None => false,
        }
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<Error>> {
        let found = socket_address(&address).filter(|(remote, _)| remote.port() != 0 && !remote.ip().is_unspecified());
        let Some((remote, peer)) = found else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        // So DCUtR asks for a hole: as the listener, from a port that no other connection uses.
        if options.role == Endpoint::Listener && options.port_use == PortUse::New {
            let peer = peer.ok_or(TransportError::MultiaddrNotSupported(address))?;
            return self.punch(remote, peer).map_err(TransportError::Other);
        }
        let endpoint = self.endpoint_for(remote, options.port_use).map_err(TransportError::Other)?;
        let client = self.setup.client.clone();
        // The certificate names a key and no host, but the library wants a name.
        Ok(async move { Connecting::new(endpoint.connect_with(client, remote, "l")?).await }.boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Connecting, Error>> {
        while let Poll::Ready(Some(event)) = self.listeners.poll_next_unpin(cx) {
            match event {
                TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } => {
                    let waiting = socket_address(&send_back_addr).and_then(|(from, _)| self.punches.remove(&from));
                    // Who waited may be gone; then it came in like any other.
                    let upgrade = match waiting {
                        Some(waiting) => match waiting.send(upgrade) {
                            Ok(()) => continue,
                            Err(upgrade) => upgrade,
                        },
                        None => upgrade,
                    };
                    return Poll::Ready(TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr });
                }
                event => return Poll::Ready(event),
            }
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn listen(setup: &Setup, id: ListenerId, socket: UdpSocket) -> Result<Listener, Error> {
    let copy = socket.try_clone()?;
    Ok(Listener::new(id, setup.endpoint(socket, true)?, copy)?)
}

/// A socket at an address; one of IPv6 takes no IPv4, which has listeners of its own.
fn bind(local: SocketAddr) -> io::Result<UdpSocket> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

    let family = if local.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(ipproto::UDP))?;
    if local.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &local)?;
    Ok(UdpSocket::from(socket))
}

/// A socket at some port, of the family of an address.
fn any_port(remote: SocketAddr) -> io::Result<UdpSocket> {
    let any = if remote.is_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    UdpSocket::bind((any, 0))
}

/// Sends what opens the routers between, until the caller has waited enough.
async fn punch(socket: UdpSocket, remote: SocketAddr) -> io::Result<Infallible> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    loop {
        let packet: [u8; PUNCH_BYTES] = clock::random_bytes();
        socket.send_to(&packet, remote).await?;
        tokio::time::sleep(Duration::from_millis(10 + u64::from(packet[0]) * 190 / 255)).await;
    }
}

/// `/ip4/…/udp/…/quic-v1`, with or without the peer.
fn socket_address(address: &Multiaddr) -> Option<(SocketAddr, Option<PeerId>)> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let (Protocol::Udp(port), Protocol::QuicV1) = (parts.next()?, parts.next()?) else { return None };
    let peer = match (parts.next(), parts.next()) {
        (None, None) => None,
        (Some(Protocol::P2p(peer)), None) => Some(peer),
        _ => return None,
    };
    Some((SocketAddr::new(ip, port), peer))
}

fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(address.ip().into()).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

/// Who the peer proved to be in the handshake.
fn identity(connection: &quinn::Connection) -> Option<PeerId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Some(certificate::parse(chain.first()?).ok()?.peer_id())
}

#[cfg(test)]
mod tests;
