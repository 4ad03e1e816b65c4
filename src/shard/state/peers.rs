//! What is known of each peer: how fast it answers, whether it may be asked, and whether it lied.

use std::{collections::BTreeMap, time::Duration};

use libp2p::PeerId;

use crate::types::Time;

/// Requests in flight to a peer that nothing is known of.
const FIRST_WINDOW: u32 = 4;
/// Requests in flight to one peer at most. A giver sends 12 at once (`MAX_SERVING_BYTES_PEER`), which bounds the memory that
/// their answers take here; the others wait there, so that it goes on when one was sent and not a round trip later. On a stream
/// of its own an answer of 1 MiB takes three round trips, as Yamux grants a new stream 256 KiB and doubles that from trip to
/// trip: 12 of them fill 160 Mbit/s at 200 ms.
const MAX_WINDOW: u32 = 24;
/// An answer that waited less than this makes the window grow by its blocks: the line is not full. What counts is how long
/// answers wait and not how long they travel, because a far peer is no slow one.
const FAST: Duration = Duration::from_millis(500);
/// An answer that waited longer than this makes it shrink by one: blocks only wait, and another peer could bring them.
const SLOW: Duration = Duration::from_secs(2);
/// An answer of so many bytes tells how long a block travels: half a block. A shorter one needs fewer round trips.
const TELLING: u64 = 512 * 1024;
/// Bytes of a block of the profile in use. The first requests bring two, as nothing is known of the blocks, and later ones one.
const BLOCK: u64 = 1024 * 1024;
/// The longest that travel is taken for: two blocks by a satellite of 0.5 s, or the first over a line of 200 ms, which TCP has to
/// learn first (2.2 s measured). What takes longer is slow.
const MAX_TRAVEL: Duration = Duration::from_secs(3);
/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Peers remembered at most. When more are known, one that nothing is under way with is forgotten first; a ban may
/// be among the forgotten, and is earned again by the next lie.
const MAX_PEERS: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Peer {
    window: u32,
    outstanding: u32,
    failures: u32,
    asleep_until: Time,
    banned_until: Time,
    /// Smoothed time from request to answer.
    answer_time: Duration,
    /// The least time from request to an answer that tells it: how far away it is. `None` until one came.
    travel: Option<Duration>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            window: FIRST_WINDOW,
            outstanding: 0,
            failures: 0,
            asleep_until: Time::ZERO,
            banned_until: Time::ZERO,
            answer_time: FAST,
            travel: None,
        }
    }
}

impl Peer {
    /// Moves the window after an answer of so many bytes.
    fn adapt(&mut self, after: Duration, bytes: u64) {
        if bytes >= TELLING {
            self.travel = Some(self.travel.map_or(after, |travel| travel.min(after)));
        }
        let waited = after.saturating_sub(self.travel.unwrap_or_default().min(MAX_TRAVEL));
        if waited < FAST {
            let blocks = u32::try_from(bytes / BLOCK).unwrap_or(u32::MAX).max(1);
            self.window = self.window.saturating_add(blocks).min(MAX_WINDOW);
        } else if waited > SLOW {
            self.window = self.window.saturating_sub(1).max(1);
        }
    }
}

/// All peers that blocks were asked of.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<PeerId, Peer>);

impl Peers {
    /// Whether one more request may go to `peer`.
    pub(super) fn has_room(&self, peer: &PeerId, now: Time) -> bool {
        self.0.get(peer).is_none_or(|known| {
            known.outstanding < known.window && known.asleep_until <= now && known.banned_until <= now
        })
    }

    pub(super) fn is_banned(&self, peer: &PeerId, now: Time) -> bool {
        self.0.get(peer).is_some_and(|known| known.banned_until > now)
    }

    /// Whether requests are under way to it.
    pub(super) fn is_idle(&self, peer: &PeerId) -> bool {
        self.0.get(peer).is_none_or(|known| known.outstanding == 0)
    }

    /// Smoothed time from request to answer.
    pub(super) fn answer_time(&self, peer: &PeerId) -> Duration {
        self.0.get(peer).copied().unwrap_or_default().answer_time
    }

    /// When it may be asked again after its failures; in the past if it may be asked now.
    pub(super) fn asleep_until(&self, peer: &PeerId) -> Time {
        self.0.get(peer).map_or(Time::ZERO, |known| known.asleep_until.max(known.banned_until))
    }

    pub(super) fn sent(&mut self, peer: PeerId) {
        if !self.0.contains_key(&peer) && self.0.len() >= MAX_PEERS {
            self.forget_one();
        }
        self.0.entry(peer).or_default().outstanding += 1;
    }

