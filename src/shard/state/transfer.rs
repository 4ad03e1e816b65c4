//! One DAG on its way here: which blocks are wanted, who was asked for them, and what came.
//!
//! What is complete is decided by a walk over the store and never by these books: they only say what to ask for
//! next, so that they may forget (they hold at most [`MAX_KNOWN`] blocks, whatever the size of the DAG) and a
//! transfer that was cut off by a crash needs no books at all.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use libp2p::PeerId;

use super::super::wire::MAX_GET;
use crate::{
    protocol::RequestId,
    types::{ContentId, Time},
};

/// Missing blocks known at once; about 1 MiB of memory. Further ones are found again by a later walk.
pub(super) const MAX_KNOWN: usize = 4096;
/// Known blocks below which the next walk begins, if there is more to know.
const FEW_KNOWN: usize = MAX_KNOWN / 4;
/// Peers asked in one transfer; further ones are not taken up.
const MAX_SOURCES: usize = 64;
/// Blocks of the queue looked at to find one that a peer hasn't refused.
const MAX_SKIPPED: usize = 64;
/// After this time a peer that did not have a block is asked again: it may be fetching it too.
const FORGET_REFUSALS: Duration = Duration::from_secs(2);
/// Bytes to ask for in one request, as far as the size of blocks can be guessed.
const REQUEST_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Default)]
struct Block {
    /// Requests under way for it.
    asked: BTreeMap<RequestId, (PeerId, Time)>,
    /// It came, and is being verified and written.
    writing: bool,
    /// Who said that it does not have it.
    refused_by: BTreeSet<PeerId>,
}

/// One DAG on its way here.
#[derive(Debug)]
pub(super) struct Transfer {
    /// The fetches that wait for it.
    pub(super) waiters: BTreeSet<u64>,
    /// The peers that asked this node to hold it, with the size that each told.
    pub(super) holds: BTreeMap<PeerId, u64>,
    /// Bytes that a walk found here.
    pub(super) bytes_found: u64,
    /// Bytes that came since.
    pub(super) bytes_new: u64,
    /// Bytes that came from peers in all.
    pub(super) bytes_received: u64,
    pub(super) last_progress: Time,
    /// When the coordinator may be asked for providers again.
    pub(super) next_want: Time,
    /// When progress may be reported again.
    pub(super) next_report: Time,
    /// Complete, and on its way to the disk.
    pub(super) sealing: bool,
    sources: BTreeSet<PeerId>,
    blocks: BTreeMap<ContentId, Block>,
    /// Blocks that nobody is asked for.
    queue: VecDeque<ContentId>,
    /// While a walk is under way: blocks that were kept since it began, which it may call missing.
    kept_meanwhile: Option<BTreeSet<ContentId>>,
    /// More may be missing than is known.
    more: bool,
    /// Nothing comes: somebody may have brought it here another way.
    look_again: bool,
    forget_refusals_at: Option<Time>,
    /// Smoothed length of blocks.
    block_bytes: u64,
}

impl Transfer {
    pub(super) fn new(now: Time) -> Self {
        Self {
            waiters: BTreeSet::new(),
            holds: BTreeMap::new(),
            bytes_found: 0,
            bytes_new: 0,
            bytes_received: 0,
            last_progress: now,
            next_want: now,
            next_report: now,
            sealing: false,
            sources: BTreeSet::new(),
            blocks: BTreeMap::new(),
            queue: VecDeque::new(),
            kept_meanwhile: None,
            more: true,
            look_again: false,
            forget_refusals_at: None,
            block_bytes: REQUEST_BYTES / MAX_GET as u64,
        }
    }

    pub(super) fn add_sources(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        for peer in peers {
            if self.sources.len() < MAX_SOURCES {
                self.sources.insert(peer);
            }
            // Who is named again may have got what it lacked.
            for block in self.blocks.values_mut() {
                block.refused_by.remove(&peer);
            }
        }
    }

