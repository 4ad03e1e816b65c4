//! What must hold after each block, whoever proposed it:
//!
//! | name | what |
//! | --- | --- |
//! | `agreement` | a block gives the same results and the same app hash on all honest replicas, whenever and after whatever they apply it; a replica that starts has the app hash of its height |
//! | `answers` | every request of CometBFT is answered, and no answer is an exception |
//! | `start` | whatever lies in its directory, a replica starts |
//! | `proposals` | a replica accepts a proposal exactly if it fits and each of its transactions is one that somebody signed for this ledger, in its creator's turn |
//! | `mempool` | the same for one transaction that waits |
//! | `nonces` | each transaction in turn uses its nonce, no other does, and none has an effect twice |
//! | `time` | a block's time lies between honest clocks, and the ledger's never goes back |
//! | `leases`, `escrow` | as in every simulated world |
//! | `supply` | all records together hold the supply, which is what genesis and faucet gave less what was burned |
//! | `payments` | each reward is paid once, to whom the round's record gives it |
//! | `history` | closed rounds and punished offences never change |
//! | `liveness` | what an honest person has sent is in a block once honest validators propose |
//!
//! The rules are written here once more, from what was signed and what was decided, and share no code with the ledger's.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    super::{
        chain,
        invariant::{Violation, escrow::Escrow, leases::Leases, supply::Money},
    },
    Counts, Plant,
    people::People,
    validator::{Block, Validator},
};
use crate::{
    chain::{
        abci::MAX_BLOCK,
        ledger::Payout,
        records::{Account, Changes, Node, Offence, Update, Updates},
        wire::{Code, query},
    },
    codec,
    types::{Digest, NodeKey, Time},
};

/// A transaction may be so far ahead of its turn in the mempool.
const MAX_AHEAD: u64 = 1_000;

/// Records by key; what was removed is none.
type Delta = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Watch {
    /// The next nonce of each account.
    pub(super) next: BTreeMap<NodeKey, u64>,
    used: BTreeSet<Digest>,
    seen: Seen,
    leases: Leases,
    escrow: Escrow,
    /// What the genesis gave.
    given: u64,
    faucet: u64,
    /// The ledger's time.
    time: Time,
    plant: Option<Plant>,
}

/// The ledger's records after the last block, and what was read from them.
#[derive(Debug, Default)]
struct Seen {
    height: Option<u64>,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    money: BTreeMap<Vec<u8>, Money>,
    nonces: BTreeMap<NodeKey, u64>,
    rewards: BTreeMap<NodeKey, u64>,
}

impl Watch {
    pub(super) fn new(given: u64, faucet: u64, plant: Option<Plant>) -> Self {
        Self {
            next: BTreeMap::new(),
            used: BTreeSet::new(),
            seen: Seen::default(),
            leases: Leases::default(),
            escrow: Escrow,
            given,
            faucet,
            time: Time::ZERO,
            plant,
        }
    }

    fn next(&self, account: &NodeKey) -> u64 {
        self.next.get(account).copied().unwrap_or(0)
    }

    /// Whether honest validators must accept a proposal.
    pub(super) fn is_lawful(&self, people: &People, proposal: &[bytes::Bytes]) -> bool {
        let mut next = self.next.clone();
        let length: usize = proposal.iter().map(|transaction| in_a_block(transaction.len())).sum();
        length <= MAX_BLOCK
            && proposal.iter().all(|transaction| {
                people.claim(transaction).is_some_and(|claim| {
                    let turn = next.entry(claim.creator).or_default();
                    let in_turn = *turn == claim.nonce;
                    *turn += 1;
                    in_turn
                })
            })
    }

    /// Whether a transaction may wait for a block.
    pub(super) fn may_wait(&self, people: &People, transaction: &[u8]) -> bool {
        people.claim(transaction).is_some_and(|claim| {
            let next = self.next(&claim.creator);
            (next..=next + MAX_AHEAD).contains(&claim.nonce)
        })
    }

    /// Looks at a block that was applied, and at what `replica` says of the ledger after it; gives what changed.
    pub(super) fn on_block(
        &mut self,
        people: &People,
        block: &Block,
        replica: &Validator,
        counts: &mut Counts,
    ) -> Result<Changes, Violation> {
        self.check_nonces(people, block, counts)?;
        let mut changes: Changes = read(replica, query::CHANGES, codec::encode(&(block.height - 1)))?;
        let mut delta = self.seen.delta(replica)?;
        self.tamper(people, &mut changes, &mut delta);
        if changes.time < self.time {
            return Err(Violation::new("time", format!("the ledger's went back to {}", changes.time)));
        }
        self.time = changes.time;
        self.leases.on_changes(&changes)?;
        self.escrow.on_changes(&changes)?;
        counts.leases += leases_given(block);
        self.check_history(&delta, counts)?;
        let earned = self.seen.earned(&delta);
        counts.rewards += earned.values().map(|(_, rewards)| rewards).sum::<u64>();
        self.seen.take(delta, block.height, &earned)?;
        self.check_accounts()?;
        self.check_supply()?;
        Ok(changes)
    }

