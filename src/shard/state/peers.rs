//! What is known of each peer: how fast it answers, whether it may be asked, and whether it lied.

use std::{collections::BTreeMap, time::Duration};

use libp2p::PeerId;

use crate::types::{Time, doubled};

/// Requests in flight to a peer that nothing is known of, and at least: one on its way, one in each memory, and one on a disk.
const FIRST_WINDOW: u32 = 4;
/// A peer whose answers all took longer than this is far. On one machine an answer takes 2 to 10 ms.
const FAR: Duration = Duration::from_millis(20);
/// Requests in flight to a far peer at least, and so while TCP or QUIC learns the line. With a third of that the first three
/// seconds at 200 ms were half empty.
const FIRST_WINDOW_FAR: u32 = 12;
/// Requests in flight to one peer at most, which a giver answers all at once (`MAX_SERVING_BYTES_PEER`): one that waits there
/// would get no more window from Yamux than a slow one. On a stream of its own an answer of 1 MiB takes three round trips, as
/// Yamux grants a new stream 256 KiB and doubles that from trip to trip: 24 of them fill 320 Mbit/s at 200 ms.
const MAX_WINDOW: u32 = 24;
/// What is taken for a peer's answer time while nothing is known of it.
const UNKNOWN: Duration = Duration::from_millis(500);
/// An answer that waited longer than this makes the window shrink by one: blocks only wait, and another peer could bring them.
/// The time that an answer takes alone is no waiting: a far peer is no slow one.
const SLOW: Duration = Duration::from_secs(2);
/// The longest that an answer takes alone: the first over a line of 200 ms, which TCP has to learn first (2.2 s measured), and
/// some more. What takes longer is slow.
const MAX_ALONE: Duration = Duration::from_secs(3);
/// The window holds so many times what the line does (its rate times the shortest time of an answer), as BBR has it
/// (draft-cardwell-iccrg-bbr-congestion-control, "cwnd_gain"): enough to see whether the line takes more, and no more memory.
const GAIN: u64 = 2;
/// And so many requests more, for the disks at both ends.
const SPARE: u64 = 2;
/// To a far peer it is three times that: answers that come together end together, and the next are asked for only then. Of
/// 100 Mbit/s at 200 ms QUIC got 76% with [`GAIN`], 86 to 91% with four times, and 92% with six.
const GAIN_FAR: u64 = 6;
/// Each answer takes this part off the rate that was seen before: after 11 it counts half, as the line may have changed.
const FADING: u64 = 16;
/// A rate of one answer a second.
const ONE_A_SECOND: u64 = 1_000_000;
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
    /// When requests were lost with their connection; those of before are lost with them.
    lost_at: Time,
    /// Smoothed time from request to answer.
    answer_time: Duration,
    /// The shortest time from request to answer since its connection opened: what one takes that waits for no other.
    least_time: Option<Duration>,
    /// Answers so far.
    answers: u64,
    /// The most answers a second, as [`ONE_A_SECOND`] counts them, which creeps down.
    rate: u64,
}

/// When a request was made, and how many answers its peer had given by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    at: Time,
    answers: u64,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            window: FIRST_WINDOW,
            outstanding: 0,
            failures: 0,
            asleep_until: Time::ZERO,
            banned_until: Time::ZERO,
            lost_at: Time::ZERO,
            answer_time: UNKNOWN,
            least_time: None,
            answers: 0,
            rate: 0,
        }
    }
}

