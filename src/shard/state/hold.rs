//! Holding for others, and asking others to hold.

use std::{collections::BTreeMap, time::Duration};

use libp2p::PeerId;

use super::{Event, HoldFailure, Purpose, Sent, State, peers::pause};
use crate::{
    protocol::{ResponseToken, SendError},
    shard::{
        edge::{Hold, Work},
        wire::{Refusal, Request, Response},
    },
    types::{ContentId, Time},
};

/// Holds at most, however small: each costs memory and a record. Further ones are refused.
const MAX_HOLDS: usize = 16 * 1024;
/// Asks under way at most; a further one fails at once.
const MAX_ASKS: usize = 1024;
/// An accepted ask is repeated this often: the holder may have restarted and forgotten it.
const REPEAT_ASK: Duration = Duration::from_secs(30);
/// How long a holder tries to say that it holds; then the asker has given up too.
const NOTICE_LIMIT: Duration = Duration::from_secs(600);
/// Bytes a second that a holder is given time for.
const SLOWEST_HOLD: u64 = 1024 * 1024;

/// Bytes of blocks that may come for a hold of files of `size` bytes: names and links come on top, at most some
/// hundred bytes a file.
pub(super) fn allowed_bytes(size: u64) -> u64 {
    size.saturating_add(size / 4).saturating_add(1024 * 1024)
}

#[derive(Debug)]
struct Accepted {
    size: u64,
    /// On the disk and pinned.
    sealed: bool,
}

/// "I hold it", until the asker has heard it.
#[derive(Debug)]
struct Notice {
    /// `None` while one is under way.
    next: Option<Time>,
    failures: u32,
    until: Time,
}

/// A peer that was asked.
#[derive(Debug)]
struct Ask {
    root: ContentId,
    size: u64,
    peer: PeerId,
    since: Time,
    failures: u32,
    /// When to ask (again); `None` while a request is under way.
    next: Option<Time>,
    /// The last reason why it could not be asked.
    error: Option<SendError>,
}

impl Ask {
    fn deadline(&self, limit: Duration) -> Time {
        self.since + limit + Duration::from_secs(self.size / SLOWEST_HOLD)
    }
}

/// What is held for others, and what others were asked to hold.
#[derive(Debug, Default)]
pub(super) struct Holds {
    accepted: BTreeMap<(ContentId, PeerId), Accepted>,
    notices: BTreeMap<(ContentId, PeerId), Notice>,
    asks: BTreeMap<u64, Ask>,
}

impl Holds {
    pub(super) fn new(holds: Vec<Hold>) -> Self {
        let accepted =
            holds.into_iter().map(|hold| ((hold.root, hold.peer), Accepted { size: hold.size, sealed: true }));
        Self { accepted: accepted.collect(), ..Self::default() }
    }

    /// Bytes accepted, counted for each peer that asked.
    pub(super) fn bytes(&self) -> u64 {
        self.accepted.values().map(|accepted| accepted.size).fold(0, u64::saturating_add)
    }

    /// The reason to pin `root` for `peer`.
    pub(super) fn pin_reason(&self, root: ContentId, peer: PeerId) -> Option<String> {
        let accepted = self.accepted.get(&(root, peer))?;
        Some(Hold { root, peer, size: accepted.size }.reason())
    }

    /// It could not be fetched: the space is free again.
    pub(super) fn give_up(&mut self, root: ContentId, peer: PeerId) {
        self.accepted.remove(&(root, peer));
    }

    /// When something has to be sent, or is too late.
    pub(super) fn times(&self, hold_limit: Duration) -> impl Iterator<Item = Time> {
        let notices = self.notices.values().filter_map(|notice| notice.next);
        let asks = self.asks.values().flat_map(move |ask| ask.next.into_iter().chain([ask.deadline(hold_limit)]));
        notices.chain(asks)
    }

    fn notify(&mut self, root: ContentId, peer: PeerId, now: Time) {
        let notice = Notice { next: Some(now), failures: 0, until: now + NOTICE_LIMIT };
        self.notices.insert((root, peer), notice);
    }
}

impl State {
    /// A peer asks this node to hold something.
    pub(super) fn on_hold(&mut self, peer: PeerId, token: ResponseToken, root: ContentId, size: u64, now: Time) {
        let answer = self.accept_hold(peer, root, size, now);
        self.respond(token, answer.map_or_else(Response::Refused, |()| Response::Accepted));
    }

    fn accept_hold(&mut self, peer: PeerId, root: ContentId, size: u64, now: Time) -> Result<(), Refusal> {
        if let Some(accepted) = self.holds.accepted.get(&(root, peer)) {
            if accepted.sealed {
                // It did not hear that it is held.
                self.holds.notify(root, peer, now);
            }
            return Ok(());
        }
        let room = self.config.hold_bytes.saturating_sub(self.holds.bytes());
        if size > room || self.holds.accepted.len() >= MAX_HOLDS {
            return Err(Refusal::NoRoom);
        }
        let transfer = self.transfer(root, now).ok_or(Refusal::Busy)?;
        transfer.holds.insert(peer, size);
        transfer.add_sources([peer]);
        self.holds.accepted.insert((root, peer), Accepted { size, sealed: false });
        Ok(())
    }

