//! A task that this node holds: what of its open round is done, and the next missing thing.
//!
//! ```text
//! Leasing ─► Fetching ─► Running ─► Finishing ─► Proving ─► Settling ─► Waiting ─┐
//!               ▲          (checkpoints go out)                  (receipt stands)   │
//!               └────────────────────── the round closed ◄─────────────────────────┘
//! ```
//! Every arrow is taken by an answer; [`Coordinator::reconcile_task`] compares a work with the ledger and drops it when the
//! lease is gone, or begins it when the ledger says that this node holds a task it has no work for.

use std::{collections::BTreeSet, time::Duration};

use super::{Coordinator, Output, Pending, gather::Next, gather::Purpose, pending::LoadPurpose};
use crate::{
    api::NodeEvent,
    chain::wire::Message,
    executor::{self, Outputs, RunSpec, StopMode},
    node::edges,
    proof, recovery, round,
    tensor::checkpoint::Checkpoint,
    types::{
        CheckpointRef, ContentId, Digest, Generation, JobStatus, LedgerId, NodeKey, Round, TaskId, TaskStatus, Time,
    },
};

/// The first pause after a failed attempt at a round.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Failed attempts at a round before the task is handed back for another node to try.
const MAX_FAILURES: u32 = 4;
/// A round begins again without a checkpoint of which nothing came for this part of the round's limit: both machines that
/// had it may be gone.
const ROUND_PARTS: u32 = 4;
/// But not sooner: a machine that restarts is back by then.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);
/// And not later: a lease lapses after two minutes without a word.
const MOST_PATIENCE: Duration = Duration::from_secs(60);
/// When no node could check a receipt, they are asked again after this pause: their views are a block behind at most.
pub(super) const VERIFY_PAUSE: Duration = Duration::from_millis(500);

/// What of the round is done.
#[derive(Debug, PartialEq)]
pub(super) enum Phase {
    /// The transaction for the lease is on its way.
    Leasing,
    /// The round's inputs are being fetched, and its checkpoint read.
    Fetching,
    /// The script runs.
    Running,
    /// The script is done: the update is made and the last checkpoint kept by another node.
    Finishing,
    /// The receipt is signed; another node checks it.
    Proving,
    /// The receipt is on its way to the ledger.
    Settling,
    /// The receipt stands. Nothing to do until the round closes.
    Waiting,
    /// The creator paused the job, or the node stops: the script was told to checkpoint.
    Stopping,
    /// Paused on the ledger.
    Paused,
    /// An attempt failed; the next begins at this time.
    Backoff(Time),
    /// On its way back to the ledger.
    HandingBack,
}

impl Phase {
    /// In a word, for people.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Leasing => "leasing",
            Self::Fetching => "fetching",
            Self::Running => "running",
            Self::Finishing => "packaging",
            Self::Proving => "proving",
            Self::Settling => "settling",
            Self::Waiting => "waiting for the round",
            Self::Stopping => "stopping",
            Self::Paused => "paused",
            Self::Backoff(_) => "waiting to try again",
            Self::HandingBack => "handing back",
        }
    }
}

/// A held task.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) ledger: LedgerId,
    pub(super) task: TaskId,
    /// The generation of our lease; while leasing, the one it will have.
    pub(super) generation: Generation,
    pub(super) round: Round,
    pub(super) phase: Phase,
    pub(super) step: u32,
    /// Where inside the round to continue.
    pub(super) resume: Option<(CheckpointRef, Checkpoint)>,
    /// The optimizer state that the round begins from.
    pub(super) optim: Option<ContentId>,
    /// Checkpoints still being read before the run can begin.
    pub(super) loading: u32,
    pub(super) outputs: Option<Outputs>,
    pub(super) package: Option<round::edge::Package>,
    /// The end of the round, held by another node.
    pub(super) kept: Option<(CheckpointRef, recovery::edge::Kept)>,
    pub(super) receipt: Option<crate::types::Signed>,
    pub(super) verifiers_tried: BTreeSet<NodeKey>,
    /// Who was asked for the key of the sealed data.
    pub(super) key_asked: BTreeSet<NodeKey>,
    /// When all verifiers said no: the next round of asking begins at this time.
    pub(super) retry_at: Option<Time>,
    pub(super) attempt: u32,
    pub(super) failures: u32,
    /// Progress reported to the ledger last, in basis points.
    pub(super) reported: u32,
}

