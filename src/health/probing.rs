//! Probes that this node makes for others: each request is answered exactly once, and in time.

use std::{collections::BTreeMap, time::Duration};

use super::wire::Response;
use crate::{
    protocol::{RequestId, ResponseToken, SendError},
    types::Time,
};

/// Probes made for others at once; beyond it the answer is [`Response::NotReached`] at once, which says nothing
/// wrong: it was not reached.
const MAX_HELPED: usize = 256;
/// How long a probe for another may take: longer than a slow round trip, shorter than the window in which the one
/// that asks can use the answer.
const HELP_DEADLINE: Duration = Duration::from_millis(1_500);

#[derive(Debug, Default)]
pub(super) struct Helping {
    waiting: BTreeMap<RequestId, (ResponseToken, Time)>,
}

impl Helping {
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_HELPED
    }

    pub(super) fn begin(&mut self, probe: RequestId, token: ResponseToken, now: Time) {
        self.waiting.insert(probe, (token, now + HELP_DEADLINE));
    }

    /// The probe is answered; the answer for the one that asked, unless it had its answer already.
    pub(super) fn on_answer(
        &mut self,
        probe: RequestId,
        result: Result<Response, SendError>,
    ) -> Option<(ResponseToken, Response)> {
        let (token, _) = self.waiting.remove(&probe)?;
        let response = match result {
            Ok(Response::Alive { sequence, .. }) => Response::Alive { sequence, watched: true },
            _ => Response::NotReached,
        };
        Some((token, response))
    }

    /// One that waited too long.
    pub(super) fn expired(&mut self, now: Time) -> Option<ResponseToken> {
        // All wait equally long, so the oldest probe is the first to expire.
        let probe = self.waiting.first_entry().filter(|entry| now >= entry.get().1)?;
        Some(probe.remove().0)
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.waiting.first_key_value().map(|(_, (_, deadline))| *deadline)
    }
}
