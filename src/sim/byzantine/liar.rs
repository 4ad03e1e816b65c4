//! Proposals that no honest validator makes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    super::chance::Chance,
    people::{CHAIN_ID, People},
};
use crate::{
    chain::{
        abci::MAX_BLOCK,
        wire::{MAX_TRANSACTION, Transaction},
    },
    codec,
    types::NodeKey,
};

/// What is wrong with a proposal. Some of it is allowed: leaving out is no fault that others can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Oversize,
    TwiceInTheBlock,
    TwiceInTheChain,
    Reordered,
    OutOfTurn,
    WronglySigned,
    OfAnotherChain,
    Malformed,
    OtherEnvelope,
    TooLong,
    TwoOfOneNonce,
    LeftOut,
    Empty,
}

const LIES: &[Lie] = &[
    Lie::Oversize,
    Lie::TwiceInTheBlock,
    Lie::TwiceInTheChain,
    Lie::Reordered,
    Lie::OutOfTurn,
    Lie::WronglySigned,
    Lie::OfAnotherChain,
    Lie::Malformed,
    Lie::OtherEnvelope,
    Lie::TooLong,
    Lie::TwoOfOneNonce,
    Lie::LeftOut,
    Lie::Empty,
];

/// What a liar knows.
pub(super) struct Known<'a> {
    /// What an honest validator would propose.
    pub(super) honest: Vec<Bytes>,
    /// Transactions that are in blocks.
    pub(super) old: &'a [Bytes],
    /// The next nonce of each account.
    pub(super) next: &'a BTreeMap<NodeKey, u64>,
}

/// A proposal with one lie.
pub(super) fn propose(people: &mut People, known: Known<'_>, chance: &mut Chance) -> Vec<Bytes> {
    let lie = LIES[pick(chance, LIES.len())];
    let Known { mut honest, old, next } = known;
    let place = pick(chance, honest.len() + 1);
    let cheat = people.cheat();
    let turn = next.get(&people.key(cheat)).copied().unwrap_or(0);
    match lie {
        Lie::Oversize => {
            let filler = Bytes::from(vec![0xa5; MAX_TRANSACTION]);
            honest.extend(std::iter::repeat_n(filler, MAX_BLOCK / MAX_TRANSACTION + 1));
        }
        Lie::TwiceInTheBlock => {
            let again = honest.get(pick(chance, honest.len().max(1))).cloned();
            honest.extend(again);
        }
        Lie::TwiceInTheChain => {
            let again = old.get(pick(chance, old.len().max(1))).cloned();
            again.into_iter().for_each(|transaction| honest.insert(place, transaction));
        }
        Lie::Reordered => honest.reverse(),
        Lie::OutOfTurn => insert(&mut honest, place, own(people, turn + 1 + chance.within(0..=3))),
        Lie::WronglySigned => {
            let mut forged = own(people, turn).to_vec();
            forged.last_mut().iter_mut().for_each(|byte| **byte ^= 1);
            insert(&mut honest, place, forged.into());
        }
        Lie::OfAnotherChain => {
            let message = people.something();
            let foreign = Transaction { chain_id: format!("{CHAIN_ID}-2"), nonce: turn, attempt: 0, message };
            let foreign = codec::encode(&people.all[cheat].keypair.seal(&foreign));
            insert(&mut honest, place, foreign.into());
        }
        Lie::Malformed => {
            let garbage: Vec<u8> = (0..chance.within(0..=60)).map(|_| chance.bits().to_be_bytes()[0]).collect();
            insert(&mut honest, place, garbage.into());
        }
        Lie::OtherEnvelope => {
            // The head of the same map in two bytes instead of one.
            let true_bytes = own(people, turn);
            let other = [&[0xb8, true_bytes[0] & 0x1f], &true_bytes[1..]].concat();
            insert(&mut honest, place, other.into());
        }
        Lie::TooLong => insert(&mut honest, place, Bytes::from(vec![0; MAX_TRANSACTION + 1])),
        Lie::TwoOfOneNonce => {
            honest.push(own(people, turn));
            honest.push(own(people, turn));
        }
        Lie::LeftOut => honest.retain(|_| chance.happens(600)),
        Lie::Empty => honest.clear(),
    }
    honest
}

fn own(people: &mut People, nonce: u64) -> Bytes {
    let message = people.something();
    people.sign(people.cheat(), nonce, message)
}

fn insert(block: &mut Vec<Bytes>, place: usize, transaction: Bytes) {
    block.insert(place, transaction);
}

/// One of so many places.
pub(super) fn pick(chance: &mut Chance, count: usize) -> usize {
    usize::try_from(chance.within(0..=count as u64 - 1)).unwrap_or(0)
}
