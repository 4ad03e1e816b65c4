//! Who has done how much, and who is cut off until when.

use std::{collections::BTreeMap, time::Duration};

use libp2p::PeerId;

use super::Offence;
use crate::types::Time;

/// A peer with this many points is cut off.
pub const CUT_OFF_AT: u32 = 100;
/// Points forgotten in a second: who is over a budget by one a second is left alone.
pub const POINTS_FORGOTTEN: u32 = 1;
/// How long a peer is cut off the first time. It doubles each time after.
pub const FIRST_CUT_OFF: Duration = Duration::from_secs(60);
/// The longest that a peer is cut off at once.
pub const LONGEST_CUT_OFF: Duration = Duration::from_secs(3_600);
/// A peer that was not cut off for this long begins again with [`FIRST_CUT_OFF`].
pub const FORGET_REPEATS: Duration = Duration::from_secs(24 * 3_600);
/// Peers cut off that `status` lists, the latest first.
pub const MAX_CUT_OFF_SHOWN: usize = 64;
/// Peers remembered, some hundred bytes each. When there are more, one that is not cut off and has the fewest points is
/// forgotten; if all are cut off, the one whose time ends first.
const MAX_PEERS: usize = 4_096;
/// Kinds of offences told of one peer; the others only count.
const MAX_KINDS: usize = 4;

/// Points in thousandths, so that a millisecond forgets one.
const POINT: u64 = 1_000;

/// A peer that is cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// Who.
    pub peer: PeerId,
    /// What it did.
    pub why: String,
    /// Until when.
    pub until: Time,
    /// How many times in a row, this one included.
    pub times: u32,
}

#[derive(Debug, Default)]
struct Record {
    points: u64,
    at: Time,
    kinds: BTreeMap<Offence, u32>,
    cut_off: Option<(Time, String)>,
    /// Times cut off in a row, and when the last of them ended.
    times: u32,
    ended: Time,
}

impl Record {
    fn forget(&mut self, now: Time) {
        let millis = now.as_millis().saturating_sub(self.at.as_millis());
        self.points = self.points.saturating_sub(millis.saturating_mul(u64::from(POINTS_FORGOTTEN)));
        self.at = self.at.max(now);
        if self.points == 0 {
            self.kinds.clear();
        }
        if self.cut_off.is_none() && now.since(self.ended) >= FORGET_REPEATS {
            self.times = 0;
        }
    }

    fn count(&mut self, offence: &Offence) {
        self.points += u64::from(offence.points()) * POINT;
        let more = offence.count();
        let kind = offence.kind();
        if self.kinds.contains_key(&kind) || self.kinds.len() < MAX_KINDS {
            let count = self.kinds.entry(kind).or_default();
            *count = count.saturating_add(more);
        }
    }

    fn why(&self) -> String {
        let kinds = self.kinds.iter().map(|(kind, count)| format!("{count} {kind}"));
        kinds.collect::<Vec<_>>().join(", ")
    }
}

/// Everybody's conduct.
#[derive(Debug, Default)]
pub struct State {
    peers: BTreeMap<PeerId, Record>,
    cut_offs: u64,
}

impl State {
    /// Counts an offence; says so if the peer is to be cut off now. What one does that is cut off already (its last
    /// messages are still being read) counts no more.
    pub fn offend(&mut self, peer: PeerId, offence: Offence, now: Time) -> Option<CutOff> {
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAX_PEERS {
            self.make_room(now);
        }
        let record = self.peers.entry(peer).or_default();
        if record.cut_off.is_some() {
            return None;
        }
        record.forget(now);
        record.count(&offence);
        if record.points < u64::from(CUT_OFF_AT) * POINT {
            return None;
        }
        let until = now + cut_off_for(record.times);
        let why = record.why();
        record.times = record.times.saturating_add(1);
        (record.points, record.cut_off) = (0, Some((until, why.clone())));
        record.kinds.clear();
        let times = record.times;
        self.cut_offs += 1;
        Some(CutOff { peer, why, until, times })
    }

    /// Those whose time is over: they may come back.
    pub fn readmit(&mut self, now: Time) -> Vec<PeerId> {
        let mut back = Vec::new();
        for (peer, record) in &mut self.peers {
            if record.cut_off.as_ref().is_some_and(|(until, _)| *until <= now) {
                record.cut_off = None;
                (record.ended, record.at) = (now, now);
                back.push(*peer);
            }
        }
        back
    }

    /// Who is cut off, the latest to come back first, at most [`MAX_CUT_OFF_SHOWN`].
    pub fn cut_off(&self) -> Vec<CutOff> {
        let mut all: Vec<CutOff> = self.peers.iter().filter_map(|(peer, record)| shown(*peer, record)).collect();
        all.sort_by_key(|cut_off| std::cmp::Reverse(cut_off.until));
        all.truncate(MAX_CUT_OFF_SHOWN);
        all
    }

    /// How often a peer was cut off since the start.
    pub fn cut_offs(&self) -> u64 {
        self.cut_offs
    }

