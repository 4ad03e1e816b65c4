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
    /// Blocks that its websocket told of until the last question.
    told: u64,
    /// It told of some since the question before.
    heard: bool,
    /// A question brought news that it did not tell of. Until it does, blocks are asked for as if it were not there.
    silent: bool,
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
        let (endpoint, told) = (endpoint.name(), seen.borrow().blocks);
        Self { endpoint, rpc, seen, _watcher: watcher, told, heard: false, silent: false, pause, poll_at: Time::ZERO }
    }

    /// Blocks are heard of as they come: true, until the next is.
    pub(super) fn is_live(&mut self) -> bool {
        let seen = *self.seen.borrow_and_update();
        self.heard = seen.blocks != self.told;
        self.told = seen.blocks;
        self.silent &= !self.heard;
        seen.live
    }

    /// A question brought news.
    pub(super) fn on_news(&mut self) {
        self.silent |= !self.heard;
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent
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
        if self.silent || !self.seen.borrow().live {
            self.pause = shortest;
            self.poll_at = self.poll_at.min(now + shortest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::client::http::Http;

    #[test]
    fn a_websocket_that_does_not_tell_of_news_is_not_waited_for_until_it_tells_of_some() {
        let (websocket, seen) = channel::channel(Seen { live: true, blocks: 0 });
        let mut connection = Connection {
            endpoint: "http://one".to_owned(),
            rpc: Rpc::Http(Http::new("http://127.0.0.1:1").unwrap()),
            seen,
            _watcher: None,
            told: 0,
            heard: false,
            silent: false,
            pause: Duration::from_millis(10),
            poll_at: Time::ZERO,
        };
        let tell = || websocket.send_modify(|seen| seen.blocks += 1);
        tell();
        assert!(connection.is_live());
        connection.on_news();
        assert!(!connection.is_silent(), "it told of what was found");
        assert!(connection.is_live());
        assert!(!connection.is_silent(), "it tells of nothing, and there is nothing");
        connection.on_news();
        assert!(connection.is_silent(), "there was something, and it did not tell");
        connection.poll_at = Time(5_000);
        connection.hurry(Duration::from_millis(10), Time(1_000));
        assert_eq!(connection.poll_at, Time(1_010), "what was sent is looked for soon, as without a websocket");
        tell();
        assert!(connection.is_live() && !connection.is_silent());
    }
}
