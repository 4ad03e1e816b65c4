//! Two transports on loopback.

use std::future::poll_fn;

use futures::{AsyncReadExt, AsyncWriteExt, future::Either};
use libp2p::core::{Transport as _, muxing::StreamMuxerExt};

use super::*;

struct Party {
    peer: PeerId,
    transport: Transport,
}

impl Party {
    fn new() -> Self {
        let key = Keypair::generate_ed25519();
        Self { peer: key.public().to_peer_id(), transport: Transport::new(&key).unwrap() }
    }

    async fn next(&mut self) -> TransportEvent<Connecting, Error> {
        poll_fn(|cx| Pin::new(&mut self.transport).poll(cx)).await
    }

    async fn listen(&mut self, address: &str) -> Multiaddr {
        self.transport.listen_on(ListenerId::next(), address.parse().unwrap()).unwrap();
        self.next().await.into_new_address().unwrap()
    }

    fn dial(&mut self, address: Multiaddr, role: Endpoint, port_use: PortUse) -> BoxFuture<'static, Dialled> {
        self.transport.dial(address, DialOpts { role, port_use }).unwrap()
    }

    /// The next that comes.
    async fn accept(&mut self) -> (PeerId, Connection) {
        self.next().await.into_incoming().unwrap().0.await.unwrap()
    }
}

/// Sends `bytes` from one end to the other and back.
async fn echo(dialler: &mut Connection, listener: &mut Connection, bytes: &[u8]) {
    let there = async {
        let mut stream = poll_fn(|cx| dialler.poll_outbound_unpin(cx)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.close().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert!(back == bytes);
    };
    let back = async {
        let mut stream = poll_fn(|cx| listener.poll_inbound_unpin(cx)).await.unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        stream.write_all(&read).await.unwrap();
        stream.close().await.unwrap();
    };
    futures::join!(there, back);
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is_and_streams_carry_what_is_written() {
    for address in ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::1/udp/0/quic-v1"] {
        for port_use in [PortUse::New, PortUse::Reuse] {
            let (mut one, mut other) = (Party::new(), Party::new());
            let address = one.listen(address).await;
            let dialling = other.dial(address, Endpoint::Dialer, port_use);
            let (dialled, (from, mut listener)) = futures::join!(dialling, one.accept());
            let (to, mut dialler) = dialled.unwrap();
            assert_eq!((to, from), (one.peer, other.peer));
            echo(&mut dialler, &mut listener, &[7; 3 << 20]).await;
            poll_fn(|cx| dialler.poll_close_unpin(cx)).await.unwrap();
            assert!(poll_fn(|cx| listener.poll_inbound_unpin(cx)).await.is_err());
        }
    }
}

#[tokio::test]
async fn who_listens_everywhere_names_the_addresses_of_the_machine_and_ends_in_order() {
    let mut party = Party::new();
    let id = ListenerId::next();
    party.transport.listen_on(id, "/ip4/0.0.0.0/udp/0/quic-v1".parse().unwrap()).unwrap();
    loop {
        let address = party.next().await.into_new_address().unwrap();
        let (socket, _) = socket_address(&address).unwrap();
        assert!(socket.port() != 0 && !socket.ip().is_unspecified(), "{address}");
        if socket.ip().is_loopback() {
            break;
        }
    }
    assert!(party.transport.remove_listener(id));
    assert!(!party.transport.remove_listener(ListenerId::next()));
    loop {
        if let TransportEvent::ListenerClosed { listener_id, reason } = party.next().await {
            assert!(listener_id == id && reason.is_ok());
            break;
        }
    }
}

#[tokio::test]
async fn a_hole_is_punched_from_the_port_that_is_listened_at() {
    let (mut one, mut other) = (Party::new(), Party::new());
    let here = one.listen("/ip4/127.0.0.1/udp/0/quic-v1").await;
    let there = other.listen("/ip4/127.0.0.1/udp/0/quic-v1").await;
    let named = there.with(Protocol::P2p(other.peer));
    let punching = one.dial(named.clone(), Endpoint::Listener, PortUse::New);
    let again = one.transport.dial(named, DialOpts { role: Endpoint::Listener, port_use: PortUse::New });
    assert!(matches!(again, Err(TransportError::Other(Error::Punching(_)))));
    // The peer dials from the port that it listens at; its connection comes to who punched, and not as one that came in.
    let dialling = other.dial(here, Endpoint::Dialer, PortUse::Reuse);
    let connected = futures::future::join(punching, dialling);
    let next = Box::pin(one.next());
    let Either::Left(((punched, dialled), _)) = futures::future::select(connected, next).await else {
        panic!("it came in as a stranger's");
    };
    assert_eq!((punched.unwrap().0, dialled.unwrap().0), (other.peer, one.peer));
}

#[tokio::test]
async fn without_a_listener_no_hole_is_punched_and_other_addresses_are_refused() {
    let mut party = Party::new();
    let options = DialOpts { role: Endpoint::Listener, port_use: PortUse::New };
    let peer = PeerId::random();
    let address = "/ip4/127.0.0.1/udp/1/quic-v1".parse::<Multiaddr>().unwrap().with(Protocol::P2p(peer));
    assert!(matches!(party.transport.dial(address, options), Err(TransportError::Other(Error::NoListener))));
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
    for address in ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/0.0.0.0/udp/1/quic-v1"] {
        let dialled = party.transport.dial(address.parse().unwrap(), options);
        assert!(matches!(dialled, Err(TransportError::MultiaddrNotSupported(_))), "{address}");
    }
}

#[test]
fn addresses_are_read_as_they_are_written() {
    for text in ["/ip4/1.2.3.4/udp/5/quic-v1", "/ip6/::1/udp/5/quic-v1"] {
        let address: Multiaddr = text.parse().unwrap();
        let (socket, peer) = socket_address(&address).unwrap();
        assert_eq!((multiaddr(socket), peer), (address.clone(), None));
        let named = PeerId::random();
        assert_eq!(socket_address(&address.with(Protocol::P2p(named))), Some((socket, Some(named))));
    }
    for text in [
        "/ip4/1.2.3.4/udp/5",
        "/ip4/1.2.3.4/udp/5/quic",
        "/dns4/a/udp/5/quic-v1",
        "/ip4/1.2.3.4/udp/5/quic-v1/webtransport",
    ] {
        assert_eq!(socket_address(&text.parse().unwrap()), None, "{text}");
    }
}
