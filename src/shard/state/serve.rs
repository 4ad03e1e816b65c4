//! Answering peers that ask for blocks, within a bound on the memory that answers take.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use libp2p::PeerId;

use super::{
    super::wire::{MAX_ANSWER_BYTES, Slot},
    rate::{Limits, Rates},
};
use crate::{
    protocol::ResponseToken,
    store::dag_pb::MAX_BLOCK_BYTES,
    types::{ContentId, Time},
};

/// Bytes of blocks that answers hold at most, from being read until the network took them. Further requests wait.
const MAX_SERVING_BYTES: usize = 48 * 1024 * 1024;
/// Of these, for one peer: one that reads slowly must not keep others waiting.
const MAX_SERVING_BYTES_PEER: usize = 24 * 1024 * 1024;
/// Requests that wait at most, of all peers; a further one is refused as busy.
const MAX_WAITING: usize = 1024;

#[derive(Debug)]
struct Waiting {
    token: ResponseToken,
    cids: Vec<ContentId>,
    budget: u32,
}

#[derive(Clone, Copy, Debug)]
struct Serving {
    peer: PeerId,
    bytes: usize,
}

/// A request whose turn has come.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) token: ResponseToken,
    pub(super) cids: Vec<ContentId>,
    pub(super) budget: u32,
}

/// Requests for blocks: waiting, being read, being sent.
#[derive(Debug)]
pub(super) struct Serves {
    waiting: BTreeMap<PeerId, VecDeque<Waiting>>,
    waiting_count: usize,
    serving: BTreeMap<ResponseToken, Serving>,
    /// The peer served last: the next one is the first after it.
    last: Option<PeerId>,
    rates: Rates,
}

impl Serves {
    /// Nobody waits yet.
    pub(super) fn new(upload: Limits) -> Self {
        Self {
            waiting: BTreeMap::new(),
            waiting_count: 0,
            serving: BTreeMap::new(),
            last: None,
            rates: Rates::new(upload),
        }
    }

    /// False if too many wait.
    pub(super) fn push(&mut self, peer: PeerId, token: ResponseToken, cids: Vec<ContentId>, budget: u32) -> bool {
        if self.waiting_count == MAX_WAITING {
            return false;
        }
        self.waiting_count += 1;
        self.waiting.entry(peer).or_default().push_back(Waiting { token, cids, budget });
        true
    }

    /// When a request that waits for the upload's limit alone may be read for, if that is after `now`.
    pub(super) fn next_time(&self, now: Time) -> Option<Time> {
        self.waiting.keys().map(|peer| self.rates.free_at(peer)).filter(|at| *at > now).min()
    }

    /// The next request to read for, peers in turn, if there is memory for it and the upload's limit allows it.
    pub(super) fn next_turn(&mut self, now: Time) -> Option<Turn> {
        let total: usize = self.serving.values().map(|serving| serving.bytes).sum();
        let peer = self.peers_in_turn().find(|peer| {
            let bytes = self.waiting[peer].front().map_or(0, reserved_bytes);
            self.rates.free_at(peer) <= now
                && total + bytes <= MAX_SERVING_BYTES
                && self.serving_bytes(peer) + bytes <= MAX_SERVING_BYTES_PEER
        })?;
        self.last = Some(peer);
        let queue = self.waiting.get_mut(&peer)?;
        let next = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&peer);
        }
        self.waiting_count -= 1;
        let bytes = reserved_bytes(&next);
        self.serving.insert(next.token, Serving { peer, bytes });
        self.rates.charge(peer, bytes as u64, now);
        Some(Turn { token: next.token, cids: next.cids, budget: next.budget })
    }

    /// The blocks were read: they take what they take.
    pub(super) fn read(&mut self, token: ResponseToken, slots: &[Slot]) {
        if let Some(serving) = self.serving.get_mut(&token) {
            let bytes: usize = slots.iter().map(Slot::bytes).sum();
            self.rates.refund(&serving.peer, serving.bytes.saturating_sub(bytes) as u64);
            serving.bytes = bytes;
        }
    }

    /// The answer left, or never will.
    pub(super) fn finished(&mut self, token: ResponseToken) {
        self.serving.remove(&token);
    }

    /// Forgets what waits for a peer that is gone. Its tokens need no answer: nobody would get it.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.waiting_count -= self.waiting.remove(peer).map_or(0, |queue| queue.len());
    }

    fn peers_in_turn(&self) -> impl Iterator<Item = PeerId> {
        let peers: BTreeSet<PeerId> = self.waiting.keys().copied().collect();
        let (later, sooner): (Vec<PeerId>, Vec<PeerId>) =
            peers.into_iter().partition(|peer| self.last.is_none_or(|last| *peer > last));
        later.into_iter().chain(sooner)
    }

    fn serving_bytes(&self, peer: &PeerId) -> usize {
        self.serving.values().filter(|serving| serving.peer == *peer).map(|serving| serving.bytes).sum()
    }
}

/// Memory set aside before the blocks' sizes are known.
fn reserved_bytes(waiting: &Waiting) -> usize {
    let budget = usize::try_from(waiting.budget).unwrap_or(usize::MAX).max(MAX_BLOCK_BYTES);
    budget.min(waiting.cids.len() * MAX_BLOCK_BYTES).min(MAX_ANSWER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dag_pb::{RAW, content_id};

    const NOW: Time = Time::from_millis(1_000_000);

    #[test]
    fn a_greedy_peer_leaves_room_for_others() {
        let mut serves = Serves::new(Limits::default());
        let (greedy, modest) = (PeerId::random(), PeerId::random());
        let cids = vec![content_id(RAW, b"a")];
        for number in 0..100 {
            assert!(serves.push(greedy, ResponseToken(number), cids.clone(), 0));
        }
        let mut turns: Vec<ResponseToken> = Vec::new();
        while let Some(turn) = serves.next_turn(NOW) {
            turns.push(turn.token);
        }
        assert_eq!(turns.len(), MAX_SERVING_BYTES_PEER / MAX_BLOCK_BYTES);
        assert!(serves.push(modest, ResponseToken(200), cids, 0));
        assert_eq!(serves.next_turn(NOW).unwrap().token, ResponseToken(200));
        serves.finished(turns[0]);
        assert_eq!(serves.next_turn(NOW).unwrap().token, ResponseToken(turns.len() as u64));
    }

    #[test]
    fn a_peer_that_left_takes_its_requests_along() {
        let mut serves = Serves::new(Limits::default());
        let peer = PeerId::random();
        for number in 0..MAX_WAITING {
            assert!(serves.push(peer, ResponseToken(number as u64), vec![content_id(RAW, b"a")], 0));
        }
        assert!(!serves.push(peer, ResponseToken(9999), vec![content_id(RAW, b"a")], 0));
        serves.forget(&peer);
        assert!(serves.next_turn(NOW).is_none());
        assert!(serves.push(peer, ResponseToken(9999), vec![content_id(RAW, b"a")], 0));
    }
}