    fn check_nonces(&mut self, people: &People, block: &Block, counts: &mut Counts) -> Result<(), Violation> {
        let outcome = block.outcome.as_ref().expect("the block was applied");
        if outcome.tx_results.len() != block.transactions.len() {
            let what = format!("{} results for {}", outcome.tx_results.len(), block.transactions.len());
            return Err(Violation::new("answers", what));
        }
        for (place, (bytes, result)) in block.transactions.iter().zip(&outcome.tx_results).enumerate() {
            let claim = people.claim(bytes).filter(|claim| claim.nonce == self.next(&claim.creator));
            let broken = |what: &str| {
                let what = format!("transaction {place} of block {} {what} (code {})", block.height, result.code);
                Err(Violation::new("nonces", what))
            };
            match claim {
                Some(_) if is_refused(result.code) => return broken("is in turn and was refused"),
                Some(claim) => {
                    *self.next.entry(claim.creator).or_default() += 1;
                    counts.transactions += 1;
                    if !self.used.insert(Digest::of(bytes)) {
                        return broken("was there before");
                    }
                }
                None if result.code == 0 || !result.events.is_empty() => {
                    return broken("is not in turn, or nobody's, and had an effect");
                }
                None => counts.idle += 1,
            }
        }
        Ok(())
    }

    fn check_accounts(&self) -> Result<(), Violation> {
        for (account, expected) in &self.next {
            let found = self.seen.nonces.get(account).copied().unwrap_or(0);
            if found != *expected {
                let what = format!("account {account} has the nonce {found}, expected {expected}");
                return Err(Violation::new("nonces", what));
            }
        }
        Ok(())
    }

    fn check_supply(&self) -> Result<(), Violation> {
        let mut money = Money::default();
        for part in self.seen.money.values() {
            money.balances += part.balances;
            money.escrow += part.escrow;
            money.waiting += part.waiting;
            money.stakes += part.stakes;
            money.supply += part.supply;
            money.burned += part.burned;
        }
        let given = self.given + self.seen.rewards.len() as u64 * self.faucet;
        let Money { balances, escrow, waiting, stakes, supply, burned } = money;
        if balances + escrow + waiting + stakes == supply && supply + burned == given {
            return Ok(());
        }
        Err(Violation::new("supply", format!("{given} were given, and there is {money:?}")))
    }

    fn check_history(&self, delta: &Delta, counts: &mut Counts) -> Result<(), Violation> {
        for (key, value) in delta.iter().filter(|(key, _)| [Some(&b'r'), Some(&b'o')].contains(&key.first())) {
            match self.seen.records.get(key) {
                Some(known) if Some(known) != value.as_ref() => {
                    let what = format!("the record {} was written once and is another now", hex::encode(key));
                    return Err(Violation::new("history", what));
                }
                Some(_) => {}
                None if key[0] == b'r' => counts.rounds += 1,
                None => counts.offences += 1,
            }
        }
        Ok(())
    }

    /// Puts a planted bug into what was read.
    fn tamper(&self, people: &People, changes: &mut Changes, delta: &mut Delta) {
        match self.plant {
            Some(Plant::MoneyLost) => {
                edit(delta, b'a', |account: Account| Account { balance: account.balance / 2, ..account });
            }
            Some(Plant::NonceSkipped) => {
                edit(delta, b'a', |account: Account| Account { nonce: account.nonce + 1, ..account });
            }
            Some(Plant::PaidTwice) => edit(delta, b'n', |node: Node| Node { rewards: node.rewards * 2, ..node }),
            Some(Plant::Rewritten) => {
                let closed = self.seen.records.iter().find(|(key, _)| key.first() == Some(&b'r'));
                delta.extend(closed.map(|(key, value)| (key.clone(), Some(value[1..].to_vec()))));
            }
            Some(Plant::TwoHolders) => {
                let thief = people.key(people.cheat());
                let held = changes.tasks.iter_mut().filter(|task| task.receipt.is_some());
                held.for_each(|task| task.holder = Some(thief));
            }
            _ => {}
        }
    }
}