impl Peer {
    /// Learns from an answer that came `after` it was asked for.
    fn measure(&mut self, after: Duration, asked: Asked) {
        self.answers += 1;
        self.answer_time = (self.answer_time * 7 + after) / 8;
        let least = self.least_time.map_or(after, |least| after.min(least));
        self.least_time = Some(least);
        let rate = (self.answers - asked.answers) * ONE_A_SECOND / millis(after) * 1_000;
        self.rate = rate.max(self.rate - self.rate / FADING);
        if after.saturating_sub(least.min(MAX_ALONE)) > SLOW {
            self.window = self.window.saturating_sub(1).max(1);
        } else {
            let held = self.rate / 1_000 * millis(least);
            let (gain, at_least) = if least < FAR { (GAIN, FIRST_WINDOW) } else { (GAIN_FAR, FIRST_WINDOW_FAR) };
            let wanted = (gain * held).div_ceil(ONE_A_SECOND) + SPARE;
            self.window = u32::try_from(wanted).unwrap_or(MAX_WINDOW).clamp(at_least, MAX_WINDOW);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
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

    pub(super) fn sent(&mut self, peer: PeerId, now: Time) -> Asked {
        if !self.0.contains_key(&peer) && self.0.len() >= MAX_PEERS {
            self.forget_one();
        }
        let known = self.0.entry(peer).or_default();
        known.outstanding += 1;
        Asked { at: now, answers: known.answers }
    }

    /// An answer with blocks came.
    pub(super) fn answered(&mut self, peer: &PeerId, asked: Asked, now: Time) {
        if let Some(known) = self.0.get_mut(peer) {
            known.outstanding = known.outstanding.saturating_sub(1);
            known.failures = 0;
            // The clock counts whole milliseconds.
            known.measure(now.since(asked.at).max(Duration::from_millis(1)), asked);
        }
    }

    /// A request ended with the connection that it was made on: no fault of the peer's if one of two was closed, but a failure
    /// if it happens again and again.
    pub(super) fn unanswered(&mut self, peer: &PeerId, asked: Asked, now: Time) {
        let Some(known) = self.0.get_mut(peer) else { return };
        if asked.at < known.lost_at {
            known.outstanding = known.outstanding.saturating_sub(1);
        } else if now.since(known.lost_at) >= MAX_PAUSE {
            known.outstanding = known.outstanding.saturating_sub(1);
            known.lost_at = now;
        } else {
            self.failed(peer, now);
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
            known.least_time = None;
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
    doubled(FIRST_PAUSE, failures, MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that carries an answer in `carry` after `way`, one after the other, and the window that it comes to.
    fn window_on_a_line(way: Duration, carry: Duration) -> u32 {
        let (mut peers, peer) = (Peers::default(), PeerId::random());
        let (mut now, mut free) = (Time::from_millis(1_000_000), Time::ZERO);
        let mut under_way = std::collections::VecDeque::new();
        for _ in 0..200 {
            while peers.has_room(&peer, now) {
                free = free.max(now + way) + carry;
                under_way.push_back((peers.sent(peer, now), free));
            }
            let (asked, at) = under_way.pop_front().unwrap();
            now = now.max(at);
            peers.answered(&peer, asked, now);
        }
        peers.0[&peer].window
    }

    #[test]
    fn the_window_fills_the_line_and_little_more() {
        let line = |way, carry| window_on_a_line(Duration::from_millis(way), Duration::from_millis(carry));
        assert_eq!(line(0, 2), FIRST_WINDOW, "loopback");
        let far = line(200, 84);
        assert!((20..=24).contains(&far), "100 Mbit/s, 200 ms: 3.4 blocks are on the line, the window is {far}");
        assert_eq!(line(200, 14), MAX_WINDOW, "600 Mbit/s, 200 ms");
        assert_eq!(line(200, 8_000), 1, "1 Mbit/s: blocks would only wait");
    }

    #[test]
    fn a_line_that_tcp_still_learns_is_not_taken_for_a_slow_one() {
        let (mut peers, peer) = (Peers::default(), PeerId::random());
        let began = Time::from_millis(1_000_000);
        let asked: Vec<Asked> = (0..FIRST_WINDOW).map(|_| peers.sent(peer, began)).collect();
        for asked in asked {
            peers.answered(&peer, asked, began + Duration::from_millis(2_200));
        }
        assert!(peers.0[&peer].window > FIRST_WINDOW);
    }

    #[test]
    fn requests_that_were_lost_with_a_connection_are_made_again_at_once_but_not_for_ever() {
        let (mut peers, peer) = (Peers::default(), PeerId::random());
        let now = Time::from_millis(1_000_000);
        let lot: Vec<Asked> = (0..FIRST_WINDOW).map(|_| peers.sent(peer, now)).collect();
        let later = now + Duration::from_millis(300);
        for asked in lot {
            peers.unanswered(&peer, asked, later);
            assert!(peers.has_room(&peer, later));
        }
        let next = later + Duration::from_millis(300);
        let asked = peers.sent(peer, next);
        peers.unanswered(&peer, asked, next);
        assert!(!peers.has_room(&peer, next));
        let much_later = next + MAX_PAUSE;
        let asked = peers.sent(peer, much_later);
        peers.unanswered(&peer, asked, much_later);
        assert!(peers.has_room(&peer, much_later));
    }

    #[test]
    fn failures_that_come_together_count_once() {
        let (mut peers, peer) = (Peers::default(), PeerId::random());
        let now = Time::from_millis(1_000_000);
        for _ in 0..3 {
            peers.sent(peer, now);
        }
        for _ in 0..3 {
            peers.failed(&peer, now);
        }
        assert!(!peers.has_room(&peer, now));
        assert!(peers.has_room(&peer, now + FIRST_PAUSE));
    }
}
