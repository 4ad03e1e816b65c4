//! What this state is told by the coordinator, and what it tells it.

use std::time::Duration;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::EDGE_LIMIT;
use crate::{
    protocol::SendError,
    shard::{edge, wire::Refusal},
    types::{Cause, ContentId},
};

/// What the coordinator tells this state.
#[derive(Debug, Serialize, Deserialize)]
pub enum Input {
    /// Bring the DAG of `root` here. Ends with [`Event::Fetched`] or [`Event::FetchFailed`], exactly once.
    Fetch {
        /// Chosen by the coordinator; repeated by every event about it.
        id: u64,
        /// The root.
        root: ContentId,
        /// Peers that may have it.
        providers: Vec<PeerId>,
    },
    /// More peers that may have what the fetch `id` wants.
    AddProviders {
        /// The fetch.
        id: u64,
        /// The peers.
        providers: Vec<PeerId>,
    },
    /// The fetch is not wanted any more. It ends with [`FetchFailure::Cancelled`]; what came is kept until its
    /// space is needed.
    Cancel {
        /// The fetch.
        id: u64,
    },
    /// Ask `peer` to keep the DAG of `root`, which is here. Ends with [`Event::Held`] or [`Event::HoldFailed`].
    AskHold {
        /// Chosen by the coordinator; repeated by the event.
        id: u64,
        /// The root.
        root: ContentId,
        /// Bytes of its files.
        size: u64,
        /// Whom.
        peer: PeerId,
    },
    /// What was held for `peer` need not be any more.
    Release {
        /// The root.
        root: ContentId,
        /// For whom it was held.
        peer: PeerId,
    },
    /// The disk answers.
    Edge(edge::Answer),
}

/// What this state tells the coordinator.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// The whole DAG is here, verified and on the disk. It is not pinned: pin the root before the fetch (a pin
    /// covers what arrives after it) or now.
    Fetched {
        /// The fetch.
        id: u64,
        /// The root.
        root: ContentId,
        /// Bytes of its blocks.
        bytes: u64,
        /// Bytes of the blocks that peers sent for it; the rest was here.
        received: u64,
    },
    /// The fetch ended without the DAG.
    FetchFailed {
        /// The fetch.
        id: u64,
        /// Why.
        reason: FetchFailure,
    },
    /// Blocks came. At most twice a second.
    Progress {
        /// The fetch.
        id: u64,
        /// Bytes of blocks that are here.
        bytes_done: u64,
    },
    /// `peer` has it on its disk.
    Held {
        /// The [`Input::AskHold`].
        id: u64,
        /// The root.
        root: ContentId,
        /// Who holds it.
        peer: PeerId,
    },
    /// `peer` does not hold it.
    HoldFailed {
        /// The [`Input::AskHold`].
        id: u64,
        /// Who was asked.
        peer: PeerId,
        /// Why.
        reason: HoldFailure,
    },
    /// This node now keeps a DAG for a peer: on the disk and pinned, until [`Input::Release`].
    Holding {
        /// The root.
        root: ContentId,
        /// Bytes as the peer told them.
        size: u64,
        /// For whom.
        for_peer: PeerId,
    },
    /// None of the known peers has what is missing: find others, and tell them with [`Input::AddProviders`].
    WantProviders {
        /// The fetch.
        id: u64,
        /// The root.
        root: ContentId,
    },
    /// A peer sent bytes that are not what they were asked for as. It is not asked or served for some time.
    Misbehaved {
        /// The peer.
        peer: PeerId,
        /// How many blocks were not what they were asked for as.
        blocks: u32,
    },
    /// Work for the disk; the answer comes back as [`Input::Edge`].
    Edge(edge::Request),
}

/// Why a fetch ended without its DAG.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum FetchFailure {
    /// Nothing came for [`super::Config::stall`].
    #[error("no block arrived for {} s; no known peer has what is missing, or none can be reached", .0.as_secs())]
    Stalled(Duration),
    /// The coordinator wanted it no more.
    #[error("cancelled")]
    Cancelled,
    /// Too many transfers at once.
    #[error("too many transfers are under way; try again later")]
    TooMany,
    /// More came than the peer that wanted it held had told.
    #[error("it is larger than its owner said")]
    TooLarge,
    /// The disk could not take it.
    #[error(transparent)]
    Edge(Cause),
    /// The disk did not answer in time.
    #[error("the disk did not answer within {} s", EDGE_LIMIT.as_secs())]
    EdgeTimeout,
}

/// Why a peer does not hold what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum HoldFailure {
    /// It said no.
    #[error(transparent)]
    Refused(Refusal),
    /// It could not be asked.
    #[error(transparent)]
    Unreachable(SendError),
    /// It accepted and did not finish in time.
    #[error("the peer did not finish in time")]
    Deadline,
    /// Too many asked at once.
    #[error("too many copies are being made; try again later")]
    TooMany,
}
