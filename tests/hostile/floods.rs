//! Connections without end.

use std::{collections::VecDeque, pin::Pin, task::Poll, time::Duration};

use atlas_node::{clock, identity::Keypair};
use futures::future;
use libp2p::{
    PeerId, Transport,
    core::{
        Endpoint,
        muxing::StreamMuxerBox,
        transport::{DialOpts, PortUse},
    },
    multiaddr::Protocol,
};
use tokio::net::TcpStream;

use super::{AGAIN, Target};

/// Connections that are held at once; the oldest is dropped for a new one.
const HELD: usize = 400;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(2);
/// A handshake of an honest transport ends long before, or is refused.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A peer that nobody has seen.
pub(super) fn new_keypair() -> Keypair {
    Keypair::from_secret(&clock::random_bytes())
}

/// Connects, keeps the connection, and connects again.
pub(super) async fn connections(target: &Target, mut keypair: impl FnMut() -> Keypair) {
    let mut held: VecDeque<StreamMuxerBox> = VecDeque::new();
    loop {
        match connect(target, &keypair()).await {
            Some((_, muxer)) => held.push_back(muxer),
            None => tokio::time::sleep(AGAIN).await,
        }
        if held.len() > HELD {
            held.pop_front();
        }
        // A connection lives as long as somebody looks after it.
        future::poll_fn(|cx| {
            held.retain_mut(|muxer| {
                !matches!(libp2p::core::muxing::StreamMuxer::poll(Pin::new(muxer), cx), Poll::Ready(Err(_)))
            });
            Poll::Ready(())
        })
        .await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn connect(target: &Target, keypair: &Keypair) -> Option<(PeerId, StreamMuxerBox)> {
    let mut transport = atlas_node::swarm::transport(&keypair.to_libp2p(), None).expect("a transport of its own");
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let dial = transport.dial(target.address.clone(), options).ok()?;
    tokio::time::timeout(HANDSHAKE, dial).await.ok()?.ok()
}

/// Opens sockets and says nothing.
pub(super) async fn handshakes(target: &Target) {
    let mut host = String::new();
    for part in &target.address {
        match part {
            Protocol::Ip4(address) => host = address.to_string(),
            Protocol::Tcp(port) => host = format!("{host}:{port}"),
            _ => {}
        }
    }
    let mut held = VecDeque::new();
    loop {
        match TcpStream::connect(&host).await {
            Ok(socket) => held.push_back(socket),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
        if held.len() > HELD {
            held.pop_front();
        }
        tokio::time::sleep(PAUSE).await;
    }
}
