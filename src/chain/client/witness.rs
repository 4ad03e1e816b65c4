//! Asks another endpoint what it says of the chain, beside the one in use.
//!
//! One endpoint alone can be behind, or show a fork, and prove every word. Another one, asked now and then, tells. It is asked in a
//! task of its own, so that one that hangs delays nothing.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::{
    Config, Endpoint,
    connection::{self, Failure},
};
use crate::{chain::light::LightBlock, clock, types::Time};

/// Between two questions to a witness.
const PAUSE: Duration = Duration::from_secs(10);
/// A witness that says nothing for so long is as good as none.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a witness says.
#[derive(Debug)]
pub(super) struct Opinion {
    /// Its block of the height that is trusted here; none if it has none.
    pub same: Option<LightBlock>,
    /// Its newest.
    pub newest: Option<LightBlock>,
}

/// Asks the witnesses in turn.
pub(super) struct Witness {
    asked: Option<(Endpoint, AbortOnDropHandle<Result<Opinion, Failure>>)>,
    next_at: Time,
    turn: usize,
    pause: Duration,
}

impl Witness {
    /// Asks the first one soon. `stale_after` is what should be noticed in time.
    pub(super) fn new(stale_after: Duration) -> Self {
        Self { asked: None, next_at: Time::ZERO, turn: 0, pause: PAUSE.min(stale_after) }
    }

    /// When there is something to do here.
    pub(super) fn wake_at(&self) -> Option<Time> {
        self.asked.as_ref().map_or(Some(self.next_at), |(_, task)| task.is_finished().then_some(Time::ZERO))
    }

    /// Asks the next of the endpoints that are not in use, if it is time and nobody is asked.
    pub(super) fn ask(&mut self, config: &Config, used: &str, trusted: u64, known: Option<&LightBlock>) {
        if self.asked.is_some() || clock::now() < self.next_at {
            return;
        }
        self.next_at = clock::now() + self.pause;
        let others: Vec<&Endpoint> = config.others(used).collect();
        let Some(other) = others.get(self.turn % others.len().max(1)).copied() else { return };
        self.turn = self.turn.wrapping_add(1);
        let (endpoint, config, known) = (other.clone(), config.clone(), known.cloned());
        let task = tokio::spawn(async move {
            let opinion = hear(&endpoint, &config, trusted, known.as_ref());
            tokio::time::timeout(PATIENCE, opinion).await.unwrap_or(Err(Failure::Timeout))
        });
        self.asked = Some((other.clone(), AbortOnDropHandle::new(task)));
    }

    /// What was said, once.
    pub(super) async fn answer(&mut self) -> Option<(Endpoint, Result<Opinion, Failure>)> {
        self.asked.as_ref().filter(|(_, task)| task.is_finished())?;
        let (endpoint, task) = self.asked.take()?;
        // It ended by itself or by a panic, which is no opinion.
        Some((endpoint, task.await.ok()?))
    }
}

async fn hear(
    endpoint: &Endpoint,
    config: &Config,
    trusted: u64,
    known: Option<&LightBlock>,
) -> Result<Opinion, Failure> {
    let rpc = connection::connect(endpoint, config, 0).await?.rpc;
    let newest = rpc.latest().await?;
    let same = if newest < trusted { None } else { rpc.light_block(trusted, known).await? };
    let newest = if newest > trusted { rpc.light_block(newest, known).await? } else { None };
    Ok(Opinion { same, newest })
}
