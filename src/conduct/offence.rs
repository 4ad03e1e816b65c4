//! The kinds of misbehaviour, with their points.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// Something that a peer did and should not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Offence {
    /// A gossip message that nobody may forward: not CBOR, too long, wrongly signed, or of another topic.
    Gossip,
    /// Gossip over the budget, valid or not.
    GossipFlood {
        /// Messages or frames over it.
        count: u32,
    },
    /// Streams of a protocol over its budget, whether requests came on them or not.
    Streams {
        /// Which protocol.
        protocol: Cow<'static, str>,
        /// Streams over it.
        count: u32,
    },
    /// Gossip streams begun again on a connection that stands: its messages were refused before they were read, as those
    /// over the limit are.
    GossipAgain {
        /// Streams.
        count: u32,
    },
    /// A signature that is not of who it says, on something that is no gossip.
    Forged {
        /// Which protocol.
        protocol: Cow<'static, str>,
    },
    /// A message longer than the protocol's limit.
    Oversize {
        /// Which protocol.
        protocol: Cow<'static, str>,
    },
    /// Bytes that are no encoding of anything. (A message of an unknown kind is none of these.)
    Malformed {
        /// Which protocol.
        protocol: Cow<'static, str>,
    },
    /// A request that began and did not go on.
    Stalled {
        /// Which protocol.
        protocol: Cow<'static, str>,
    },
    /// A block whose bytes are not those of its name.
    Lie {
        /// Blocks.
        count: u32,
    },
    /// Connections over the budget.
    Connections {
        /// Connections over it.
        count: u32,
    },
}

impl Offence {
    /// What it costs. At [`super::CUT_OFF_AT`] the peer is cut off.
    pub fn points(&self) -> u32 {
        match self {
            // Its forwarder must have seen it, so ten are no accident.
            Self::Gossip => 10,
            // The budget was generous already.
            Self::GossipFlood { count } | Self::Streams { count, .. } => *count,
            // libp2p listens to no more than five of them on a connection: three are too many.
            Self::GossipAgain { count } => count.saturating_mul(40),
            // Each is refused at little cost, and whoever writes an implementation of their own sends a few: what counts is
            // that they go on.
            Self::Oversize { .. } | Self::Forged { .. } => 10,
            Self::Malformed { .. } => 5,
            // May be a frozen or a far machine, which has a few at once.
            Self::Stalled { .. } => 5,
            // Nothing is so plainly false. A bad disk can't be told from it, and is no better to talk to while it is bad;
            // `shard` asks such a peer no more for an hour, so that there is seldom a second one to wait for.
            Self::Lie { count } => count.saturating_mul(100),
            Self::Connections { count } => count.saturating_mul(5),
        }
    }

    /// How many of its kind this is.
    pub fn count(&self) -> u32 {
        match self {
            Self::GossipFlood { count }
            | Self::Streams { count, .. }
            | Self::GossipAgain { count }
            | Self::Lie { count }
            | Self::Connections { count } => *count,
            _ => 1,
        }
    }

    /// The kind alone, so that several of one kind are told as one.
    #[must_use]
    pub(super) fn kind(&self) -> Self {
        match self {
            Self::GossipFlood { .. } => Self::GossipFlood { count: 0 },
            Self::Streams { protocol, .. } => Self::Streams { protocol: protocol.clone(), count: 0 },
            Self::GossipAgain { .. } => Self::GossipAgain { count: 0 },
            Self::Lie { .. } => Self::Lie { count: 0 },
            Self::Connections { .. } => Self::Connections { count: 0 },
            other => other.clone(),
        }
    }
}

impl fmt::Display for Offence {
    /// The kind, in words that a number can stand before.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gossip => f.write_str("invalid gossip message(s)"),
            Self::GossipFlood { .. } => f.write_str("gossip message(s) over the budget"),
            Self::Streams { protocol, .. } => write!(f, "stream(s) of {protocol} over the budget"),
            Self::GossipAgain { .. } => f.write_str("gossip stream(s) begun again, as after a message over the limit"),
            Self::Forged { protocol } => write!(f, "forged message(s) of {protocol}"),
            Self::Oversize { protocol } => write!(f, "message(s) of {protocol} over the limit"),
            Self::Malformed { protocol } => write!(f, "malformed message(s) of {protocol}"),
            Self::Stalled { protocol } => write!(f, "unfinished request(s) of {protocol}"),
            Self::Lie { .. } => f.write_str("block(s) that are not what their name says"),
            Self::Connections { .. } => f.write_str("connection(s) over the budget"),
        }
    }
}
