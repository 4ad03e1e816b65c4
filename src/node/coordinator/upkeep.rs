//! What is pinned here is told to the mesh again after a start, and fetched again where the disk lost some of it.

use libp2p::PeerId;

use super::{Coordinator, Output, Pending, gather::Next, gather::Purpose};
use crate::{node::edges, types::ContentId};

/// Roots that are provided again after a start; as many as the routing table keeps of one node.
const MAX_PROVIDED: usize = 1_024;
/// Pinned roots that are looked at after the disk lost something. Further ones are found when they are needed.
const MAX_REPAIRED: usize = 256;

impl Coordinator {
    /// A peer answers questions on the routing table: from the first of them on, it may know what is here.
    pub(super) fn provide_again(&mut self) {
        if !std::mem::replace(&mut self.provided, true) {
            self.edge(edges::Request::ListRoots, Pending::Provide);
        }
    }

    pub(super) fn on_roots_to_provide(&mut self, roots: &[ContentId]) {
        for root in roots.iter().copied().take(MAX_PROVIDED) {
            self.output(Output::Provide(root));
        }
    }

    /// Blocks rotted and were dropped.
    pub(super) fn on_rotten(&mut self) {
        self.edge(edges::Request::ListRoots, Pending::Repair);
    }

    pub(super) fn on_roots_to_repair(&mut self, roots: &[ContentId]) {
        let providers: Vec<PeerId> = self.peers.keys().copied().collect();
        for root in roots.iter().copied().take(MAX_REPAIRED) {
            self.gather(&[(root, Purpose::Content)], &providers, Next::Repaired(root));
        }
    }

    pub(super) fn on_repair_failed(&mut self, root: ContentId, reason: &str) {
        tracing::warn!(%root, reason, "part of what is pinned is lost here, and nobody else has it now");
        self.on_object_lost(root);
    }
}
