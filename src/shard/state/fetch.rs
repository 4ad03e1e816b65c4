//! Fetching: many transfers, many sources.

use std::{cmp::Reverse, time::Duration};

use bytes::Bytes;
use libp2p::PeerId;

use super::{
    Event, FetchFailure, Purpose, Sent, State,
    peers::Asked,
    slots,
    transfer::{self, Transfer},
};
use crate::{
    protocol::{RequestId, SendError},
    shard::{
        edge::{Done, Hold, Stored, Work},
        wire::{Refusal, Request, Response, Slot},
    },
    store::dag_pb::MAX_BLOCK_BYTES,
    types::{Cause, ContentId, Time},
};

/// Transfers at once; a further one fails at once, and says so.
const MAX_TRANSFERS: usize = 1024;
/// Requests for blocks in flight to all peers, and answers that are being written, together: the window of one far peer, and
/// eight to write. An answer holds at most 2 MiB and mostly 1, until it is written: this bounds the memory of all transfers.
/// No further request is made over it.
const MAX_UNDER_WAY: usize = 32;
/// Pause between two calls for providers of one transfer.
const WANT_PAUSE: Duration = Duration::from_secs(10);
/// Pause between two reports of progress.
const REPORT_PAUSE: Duration = Duration::from_millis(500);
/// A peer without work may ask again for what another was asked for, when that is this long ago, or twice as long
/// ago as it takes to answer itself.
const STEAL_AFTER: Duration = Duration::from_millis(500);

impl State {
    pub(super) fn on_fetch(&mut self, id: u64, root: ContentId, providers: Vec<PeerId>, now: Time) {
        let Some(transfer) = self.transfer(root, now) else {
            return self.event(Event::FetchFailed { id, reason: FetchFailure::TooMany });
        };
        transfer.waiters.insert(id);
        transfer.add_sources(providers);
    }

    /// The transfer of `root`, begun if there is none; `None` if there are too many.
    pub(super) fn transfer(&mut self, root: ContentId, now: Time) -> Option<&mut Transfer> {
        if self.transfers.len() >= MAX_TRANSFERS && !self.transfers.contains_key(&root) {
            return None;
        }
        Some(self.transfers.entry(root).or_insert_with(|| Transfer::new(now)))
    }

    pub(super) fn on_providers(&mut self, id: u64, providers: Vec<PeerId>) {
        if let Some(transfer) = self.transfers.values_mut().find(|transfer| transfer.waiters.contains(&id)) {
            transfer.add_sources(providers);
        }
    }

    pub(super) fn on_cancel(&mut self, id: u64, now: Time) {
        let found = self.transfers.iter_mut().find(|(_, transfer)| transfer.waiters.contains(&id));
        let Some((&root, transfer)) = found else {
            return;
        };
        transfer.waiters.remove(&id);
        let unwanted = transfer.waiters.is_empty() && transfer.holds.is_empty();
        self.event(Event::FetchFailed { id, reason: FetchFailure::Cancelled });
        if unwanted {
            self.end_transfer(root, now);
        }
    }

    /// Forgets the transfer and lets its blocks be evicted.
    pub(super) fn end_transfer(&mut self, root: ContentId, now: Time) {
        if self.transfers.remove(&root).is_some() {
            self.work(Purpose::Release, Work::Release { root }, now);
        }
    }

    pub(super) fn fail_transfer(&mut self, root: ContentId, reason: &dyn Fn() -> FetchFailure, now: Time) {
        let Some(transfer) = self.transfers.get(&root) else {
            return;
        };
        let waiters: Vec<u64> = transfer.waiters.iter().copied().collect();
        let holds: Vec<PeerId> = transfer.holds.keys().copied().collect();
        self.end_transfer(root, now);
        for id in waiters {
            self.event(Event::FetchFailed { id, reason: reason() });
        }
        for peer in holds {
            self.holds.give_up(root, peer);
        }
    }

