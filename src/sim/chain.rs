//! The hosted ledger: the real state machine, with blocks made as the embedded one makes them.

use std::{collections::BTreeSet, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::{client::Key, invariant::supply::Money, ledger_link::Page};
use crate::{
    chain::{
        ledger::{BlockResult, Clock, Genesis, GenesisError, Ledger, Payout},
        records::{Account, Job, Offence, Stake, Totals, Update, Updates},
        wire::{Code, query},
    },
    codec,
    node::edges::Terms,
    types::{Digest, NodeKey, Time},
};

/// A block is made so long after the first transaction waits (design §5: group commit).
pub(super) const GROUP_COMMIT: Duration = Duration::from_millis(5);
/// And so often while time alone can change something.
pub(super) const IDLE_BLOCK: Duration = Duration::from_secs(1);

/// What a transaction that somebody else sent is known by.
const REPLAYED: Key = Key::MAX;

/// Whose transaction it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) node: usize,
    pub(super) life: u64,
    pub(super) key: Key,
}

/// A block, with whose its transactions are.
pub(super) struct Block {
    pub(super) senders: Vec<(Sender, Digest)>,
    pub(super) result: BlockResult,
}

/// A ledger and what waits for its next block.
#[derive(Debug)]
pub(super) struct Chain {
    ledger: Ledger,
    waiting: Vec<(Sender, Vec<u8>)>,
    /// Hashes of the transactions taken: a copy is not taken again.
    taken: BTreeSet<Digest>,
    /// It answers nobody until then.
    pub(super) away_until: Time,
}

impl Chain {
    pub(super) fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        let ledger = Ledger::new(genesis)?;
        Ok(Self { ledger, waiting: Vec::new(), taken: BTreeSet::new(), away_until: Time::ZERO })
    }

    /// Takes a transaction; true if it is the first that waits, so that a block is due soon.
    pub(super) fn take(&mut self, sender: Sender, bytes: Vec<u8>) -> bool {
        if !self.taken.insert(Digest::of(&bytes)) {
            return false;
        }
        self.waiting.push((sender, bytes));
        self.waiting.len() == 1
    }

    /// Whether a block made now would do anything.
    pub(super) fn wants_block(&self) -> bool {
        !self.waiting.is_empty() || self.ledger.has_open_work()
    }

    /// Sends transactions again that somebody else sent, past the check that keeps copies out.
    pub(super) fn replay(&mut self, node: usize, transactions: Vec<Vec<u8>>) {
        let sender = Sender { node, life: 0, key: REPLAYED };
        self.waiting.extend(transactions.into_iter().map(|bytes| (sender, bytes)));
    }

    /// The transactions of other nodes that wait.
    pub(super) fn overheard(&self, node: usize) -> Vec<Vec<u8>> {
        let others = self.waiting.iter().filter(|(sender, _)| sender.node != node && sender.key != REPLAYED);
        others.map(|(_, bytes)| bytes.clone()).collect()
    }

    pub(super) fn make_block(&mut self, now: Time) -> Block {
        let (senders, transactions): (Vec<Sender>, Vec<Vec<u8>>) =
            std::mem::take(&mut self.waiting).into_iter().unzip();
        let hashes: Vec<Digest> = transactions.iter().map(|bytes| Digest::of(bytes)).collect();
        let result = self.ledger.apply_block(now, &transactions);
        // What was out of turn did nothing: the same bytes may come again when it is their turn.
        let stale = senders.iter().zip(&hashes).zip(&result.results);
        let stale = stale.filter(|((sender, _), result)| result.code == Code::Nonce as u32 && sender.key != REPLAYED);
        for ((_, hash), _) in stale {
            self.taken.remove(hash);
        }
        Block { senders: senders.into_iter().zip(hashes).collect(), result }
    }

    /// The height of the last block.
    pub(super) fn height(&self) -> u64 {
        self.ledger.height()
    }

    /// What changed after a height.
    pub(super) fn page(&self, after: u64) -> Page {
        let answer =
            self.ledger.query(query::CHANGES, &codec::encode(&after)).expect("the query and its data are right");
        let changes = codec::decode(&answer, usize::MAX).expect("the ledger's answer is what the query gives");
        Page { after, changes, digest: Digest::of(&answer) }
    }

    /// An account; empty if there is none.
    pub(super) fn account(&self, node: &NodeKey) -> Account {
        self.ask(query::GET_ACCOUNT, node).unwrap_or_default()
    }

    /// Where its money is, by every record that it has.
    pub(super) fn money(&self) -> Money {
        let (mut money, mut after) = (Money::default(), None::<u64>);
        loop {
            let data = after.map_or_else(Vec::new, |after| codec::encode(&after));
            let answer = self.ledger.query(query::UPDATES, &data).expect("the query and its data are right");
            let page: Updates =
                codec::decode(&answer, usize::MAX).expect("the ledger's answer is what the query gives");
            page.records.iter().for_each(|record| add(&mut money, record));
            if !page.more {
                return money;
            }
            after = Some(page.height);
        }
    }

    /// Offences that it punished.
    pub(super) fn offences(&self) -> Vec<Offence> {
        let answer = self.ledger.query(query::LIST_OFFENCES, &[]);
        answer.ok().and_then(|answer| codec::decode(&answer, usize::MAX).ok()).unwrap_or_default()
    }

    /// What it asks of nodes, and what one has bonded.
    pub(super) fn terms(&self, node: &NodeKey) -> Terms {
        let economy = self.ledger.genesis().economy;
        let stake: Stake = self.ask(query::GET_STAKE, node).unwrap_or_default();
        Terms {
            economy: economy.is_some(),
            min_stake: economy.map_or(0, |economy| economy.min_stake),
            bonded: stake.bonded,
        }
    }

    fn ask<T: DeserializeOwned>(&self, path: &str, data: &impl Serialize) -> Option<T> {
        let answer = self.ledger.query(path, &codec::encode(data)).ok()?;
        codec::decode(&answer, usize::MAX).ok()
    }
}

/// What a record holds. Its kind is the first byte of its key.
pub(super) fn add(money: &mut Money, Update { key, value }: &Update) {
    fn read<T: DeserializeOwned>(value: &[u8]) -> T {
        codec::decode(value, usize::MAX).expect("a record of this kind")
    }
    let Some(value) = value else { return };
    match key.first() {
        Some(b'a') => money.balances += read::<Account>(value).balance,
        Some(b'j') => money.escrow += read::<Job>(value).escrow,
        Some(b'p') => money.waiting += read::<Payout>(value).shares.values().sum::<u64>(),
        Some(b's') => {
            let Stake { bonded, unbonding } = read(value);
            money.stakes += bonded + unbonding.iter().map(|one| one.amount).sum::<u64>();
        }
        Some(b'c') => money.supply = read::<Clock>(value).supply,
        Some(b'y') => money.burned = read::<Totals>(value).burned,
        _ => {}
    }
}
