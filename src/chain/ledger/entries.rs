//! The records of the ledger and the keys they have in the authenticated map.
//!
//! | kind | id | record |
//! | --- | --- | --- |
//! | `g` | – | [`Genesis`] |
//! | `c` | – | [`Clock`] |
//! | `a` | node key (32) | [`Account`] |
//! | `n` | node key (32) | [`Node`] |
//! | `l` | node key (32) | [`NodeClock`] |
//! | `j` | job id (32) | [`Job`] |
//! | `t` | job id (32), slot (4, big-endian) | [`Task`] |
//! | `k` | job id (32), slot (4, big-endian) | [`TaskClock`] |
//! | `r` | job id (32), round (4, big-endian) | [`RoundRecord`] |
//! | `p` | due height (8, big-endian), job id (32), round (4, big-endian) | [`Payout`] |
//! | `m` | model id (UTF-8) | [`Model`] |
//! | `i` | job id (32), node key (32) | [`Inference`] |
//! | `s` | node key (32) | [`Stake`] |
//! | `o` | node key (32), kind (1), job id (32), round (4, big-endian) | [`Offence`] |
//! | `q` | node key (32) | [`Standing`] |
//! | `u` | node key (32) | [`Allowance`] |
//! | `y` | – | [`Totals`] |
//! | `v` | – | [`Validators`] |
//! | `e` | – | [`Rules`] |
//! | `f` | – | [`Proposals`] |
//! | `h` | node key (32), SHA-256 of the root's CID (32) | [`Object`] |
//!
//! The key of a record is its kind byte and its id; the map hashes both with SHA-256. The value is the record's CBOR.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Genesis, Key, Rules};
use crate::{
    chain::records::{
        Account, Allowance, Job, Model, Node, Object, Offence, Proposals, RoundRecord, Stake, Standing, Task, Totals,
        Validators,
    },
    types::{NodeKey, Round, Time},
};

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    Genesis(Box<Genesis>),
    Clock(Clock),
    Account(Account),
    Node(Box<Node>),
    NodeClock(NodeClock),
    Job(Box<Job>),
    Task(Box<Task>),
    TaskClock(TaskClock),
    Round(Box<RoundRecord>),
    Payout(Payout),
    Model(Box<Model>),
    Inference(Inference),
    Stake(Stake),
    Offence(Box<Offence>),
    Standing(Standing),
    Allowance(Allowance),
    Totals(Totals),
    Validators(Validators),
    Rules(Box<Rules>),
    Proposals(Proposals),
    Object(Box<Object>),
}

impl Entry {
    /// Whether this is the kind of record that `key` names.
    pub(super) fn fits(&self, key: &Key) -> bool {
        match (key, self) {
            (Key::Node(id), Self::Node(node)) => node.id == *id,
            (Key::Job(id), Self::Job(job)) => job.id == *id,
            (Key::Task(id), Self::Task(task)) => task.id == *id,
            (Key::Round(job, round), Self::Round(record)) => {
                record.outcome.job == *job && record.outcome.round == *round
            }
            (Key::Model(id), Self::Model(model)) => model.id == *id,
            (Key::Offence(id), Self::Offence(offence)) => offence.id == *id,
            (Key::Object(id), Self::Object(object)) => object.id() == *id,
            (Key::Genesis, Self::Genesis(_))
            | (Key::Clock, Self::Clock(_))
            | (Key::Account(_), Self::Account(_))
            | (Key::NodeClock(_), Self::NodeClock(_))
            | (Key::TaskClock(_), Self::TaskClock(_))
            | (Key::Payout(..), Self::Payout(_))
            | (Key::Inference(..), Self::Inference(_))
            | (Key::Stake(_), Self::Stake(_))
            | (Key::Standing(_), Self::Standing(_))
            | (Key::Allowance(_), Self::Allowance(_))
            | (Key::Totals, Self::Totals(_))
            | (Key::Validators, Self::Validators(_))
            | (Key::Rules, Self::Rules(_))
            | (Key::Proposals, Self::Proposals(_)) => true,
            _ => false,
        }
    }

    /// The bytes that the authenticated map hashes as the value: the record's own CBOR, without the kind.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        use crate::codec::encode;
        match self {
            Self::Genesis(genesis) => encode(genesis),
            Self::Clock(clock) => encode(clock),
            Self::Account(account) => encode(account),
            Self::Node(node) => encode(node),
            Self::NodeClock(clock) => encode(clock),
            Self::Job(job) => encode(job),
            Self::Task(task) => encode(task),
            Self::TaskClock(clock) => encode(clock),
            Self::Round(round) => encode(round),
            Self::Payout(payout) => encode(payout),
            Self::Model(model) => encode(model),
            Self::Inference(inference) => encode(inference),
            Self::Stake(stake) => encode(stake),
            Self::Offence(offence) => encode(offence),
            Self::Standing(standing) => encode(standing),
            Self::Allowance(allowance) => encode(allowance),
            Self::Totals(totals) => encode(totals),
            Self::Validators(validators) => encode(validators),
            Self::Rules(rules) => encode(rules),
            Self::Proposals(proposals) => encode(proposals),
            Self::Object(object) => encode(object),
        }
    }
}

/// Height and times of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Blocks applied.
    pub height: u64,
    /// Time of the last block.
    pub time: Time,
    /// Live time in milliseconds: grows with block time, but by at most `live_step_max_millis` a block.
    pub live: u64,
    /// All money there is: balances, escrow, stakes and what waits for its audit window.
    pub supply: u64,
}

/// What the ledger counts of a node's life, in live time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeClock {
    /// When it registered first.
    pub registered: u64,
    /// Its last beat.
    pub last_beat: u64,
    /// Since when it is online without a break; `None` while it is offline.
    pub online_since: Option<u64>,
    /// Online time before that.
    pub online_before: u64,
}

/// What the ledger counts of a task's lease, in live time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskClock {
    /// From when the job's `round_limit` counts: the opening of the round, or the lease if that is later.
    pub round_from: u64,
    /// Until when the lease lives without another checkpoint.
    pub renewed_until: u64,
    /// When the lease lapses by lack of progress; `None` if nothing is held or nothing is due.
    pub lapses_at: Option<u64>,
    /// Who reported it as failed, and when, since the last applied round.
    pub failed_by: BTreeMap<NodeKey, u64>,
    /// Reports of failure since the last applied round.
    pub failures: u32,
}

/// Rewards of a round that wait for the end of their audit window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payout {
    /// Each worker and its share, in the smallest unit.
    pub shares: BTreeMap<NodeKey, u64>,
}

/// What a node answered for a job, all reports together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inference {
    /// Requests answered.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The round whose model it served last.
    pub round: Round,
}