impl Seen {
    /// What changed at `replica` since the last block that was seen. A replica that began from a snapshot does not know
    /// what was removed before, and gives everything.
    fn delta(&self, replica: &Validator) -> Result<Delta, Violation> {
        let (mut delta, mut after) = (Delta::new(), self.height);
        loop {
            let data = after.map_or_else(Vec::new, |after| codec::encode(&after));
            let page: Updates = read(replica, query::UPDATES, data)?;
            if page.whole {
                delta = self.records.keys().map(|key| (key.clone(), None)).collect();
            }
            delta.extend(page.records.into_iter().map(|record| (record.key, record.value)));
            if !page.more {
                return Ok(delta);
            }
            after = Some(page.height);
        }
    }

    /// What each node is to be paid for the payouts that are gone now, and for how many of them.
    fn earned(&self, delta: &Delta) -> BTreeMap<NodeKey, (u64, u64)> {
        let payouts = self.records.range(vec![b'p']..vec![b'p' + 1]);
        let gone = payouts.filter(|(key, _)| delta.get(*key).is_some_and(Option::is_none));
        let mut due: Vec<(&Vec<u8>, Payout)> = gone.map(|(key, value)| (key, decode(value))).collect();
        // Whoever was punished for a round in this block loses the share in it.
        let punished = delta.range(vec![b'o']..vec![b'o' + 1]).filter(|(key, _)| !self.records.contains_key(*key));
        for offence in punished.filter_map(|(_, value)| Some(decode::<Offence>(value.as_ref()?))) {
            let round = [&offence.id.job.0[..], &offence.id.round.to_be_bytes()].concat();
            for (_, payout) in due.iter_mut().filter(|(key, _)| key.ends_with(&round)) {
                payout.shares.remove(&offence.id.node);
            }
        }
        let mut earned = BTreeMap::<NodeKey, (u64, u64)>::new();
        for (node, share) in due.into_iter().flat_map(|(_, payout)| payout.shares) {
            let (sum, rewards) = earned.entry(node).or_default();
            (*sum, *rewards) = (*sum + share, *rewards + 1);
        }
        earned
    }

    /// Takes over what changed. What a node has earned must be what was due.
    fn take(&mut self, delta: Delta, height: u64, earned: &BTreeMap<NodeKey, (u64, u64)>) -> Result<(), Violation> {
        let mut rewards = self.rewards.clone();
        for (node, (sum, _)) in earned {
            *rewards.entry(*node).or_default() += sum;
        }
        for (key, value) in delta {
            let Some(value) = value else {
                self.records.remove(&key);
                self.money.remove(&key);
                continue;
            };
            let mut money = Money::default();
            chain::add(&mut money, &Update { key: key.clone(), value: Some(value.clone()) });
            self.money.insert(key.clone(), money);
            match key.first() {
                Some(b'n') => {
                    let node: Node = decode(&value);
                    self.rewards.insert(node.id, node.rewards);
                    rewards.entry(node.id).or_default();
                }
                Some(b'a') => {
                    let account = NodeKey::from_slice(&key[1..]).expect("the key of an account");
                    self.nonces.insert(account, decode::<Account>(&value).nonce);
                }
                _ => {}
            }
            self.records.insert(key, value);
        }
        self.height = Some(height);
        match rewards.iter().find(|(node, due)| self.rewards.get(node) != Some(due)) {
            None => Ok(()),
            Some((node, due)) => {
                let what = format!("node {node} has earned {:?}, and {due} was due", self.rewards.get(node));
                Err(Violation::new("payments", what))
            }
        }
    }
}

/// Changes the first record of a kind.
fn edit<T: DeserializeOwned + Serialize>(delta: &mut Delta, kind: u8, change: impl FnOnce(T) -> T) {
    let first = delta.iter_mut().find(|(key, value)| key.first() == Some(&kind) && value.is_some());
    let Some((_, Some(value))) = first else { return };
    *value = codec::encode(&change(decode(value)));
}

/// Leases that the transactions of a block took.
fn leases_given(block: &Block) -> u64 {
    let results = block.outcome.iter().flat_map(|outcome| &outcome.tx_results);
    results.flat_map(|result| &result.events).filter(|event| event.r#type == "lease_taken").count() as u64
}

/// Whether this code says that a transaction did not count at all.
fn is_refused(code: u32) -> bool {
    code == Code::ChainId as u32 || code == Code::Nonce as u32
}

/// The bytes that a transaction takes in a block (protobuf: a tag, a length of seven bits a byte, itself).
pub(super) fn in_a_block(length: usize) -> usize {
    let bits = (usize::BITS - length.leading_zeros()).max(1);
    1 + bits.div_ceil(7) as usize + length
}

pub(super) fn read<T: DeserializeOwned>(replica: &Validator, path: &str, data: Vec<u8>) -> Result<T, Violation> {
    let answer = replica.query(path, data)?;
    codec::decode(&answer, usize::MAX).map_err(|error| Violation::new("answers", format!("{path}: {error}")))
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> T {
    codec::decode(value, usize::MAX).expect("a record of this kind")
}