    pub(super) fn remove_source(&mut self, peer: &PeerId) {
        self.sources.remove(peer);
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = PeerId> {
        self.sources.iter().copied()
    }

    /// Bytes that are here, as far as is known.
    pub(super) fn bytes_done(&self) -> u64 {
        self.bytes_found + self.bytes_new
    }

    /// Whether a walk over the store should begin.
    pub(super) fn wants_walk(&self) -> bool {
        let all_known_are_done = self.blocks.is_empty();
        let runs_low = self.more && self.queue.len() < FEW_KNOWN && self.blocks.len() < MAX_KNOWN / 2;
        !self.sealing && self.kept_meanwhile.is_none() && (all_known_are_done || runs_low || self.look_again)
    }

    /// Has the store looked at again, for blocks that came another way than by this transfer.
    pub(super) fn look_again(&mut self) {
        self.look_again = true;
    }

    pub(super) fn walk_begins(&mut self) {
        self.look_again = false;
        self.kept_meanwhile = Some(BTreeSet::new());
    }

    /// True if the DAG is complete.
    pub(super) fn walked(&mut self, missing: Vec<ContentId>, more: bool, bytes: u64) -> bool {
        let complete = missing.is_empty();
        let kept = self.kept_meanwhile.take().unwrap_or_default();
        if complete || self.blocks.is_empty() {
            (self.bytes_found, self.bytes_new) = (bytes, 0);
        }
        if !more {
            self.forget_what_is_here(&missing);
        }
        self.more = more;
        self.want(missing.into_iter().filter(|cid| !kept.contains(cid)).collect(), false);
        complete
    }

    /// Forgets blocks that nobody is asked for and that a whole walk did not miss.
    fn forget_what_is_here(&mut self, missing: &[ContentId]) {
        let missing: BTreeSet<&ContentId> = missing.iter().collect();
        self.blocks.retain(|cid, block| !block.asked.is_empty() || block.writing || missing.contains(cid));
        self.queue.retain(|cid| self.blocks.contains_key(cid));
    }

    /// Adds blocks to the queue: the children of a block before all others, so that the DAG comes depth first and
    /// little of it is open at a time.
    fn want(&mut self, cids: Vec<ContentId>, first: bool) {
        let room = MAX_KNOWN.saturating_sub(self.blocks.len());
        let mut new = Vec::new();
        for cid in cids {
            if self.blocks.contains_key(&cid) {
                continue;
            }
            if new.len() == room {
                self.more = true;
                break;
            }
            self.blocks.insert(cid, Block::default());
            new.push(cid);
        }
        if first {
            new.into_iter().rev().for_each(|cid| self.queue.push_front(cid));
        } else {
            self.queue.extend(new);
        }
    }

    /// Whether blocks wait to be asked for.
    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether it goes on by itself: a request, a write or a walk is under way.
    pub(super) fn is_moving(&self) -> bool {
        self.sealing || self.kept_meanwhile.is_some() || self.blocks.len() > self.queue.len()
    }

    /// Takes the next blocks to ask `peer` for off the queue.
    pub(super) fn take(&mut self, peer: &PeerId) -> Vec<ContentId> {
        let most = self.blocks_per_request();
        let mut taken = Vec::new();
        let mut index = 0;
        while taken.len() < most && index < self.queue.len().min(MAX_SKIPPED) {
            match self.blocks.get(&self.queue[index]) {
                Some(block) if block.refused_by.contains(peer) => index += 1,
                Some(_) => taken.extend(self.queue.remove(index)),
                // It came another way meanwhile.
                None => drop(self.queue.remove(index)),
            }
        }
        taken
    }

    /// Blocks that others were asked for before `older` and that `peer` could bring too.
    pub(super) fn steal(&self, peer: &PeerId, older: Time) -> Vec<ContentId> {
        let stealable = |block: &Block| {
            let asked_long_ago = block.asked.values().map(|(_, at)| *at).max().is_some_and(|at| at <= older);
            let asked_of_peer = block.asked.values().any(|(asked, _)| asked == peer);
            asked_long_ago && !asked_of_peer && !block.writing && !block.refused_by.contains(peer)
        };
        let stolen = self.blocks.iter().filter(|(_, block)| stealable(block)).map(|(cid, _)| *cid);
        stolen.take(self.blocks_per_request()).collect()
    }

    /// When the request that is under way longest was made.
    pub(super) fn oldest_request(&self) -> Option<Time> {
        self.blocks.values().filter_map(|block| block.asked.values().map(|(_, at)| *at).max()).min()
    }

    /// Bytes that so many blocks probably have.
    pub(super) fn expected_bytes(&self, blocks: usize) -> u64 {
        self.block_bytes.saturating_mul(blocks as u64)
    }

    fn blocks_per_request(&self) -> usize {
        let fit = REQUEST_BYTES / self.block_bytes.max(1);
        usize::try_from(fit).unwrap_or(MAX_GET).clamp(1, MAX_GET)
    }

    pub(super) fn asked(&mut self, request: RequestId, peer: PeerId, cids: &[ContentId], now: Time) {
        for cid in cids {
            if let Some(block) = self.blocks.get_mut(cid) {
                block.asked.insert(request, (peer, now));
            }
        }
    }

    /// The request brought nothing for this block; somebody else may.
    pub(super) fn came_empty(&mut self, request: RequestId, cid: &ContentId) {
        if let Some(block) = self.blocks.get_mut(cid) {
            let known = block.asked.remove(&request).is_some();
            if known && block.asked.is_empty() && !block.writing {
                self.queue.push_front(*cid);
            }
        }
    }

    /// The peer does not have this block.
    pub(super) fn refused(&mut self, request: RequestId, cid: &ContentId, peer: PeerId, now: Time) {
        if let Some(block) = self.blocks.get_mut(cid) {
            block.refused_by.insert(peer);
            self.forget_refusals_at.get_or_insert(now + FORGET_REFUSALS);
        }
        self.came_empty(request, cid);
    }

    /// A block came. True if it is wanted: another may have brought it meanwhile.
    pub(super) fn came(&mut self, request: RequestId, cid: &ContentId) -> bool {
        let Some(block) = self.blocks.get_mut(cid) else {
            return false;
        };
        let wanted = block.asked.remove(&request).is_some() && !block.writing;
        block.writing |= wanted;
        wanted
    }

    /// A block is verified and kept.
    pub(super) fn kept(&mut self, cid: &ContentId, bytes: u64, missing: Vec<ContentId>, now: Time) {
        if self.blocks.remove(cid).is_none() {
            return;
        }
        if let Some(kept) = &mut self.kept_meanwhile {
            kept.insert(*cid);
        }
        self.bytes_new += bytes;
        self.bytes_received += bytes;
        self.last_progress = now;
        self.block_bytes = (self.block_bytes * 3 + bytes) / 4;
        self.want(missing, true);
    }

    /// The bytes were not the block's.
    pub(super) fn spoiled(&mut self, cid: &ContentId, by: PeerId) {
        if let Some(block) = self.blocks.get_mut(cid) {
            block.writing = false;
            block.refused_by.insert(by);
            if block.asked.is_empty() {
                self.queue.push_front(*cid);
            }
        }
    }

    /// When peers that lacked blocks are to be asked again.
    pub(super) fn refusals_end(&self) -> Option<Time> {
        self.forget_refusals_at
    }

    pub(super) fn forget_refusals(&mut self, now: Time) {
        if self.forget_refusals_at.is_some_and(|at| at <= now) {
            self.forget_refusals_at = None;
            self.blocks.values_mut().for_each(|block| block.refused_by.clear());
        }
    }
}
