//! A node's side of the ledger: nonces, order, and what survives a crash. It stands for `chain::client`, whose JSON-RPC
//! and journal need sockets and a disk; what a coordinator sees of it is the same.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    chain::{
        client::Event,
        ledger::TransactionResult,
        wire::{Code, Message, Transaction},
    },
    codec,
    identity::Keypair,
    types::Digest,
};

/// Signed transactions that wait for a block at once.
const MAX_IN_FLIGHT: usize = 32;

/// Names a submission of a machine, in the order of submission, for ever.
pub(super) type Key = u64;

/// What a submission is, and to whom its result goes: `None` if whoever asked is gone.
#[derive(Clone, Debug)]
struct Entry {
    id: Option<u64>,
    message: Message,
}

/// What the client wants of the ledger.
#[derive(Debug)]
pub(super) enum Step {
    ReadNonce,
    Send { key: Key, bytes: Vec<u8> },
}

/// What a disk keeps of it.
#[derive(Debug, Default)]
pub(super) struct Journal {
    next_key: Key,
    durable: BTreeMap<Key, Message>,
}

/// The client in one life of a node.
#[derive(Debug)]
pub(super) struct Client {
    keypair: Keypair,
    chain_id: String,
    waiting: BTreeMap<Key, Entry>,
    flying: BTreeMap<Key, Entry>,
    next_nonce: Option<u64>,
    reading: bool,
    steps: VecDeque<Step>,
}

impl Client {
    /// A client that takes over what the journal has. Results of an earlier life's submissions go to nobody.
    pub(super) fn new(keypair: Keypair, chain_id: String, journal: &Journal) -> Self {
        let kept = journal.durable.iter();
        let waiting = kept.map(|(key, message)| (*key, Entry { id: None, message: message.clone() })).collect();
        Self {
            keypair,
            chain_id,
            waiting,
            flying: BTreeMap::new(),
            next_nonce: None,
            reading: false,
            steps: VecDeque::new(),
        }
    }

    /// Takes a submission.
    pub(super) fn submit(&mut self, journal: &mut Journal, id: u64, message: Message, durable: bool) {
        let key = journal.next_key;
        journal.next_key += 1;
        if durable {
            journal.durable.insert(key, message.clone());
        }
        self.waiting.insert(key, Entry { id: Some(id), message });
        self.act();
    }

    /// The account's nonce was read.
    pub(super) fn on_nonce(&mut self, nonce: u64) {
        self.reading = false;
        if self.flying.is_empty() {
            self.next_nonce = Some(nonce);
        }
        self.act();
    }

    /// The ledger answers again, or for the first time.
    pub(super) fn on_connected(&mut self) {
        self.reading = false;
        self.act();
    }

    /// A transaction is in a block. One out of turn did nothing: it is signed again once the others are answered.
    pub(super) fn on_result(
        &mut self,
        journal: &mut Journal,
        key: Key,
        height: u64,
        hash: Digest,
        result: TransactionResult,
    ) -> Option<Event> {
        let entry = self.flying.remove(&key)?;
        let event = if result.code == Code::Nonce as u32 {
            self.next_nonce = None;
            self.waiting.insert(key, entry);
            None
        } else {
            journal.durable.remove(&key);
            let TransactionResult { code, log, data, .. } = result;
            entry.id.map(|id| Event::Committed { id, code, log, data, height, hash })
        };
        self.act();
        event
    }

    /// The next thing that it wants.
    pub(super) fn poll(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Submissions that are not settled.
    pub(super) fn open(&self) -> usize {
        self.waiting.len() + self.flying.len()
    }

    fn act(&mut self) {
        while !self.waiting.is_empty() && self.flying.len() < MAX_IN_FLIGHT {
            let Some(nonce) = self.next_nonce else {
                if !self.reading && self.flying.is_empty() {
                    self.reading = true;
                    self.steps.push_back(Step::ReadNonce);
                }
                return;
            };
            let Some((key, entry)) = self.waiting.pop_first() else { return };
            let transaction =
                Transaction { chain_id: self.chain_id.clone(), nonce, attempt: 0, message: entry.message.clone() };
            self.steps.push_back(Step::Send { key, bytes: codec::encode(&self.keypair.seal(&transaction)) });
            self.flying.insert(key, entry);
            self.next_nonce = Some(nonce + 1);
        }
    }
}
