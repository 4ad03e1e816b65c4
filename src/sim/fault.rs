//! What goes wrong, where and when.

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

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The node of this number.
    Node(usize),
    /// The holder of this slot at that time.
    Holder(Slot),
    /// The first in line to aggregate the open round.
    Aggregator,
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
