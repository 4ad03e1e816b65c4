//! What becomes of a transaction that an endpoint refused whose word is not taken: other endpoints are asked.
//!
//! A refusal is in no block, so that nothing proves it. If another endpoint takes the transaction, the refusal counts for nothing. If
//! another refuses it too, it is given up. Nothing new is sent meanwhile, because its nonce would leave a gap.

use std::time::Duration;

use super::{Flight, Key, LOOK_AGAIN, LOST_AFTER, Outbox, Outcome, Second, Sent, Stage};
use crate::{chain::wire::Code, types::Time};

/// How long a refusal by one endpoint is doubted while no other answers. Nothing else is sent as long: if it is true, it delays
/// all that waits behind it.
pub(super) const DOUBT: Duration = Duration::from_secs(60);

impl Flight {
    /// The endpoint in use refused it.
    pub(super) fn doubt(&mut self, now: Time) {
        let since = match self {
            Self::Doubted { since, .. } => *since,
            _ => now,
        };
        *self = Self::Doubted { since, at: None };
    }
}

impl Outbox {
    /// Whether a refusal is in doubt.
    pub(super) fn doubts(&self) -> bool {
        let doubted = |stage: &Stage| matches!(stage, Stage::Signed { flight: Flight::Doubted { .. }, .. });
        self.entries.values().any(|entry| doubted(&entry.stage))
    }

    /// What other endpoints said of a transaction that the one in use refused (for `reason`), had no room for, or lost.
    pub(in crate::chain::client) fn on_second(
        &mut self,
        key: Key,
        second: Second,
        reason: &str,
        now: Time,
    ) -> Option<Outcome> {
        let Stage::Signed { flight, .. } = &mut self.entries.get_mut(&key)?.stage else { return None };
        match (second, *flight) {
            // What it sent itself before is looked for as it was.
            (Second::Said(Sent::Accepted), Flight::Sent { .. }) => {}
            (Second::Said(Sent::Accepted), _) => {
                *flight = Flight::Sent { since: now, look_at: now + LOOK_AGAIN };
            }
            (Second::Said(Sent::Refused { code, .. }), Flight::Doubted { .. }) if code == Code::Nonce as u32 => {
                self.next_nonce = None;
                *flight = Flight::Stale { since: now, look_at: now };
            }
            (Second::Said(Sent::Refused { .. } | Sent::Impossible { .. }) | Second::Nobody, Flight::Doubted { .. }) => {
                return self.give_up(key, reason);
            }
            (_, Flight::Doubted { since, .. }) if now.since(since) >= DOUBT => return self.give_up(key, reason),
            (_, Flight::Doubted { since, .. }) => {
                *flight = Flight::Doubted { since, at: Some(now + LOST_AFTER) };
            }
            _ => {}
        }
        None
    }

    fn give_up(&mut self, key: Key, reason: &str) -> Option<Outcome> {
        self.next_nonce = None;
        self.reject(key, reason.to_owned())
    }
}
