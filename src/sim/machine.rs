//! A machine: what outlives the node that runs on it.

use std::sync::Arc;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use super::{client::Journal, content::Store, fault::Lie, node::Node};
use crate::{
    identity::Keypair,
    node::keeping,
    shard::edge::Hold,
    types::{ContentId, Digest, NodeKey, Time},
};

/// The port on which every node listens.
const PORT: u16 = 4001;

/// A machine with a disk, and perhaps a node.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) keypair: Keypair,
    pub(super) peer: PeerId,
    /// Without the peer's name.
    pub(super) address: Multiaddr,
    pub(super) store: Arc<Store>,
    pub(super) journal: Journal,
    /// Counts starts. What was meant for an earlier life is lost.
    pub(super) life: u64,
    pub(super) node: Option<Node>,
    /// Nothing happens here before then.
    pub(super) paused_until: Time,
    pub(super) slowness_percent: u64,
    /// A look at the disk takes so much longer.
    pub(super) disk_millis: u64,
    /// Its clock is ahead by so many milliseconds, or behind.
    pub(super) skew_millis: i64,
    /// What its node lies about.
    pub(super) lie: Option<Lie>,
    /// It was not meant to start again.
    pub(super) stays_down: bool,
    /// It will never start again, and its disk is lost.
    pub(super) gone: bool,
    /// Planted bug: it says that content is on the disk when it is not.
    pub(super) forgets_to_sync: bool,
}

impl Machine {
    pub(super) fn new(seed: u64, index: usize) -> Self {
        let number = u64::try_from(index).unwrap_or(u64::MAX).to_be_bytes();
        let secret = Digest::of_parts("atlas/sim/key", &[&seed.to_be_bytes(), &number]).0;
        let keypair = Keypair::from_secret(&secret);
        let [.., high, low] = number;
        let ip = std::net::Ipv4Addr::new(10, 0, high, low);
        Self {
            peer: keypair.peer_id(),
            address: Multiaddr::from(ip).with(Protocol::Tcp(PORT)),
            keypair,
            store: Arc::default(),
            journal: Journal::default(),
            life: 0,
            node: None,
            paused_until: Time::ZERO,
            slowness_percent: 100,
            disk_millis: 0,
            skew_millis: 0,
            lie: None,
            stays_down: false,
            gone: false,
            forgets_to_sync: false,
        }
    }

    /// What its clock shows at a time of the world.
    pub(super) fn clock(&self, now: Time) -> Time {
        Time::from_millis(now.as_millis().saturating_add_signed(self.skew_millis))
    }

    /// The time of the world at which its clock will show `shown`.
    pub(super) fn time_of(&self, shown: Time) -> Time {
        Time::from_millis(shown.as_millis().saturating_add_signed(-self.skew_millis))
    }

    /// Where others dial it.
    pub(super) fn full_address(&self) -> Multiaddr {
        self.address.clone().with(Protocol::P2p(self.peer))
    }

    /// What it holds for others, as its pins say.
    pub(super) fn holds(&self) -> Vec<Hold> {
        self.store.pins().iter().filter_map(|(root, reason)| Hold::from_pin(*root, reason)).collect()
    }

    /// Everything on its disk survives a power cut from now on, or so it says.
    pub(super) fn sync(&self) {
        if !self.forgets_to_sync {
            self.store.sync();
        }
    }

    /// Whose objects it keeps, and their roots, as its pins say.
    pub(super) fn kept(&self) -> Vec<(NodeKey, ContentId)> {
        self.store.pins().iter().filter_map(|(root, reason)| Some((keeping::owner(reason)?, *root))).collect()
    }

    /// The node dies, and with it everything that was not on the disk.
    pub(super) fn crash(&mut self) {
        self.node = None;
        self.life += 1;
        self.paused_until = Time::ZERO;
        self.store.lose_unsynced();
    }
}