    fn make_room(&mut self, now: Time) {
        for record in self.peers.values_mut() {
            record.forget(now);
        }
        self.peers.retain(|_, record| record.points > 0 || record.times > 0 || record.cut_off.is_some());
        if self.peers.len() >= MAX_PEERS {
            let least = |(_, record): &(&PeerId, &Record)| {
                (record.cut_off.as_ref().map(|(until, _)| *until), record.times, record.points)
            };
            if let Some(peer) = self.peers.iter().min_by_key(least).map(|(peer, _)| *peer)
                && let Some(record) = self.peers.get_mut(&peer)
            {
                // One that is cut off is let back before it is forgotten, or nobody would ever unblock it.
                match &mut record.cut_off {
                    Some((until, _)) => *until = now,
                    None => drop(self.peers.remove(&peer)),
                }
            }
        }
    }
}

fn shown(peer: PeerId, record: &Record) -> Option<CutOff> {
    let (until, why) = record.cut_off.clone()?;
    Some(CutOff { peer, why, until, times: record.times })
}

/// How long, after being cut off so many times before.
fn cut_off_for(times: u32) -> Duration {
    FIRST_CUT_OFF.saturating_mul(1 << times.min(16)).min(LONGEST_CUT_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000_000);
    const PROTOCOL: &str = "/atlas/health/1";

    fn peer(number: u64) -> PeerId {
        // SHA-256 of some key.
        PeerId::from_bytes(&[&[0x12, 0x20][..], &number.to_be_bytes().repeat(4)].concat()).unwrap()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_peer_is_cut_off_at_its_limit_with_all_that_it_did_as_the_reason() {
        let mut state = State::default();
        assert_eq!(state.offend(peer(1), Offence::Malformed { protocol: PROTOCOL.into() }, NOW), None);
        assert_eq!(state.offend(peer(2), Offence::GossipFlood { count: 99 }, NOW), None, "another's are another's");
        assert_eq!(state.offend(peer(1), Offence::GossipFlood { count: 50 }, NOW), None);
        let cut_off = state.offend(peer(1), Offence::GossipFlood { count: 50 }, NOW).unwrap();
        assert_eq!((cut_off.peer, cut_off.until, cut_off.times), (peer(1), NOW + FIRST_CUT_OFF, 1));
        assert!(cut_off.why.contains("100 gossip message(s) over the budget"), "{}", cut_off.why);
        assert!(cut_off.why.contains("1 malformed message(s) of /atlas/health/1"), "{}", cut_off.why);
        assert_eq!(state.cut_off(), [cut_off]);
        assert_eq!(state.offend(peer(1), Offence::Lie { count: 9 }, NOW), None, "once is enough");
        assert_eq!(state.cut_offs(), 1);
    }

    #[test]
    fn what_is_rare_is_forgotten() {
        let mut state = State::default();
        for minute in 0..1_000 {
            let at = NOW + seconds(60 * minute);
            assert_eq!(
                state.offend(peer(1), Offence::Oversize { protocol: PROTOCOL.into() }, at),
                None,
                "one a minute"
            );
        }
    }

    #[test]
    fn each_time_is_twice_as_long_up_to_the_longest_and_a_good_day_is_remembered_too() {
        let mut state = State::default();
        let (mut now, mut lengths) = (NOW, Vec::new());
        for _ in 0..9 {
            let cut_off = state.offend(peer(1), Offence::GossipFlood { count: 100 }, now).unwrap();
            lengths.push(cut_off.until.since(now));
            assert_eq!(state.readmit(Time(cut_off.until.0 - 1)), []);
            now = cut_off.until;
            assert_eq!(state.readmit(now), [peer(1)]);
            assert_eq!((state.readmit(now), state.cut_off()), (vec![], vec![]), "once");
        }
        assert_eq!(lengths[..4], [60, 120, 240, 480].map(seconds));
        assert_eq!(lengths[6..], [LONGEST_CUT_OFF; 3]);
        let later = now + FORGET_REPEATS;
        let cut_off = state.offend(peer(1), Offence::GossipFlood { count: 100 }, later).unwrap();
        assert_eq!((cut_off.times, cut_off.until), (1, later + FIRST_CUT_OFF));
    }

    #[test]
    fn names_without_end_take_no_memory_without_end_and_who_is_blocked_for_them_comes_back() {
        let mut state = State::default();
        for number in 0..MAX_PEERS as u64 {
            assert!(state.offend(peer(number), Offence::GossipFlood { count: 100 }, NOW).is_some());
        }
        state.offend(peer(1 << 32), Offence::Gossip, NOW);
        assert_eq!(state.readmit(NOW).len(), 1, "the one that had to go is let in");
        for number in 0..100 {
            state.offend(peer((1 << 33) + number), Offence::Gossip, NOW);
            state.readmit(NOW);
            assert!(state.peers.len() <= MAX_PEERS + 1);
        }
        assert_eq!(state.cut_off().len(), MAX_CUT_OFF_SHOWN);
    }
}
