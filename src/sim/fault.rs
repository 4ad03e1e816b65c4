//! What goes wrong, where and when.

use std::time::Duration;

use serde::Deserialize;

use crate::types::{Round, Slot, Step};

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Fault {
    /// What happens.
    #[serde(flatten)]
    pub kind: Kind,
    /// When.
    pub when: When,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// `kill -9`, or a power cut: memory is gone, and what was not synced.
    Crash {
        /// Whom.
        who: Who,
        /// When it starts again; absent: never.
        restart_after_millis: Option<u64>,
        /// The machine vanishes: peers see no closed connection, only silence.
        #[serde(default)]
        silent: bool,
    },
    /// Crash without a return, and the disk is lost too.
    Destroy {
        /// Whom.
        who: Who,
    },
    /// SIGTERM: the node stops in order.
    Stop {
        /// Whom.
        who: Who,
        /// When it starts again; absent: never.
        restart_after_millis: Option<u64>,
    },
    /// SIGSTOP, then SIGCONT.
    Pause {
        /// Whom.
        who: Who,
        /// For how long.
        for_millis: u64,
    },
    /// Scripts of the node take longer.
    Slow {
        /// Whom.
        who: Who,
        /// 100 is as planned, 300 three times as long.
        percent: u64,
    },
    /// Every look at the node's disk, and everything that ends in a sync, takes longer.
    SlowDisk {
        /// Whom.
        who: Who,
        /// By so much.
        millis: u64,
    },
    /// The node's clock is set to another time than the others'.
    Skew {
        /// Whom.
        who: Who,
        /// Ahead; behind where it is negative.
        millis: i64,
    },
    /// Nodes crash, one after another, by chance, and are back after a while.
    Churn {
        /// So many of a hundred nodes a minute.
        percent_per_minute: u64,
        /// How long each is away.
        down_millis: u64,
        /// How long it goes on.
        for_millis: u64,
    },
    /// The node lies from now on, also after a restart.
    Liar {
        /// Who.
        who: Who,
        /// About what.
        lie: Lie,
    },
    /// Messages from these nodes to those are lost.
    Partition {
        /// The nodes on this side.
        nodes: Vec<usize>,
        /// Only what leaves them is lost; otherwise both ways are.
        #[serde(default)]
        one_way: bool,
        /// The ledger stands on the other side.
        #[serde(default)]
        with_ledger: bool,
        /// For how long.
        for_millis: u64,
    },
    /// The ledger answers nobody and makes no block.
    LedgerAway {
        /// For how long.
        for_millis: u64,
    },
}

impl Kind {
    /// How long the world is not to be expected to go on as it should.
    pub(super) fn lasts(&self) -> Duration {
        Duration::from_millis(match self {
            Self::Crash { restart_after_millis, .. } | Self::Stop { restart_after_millis, .. } => {
                restart_after_millis.unwrap_or(0)
            }
            Self::Pause { for_millis, .. }
            | Self::Churn { for_millis, .. }
            | Self::Partition { for_millis, .. }
            | Self::LedgerAway { for_millis } => *for_millis,
            _ => 0,
        })
    }
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The node of this number.
    Node(usize),
    /// The holder of this slot at that time.
    Holder(Slot),
    /// The first of those who hold the object of this number at that time.
    Keeper(u32),
    /// The first in line to aggregate the open round.
    Aggregator,
}

/// What a liar lies about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// A worker that names another state in its receipts than the one its script ended in.
    Receipt,
    /// A worker whose update is not what its checkpoint gives.
    Update,
    /// A verifier that attests whatever it is asked about.
    Attest,
    /// A holder that proposes and votes for another model.
    Root,
    /// A peer that gives other bytes than it is asked for.
    Bytes,
    /// A ledger client that sends everybody's transactions again.
    Replay,
    /// A worker whose receipts name another model than the round's.
    Forge,
    /// A worker that signs a second result beside each true one.
    TwoReceipts,
    /// A holder that votes for a second root beside each true one that it proposes.
    TwoRoots,
}

/// When a fault happens; once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum When {
    /// At this virtual time.
    AtMillis(u64),
    /// When a slot's script has done so many steps of a round.
    Progress {
        /// The slot.
        slot: Slot,
        /// The round.
        round: Round,
        /// The step.
        step: Step,
    },
    /// When a round has opened.
    RoundOpened(Round),
}

/// A fault that is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasting {
    /// The cut of this number.
    Cut(usize),
}