impl Work {
    pub(super) fn new(ledger: LedgerId, task: TaskId, generation: Generation, round: Round, phase: Phase) -> Self {
        Self {
            ledger,
            task,
            generation,
            round,
            phase,
            step: 0,
            resume: None,
            optim: None,
            loading: 0,
            outputs: None,
            package: None,
            kept: None,
            receipt: None,
            verifiers_tried: BTreeSet::new(),
            key_asked: BTreeSet::new(),
            retry_at: None,
            attempt: 0,
            failures: 0,
            reported: 0,
        }
    }

    /// Forgets what belonged to the last round.
    fn begin(&mut self, round: Round) {
        if round != self.round {
            self.failures = 0;
        }
        self.round = round;
        self.phase = Phase::Fetching;
        self.step = 0;
        self.resume = None;
        self.optim = None;
        self.loading = 0;
        self.outputs = None;
        self.package = None;
        self.kept = None;
        self.receipt = None;
        self.verifiers_tried.clear();
        self.key_asked.clear();
        self.retry_at = None;
    }
}

impl Coordinator {
    /// Compares what this node does for a task with what the ledger says.
    pub(super) fn reconcile_task(&mut self, ledger: &str, task: TaskId) {
        let Some(state) = self.ledgers.get(ledger) else { return };
        let (Some(record), Some(job)) = (state.view.tasks.get(&task), state.view.jobs.get(&task.job)) else { return };
        let held = record.holder == Some(self.me)
            && matches!(record.status, TaskStatus::Assigned | TaskStatus::InProgress | TaskStatus::Paused);
        let (generation, round, status, has_receipt) =
            (record.generation, job.round, record.status, record.receipt.is_some());
        let open = job.status == JobStatus::Open;
        let paused = job.paused;
        let leasing = self.works.get(&task).is_some_and(|work| work.phase == Phase::Leasing);
        // The generation that was asked for is here or over, and not ours: it was another's, or ours and lost unseen.
        let missed = self.works.get(&task).is_some_and(|work| generation >= work.generation);
        if !held || !open {
            if !leasing || !open || missed {
                self.drop_work(task, open);
            }
            return;
        }
        match self.works.get_mut(&task) {
            Some(work) if work.generation == generation || leasing => work.generation = generation,
            Some(_) => self.drop_work(task, true),
            None => {}
        }
        if !self.works.contains_key(&task) && !self.adopt(ledger, task, generation, round) {
            return;
        }
        let Some(work) = self.works.get_mut(&task) else { return };
        match work.phase {
            Phase::Leasing => {
                self.tell_assignment(task);
                self.begin_round(task, round);
            }
            Phase::HandingBack | Phase::Stopping => {}
            _ if work.round < round && !paused => self.begin_round(task, round),
            Phase::Settling if has_receipt => self.on_receipt_stands(task),
            Phase::Proving if work.retry_at.is_some_and(|at| at <= self.now) => self.ask_verifier(task),
            Phase::Backoff(until) if until <= self.now && !paused => self.begin_round(task, round),
            Phase::Paused if !paused => self.resume_task(task, round),
            // A script that is stopped before it listens to signals has failed, and would be tried again.
            Phase::Fetching | Phase::Running | Phase::Waiting | Phase::Backoff(_)
                if paused && status != TaskStatus::Paused =>
            {
                self.pause_task(task);
            }
            _ => {}
        }
    }

