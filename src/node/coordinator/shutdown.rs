//! Stopping in order: no new work, a last checkpoint of what runs, leases handed back, a leaving beat, exit.

use std::time::Duration;

use super::{Coordinator, Output, work::Phase};
use crate::{
    api::NodeEvent,
    executor::{self, StopMode},
    health,
    types::{TaskId, TaskStatus, Time},
};

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stopping {
    /// Leases are handed back without a last checkpoint from here on.
    hand_back_at: Time,
    /// The node exits at this time whatever is missing; leases then lapse by themselves.
    exit_at: Time,
    /// Recovery was told that nothing more comes.
    told_recovery: bool,
    /// The last checkpoints are with other nodes, or were given up.
    drained: bool,
    /// The last beat went out at this time.
    left_at: Option<Time>,
    /// All watchers were told.
    departed: bool,
}

/// The watchers' answers to the last beat are waited for this long: a round trip to a far one, twice.
const GOODBYE: Duration = Duration::from_secs(1);

impl Coordinator {
    pub(super) fn on_shutdown(&mut self, reason: String) {
        if self.stopping.is_some() {
            return;
        }
        tracing::info!(reason, "stopping");
        self.notify(NodeEvent::Stopping { reason });
        let grace = self.config.shutdown_grace;
        self.stopping = Some(Stopping {
            hand_back_at: self.now + grace,
            exit_at: self.now + grace + grace / 2,
            told_recovery: false,
            drained: false,
            left_at: None,
            departed: false,
        });
        let running: Vec<TaskId> =
            self.works.values().filter(|work| work.phase == Phase::Running).map(|work| work.task).collect();
        for task in running {
            if let Some(work) = self.works.get_mut(&task) {
                work.phase = Phase::Stopping;
            }
            self.output(Output::Executor(executor::Input::Stop { task, mode: StopMode::Checkpoint }));
        }
        self.tend_shutdown();
    }

    /// Goes one step further when the last one is done.
    pub(super) fn tend_shutdown(&mut self) {
        let Some(stopping) = &self.stopping else { return };
        let (hand_back_at, exit_at, left_at, drained) =
            (stopping.hand_back_at, stopping.exit_at, stopping.left_at, stopping.drained);
        let departed = stopping.departed || left_at.is_some_and(|at| self.now.since(at) >= GOODBYE);
        let late = self.now >= hand_back_at;
        let running = self.works.keys().any(|task| self.runs.is_running(task));
        if !stopping.told_recovery && (!running || late) {
            if let Some(stopping) = &mut self.stopping {
                stopping.told_recovery = true;
            }
            self.recovery.handle(crate::recovery::Input::Shutdown, self.now);
        }
        let ready: Vec<TaskId> = self
            .works
            .values()
            .filter(|work| work.phase != Phase::HandingBack)
            .filter(|_| late || drained)
            .map(|work| work.task)
            .collect();
        for task in ready {
            let generation = self.works.get(&task).map_or(0, |work| work.generation);
            self.tell_rollback(task, generation);
            self.hand_back(task, TaskStatus::Rollback, Some("the node stops".into()));
        }
        let connected =
            self.works.values().any(|work| self.ledgers.get(&work.ledger).is_some_and(|state| state.connected));
        let handed_back = self.works.is_empty() || !connected;
        if left_at.is_none() && (handed_back || self.now >= exit_at) {
            if let Some(stopping) = &mut self.stopping {
                stopping.left_at = Some(self.now);
            }
            self.output(Output::Health(health::Input::Leave));
        } else if left_at.is_some() && (departed && self.pending_beats() == 0 || self.now >= exit_at) {
            self.output(Output::Exit);
        }
    }

    /// The watchers know: nothing keeps this node but its ledgers.
    pub(super) fn on_departed(&mut self) {
        if let Some(stopping) = &mut self.stopping {
            stopping.departed = true;
            self.tend_shutdown();
        }
    }

    /// Nothing of recovery is in flight any more.
    pub(super) fn checkpoints_drained(&mut self) {
        if let Some(stopping) = &mut self.stopping {
            stopping.drained = true;
        }
    }

    /// Beats on their way to a ledger; the leaving one is the last.
    fn pending_beats(&self) -> usize {
        self.pending.values().filter(|pending| matches!(pending, super::Pending::Beat)).count()
    }
}
