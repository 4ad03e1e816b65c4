//! The heartbeat: what a node says of itself, signed, to its watchers and to the ledger.

use serde::{Deserialize, Serialize};

use super::{NodeKey, SignedObject, Time};

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Load {
    /// Thousandths of a CPU core booked by tasks.
    pub cpu_millicores_booked: u64,
    /// Bytes of memory booked by tasks.
    pub memory_bytes_booked: u64,
    /// Tasks held, training and inference.
    pub active_tasks: u32,
}

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Beat {
    /// The node that beats; must be the signer.
    pub node: NodeKey,
    /// Grows with each beat of this node, also across restarts (it is its clock in milliseconds).
    pub sequence: u64,
    /// The node's clock.
    pub timestamp: Time,
    /// Its load.
    pub load: Load,
    /// True in the last beat of a node that stops in order: it is offline from now.
    pub leaving: bool,
}

impl SignedObject for Beat {
    const DOMAIN: &'static str = "atlas/beat/v1";
    const LIMIT: usize = 1024;

    fn speaker(&self) -> Option<NodeKey> {
        Some(self.node)
    }
}
