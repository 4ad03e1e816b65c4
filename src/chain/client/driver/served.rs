//! A connection in use, and when blocks are asked for on it.

use std::time::Duration;

use tokio::sync::watch as channel;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    chain::client::{
        Endpoint,
        connection::Rpc,
        watch::{self, Seen},
    },
    types::Time,
};

/// One endpoint that answers.
pub(super) struct Connection {
    pub(super) endpoint: String,
    pub(super) rpc: Rpc,
    pub(super) seen: channel::Receiver<Seen>,
    _watcher: Option<AbortOnDropHandle<()>>,
    /// The wait before the next poll, where nobody tells of blocks.
    pause: Duration,
    pub(super) poll_at: Time,
}

impl Connection {
    pub(super) fn new(endpoint: &Endpoint, rpc: Rpc, pause: Duration) -> Self {
        let (seen, watcher) = match endpoint {
            Endpoint::Http(url) => {
                let (seen, watcher) = watch::spawn(url);
                (seen, Some(watcher))
            }
            Endpoint::Peer(_) => (channel::channel(Seen::default()).1, None),
        };
        Self { endpoint: endpoint.name(), rpc, seen, _watcher: watcher, pause, poll_at: Time::ZERO }
    }

    /// Blocks are heard of as they come: true, until the next is.
    pub(super) fn is_live(&mut self) -> bool {
        self.seen.borrow_and_update().live
    }

    pub(super) fn has_watcher(&self) -> bool {
        self._watcher.is_some()
    }

    pub(super) fn is_poll_due(&self, now: Time) -> bool {
        self.poll_at <= now
    }

    /// The wait until the next poll; the one after that waits twice as long.
    pub(super) fn next_pause(&mut self, longest: Duration) -> Duration {
        let pause = self.pause.min(longest);
        self.pause = pause * 2;
        pause
    }

    /// Something was sent: its block comes soon.
    pub(super) fn hurry(&mut self, shortest: Duration, now: Time) {
        if !self.seen.borrow().live {
            self.pause = shortest;
            self.poll_at = self.poll_at.min(now + shortest);
        }
    }
}