    pub(super) fn on_walked(&mut self, root: ContentId, result: Result<Done, Cause>, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&root) else {
            return;
        };
        match result {
            Ok(Done::Missing { missing, more, bytes }) => {
                if transfer.walked(missing, more, bytes) {
                    self.seal(root, now);
                }
            }
            other => self.fail_by_disk(root, other, now),
        }
    }

    fn fail_by_disk(&mut self, root: ContentId, result: Result<Done, Cause>, now: Time) {
        let cause = result.err().unwrap_or_else(|| Cause::new("the disk answered something else; this is a bug"));
        self.fail_transfer(root, &|| FetchFailure::Edge(cause.clone()), now);
    }

    fn seal(&mut self, root: ContentId, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&root) else {
            return;
        };
        transfer.sealing = true;
        let holds: Vec<Hold> =
            transfer.holds.iter().map(|(peer, size)| Hold { root, peer: *peer, size: *size }).collect();
        let pins = holds.iter().map(Hold::reason).collect();
        self.work(Purpose::Seal { root, holds }, Work::Seal { root, pins }, now);
    }

    pub(super) fn on_sealed(&mut self, root: ContentId, holds: Vec<Hold>, result: Result<Done, Cause>, now: Time) {
        if !matches!(result, Ok(Done::Sealed)) {
            return self.fail_by_disk(root, result, now);
        }
        for hold in &holds {
            self.on_hold_sealed(*hold, now);
        }
        let Some(transfer) = self.transfers.get_mut(&root) else {
            return;
        };
        transfer.holds.retain(|peer, _| holds.iter().all(|hold| hold.peer != *peer));
        // A peer asked for it to be held while it was being sealed.
        if !transfer.holds.is_empty() {
            return self.seal(root, now);
        }
        let bytes = transfer.bytes_done();
        let mut received = transfer.bytes_received;
        let waiters = std::mem::take(&mut transfer.waiters);
        self.transfers.remove(&root);
        for id in waiters {
            // Several fetches may wait for one transfer; what it moved is told once.
            let received = std::mem::take(&mut received);
            self.event(Event::Fetched { id, root, bytes, received });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an answer, and what it answers")]
    pub(super) fn on_blocks(
        &mut self,
        peer: PeerId,
        id: RequestId,
        root: ContentId,
        cids: &[ContentId],
        asked: Asked,
        result: Result<Response, SendError>,
        now: Time,
    ) {
        match result {
            Ok(Response::Refused(refusal)) => self.on_get_refused(peer, id, root, cids, refusal, now),
            Ok(response) => match slots(response, cids.len()) {
                Some(slots) => {
                    self.peers.answered(&peer, asked, now);
                    self.on_slots(peer, id, root, cids, slots, now);
                }
                None => self.on_nonsense(peer, id, root, cids, now),
            },
            Err(SendError::Invalid(_)) => self.on_nonsense(peer, id, root, cids, now),
            Err(SendError::Closed) => {
                self.peers.unanswered(&peer, asked, now);
                self.came_empty(id, root, cids);
            }
            Err(error) => {
                self.peers.failed(&peer, now);
                self.came_empty(id, root, cids);
                if error == SendError::Unsupported
                    && let Some(transfer) = self.transfers.get_mut(&root)
                {
                    transfer.remove_source(&peer);
                }
            }
        }
    }

    fn on_get_refused(
        &mut self,
        peer: PeerId,
        id: RequestId,
        root: ContentId,
        cids: &[ContentId],
        refusal: Refusal,
        now: Time,
    ) {
        self.peers.failed(&peer, now);
        self.came_empty(id, root, cids);
        if refusal == Refusal::Banned
            && let Some(transfer) = self.transfers.get_mut(&root)
        {
            transfer.remove_source(&peer);
        }
    }

    fn on_nonsense(&mut self, peer: PeerId, id: RequestId, root: ContentId, cids: &[ContentId], now: Time) {
        self.peers.failed(&peer, now);
        self.ban(peer, 1, now);
        self.came_empty(id, root, cids);
    }

    /// When `peer` may be asked again; in the past if it may be now.
    fn may_ask_at(&self, peer: &PeerId) -> Time {
        self.peers.asleep_until(peer).max(self.downloads.free_at(peer))
    }

    /// What came is not what was expected when it was asked for.
    pub(super) fn settle_download(
        &mut self,
        peer: PeerId,
        charged: u64,
        result: &Result<Response, SendError>,
        now: Time,
    ) {
        let came: u64 = match result {
            Ok(Response::Blocks(slots)) => slots.iter().map(|slot| slot.bytes() as u64).sum(),
            _ => 0,
        };
        if came > charged {
            self.downloads.charge(peer, came - charged, now);
        } else {
            self.downloads.refund(&peer, charged - came);
        }
    }

    fn came_empty(&mut self, id: RequestId, root: ContentId, cids: &[ContentId]) {
        if let Some(transfer) = self.transfers.get_mut(&root) {
            // The last first: each goes to the front of the queue.
            cids.iter().rev().for_each(|cid| transfer.came_empty(id, cid));
        }
    }

    fn on_slots(
        &mut self,
        peer: PeerId,
        id: RequestId,
        root: ContentId,
        cids: &[ContentId],
        slots: Vec<Slot>,
        now: Time,
    ) {
        let Some(transfer) = self.transfers.get_mut(&root) else {
            return;
        };
        let mut blocks: Vec<(ContentId, Bytes)> = Vec::new();
        for (cid, slot) in cids.iter().zip(slots) {
            match slot {
                Slot::Missing => transfer.refused(id, cid, peer, now),
                Slot::Omitted => transfer.came_empty(id, cid),
                Slot::Present(block) => blocks.extend(transfer.came(id, cid).then_some((*cid, block))),
            }
        }
        if !blocks.is_empty() {
            let cids = blocks.iter().map(|(cid, _)| *cid).collect();
            self.work(Purpose::Put { root, peer, cids }, Work::Put { blocks }, now);
        }
    }

    pub(super) fn on_put(
        &mut self,
        root: ContentId,
        peer: PeerId,
        cids: &[ContentId],
        result: Result<Done, Cause>,
        now: Time,
    ) {
        let stored = match result {
            Ok(Done::Put(stored)) => stored,
            other => return self.fail_by_disk(root, other, now),
        };
        let lies = stored.iter().filter(|stored| **stored == Stored::Mismatch).count();
        if lies > 0 {
            self.ban(peer, u32::try_from(lies).unwrap_or(u32::MAX), now);
        }
        let Some(transfer) = self.transfers.get_mut(&root) else {
            return;
        };
        for (cid, stored) in cids.iter().zip(stored) {
            match stored {
                Stored::Kept { bytes, missing } => transfer.kept(cid, bytes, missing, now),
                Stored::Mismatch => transfer.spoiled(cid, peer),
            }
        }
        self.after_progress(root, now);
    }

    fn after_progress(&mut self, root: ContentId, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&root) else {
            return;
        };
        let bytes_done = transfer.bytes_done();
        let only_held = transfer.waiters.is_empty();
        if only_held && transfer.holds.values().all(|size| bytes_done > super::hold::allowed_bytes(*size)) {
            return self.fail_transfer(root, &|| FetchFailure::TooLarge, now);
        }
        if transfer.next_report <= now {
            transfer.next_report = now + REPORT_PAUSE;
            let waiters: Vec<u64> = transfer.waiters.iter().copied().collect();
            for id in waiters {
                self.event(Event::Progress { id, bytes_done });
            }
        }
    }

    pub(super) fn advance_transfers(&mut self, now: Time) {
        let roots = self.roots_in_turn();
        for root in &roots {
            self.walk(*root, now);
        }
        // One request for each transfer at a time, so that a large one does not hold up a small one.
        let mut asking = true;
        while asking {
            asking = roots.iter().filter(|root| self.ask_someone(**root, now)).count() > 0;
        }
        for root in &roots {
            self.call_for_providers(*root, now);
        }
    }

    fn roots_in_turn(&self) -> Vec<ContentId> {
        let (later, sooner): (Vec<ContentId>, Vec<ContentId>) =
            self.transfers.keys().partition(|root| self.last_served.is_none_or(|last| **root > last));
        later.into_iter().chain(sooner).collect()
    }

    fn walk(&mut self, root: ContentId, now: Time) {
        if let Some(transfer) = self.transfers.get_mut(&root)
            && transfer.wants_walk()
        {
            transfer.walk_begins();
            self.work(Purpose::Walk(root), Work::Missing { root, limit: transfer::MAX_KNOWN }, now);
        }
    }

    fn outstanding(&self) -> usize {
        self.requests.values().filter(|(_, sent, _)| matches!(sent, Sent::Get { .. })).count()
    }

    fn writes(&self) -> usize {
        self.edges.values().filter(|(purpose, _)| matches!(purpose, Purpose::Put { .. })).count()
    }

    /// Makes one request for blocks of this transfer; false if none can be made.
    fn ask_someone(&mut self, root: ContentId, now: Time) -> bool {
        if self.outstanding() + self.writes() >= MAX_UNDER_WAY {
            return false;
        }
        let Some(transfer) = self.transfers.get_mut(&root) else {
            return false;
        };
        if transfer.sealing {
            return false;
        }
        let peers = &self.peers;
        let free = |peer: &PeerId| peers.has_room(peer, now) && self.downloads.free_at(peer) <= now;
        let mut ready: Vec<PeerId> = transfer.sources().filter(free).collect();
        ready.sort_by_key(|peer| (Reverse(peers.is_idle(peer)), peers.answer_time(peer)));
        let found = ready.into_iter().find_map(|peer| {
            let mut cids = transfer.take(&peer);
            if cids.is_empty() && peers.is_idle(&peer) {
                cids = transfer.steal(&peer, now - steal_after(peers.answer_time(&peer)));
            }
            (!cids.is_empty()).then_some((peer, cids))
        });
        if let Some((peer, cids)) = found {
            self.ask(root, peer, cids, now);
            return true;
        }
        false
    }

    fn ask(&mut self, root: ContentId, peer: PeerId, cids: Vec<ContentId>, now: Time) {
        let budget = u32::try_from(MAX_BLOCK_BYTES).expect("2 MiB fit 32 bits");
        let charged = self.transfers.get(&root).map_or(0, |transfer| transfer.expected_bytes(cids.len()));
        self.downloads.charge(peer, charged, now);
        let asked = self.peers.sent(peer, now);
        let sent = Sent::Get { root, cids: cids.clone(), asked, charged };
        let id = self.send(peer, sent, Request::Get { cids: cids.clone(), budget }, now);
        self.last_served = Some(root);
        if let Some(transfer) = self.transfers.get_mut(&root) {
            transfer.asked(id, peer, &cids, now);
        }
    }

    fn call_for_providers(&mut self, root: ContentId, now: Time) {
        let Some(transfer) = self.transfers.get_mut(&root) else {
            return;
        };
        if transfer.has_queue() && !transfer.is_moving() && transfer.next_want <= now {
            transfer.next_want = now + WANT_PAUSE;
            transfer.look_again();
            if let Some(id) = transfer.waiters.first().copied() {
                self.event(Event::WantProviders { id, root });
            }
        }
    }

    pub(super) fn on_transfers_late(&mut self, now: Time) {
        let stall = self.config.stall;
        let stalled: Vec<ContentId> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| is_stalled(transfer, stall, now))
            .map(|(root, _)| *root)
            .collect();
        for root in stalled {
            self.fail_transfer(root, &|| FetchFailure::Stalled(stall), now);
        }
        self.transfers.values_mut().for_each(|transfer| transfer.forget_refusals(now));
    }

    /// When transfers have something to do that no answer will bring about.
    pub(super) fn transfer_times(&self) -> impl Iterator<Item = Time> {
        self.transfers.values().flat_map(|transfer| {
            let stall = (!transfer.sealing).then(|| transfer.last_progress + self.config.stall);
            let refusals = transfer.refusals_end();
            let want = Some(transfer.next_want).filter(|at| *at > self.looked && !transfer.is_moving());
            let awake = transfer.sources().map(|peer| self.may_ask_at(&peer)).filter(|at| *at > self.looked);
            let steal = self.next_steal(transfer);
            stall.into_iter().chain(refusals).chain(want).chain(awake.min()).chain(steal)
        })
    }

    fn next_steal(&self, transfer: &Transfer) -> Option<Time> {
        if transfer.has_queue() {
            return None;
        }
        let oldest = transfer.oldest_request()?;
        let idle = transfer.sources().filter(|peer| self.peers.is_idle(peer));
        let times = idle.map(|peer| oldest + steal_after(self.peers.answer_time(&peer)));
        times.filter(|at| *at > self.looked).min()
    }
}

fn is_stalled(transfer: &Transfer, stall: Duration, now: Time) -> bool {
    !transfer.sealing && transfer.last_progress + stall <= now
}

fn steal_after(answer_time: Duration) -> Duration {
    STEAL_AFTER.max(answer_time * 2)
}
