//! What a path between two nodes carries.

use serde::{Deserialize, Serialize};

/// One measurement between this node and a peer. Integers, because it is compared and stored exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Speed {
    /// Round trip of a small message, in microseconds.
    pub latency_micros: u64,
    /// From the peer, in kilobits (1,000 bits) a second.
    pub download_kbps: u64,
    /// To the peer, in kilobits (1,000 bits) a second.
    pub upload_kbps: u64,
}