    /// Takes up a task that the ledger says is ours, for example after a restart. False if it can't be booked.
    fn adopt(&mut self, ledger: &str, task: TaskId, generation: Generation, round: Round) -> bool {
        let given_back = self.given_back.get(&task).is_some_and(|(given, _)| *given >= generation);
        if self.stopping.is_some() || given_back || !self.book(ledger, task) {
            return false;
        }
        self.works.insert(task, Work::new(ledger.to_owned(), task, generation, round, Phase::Leasing));
        true
    }

    /// Books what the job says a task needs.
    pub(super) fn book(&mut self, ledger: &str, task: TaskId) -> bool {
        let Some(job) = self.ledgers.get(ledger).and_then(|state| state.view.jobs.get(&task.job)) else { return false };
        match self.resources.allocate(task, job.spec.resources) {
            Ok(_) => true,
            Err(error) => {
                tracing::info!(%task, %error, "the task can't be booked");
                false
            }
        }
    }

    /// Stops a task's process and forgets the task. `rolled_back`: others will continue it.
    pub(super) fn drop_work(&mut self, task: TaskId, rolled_back: bool) {
        let Some(work) = self.works.remove(&task) else { return };
        if rolled_back {
            tracing::warn!(%task, generation = work.generation, "the lease is gone: stopping");
        }
        self.output(Output::Executor(executor::Input::Forget { task }));
        self.recovery.handle(recovery::Input::Released { task }, self.now);
        self.release(task);
    }

    pub(super) fn release(&mut self, task: TaskId) {
        if let Err(error) = self.resources.release(&task) {
            tracing::debug!(%task, %error, "nothing was booked");
        }
    }

    /// Begins the open round of a held task: fetches its inputs, or finds that its receipt stands already.
    pub(super) fn begin_round(&mut self, task: TaskId, round: Round) {
        let Some(work) = self.works.get_mut(&task) else { return };
        work.begin(round);
        let ledger = work.ledger.clone();
        let Some(state) = self.ledgers.get(&ledger) else { return };
        let (Some(record), Some(job)) = (state.view.tasks.get(&task), state.view.jobs.get(&task.job)) else { return };
        if record.receipt.as_ref().is_some_and(|receipt| receipt.receipt.round == round) {
            work.phase = Phase::Waiting;
            return;
        }
        let mut roots = vec![job.spec.bundle, job.model_cid];
        roots.extend(job.shards.get(task.slot as usize).map(|shard| shard.cid));
        let patience =
            (Duration::from_millis(job.spec.round_limit_millis) / ROUND_PARTS).clamp(LEAST_PATIENCE, MOST_PATIENCE);
        let checkpoints = checkpoints_of(record, round).into_iter().map(|(purpose, reference)| match purpose {
            LoadPurpose::Optimizer => (reference.cid, Purpose::Content),
            LoadPurpose::Resume => (reference.cid, Purpose::Resume(patience)),
        });
        let providers = self.providers(&ledger, &task.job);
        self.join_job(task.job);
        let wanted: Vec<_> = roots.into_iter().map(|root| (root, Purpose::Content)).chain(checkpoints).collect();
        self.gather(&wanted, &providers, Next::Run(task));
    }

    /// The round's inputs are here: reads the checkpoints among them, then runs.
    pub(super) fn on_inputs_here(&mut self, task: TaskId) {
        let Some(work) = self.works.get_mut(&task) else { return };
        if work.phase != Phase::Fetching {
            return;
        }
        let Some(record) = self.ledgers.get(&work.ledger).and_then(|state| state.view.tasks.get(&task)) else { return };
        let checkpoints = checkpoints_of(record, work.round);
        work.loading = u32::try_from(checkpoints.len()).unwrap_or(u32::MAX);
        if checkpoints.is_empty() {
            return self.run(task);
        }
        for (purpose, reference) in checkpoints {
            let request = recovery::edge::Request::Load { id: 0, root: reference.cid, now: self.now };
            self.edge(edges::Request::Recovery(Box::new(request)), Pending::LoadCheckpoint { task, purpose });
        }
    }

