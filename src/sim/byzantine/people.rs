//! People with accounts: they sign transactions, send them until they are in a block, and remember what they signed, so
//! that it is known of every byte in a block whether anybody meant it. The last of them cheats.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    super::chance::Chance,
    wishes::{self, View},
};
use crate::{
    chain::{
        ledger::Claim,
        wire::{Message, Transaction},
    },
    codec,
    identity::Keypair,
    types::{Digest, NodeKey, Time},
};

/// The ledger's name.
pub(super) const CHAIN_ID: &str = "atlas-byzantine";
/// People, of whom the last one cheats.
pub(super) const COUNT: usize = 6;
/// Transactions of one person that wait for a block at once.
const MAX_WAITING: usize = 6;

/// Somebody with an account.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) keypair: Keypair,
    pub(super) bonded: bool,
    next: u64,
    /// Sent, and in no block yet.
    waiting: BTreeMap<u64, Bytes>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct People {
    pub(super) all: Vec<Person>,
    pub(super) economy: bool,
    /// Whatever was signed for this ledger.
    signed: BTreeMap<Digest, Claim>,
    serial: u64,
}

impl People {
    pub(super) fn new(economy: bool) -> Self {
        let person = |number: u8| {
            let keypair = Keypair::from_secret(&[number; 32]);
            Person { keypair, bonded: false, next: 0, waiting: BTreeMap::new() }
        };
        let all = (1..).take(COUNT).map(person).collect();
        Self { all, economy, signed: BTreeMap::new(), serial: 0 }
    }

    pub(super) fn cheat(&self) -> usize {
        self.all.len() - 1
    }

    pub(super) fn key(&self, who: usize) -> NodeKey {
        self.all[who].keypair.node_key()
    }

    pub(super) fn number_of(&self, key: &NodeKey) -> Option<usize> {
        self.all.iter().position(|person| person.keypair.node_key() == *key)
    }

    /// What these bytes claim, if somebody signed exactly them.
    pub(super) fn claim(&self, transaction: &[u8]) -> Option<Claim> {
        self.signed.get(&Digest::of(transaction)).copied()
    }

    /// A transaction of this person.
    pub(super) fn sign(&mut self, who: usize, nonce: u64, message: Message) -> Bytes {
        let keypair = &self.all[who].keypair;
        let transaction = Transaction { chain_id: CHAIN_ID.to_owned(), nonce, attempt: 0, message };
        let bytes = Bytes::from(codec::encode(&keypair.seal(&transaction)));
        self.signed.insert(Digest::of(&bytes), Claim { creator: keypair.node_key(), nonce });
        bytes
    }

    /// A message that anybody may send, and that differs from all before.
    pub(super) fn something(&mut self) -> Message {
        self.serial += 1;
        wishes::model(self.serial)
    }

    /// Everybody who is honest thinks of something to do.
    pub(super) fn act(&mut self, view: &View, now: Time, chance: &mut Chance) {
        for who in 0..self.cheat() {
            let busy = self.all[who].waiting.len() >= MAX_WAITING;
            if busy || chance.happens(300) {
                continue;
            }
            let Some(message) = wishes::next(self, who, view, now, chance) else { continue };
            let nonce = self.all[who].next;
            let bytes = self.sign(who, nonce, message);
            let person = &mut self.all[who];
            person.next += 1;
            person.waiting.insert(nonce, bytes);
        }
    }

    /// What the cheat sends: two transactions for one nonce, one far ahead, and now and then none.
    pub(super) fn tricks(&mut self, next: u64, chance: &mut Chance) -> Vec<Bytes> {
        let who = self.cheat();
        let nonces = match chance.within(0..=4) {
            0 => vec![next, next],
            1 => vec![next + 1, next],
            2 => vec![next + 5_000],
            3 => vec![next.saturating_sub(1)],
            _ => return Vec::new(),
        };
        nonces.into_iter().map(|nonce| self.trick(who, nonce)).collect()
    }

    fn trick(&mut self, who: usize, nonce: u64) -> Bytes {
        let message = self.something();
        self.sign(who, nonce, message)
    }

    /// Who has the next nonce `next` has nothing before it left to send.
    pub(super) fn on_committed(&mut self, next: &BTreeMap<NodeKey, u64>) {
        for person in &mut self.all {
            let reached = next.get(&person.keypair.node_key()).copied().unwrap_or(0);
            person.waiting = person.waiting.split_off(&reached);
        }
    }

    /// What honest people have sent and wait for.
    pub(super) fn waiting(&self) -> Vec<Bytes> {
        self.all.iter().flat_map(|person| person.waiting.values().cloned()).collect()
    }

    /// Who waits, and with which nonce first.
    pub(super) fn stuck(&self) -> Option<(usize, u64)> {
        let first = |(who, person): (usize, &Person)| Some((who, *person.waiting.first_key_value()?.0));
        self.all.iter().enumerate().find_map(first)
    }
}
