//! Taking leases: which pending tasks this node wants, and when it may ask.

use std::{collections::BTreeMap, time::Duration};

use super::{Coordinator, Pending, work::Phase, work::Work};
use crate::{
    chain::wire::{Code, Message},
    types::{Generation, JobId, NodeKey, TaskId, TaskStatus, rendezvous},
    validator,
};

/// How long the second in line waits for the first, the third for the second, and so on: two round trips to a far
/// ledger. Only the ledger decides who holds a task; the order keeps a thousand nodes from asking at once.
const TURN: Duration = Duration::from_millis(150);
/// Nobody waits longer than this many turns: 10 s, well below a lease.
const LAST_TURN: u32 = 64;
/// A task that this node gave back is left to others for so long.
const OTHERS_FIRST: Duration = Duration::from_secs(30);
/// Leases asked for at once; the next is asked for when one is answered.
const MAX_LEASING: usize = 4;

impl Coordinator {
    /// Looks for work on a job's pending tasks.
    pub(super) fn volunteer(&mut self, ledger: &str, job: JobId) {
        let Some(state) = self.ledgers.get(ledger) else { return };
        let pending: Vec<TaskId> =
            state.view.tasks_of(&job).filter(|task| task.status == TaskStatus::Pending).map(|task| task.id).collect();
        for task in pending {
            self.consider(ledger, task);
        }
    }

    fn consider(&mut self, ledger: &str, task: TaskId) {
        let leasing = self.works.values().filter(|work| work.phase == Phase::Leasing).count();
        if self.stopping.is_some() || self.works.contains_key(&task) || leasing >= MAX_LEASING {
            return;
        }
        if self.given_back.get(&task).is_some_and(|(_, at)| self.now.since(*at) < OTHERS_FIRST) {
            return;
        }
        if let Err(reason) = self.validate(ledger, task) {
            tracing::debug!(%task, reason, "not taken");
            return;
        }
        let Some(generation) =
            self.ledgers.get(ledger).and_then(|state| state.view.tasks.get(&task)).map(|task| task.generation)
        else {
            return;
        };
        let turn = self.turn(ledger, task, generation);
        let seen = *self.seen_pending.entry((task, generation)).or_insert(self.now);
        if self.now.since(seen) < TURN * turn || !self.book(ledger, task) {
            return;
        }
        let round =
            self.ledgers.get(ledger).and_then(|state| state.view.jobs.get(&task.job)).map_or(0, |job| job.round);
        self.works.insert(task, Work::new(ledger.to_owned(), task, generation + 1, round, Phase::Leasing));
        let message = Message::TakeLease { task_id: task, generation };
        self.submit(ledger, message, false, Pending::Lease { task, generation });
    }

    /// Whether this node may and can take the task, with the reason if not.
    pub(super) fn validate(&self, ledger: &str, task: TaskId) -> Result<(), String> {
        let state = self.ledgers.get(ledger).ok_or("its ledger is not followed here")?;
        let record = state.view.tasks.get(&task).ok_or("its ledger does not list it yet")?;
        let job = state.view.jobs.get(&task.job).ok_or("its ledger does not list its job yet")?;
        let held: Vec<validator::Held<'_>> = self.works.values().filter_map(|work| self.held_by_me(work)).collect();
        let view = validator::View {
            me: self.me,
            node: state.view.nodes.get(&self.me),
            ledger: &ledger.to_owned(),
            job,
            task: record,
            free: self.resources.free(),
            held: &held,
            stake: state.terms.map_or(validator::Stake::default(), |terms| validator::Stake {
                bonded: terms.bonded,
                needed: terms.min_stake,
            }),
            now: self.now,
        };
        validator::validate_assignment(&view, &self.config.policy).map_err(|rejection| rejection.to_string())
    }

    /// A task of which its ledger says that this node holds it.
    fn held_by_me<'a>(&'a self, work: &'a Work) -> Option<validator::Held<'a>> {
        let view = &self.ledgers.get(&work.ledger)?.view;
        let task = view.tasks.get(&work.task).filter(|task| task.holder == Some(self.me))?;
        Some(validator::Held { ledger: &work.ledger, job: view.jobs.get(&task.id.job)?, task })
    }

    /// This node's place among the volunteers: 0 is first.
    fn turn(&self, ledger: &str, task: TaskId, generation: Generation) -> u32 {
        let Some(state) = self.ledgers.get(ledger) else { return LAST_TURN };
        let candidates = state.view.present_nodes().filter(|node| node.resources.cpu_millicores > 0);
        let order = self.volunteers(ledger, task, generation, candidates.map(|node| node.id));
        let place = order.iter().position(|node| *node == self.me);
        place.and_then(|place| u32::try_from(place).ok()).unwrap_or(LAST_TURN).min(LAST_TURN)
    }

    /// The volunteers for a task, first to last.
    pub(super) fn volunteers(
        &self,
        ledger: &str,
        task: TaskId,
        generation: Generation,
        candidates: impl IntoIterator<Item = NodeKey>,
    ) -> Vec<NodeKey> {
        let mut held: BTreeMap<NodeKey, usize> = BTreeMap::new();
        let tasks = self.ledgers.get(ledger).into_iter().flat_map(|state| state.view.tasks_of(&task.job));
        for holder in tasks.filter_map(|task| task.holder) {
            *held.entry(holder).or_default() += 1;
        }
        // What this node has asked for counts as held by it.
        let asked = |work: &&Work| work.task.job == task.job && work.phase == Phase::Leasing;
        *held.entry(self.me).or_default() += self.works.values().filter(asked).count();
        let held = |node: &NodeKey| held.get(node).copied().unwrap_or(0);
        rendezvous::volunteers(&task.job, task.slot, generation, candidates, held)
    }

    /// The ledger answered a request for a lease.
    pub(super) fn on_lease_answered(&mut self, task: TaskId, generation: u32, code: u32, log: &str) {
        if code == 0 {
            // The lease shows in the next changes; reconciling begins the round.
            return;
        }
        tracing::info!(%task, generation, log, "the ledger gave the lease to another node, or to none");
        if code == Code::Funds as u32
            && let Some(ledger) = self.ledger_of(&task.job)
        {
            // The stake was enough when this node looked last.
            self.ask_terms(&ledger);
        }
        let asked = |work: &Work| work.phase == Phase::Leasing && work.generation == generation.saturating_add(1);
        if self.works.get(&task).is_some_and(asked) {
            self.works.remove(&task);
            self.release(task);
        }
    }
}