    /// A checkpoint was read. A damaged one costs the steps since the round's start, never the task.
    pub(super) fn on_checkpoint_loaded(
        &mut self,
        task: TaskId,
        purpose: LoadPurpose,
        result: Result<Checkpoint, String>,
    ) {
        let Some(work) = self.works.get_mut(&task) else { return };
        if work.phase != Phase::Fetching || work.loading == 0 {
            return;
        }
        work.loading -= 1;
        let record = self.ledgers.get(&work.ledger).and_then(|state| state.view.tasks.get(&task));
        match (purpose, result) {
            (LoadPurpose::Optimizer, Ok(loaded)) => work.optim = loaded.optimizer,
            (LoadPurpose::Resume, Ok(loaded)) => {
                work.resume = record.and_then(|record| record.checkpoint).map(|reference| (reference, loaded));
            }
            (LoadPurpose::Resume, Err(reason)) => {
                tracing::warn!(%task, reason, "the checkpoint is unusable: the round begins again");
            }
            (LoadPurpose::Optimizer, Err(reason)) => return self.attempt_failed(task, &reason),
        }
        if self.works.get(&task).is_some_and(|work| work.loading == 0) {
            self.run(task);
        }
    }

    pub(super) fn on_inputs_missing(&mut self, task: TaskId, reason: &str) {
        self.attempt_failed(task, &format!("inputs are missing: {reason}"));
    }

    /// Starts the script on the round; gets the key of its data first, if that is sealed.
    pub(super) fn run(&mut self, task: TaskId) {
        let Some(work) = self.works.get_mut(&task) else { return };
        let ledger = work.ledger.clone();
        let Some(state) = self.ledgers.get(&ledger) else { return };
        let (Some(record), Some(job)) = (state.view.tasks.get(&task), state.view.jobs.get(&task.job)) else { return };
        if job.spec.data_key.is_some_and(|key| !self.data_keys.contains(&key)) {
            return self.ask_data_key(task);
        }
        let Some(shard) = job.shards.get(task.slot as usize) else { return };
        let resume = work.resume.as_ref();
        let spec = RunSpec {
            task,
            generation: work.generation,
            round: work.round,
            mode: executor::Mode::Train,
            bundle: job.spec.bundle,
            model: job.model_cid,
            optim: work.optim,
            data: shard.cid,
            data_bytes: shard.size,
            resume: resume
                .map(|(reference, loaded)| executor::Resume { directory: loaded.state, step: reference.step }),
            config: job.spec.config.clone(),
            seed: proof::seed::seed(job.spec.seed, task.slot, record.cursor),
            stop_step: job.spec.local_steps,
            checkpoint_every: job.spec.checkpoint_every,
            output: job.spec.output,
            session: job.spec.session,
            data_key: job.spec.data_key,
            resources: job.spec.resources,
            attempt: work.attempt,
        };
        work.phase = Phase::Running;
        work.step = spec.start_step();
        work.attempt += 1;
        let trace = resume.map(|(_, loaded)| loaded.manifest.trace.clone());
        let (generation, round) = (work.generation, work.round);
        let log = (resume.map(|(reference, _)| reference.cid), resume.map(|(_, loaded)| loaded.manifest.node));
        self.runs.begin(&spec, log, self.now);
        let Some(trace) = trace.or_else(|| self.start_root(&ledger, task).map(|root| vec![root])) else { return };
        self.recovery.handle(recovery::Input::Began { task, generation, round, trace }, self.now);
        self.notify(NodeEvent::RunStarted {
            task,
            round: spec.round,
            generation: spec.generation,
            from_step: spec.start_step(),
            checkpoint_cid: log.0,
        });
        self.report(task, TaskStatus::InProgress, None, None);
        self.output(Output::Executor(executor::Input::Run(Box::new(spec))));
    }

