//! What names a record of a ledger, wherever it is asked for or proven.
//!
//! The ledger keeps its records under these keys, and a client that believes nobody checks proofs for them. What the records are
//! stands in `ledger::entries`; nothing here knows them.

use serde::{Deserialize, Serialize};

use super::{
    authenticated::Named,
    records::{ObjectId, OffenceId},
    wire::query,
};
use crate::{
    codec,
    types::{JobId, NodeKey, Round, TaskId},
};

/// The longest data of a query for one record, in bytes: an id.
const MAX_DATA: usize = 1024;

/// The key of a record. Keys of one kind are neighbours, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// What the ledger began from.
    Genesis,
    /// Height and times.
    Clock,
    /// An account.
    Account(NodeKey),
    /// A node.
    Node(NodeKey),
    /// What the ledger counts of a node's life.
    NodeClock(NodeKey),
    /// A job.
    Job(JobId),
    /// A task.
    Task(TaskId),
    /// What the ledger counts of a task's lease.
    TaskClock(TaskId),
    /// A closed round.
    Round(JobId, Round),
    /// Rewards that wait for the end of their audit window, which is the height.
    Payout(u64, JobId, Round),
    /// A model.
    Model(String),
    /// What a node answered for a job.
    Inference(JobId, NodeKey),
    /// What a node has bonded.
    Stake(NodeKey),
    /// A punished offence.
    Offence(OffenceId),
    /// What a node's past counts for.
    Standing(NodeKey),
    /// The free transactions of a node's work.
    Allowance(NodeKey),
    /// The sums of the economy.
    Totals,
    /// Who makes the blocks.
    Validators,
    /// The numbers in force since validators changed one.
    Rules,
    /// What validators vote on.
    Proposals,
    /// Content that nodes keep for another.
    Object(ObjectId),
}

impl Key {
    /// The bytes that the authenticated map hashes: the kind and the id.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Genesis => b"g".to_vec(),
            Self::Clock => b"c".to_vec(),
            Self::Account(node) => join(b'a', &[&node.0]),
            Self::Node(node) => join(b'n', &[&node.0]),
            Self::NodeClock(node) => join(b'l', &[&node.0]),
            Self::Job(job) => join(b'j', &[&job.0]),
            Self::Task(task) => join(b't', &[&task.job.0, &task.slot.to_be_bytes()]),
            Self::TaskClock(task) => join(b'k', &[&task.job.0, &task.slot.to_be_bytes()]),
            Self::Round(job, round) => join(b'r', &[&job.0, &round.to_be_bytes()]),
            Self::Payout(height, job, round) => join(b'p', &[&height.to_be_bytes(), &job.0, &round.to_be_bytes()]),
            Self::Model(id) => join(b'm', &[id.as_bytes()]),
            Self::Inference(job, node) => join(b'i', &[&job.0, &node.0]),
            Self::Stake(node) => join(b's', &[&node.0]),
            Self::Offence(OffenceId { node, kind, job, round }) => {
                join(b'o', &[&node.0, &[*kind as u8], &job.0, &round.to_be_bytes()])
            }
            Self::Standing(node) => join(b'q', &[&node.0]),
            Self::Allowance(node) => join(b'u', &[&node.0]),
            Self::Totals => b"y".to_vec(),
            Self::Validators => b"v".to_vec(),
            Self::Rules => b"e".to_vec(),
            Self::Proposals => b"f".to_vec(),
            Self::Object(ObjectId { owner, name }) => join(b'h', &[&owner.0, &name.0]),
        }
    }
}

impl Key {
    /// The record that a query reads; none for one that reads several, or computes.
    pub(in crate::chain) fn read_by(path: &str, data: &[u8]) -> Option<Self> {
        match path {
            query::GET_NODE => codec::decode(data, MAX_DATA).ok().map(Self::Node),
            query::GET_JOB => codec::decode(data, MAX_DATA).ok().map(Self::Job),
            query::GET_TASK => codec::decode(data, MAX_DATA).ok().map(Self::Task),
            query::GET_MODEL => codec::decode(data, MAX_DATA).ok().map(Self::Model),
            query::GET_ACCOUNT => codec::decode(data, MAX_DATA).ok().map(Self::Account),
            query::GET_STAKE => codec::decode(data, MAX_DATA).ok().map(Self::Stake),
            query::GET_OFFENCE => codec::decode(data, MAX_DATA).ok().map(Self::Offence),
            query::GET_OBJECT => codec::decode(data, MAX_DATA).ok().map(Self::Object),
            query::GET_RECORD => codec::decode(data, MAX_DATA).ok(),
            query::GET_TOTALS => Some(Self::Totals),
            query::GET_VALIDATORS => Some(Self::Validators),
            _ => None,
        }
    }
}

impl Named for Key {
    fn name(&self) -> Vec<u8> {
        self.to_bytes()
    }
}

fn join(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![kind];
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}
