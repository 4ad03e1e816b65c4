//! A hostile peer: it speaks the protocols well enough to be let in, and then does what no honest node does.
//!
//! It has a swarm of its own and shares no code with the node's but names, limits and keys. Tests (`tests/it/hostile`) and
//! figures (`tests/bench/hostile.rs`) set it on real nodes. An attack goes on until it is dropped, whether or not the node
//! still listens.

mod codec;
mod floods;
mod gossip;
pub(crate) mod seeder;
mod swarm;

pub(crate) use seeder::{EVERY_TENTH, blocks_of, seed};

use std::time::Duration;

use atlas_node::identity::{self, Keypair};
use libp2p::{Multiaddr, PeerId};

/// Between two attempts of a peer that was cut off.
const AGAIN: Duration = Duration::from_millis(20);

/// A way to do harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    /// Gossip that looks like a message and is none.
    GossipGarbage,
    /// Gossip that is signed as it should be and says nothing that anybody needs.
    GossipUseless,
    /// Connections of one peer, opened and opened again.
    Connections,
    /// Connections of ever new peers.
    Identities,
    /// Connections that never say who they are.
    Handshakes,
    /// Streams of every protocol, without a byte on them.
    Streams,
    /// Requests that begin with half of the longest message and stop there.
    HalfRequests,
    /// A message one byte over its protocol's limit, of each.
    Oversize,
    /// A gossip frame one byte over its limit.
    OversizeGossip,
    /// Beats that somebody else should have signed.
    Forgeries,
    /// Heads that announce the longest message that a head can, of each protocol.
    Bombs,
    /// Bytes that are no message, as requests of each protocol.
    Nonsense,
    /// No attack: gossip of a newer version.
    NewerGossip,
    /// No attack either: requests of a kind that this version does not know.
    NewerRequests,
    /// Requests are taken and never answered.
    Silence,
    /// Blocks that are not what their name says, to whoever asks.
    Lies,
}

impl Attack {
    /// Attacks the node at `address` (with its peer id) as the peer of `secret`, for ever.
    pub(crate) async fn run(self, address: Multiaddr, secret: [u8; 32]) {
        let target = Target { peer: identity::peer_of(&address).expect("the address names its peer"), address };
        let keypair = Keypair::from_secret(&secret);
        match self {
            Self::GossipGarbage => gossip::speak(&target, &keypair, gossip::FLOOD, gossip::garbage).await,
            Self::GossipUseless => gossip::speak(&target, &keypair, gossip::FLOOD, gossip::useless).await,
            Self::Connections => floods::connections(&target, || keypair.clone()).await,
            Self::Identities => floods::connections(&target, floods::new_keypair).await,
            Self::Handshakes => floods::handshakes(&target).await,
            Self::Streams => swarm::streams(&target, &keypair).await,
            Self::HalfRequests => swarm::half_requests(&target, &keypair).await,
            Self::Oversize => swarm::oversize(&target, &keypair).await,
            Self::OversizeGossip => swarm::oversize_gossip(&target, &keypair).await,
            Self::Forgeries => swarm::forgeries(&target, &keypair).await,
            Self::Bombs => swarm::bombs(&target, &keypair).await,
            Self::Nonsense => swarm::nonsense(&target, &keypair).await,
            Self::NewerGossip => gossip::speak(&target, &keypair, gossip::CHATTER, gossip::newer).await,
            Self::NewerRequests => swarm::newer(&target, &keypair).await,
            Self::Silence => swarm::answer(&target, &keypair, swarm::nothing).await,
            Self::Lies => swarm::answer(&target, &keypair, swarm::lie).await,
        }
    }
}

/// Whom it is set on.
#[derive(Clone, Debug)]
struct Target {
    peer: PeerId,
    address: Multiaddr,
}