    /// Tells the ledger how a held task stands.
    pub(super) fn report(
        &mut self,
        task: TaskId,
        status: TaskStatus,
        checkpoint: Option<CheckpointRef>,
        error: Option<String>,
    ) {
        let Some(work) = self.works.get_mut(&task) else { return };
        let Some(job) = self.ledgers.get(&work.ledger).and_then(|state| state.view.jobs.get(&task.job)) else { return };
        let steps = u64::from(job.spec.local_steps.max(1));
        let done = u64::from(work.round) * steps + u64::from(work.step).min(steps);
        let progress = done * 10_000 / (u64::from(job.spec.rounds.max(1)) * steps);
        work.reported = work.reported.max(u32::try_from(progress).unwrap_or(10_000));
        let message = Message::UpdateTaskStatus {
            task_id: task,
            generation: work.generation,
            status,
            progress: work.reported,
            checkpoint,
            delegate: None,
            error: error.map(|text| text.chars().take(512).collect()),
        };
        let ledger = work.ledger.clone();
        let pending = match status {
            TaskStatus::Rollback | TaskStatus::Failed => Pending::HandBack { task },
            _ => Pending::TaskStatus { task },
        };
        self.submit(&ledger, message, status != TaskStatus::InProgress, pending);
    }

    /// An attempt at the round failed: tries again after a pause, or hands the task back.
    pub(super) fn attempt_failed(&mut self, task: TaskId, reason: &str) {
        let Some(work) = self.works.get_mut(&task) else { return };
        tracing::warn!(%task, round = work.round, reason, "an attempt at the round failed");
        work.failures += 1;
        if work.failures > MAX_FAILURES {
            return self.hand_back(task, TaskStatus::Rollback, Some(reason.to_owned()));
        }
        let pause = FIRST_BACKOFF * 2_u32.pow(work.failures.min(6) - 1);
        work.phase = Phase::Backoff(self.now + pause);
    }

    /// Gives the task back to the ledger. The work is forgotten when that is committed.
    pub(super) fn hand_back(&mut self, task: TaskId, status: TaskStatus, error: Option<String>) {
        let Some(work) = self.works.get_mut(&task) else { return };
        if work.phase == Phase::HandingBack {
            return;
        }
        work.phase = Phase::HandingBack;
        self.given_back.insert(task, (work.generation, self.now));
        self.output(Output::Executor(executor::Input::Stop { task, mode: StopMode::Kill }));
        self.report(task, status, None, error);
    }

    fn pause_task(&mut self, task: TaskId) {
        let Some(work) = self.works.get_mut(&task) else { return };
        let running = work.phase == Phase::Running;
        work.phase = if running { Phase::Stopping } else { Phase::Paused };
        if running {
            self.output(Output::Executor(executor::Input::Stop { task, mode: StopMode::Checkpoint }));
        } else {
            self.report(task, TaskStatus::Paused, None, None);
        }
    }

    fn resume_task(&mut self, task: TaskId, round: Round) {
        self.report(task, TaskStatus::InProgress, None, None);
        self.begin_round(task, round);
    }

    /// What of a held task is current, for whoever reports about it.
    pub(super) fn held(&self, task: &TaskId, generation: Generation, round: Round) -> Option<&Work> {
        self.works.get(task).filter(|work| work.generation == generation && work.round == round)
    }
}

/// The checkpoints that a task's round begins from: one inside the round to continue from, or the last applied one for
/// its optimizer state; both where the script's round resumes.
fn checkpoints_of(record: &crate::chain::records::Task, round: Round) -> Vec<(LoadPurpose, CheckpointRef)> {
    let inside = record.checkpoint.filter(|reference| reference.round == round && reference.step > 0);
    let optimizer = record.opt_checkpoint.filter(|_| record.opt_root != Digest([0; 32]));
    let resume = inside.map(|reference| (LoadPurpose::Resume, reference));
    resume.into_iter().chain(optimizer.map(|reference| (LoadPurpose::Optimizer, reference))).collect()
}
