//! What peers do to this node that no honest one does, and when that is enough.
//!
//! Whatever notices misbehaviour (the frame of a request, gossip, the gate of the connections, the check of a block) says
//! so through a [`Reporter`] and goes on. One place counts, whatever the protocol: [`State`] gives each [`Offence`] its
//! points, forgets them with time, and cuts a peer off that has too many: its connections are closed and refused for a
//! time that doubles whenever it must be done again. The log and `status` say who, why and until when.
//!
//! What can't be told from bad luck costs nothing here: to be slow, to be silent, to vanish, to speak a newer version, to
//! send words that this version does not know. The protocol that asked then asks another.
//!
//! [`Budget`]s say how much of a thing that is good in itself is too much. They are far above what an honest peer was seen
//! to do, because whoever does more is cut off.

mod budget;
mod offence;
mod reporter;
mod state;

pub use budget::{Buckets, Budget};
pub use offence::Offence;
pub use reporter::{Report, Reporter};
pub use state::{
    CUT_OFF_AT, CutOff, FIRST_CUT_OFF, FORGET_REPEATS, LONGEST_CUT_OFF, MAX_CUT_OFF_SHOWN, POINTS_FORGOTTEN, State,
};

/// Gossip messages from one neighbour, duplicates included. A network of a thousand nodes in one job's round says about
/// thirty a second; a check costs a tenth of a millisecond, so this many take a fiftieth of a core.
pub const GOSSIP: Budget = Budget { start: 300, burst: 1_000, per_minute: 12_000 };
/// Gossip frames from one neighbour, most of which carry no message: who has what, who wants what.
pub const GOSSIP_FRAMES: Budget = Budget { start: 400, burst: 4_000, per_minute: 24_000 };
/// Gossip messages that this node forwards in all: half of what any neighbour takes from it, a new one too, so that neither
/// somebody who makes it talk nor half of a network that vanishes at once can have it cut off. What is left out stands on
/// the ledger.
pub const GOSSIP_FORWARDED: Budget = Budget { start: 150, burst: 150, per_minute: 6_000 };
/// Gossip streams of one peer on one connection: one, and one more after an error of its own.
pub const GOSSIP_STREAMS: u32 = 2;
/// Questions on the routing table from one peer: a walk through it asks each peer once or twice.
pub const KADEMLIA_STREAMS: Budget = Budget { start: 100, burst: 500, per_minute: 3_000 };
/// Identify streams of one peer: one a connection, and one when its addresses change.
pub const IDENTIFY_STREAMS: Budget = Budget { start: 20, burst: 60, per_minute: 60 };
/// Connections that one peer opens, refused ones included. Both transports, some attempts, and a restart now and then.
pub const CONNECTIONS: Budget = Budget { start: 20, burst: 30, per_minute: 30 };
/// Connections that one address opens, of whatever peers: an IPv4 address or the first 64 bits of an IPv6 one. A hundred
/// nodes on one machine or behind one router find each other within it.
pub const CONNECTIONS_OF_ADDRESS: Budget = Budget { start: 128, burst: 128, per_minute: 600 };
