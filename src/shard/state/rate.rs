//! Bytes a second: what the operator lets transfers take of the line, in all and of one peer.
//!
//! A limit is a debt: who takes bytes pushes back the time at which more may be taken (the virtual scheduling of the generic
//! cell rate algorithm, ITU-T I.371). So a block may be as large as it is, and the mean holds over a tenth of a second.

use std::{collections::BTreeMap, time::Duration};

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use crate::types::Time;

/// Time that was not used and may be caught up: timers are late by a millisecond or more.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The most bytes a second; `None` for as many as the line carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// With all peers together.
    pub total: Option<u64>,
    /// With one peer.
    pub per_peer: Option<u64>,
}

/// When the next byte may be taken, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Debt(u64);

impl Debt {
    fn charge(&mut self, bytes: u64, limit: u64, now: Time) {
        let earliest = micros(now).saturating_sub(u64::try_from(CATCH_UP.as_micros()).unwrap_or(0));
        self.0 = self.0.max(earliest).saturating_add(cost(bytes, limit));
    }

    fn refund(&mut self, bytes: u64, limit: u64) {
        self.0 = self.0.saturating_sub(cost(bytes, limit));
    }

    /// The first millisecond at which it is paid.
    fn paid_at(self) -> Time {
        Time::from_millis(self.0.div_ceil(1_000))
    }
}

fn micros(time: Time) -> u64 {
    time.as_millis().saturating_mul(1_000)
}

fn cost(bytes: u64, limit: u64) -> u64 {
    bytes.saturating_mul(1_000_000) / limit.max(1)
}

/// What was taken, in all and by each peer.
#[derive(Debug)]
pub(super) struct Rates {
    limits: Limits,
    total: Debt,
    /// Peers in debt; paid debts are forgotten.
    peers: BTreeMap<PeerId, Debt>,
}

impl Rates {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, total: Debt::default(), peers: BTreeMap::new() }
    }

    /// When `peer` may take more; in the past if it may now.
    pub(super) fn free_at(&self, peer: &PeerId) -> Time {
        let of_peer = self.peers.get(peer).copied().unwrap_or_default();
        self.total.paid_at().max(of_peer.paid_at())
    }

    /// `peer` takes so many bytes.
    pub(super) fn charge(&mut self, peer: PeerId, bytes: u64, now: Time) {
        if let Some(limit) = self.limits.total {
            self.total.charge(bytes, limit, now);
        }
        if let Some(limit) = self.limits.per_peer {
            self.peers.retain(|_, debt| debt.paid_at() + CATCH_UP > now);
            self.peers.entry(peer).or_default().charge(bytes, limit, now);
        }
    }

    /// It took so many fewer than were charged.
    pub(super) fn refund(&mut self, peer: &PeerId, bytes: u64) {
        if let Some(limit) = self.limits.total {
            self.total.refund(bytes, limit);
        }
        if let (Some(limit), Some(debt)) = (self.limits.per_peer, self.peers.get_mut(peer)) {
            debt.refund(bytes, limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000_000);
    const MIB: u64 = 1 << 20;

    /// Bytes that `peers` take in a second, each as soon as it may.
    fn taken(limits: Limits, peers: &[PeerId]) -> u64 {
        let mut rates = Rates::new(limits);
        let mut bytes = 0;
        for millis in 0..1_000 {
            let now = NOW + Duration::from_millis(millis);
            for peer in peers {
                while rates.free_at(peer) <= now {
                    rates.charge(*peer, MIB, now);
                    bytes += MIB;
                }
            }
        }
        bytes
    }

    #[test]
    fn a_second_takes_what_the_limit_says_and_a_tenth_and_a_block_more() {
        let peers = [PeerId::random(), PeerId::random(), PeerId::random()];
        let total = Limits { total: Some(20_000_000), per_peer: None };
        let slack = 2_000_000 + MIB;
        assert!((20_000_000..20_000_000 + slack).contains(&taken(total, &peers)));
        let each = Limits { total: None, per_peer: Some(20_000_000) };
        assert!((60_000_000..3 * (20_000_000 + slack)).contains(&taken(each, &peers)));
        let both = Limits { total: Some(30_000_000), per_peer: Some(20_000_000) };
        assert!((30_000_000..30_000_000 + 3_000_000 + MIB).contains(&taken(both, &peers)));
    }

    #[test]
    fn what_was_not_taken_is_given_back_and_paid_debts_are_forgotten() {
        let (one, other) = (PeerId::random(), PeerId::random());
        let mut rates = Rates::new(Limits { total: Some(1_000_000), per_peer: Some(500_000) });
        rates.charge(one, 1_000_000, NOW);
        assert!(rates.free_at(&one) > NOW + Duration::from_secs(1) && rates.free_at(&other) > NOW);
        rates.refund(&one, 1_000_000);
        assert!(rates.free_at(&one) <= NOW && rates.free_at(&other) <= NOW);
        rates.charge(other, 1, NOW + Duration::from_secs(10));
        assert_eq!(rates.peers.len(), 1);
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let (mut rates, peer) = (Rates::new(Limits::default()), PeerId::random());
        rates.charge(peer, u64::MAX, NOW);
        assert_eq!(rates.free_at(&peer), Time::ZERO);
    }
}