    /// An answer with so many bytes of blocks came `after` it was asked for.
    pub(super) fn answered(&mut self, peer: &PeerId, after: Duration, bytes: u64) {
        if let Some(known) = self.0.get_mut(peer) {
            known.outstanding = known.outstanding.saturating_sub(1);
            known.failures = 0;
            known.answer_time = (known.answer_time * 7 + after) / 8;
            known.adapt(after, bytes);
        }
    }

    /// A request failed, or the peer was too busy.
    pub(super) fn failed(&mut self, peer: &PeerId, now: Time) {
        if let Some(known) = self.0.get_mut(peer) {
            known.outstanding = known.outstanding.saturating_sub(1);
            known.window = (known.window / 2).max(1);
            // Requests that were under way together fail together, and count once.
            if known.asleep_until <= now {
                known.asleep_until = now + pause(known.failures);
                known.failures = known.failures.saturating_add(1);
            }
        }
    }

    /// A connection opened: what failed before is no sign any more.
    pub(super) fn connected(&mut self, peer: &PeerId) {
        if let Some(known) = self.0.get_mut(peer) {
            known.failures = 0;
            known.asleep_until = Time::ZERO;
        }
    }

    pub(super) fn ban(&mut self, peer: PeerId, until: Time) {
        self.0.entry(peer).or_default().banned_until = until;
    }

    fn forget_one(&mut self) {
        let idle = self.0.iter().filter(|(_, known)| known.outstanding == 0);
        if let Some(peer) = idle.min_by_key(|(_, known)| known.banned_until).map(|(peer, _)| *peer) {
            self.0.remove(&peer);
        }
    }
}

/// The pause after a number of failures before this one.
pub(super) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(6)).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks `peer` as often as it may be asked, has all answers come `after`, and gives their number.
    fn ask_all(peers: &mut Peers, peer: PeerId, after: Duration, bytes: u64) -> u32 {
        let mut asked = 0;
        while peers.has_room(&peer, Time::ZERO) {
            peers.sent(peer);
            asked += 1;
        }
        for _ in 0..asked {
            peers.answered(&peer, after, bytes);
        }
        asked
    }

    #[test]
    fn the_window_follows_the_line() {
        let (mut peers, peer) = (Peers::default(), PeerId::random());
        assert_eq!(ask_all(&mut peers, peer, Duration::from_millis(10), BLOCK), FIRST_WINDOW);
        assert_eq!(ask_all(&mut peers, peer, Duration::from_millis(10), BLOCK), 2 * FIRST_WINDOW);
        assert_eq!(ask_all(&mut peers, peer, Duration::from_millis(10), 2 * BLOCK), 4 * FIRST_WINDOW);
        assert_eq!(ask_all(&mut peers, peer, Duration::from_secs(3), BLOCK), MAX_WINDOW);
        assert_eq!(ask_all(&mut peers, peer, Duration::from_secs(3), BLOCK), 1);
    }

    #[test]
    fn a_far_peer_has_as_wide_a_window_as_a_near_one() {
        let (mut peers, peer) = (Peers::default(), PeerId::random());
        // Small blocks come sooner, and say nothing about large ones.
        peers.sent(peer);
        peers.answered(&peer, Duration::from_millis(200), 1_000);
        for _ in 0..3 {
            ask_all(&mut peers, peer, Duration::from_millis(900), BLOCK);
        }
        assert_eq!(ask_all(&mut peers, peer, Duration::from_millis(1_390), BLOCK), MAX_WINDOW);
        assert_eq!(ask_all(&mut peers, peer, Duration::from_millis(2_500), BLOCK), MAX_WINDOW);
    }

    #[test]
    fn a_slow_peer_is_not_taken_for_a_far_one() {
        let (mut peers, peer) = (Peers::default(), PeerId::random());
        ask_all(&mut peers, peer, Duration::from_secs(8), BLOCK);
        assert_eq!(ask_all(&mut peers, peer, Duration::from_secs(8), BLOCK), 1);
    }

    #[test]
    fn failures_that_come_together_count_once() {
        let (mut peers, peer) = (Peers::default(), PeerId::random());
        for _ in 0..3 {
            peers.sent(peer);
        }
        let now = Time::from_millis(1_000_000);
        for _ in 0..3 {
            peers.failed(&peer, now);
        }
        assert!(!peers.has_room(&peer, now));
        assert!(peers.has_room(&peer, now + FIRST_PAUSE));
    }
}
