//! What goes into the health state, and what comes out.

use std::time::Duration;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::{SpeedError, Standing};
use crate::{
    gossip::StatusChange,
    types::{Load, NodeKey, Signed, Speed},
};

/// What the operator or the network fixes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Between two beats (origin: 30 s; `testnet` 1 s).
    pub beat_interval: Duration,
    /// How many nodes watch one (design §3: 8).
    pub watchers: usize,
    /// Silence after which a node is declared offline (origin: 90 s, which is three beats). One that is too short for
    /// a late beat and the probes after it is stretched: see [`Config::declare_after`].
    pub timeout: Duration,
    /// Between two direct probes of a suspected node.
    pub probe_interval: Duration,
    /// From suspicion to declaration: long enough for the beats and probes in it to survive loss and jitter
    /// (targets.md: 1.5 s + this ≤ 4 s).
    pub probe_window: Duration,
    /// Others that are asked to probe a suspected node (SWIM's k).
    pub helpers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            beat_interval: Duration::from_secs(30),
            watchers: 8,
            timeout: Duration::from_secs(90),
            probe_interval: Duration::from_millis(500),
            probe_window: Duration::from_millis(2_250),
            helpers: 3,
        }
    }
}

impl Config {
    /// A configuration with another beat interval and time to the declaration.
    pub fn with_beats(beat_interval: Duration, timeout: Duration) -> Self {
        Self { beat_interval, timeout, ..Self::default() }
    }

    /// Silence after which a node is suspected: early enough for the probes to end at the timeout, and never before
    /// a beat is half an interval late.
    pub fn suspect_after(&self) -> Duration {
        self.timeout.saturating_sub(self.probe_window).max(self.beat_interval * 3 / 2)
    }

    /// Silence after which a node is declared offline.
    pub fn declare_after(&self) -> Duration {
        self.suspect_after() + self.probe_window
    }
}

/// What the coordinator tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Which nodes there are (on a ledger or by connection) has changed. Watchers and helpers are chosen among them.
    /// Saying it twice changes nothing; this node itself may be named and is left out.
    Members {
        /// Keys and peers of those that came.
        joined: Vec<(NodeKey, PeerId)>,
        /// Those that are gone.
        left: Vec<NodeKey>,
    },
    /// How busy this node is; goes out with the next beat.
    Load(Load),
    /// This node stops: the last beat goes out at once and says so; no further one follows.
    Leave,
    /// Measure the path to a peer. Exactly one [`Event::SpeedMeasured`] or [`Event::SpeedFailed`] follows.
    MeasureSpeed {
        /// Repeated by the answer.
        id: u64,
        /// With whom.
        peer: PeerId,
    },
    /// A verified status change from gossip.
    StatusHeard(StatusChange),
}

/// What the coordinator is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// This node's beat, for the ledger: at once after the start, then each interval, and when it leaves.
    BeatDue(Signed),
    /// A valid and new beat of another node.
    BeatHeard {
        /// Whose.
        node: NodeKey,
        /// How busy it is.
        load: Load,
        /// The signed beat, which anyone may put on the ledger.
        beat: Signed,
    },
    /// A watched node gave no sign of life for three beats; probes are out.
    Suspected {
        /// Which.
        node: NodeKey,
    },
    /// A suspected node gave a sign of life after all.
    Cleared {
        /// Which.
        node: NodeKey,
    },
    /// A watched node answered nobody. Changes only.
    Offline {
        /// Which.
        node: NodeKey,
        /// The sequence of its last beat.
        last_sequence: u64,
    },
    /// A node that was offline, had left or was not watched before beats. Changes only.
    Online {
        /// Which.
        node: NodeKey,
        /// What it was before; `None` if it was not watched.
        before: Option<Standing>,
        /// The sequence of its last beat.
        last_sequence: u64,
    },
    /// A watched node said that it stops. Changes only.
    Left {
        /// Which.
        node: NodeKey,
        /// The sequence of its last beat.
        last_sequence: u64,
    },
    /// This node has left, and each of its watchers was told, or can't be.
    Departed,
    /// The path to a peer was measured.
    SpeedMeasured {
        /// As in the input.
        id: u64,
        /// With whom.
        peer: PeerId,
        /// What came out.
        speed: Speed,
    },
    /// The path to a peer could not be measured.
    SpeedFailed {
        /// As in the input.
        id: u64,
        /// With whom.
        peer: PeerId,
        /// Why.
        error: SpeedError,
    },
}
