//! Rendezvous hashing (Thaler and Ravishankar, 1998): who is next in line, agreed on without a word.
//!
//! Everybody who knows the same candidates gets the same order. A candidate that leaves changes nobody else's
//! place, and one that joins takes only places of its own. There are no weights, so no float decides an election.

use std::collections::BTreeSet;

use super::{Digest, Generation, JobId, NodeKey, Slot};

/// Who takes a task's lease first: [`volunteers`]. Part: the job.
pub const VOLUNTEER: &str = "atlas/volunteer/v1";
/// Who aggregates a round first. Parts: job and round (u32 big-endian).
pub const AGGREGATOR: &str = "atlas/aggregator/v1";
/// Whom a node sends its beats to. Parts: the node.
pub const WATCHER: &str = "atlas/watcher/v1";
/// Who probes a suspected node for another. Parts: the suspected node and the one that asks.
pub const PROBER: &str = "atlas/prober/v1";
/// Who checks a receipt first. Parts: job, slot and round (each u32 big-endian).
pub const VERIFIER: &str = "atlas/verifier/v1";
/// Who keeps an object for its owner first. Parts: the owner and SHA-256 of the root's CID.
pub const KEEPER: &str = "atlas/keeper/v1";

/// The candidates, highest SHA-256(`domain` ‖ 0x00 ‖ `parts` … ‖ candidate) first. A candidate named twice stands once.
///
/// Every part must have a fixed length within its domain, so that two elections never hash the same bytes.
pub fn rank(domain: &str, parts: &[&[u8]], candidates: impl IntoIterator<Item = NodeKey>) -> Vec<NodeKey> {
    let mut scored: BTreeSet<(Digest, NodeKey)> = BTreeSet::new();
    for candidate in candidates {
        scored.insert((score(domain, parts, &candidate), candidate));
    }
    scored.into_iter().rev().map(|(_, candidate)| candidate).collect()
}

/// The first `count` of [`rank`], in order. Memory is that of `count`, however many candidates there are.
pub fn first(
    domain: &str,
    parts: &[&[u8]],
    count: usize,
    candidates: impl IntoIterator<Item = NodeKey>,
) -> Vec<NodeKey> {
    let mut best: BTreeSet<(Digest, NodeKey)> = BTreeSet::new();
    for candidate in candidates {
        best.insert((score(domain, parts, &candidate), candidate));
        if best.len() > count {
            best.pop_first();
        }
    }
    best.into_iter().rev().map(|(_, candidate)| candidate).collect()
}

/// The place of `node` in [`rank`], 0 for the first; `None` if it is no candidate.
pub fn place(
    domain: &str,
    parts: &[&[u8]],
    node: &NodeKey,
    candidates: impl IntoIterator<Item = NodeKey>,
) -> Option<usize> {
    rank(domain, parts, candidates).iter().position(|candidate| candidate == node)
}

/// The order in which candidates take the task `slot` of a job in its `generation`.
///
/// The job's order is turned by one place for each slot and each generation, so that neighbours start with different
/// nodes and a failed one's successor is another; then those who hold fewer of the job's tasks come first (`held`), so
/// that nobody stands idle while another does two.
pub fn volunteers(
    job: &JobId,
    slot: Slot,
    generation: Generation,
    candidates: impl IntoIterator<Item = NodeKey>,
    held: impl Fn(&NodeKey) -> usize,
) -> Vec<NodeKey> {
    let mut order = rank(VOLUNTEER, &[&job.0], candidates);
    if !order.is_empty() {
        let turn = (u64::from(slot) + u64::from(generation)) % order.len() as u64;
        order.rotate_left(usize::try_from(turn).unwrap_or(0));
    }
    order.sort_by_key(held);
    order
}

/// What a candidate is ranked by: for those who keep an order current while candidates come and go.
pub fn score(domain: &str, parts: &[&[u8]], candidate: &NodeKey) -> Digest {
    let mut hashed = Vec::with_capacity(parts.len() + 1);
    hashed.extend_from_slice(parts);
    hashed.push(&candidate.0);
    Digest::of_parts(domain, &hashed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u8) -> Vec<NodeKey> {
        (0..count).map(|seed| NodeKey([seed; 32])).collect()
    }

    #[test]
    fn the_order_does_not_depend_on_the_order_of_asking() {
        let forward = rank(VOLUNTEER, &[&[1; 32]], nodes(50));
        let backward = rank(VOLUNTEER, &[&[1; 32]], nodes(50).into_iter().rev().chain(nodes(9)));
        assert_eq!(forward, backward);
        assert_ne!(forward, rank(VOLUNTEER, &[&[2; 32]], nodes(50)));
        assert_ne!(forward, rank(AGGREGATOR, &[&[1; 32]], nodes(50)));
    }

    #[test]
    fn the_first_few_are_the_head_of_the_whole_order() {
        let all = rank(WATCHER, &[&[3; 32]], nodes(100));
        assert_eq!(first(WATCHER, &[&[3; 32]], 8, nodes(100)), all[..8]);
        assert_eq!(first(WATCHER, &[&[3; 32]], 200, nodes(100)), all);
        assert_eq!(place(WATCHER, &[&[3; 32]], &all[5], nodes(100)), Some(5));
        assert_eq!(place(WATCHER, &[&[3; 32]], &NodeKey([200; 32]), nodes(100)), None);
    }

    #[test]
    fn who_leaves_moves_nobody_past_another() {
        let all = rank(AGGREGATOR, &[&[4; 32]], nodes(40));
        let gone = all[7];
        let rest = rank(AGGREGATOR, &[&[4; 32]], nodes(40).into_iter().filter(|node| *node != gone));
        let expected: Vec<_> = all.into_iter().filter(|node| *node != gone).collect();
        assert_eq!(rest, expected);
    }

    #[test]
    fn as_many_nodes_as_tasks_take_one_each_and_the_idle_come_first() {
        let job = JobId([5; 32]);
        let order = |slot, generation| volunteers(&job, slot, generation, nodes(4), |_| 0);
        let first: BTreeSet<_> = (0..4).map(|slot| order(slot, 0)[0]).collect();
        assert_eq!(first.len(), 4);
        assert_ne!(order(0, 0)[0], order(0, 1)[0], "a successor is another");
        let busy = order(0, 0)[0];
        let later = volunteers(&job, 0, 0, nodes(4), |node| usize::from(*node == busy));
        assert_eq!(later.last(), Some(&busy));
        assert_eq!(volunteers(&job, 7, 9, nodes(0), |_| 0), []);
    }

    #[test]
    fn the_highest_hash_wins() {
        let winner = rank("d", &[b"part"], nodes(20))[0];
        let best = nodes(20).into_iter().max_by_key(|node| Digest::of(&[b"d\0part".as_slice(), &node.0].concat()));
        assert_eq!(Some(winner), best);
    }
}