    /// What a peer asked for is on the disk and pinned.
    pub(super) fn on_hold_sealed(&mut self, hold: Hold, now: Time) {
        let Hold { root, peer, size } = hold;
        let Some(accepted) = self.holds.accepted.get_mut(&(root, peer)) else {
            // Released while it was being pinned.
            return self.work(Purpose::Release, Work::Unpin { root, reason: hold.reason() }, now);
        };
        accepted.sealed = true;
        self.holds.notify(root, peer, now);
        self.event(Event::Holding { root, size, for_peer: peer });
    }

    pub(super) fn on_release(&mut self, root: ContentId, peer: PeerId, now: Time) {
        if let Some(reason) = self.holds.pin_reason(root, peer) {
            self.holds.accepted.remove(&(root, peer));
            self.holds.notices.remove(&(root, peer));
            self.work(Purpose::Release, Work::Unpin { root, reason }, now);
        }
        if let Some(transfer) = self.transfers.get_mut(&root) {
            transfer.holds.remove(&peer);
            if transfer.holds.is_empty() && transfer.waiters.is_empty() {
                self.end_transfer(root, now);
            }
        }
    }

    pub(super) fn on_notice_answer(
        &mut self,
        root: ContentId,
        peer: PeerId,
        result: Result<Response, SendError>,
        now: Time,
    ) {
        let Some(notice) = self.holds.notices.get_mut(&(root, peer)) else {
            return;
        };
        if result.is_ok() || notice.until <= now {
            self.holds.notices.remove(&(root, peer));
            return;
        }
        notice.next = Some(now + pause(notice.failures));
        notice.failures = notice.failures.saturating_add(1);
    }

    pub(super) fn on_ask_hold(&mut self, id: u64, root: ContentId, size: u64, peer: PeerId, now: Time) {
        if self.holds.asks.len() >= MAX_ASKS {
            return self.event(Event::HoldFailed { id, peer, reason: HoldFailure::TooMany });
        }
        let ask = Ask { root, size, peer, since: now, failures: 0, next: Some(now), error: None };
        self.holds.asks.insert(id, ask);
    }

    pub(super) fn on_hold_answer(&mut self, id: u64, result: Result<Response, SendError>, now: Time) {
        let Some(ask) = self.holds.asks.get_mut(&id) else {
            return;
        };
        match result {
            Ok(Response::Accepted) => {
                (ask.error, ask.failures) = (None, 0);
                ask.next = Some(now + REPEAT_ASK);
            }
            Ok(Response::Refused(refusal)) if refusal != Refusal::Busy => {
                self.fail_ask(id, HoldFailure::Refused(refusal));
            }
            Err(error @ (SendError::Unsupported | SendError::Invalid(_))) => {
                self.fail_ask(id, HoldFailure::Unreachable(error));
            }
            other => {
                ask.error = other.err();
                ask.next = Some(now + pause(ask.failures));
                ask.failures = ask.failures.saturating_add(1);
            }
        }
    }

    fn fail_ask(&mut self, id: u64, reason: HoldFailure) {
        if let Some(ask) = self.holds.asks.remove(&id) {
            self.event(Event::HoldFailed { id, peer: ask.peer, reason });
        }
    }

    /// A peer says that it holds something.
    pub(super) fn on_held(&mut self, peer: PeerId, token: ResponseToken, root: ContentId) {
        self.respond(token, Response::Noted);
        let asks = &self.holds.asks;
        let heard: Vec<u64> =
            asks.iter().filter(|(_, ask)| ask.peer == peer && ask.root == root).map(|(id, _)| *id).collect();
        for id in heard {
            self.holds.asks.remove(&id);
            self.event(Event::Held { id, root, peer });
        }
    }

    pub(super) fn on_asks_late(&mut self, now: Time) {
        let limit = self.config.hold_limit;
        let asks = &self.holds.asks;
        let late: Vec<u64> = asks.iter().filter(|(_, ask)| ask.deadline(limit) <= now).map(|(id, _)| *id).collect();
        for id in late {
            let error = self.holds.asks.get_mut(&id).and_then(|ask| ask.error.take());
            self.fail_ask(id, error.map_or(HoldFailure::Deadline, HoldFailure::Unreachable));
        }
    }

    /// Sends what is due.
    pub(super) fn advance_holds(&mut self, now: Time) {
        let due = |next: Option<Time>| next.is_some_and(|at| at <= now);
        let mut messages = Vec::new();
        for ((root, peer), notice) in self.holds.notices.iter_mut().filter(|(_, notice)| due(notice.next)) {
            notice.next = None;
            messages.push((*peer, Sent::Held { root: *root }, Request::Held { root: *root }));
        }
        for (id, ask) in self.holds.asks.iter_mut().filter(|(_, ask)| due(ask.next)) {
            ask.next = None;
            let request = Request::Hold { root: ask.root, size: ask.size };
            messages.push((ask.peer, Sent::Hold { ask: *id }, request));
        }
        for (peer, sent, request) in messages {
            self.send(peer, sent, request, now);
        }
    }
}
