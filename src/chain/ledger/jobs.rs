//! Jobs: submission, growth, pause, and every way they end.

use std::collections::BTreeMap;

use super::{
    Event,
    index::deadline,
    money, nodes,
    refusal::{Refusal, check_name, check_range, ensure},
    state::State,
    tasks,
    transaction::Context,
};
use crate::{
    chain::records::{Job, Model, Task},
    codec,
    types::{Digest, JobId, JobSpec, JobStatus, ShardSpec, Slot, TaskId, TaskStatus, Time},
};

/// The longest job config in bytes: parameters of a script, not data (`JobSpec::config`).
const MAX_CONFIG: usize = 16 * 1024;
/// The most local steps of a round. A guess that keeps products of steps, slots and rounds far from overflow.
const MAX_LOCAL_STEPS: u32 = 100_000_000;
/// The largest outer learning rate, in millionths: 100 is far outside what converges.
const MAX_LEARNING_RATE: u32 = 100_000_000;
/// The largest outer momentum, in millionths: at 1 it never forgets.
const MAX_MOMENTUM: u32 = 999_999;
/// The most copies a submission may ask for. A guess.
const MAX_COPIES: u32 = 64;

/// Submits a job: its budget goes into escrow, and each shard becomes a task. Answers the job's id.
pub(super) fn submit(
    state: &mut State,
    context: &Context,
    spec: &JobSpec,
    shards: &[ShardSpec],
) -> Result<Vec<u8>, Refusal> {
    check_spec(state, spec)?;
    check_range("shards", shards.len(), 1, max_slots(state))?;
    let most = state.parameters().max_open_jobs;
    ensure(state.index().open_jobs(&context.creator) < most, || {
        Refusal::conflict(format!("{most} jobs of this creator are open, which is the most; cancel one or wait"))
    })?;
    money::debit(state, &context.creator, spec.budget, "lower the budget")?;
    let clock = state.clock();
    let id = JobId::derive(&state.genesis().chain_id, &context.creator, context.nonce);
    let job = Job {
        id,
        creator: context.creator,
        spec: spec.clone(),
        shards: shards.to_vec(),
        status: JobStatus::Open,
        paused: false,
        round: 0,
        round_opened_height: clock.height,
        round_opened_at: clock.time,
        model_root: None,
        model_cid: spec.model,
        momentum_root: None,
        momentum_cid: None,
        result_cid: None,
        escrow: spec.budget,
        paid: 0,
        progress: 0,
        created_at: clock.time,
        updated_at: clock.time,
        error: None,
    };
    state.put_job(&id, job);
    state.emit(
        Event::new("job_created")
            .with("job_id", id)
            .with("model_id", &spec.model_id)
            .with("dataset_cid", spec.dataset_cid),
    );
    shards.iter().zip(0..).for_each(|(shard, slot)| add_task(state, TaskId { job: id, slot }, shard));
    Ok(codec::encode(&id))
}

fn check_spec(state: &State, spec: &JobSpec) -> Result<(), Refusal> {
    let limits = state.parameters();
    check_name("name", &spec.name)?;
    check_name("model_id", &spec.model_id)?;
    check_range("rounds", spec.rounds, 1, limits.max_rounds)?;
    check_range("local_steps", spec.local_steps, 1, MAX_LOCAL_STEPS)?;
    check_range("checkpoint_every", spec.checkpoint_every, 0, spec.local_steps)?;
    check_range("bytes of config", spec.config.len(), 0, MAX_CONFIG)?;
    check_range("outer.learning_rate_micros", spec.outer.learning_rate_micros, 1, MAX_LEARNING_RATE)?;
    check_range("outer.momentum_micros", spec.outer.momentum_micros, 0, MAX_MOMENTUM)?;
    check_range("round_limit_millis", spec.round_limit_millis, 1, limits.max_round_limit_millis)?;
    check_range("deadline_millis", spec.deadline_millis, 1, limits.max_deadline_millis)?;
    check_range("copies", spec.copies, 0, MAX_COPIES)
}

fn max_slots(state: &State) -> usize {
    usize::try_from(state.parameters().max_slots).unwrap_or(usize::MAX)
}

fn add_task(state: &mut State, id: TaskId, shard: &ShardSpec) {
    let task = Task {
        id,
        status: TaskStatus::Pending,
        holder: None,
        generation: 0,
        lease_tx: tasks::NO_LEASE,
        lease_expires: Time::ZERO,
        cursor: 0,
        progress: 0,
        checkpoint: None,
        opt_root: Digest([0; 32]),
        opt_checkpoint: None,
        receipt: None,
        delegate: None,
        reassigned: 0,
        refused_receipts: 0,
        created_at: state.clock().time,
        started_at: None,
        completed_at: None,
        error: None,
    };
    state.put_task(&id, task);
    state.emit(Event::new("task_created").with("task_id", id).with("job_id", id.job).with("shard_id", shard.cid));
}

/// Adds a shard and its task to an own job whose first round is still open. Answers the task's id.
pub(super) fn create_task(
    state: &mut State,
    context: &Context,
    job: &JobId,
    shard: &ShardSpec,
) -> Result<Vec<u8>, Refusal> {
    let known = own_open_job(state, context, job)?;
    ensure(known.round == 0, || Refusal::stale(format!("round {} is open; shards join in round 0 only", known.round)))?;
    check_range("shards", known.shards.len() + 1, 1, max_slots(state))?;
    let slot = Slot::try_from(known.shards.len()).expect("as many slots as `max_slots`, which is a slot");
    let id = TaskId { job: *job, slot };
    edit(state, job, |job| job.shards.push(shard.clone()));
    add_task(state, id, shard);
    Ok(codec::encode(&id))
}

/// Ends an own open job.
pub(super) fn cancel(state: &mut State, context: &Context, job: &JobId) -> Result<Vec<u8>, Refusal> {
    own_open_job(state, context, job)?;
    fail(state, job, "cancelled");
    Ok(Vec::new())
}

/// Pauses or resumes an own open job. While it is paused no lease is given and none lapses by lack of progress; a
/// lease that outlived the pause begins anew with its end.
pub(super) fn pause(state: &mut State, context: &Context, job: &JobId, paused: bool) -> Result<Vec<u8>, Refusal> {
    let known = own_open_job(state, context, job)?;
    if known.paused == paused {
        return Ok(Vec::new());
    }
    edit(state, job, |job| job.paused = paused);
    task_ids(state, job).iter().for_each(|task| tasks::restart_clock(state, task));
    emit_update(state, job, if paused { "paused" } else { "open" });
    Ok(Vec::new())
}

fn own_open_job<'a>(state: &'a State, context: &Context, job: &JobId) -> Result<&'a Job, Refusal> {
    let known = open_job(state, job)?;
    ensure(known.creator == context.creator, || Refusal::unauthorized(format!("job {job} is not the sender's")))?;
    Ok(known)
}

/// The job, if it exists and is open.
pub(super) fn open_job<'a>(state: &'a State, job: &JobId) -> Result<&'a Job, Refusal> {
    let known = state.known_job(job)?;
    ensure(known.status == JobStatus::Open, || Refusal::conflict(format!("job {job} is {}", known.status)))?;
    Ok(known)
}

/// The ids of a job's tasks, by slot.
pub(super) fn task_ids(state: &State, job: &JobId) -> Vec<TaskId> {
    state.tasks_of(*job).map(|task| task.id).collect()
}

/// Changes a job and notes when.
pub(super) fn edit<R>(state: &mut State, job: &JobId, change: impl FnOnce(&mut Job) -> R) -> R {
    let now = state.clock().time;
    state.edit_job(job, |job| {
        job.updated_at = now;
        change(job)
    })
}

/// Ends an open job without a result: its open tasks fail, what is left of the escrow goes back. What its workers
/// have earned stays theirs.
pub(super) fn fail(state: &mut State, job: &JobId, reason: &str) {
    task_ids(state, job).iter().for_each(|task| tasks::end(state, task, TaskStatus::Failed, Some(reason)));
    edit(state, job, |job| {
        job.status = JobStatus::Failed;
        job.error = Some(reason.to_owned());
    });
    money::refund(state, job);
    emit_update(state, job, reason);
}

/// Ends a job whose last round has closed: its tasks are completed, its model is registered under the job's name for
/// it, and what is left of the escrow goes back.
pub(super) fn complete(state: &mut State, job: &JobId) {
    task_ids(state, job).iter().for_each(|task| tasks::end(state, task, TaskStatus::Completed, None));
    edit(state, job, |job| {
        job.status = JobStatus::Completed;
        job.result_cid = Some(job.model_cid);
        job.progress = nodes::FULL;
    });
    let model = result_model(state.known_job(job).expect("it was changed above"), state.clock().time);
    state.put_model(model);
    money::refund(state, job);
    emit_update(state, job, "completed");
}

/// The version of a job's model is the job's id, so that no two jobs ever name the same model.
fn result_model(job: &Job, now: Time) -> Model {
    let root = job.model_root.map(|root| ("root".to_owned(), root.to_string()));
    let origin = [("job".to_owned(), job.id.to_string()), ("bundle".to_owned(), job.spec.bundle.to_string())];
    Model {
        id: format!("{}:{}", job.spec.model_id, job.id),
        name: job.spec.model_id.clone(),
        version: job.id.to_string(),
        cid: job.model_cid,
        creator: job.creator,
        created_at: now,
        metadata: BTreeMap::from_iter(origin.into_iter().chain(root)),
    }
}

fn emit_update(state: &mut State, job: &JobId, status: &str) {
    state.emit(Event::new("job_updated").with("job_id", job).with("status", status));
}

/// Fails the open jobs whose deadline has passed.
pub(super) fn end_overdue(state: &mut State) {
    while let Some((due, job)) = state.index().next_deadline()
        && due < state.clock().time
    {
        debug_assert_eq!(state.job(&job).map(deadline), Some(due));
        fail(state, &job, "deadline");
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FAUCET, World, content, id, shards, spec};
    use super::*;
    use crate::{
        chain::wire::{Code, Message},
        types::{OuterStep, Quorum},
    };

    fn submission(spec: JobSpec, slots: u32) -> Message {
        Message::SubmitJob { spec: Box::new(spec), shards: shards(slots) }
    }

    #[test]
    fn a_submission_takes_its_budget_and_makes_a_task_for_each_shard() {
        let mut world = World::of_nodes(1);
        let nonce = world.account(1).nonce;
        let job = world.submit(1, spec(3, Quorum::All), 4);
        assert_eq!(job, JobId::derive(super::super::testing::CHAIN, &id(1), nonce));
        assert_eq!((world.account(1).balance, world.job(job).escrow), (FAUCET - 600_000, 600_000));
        assert!(world.tasks(job).iter().all(|task| task.status == TaskStatus::Pending && task.generation == 0));
        assert_eq!(world.tasks(job).len(), 4);
        assert!(world.refused(1, Code::Funds, submission(spec(3, Quorum::All), 4)).contains("400000"));
        world.refused(9, Code::Funds, submission(spec(1, Quorum::All), 1));
    }

    #[test]
    fn a_job_out_of_range_is_refused_by_the_name_of_the_field() {
        let mut world = World::of_nodes(1);
        let base = || spec(3, Quorum::All);
        let refused = [
            (JobSpec { name: String::new(), ..base() }, "name"),
            (JobSpec { model_id: "x".repeat(65), ..base() }, "model_id"),
            (JobSpec { rounds: 0, ..base() }, "rounds"),
            (JobSpec { local_steps: 0, ..base() }, "local_steps"),
            (JobSpec { checkpoint_every: 51, ..base() }, "checkpoint_every"),
            (JobSpec { config: "x".repeat(MAX_CONFIG + 1), ..base() }, "config"),
            (JobSpec { outer: OuterStep { learning_rate_micros: 0, momentum_micros: 0 }, ..base() }, "learning_rate"),
            (
                JobSpec { outer: OuterStep { learning_rate_micros: 1, momentum_micros: 1_000_000 }, ..base() },
                "momentum",
            ),
            (JobSpec { round_limit_millis: 0, ..base() }, "round_limit"),
            (JobSpec { deadline_millis: u64::MAX, ..base() }, "deadline"),
            (JobSpec { copies: 65, ..base() }, "copies"),
        ];
        for (spec, field) in refused {
            assert!(world.refused(1, Code::Invalid, submission(spec, 2)).contains(field));
        }
        assert!(world.refused(1, Code::Invalid, submission(base(), 0)).contains("shards"));
        assert!(world.refused(1, Code::Invalid, submission(base(), 1_001)).contains("shards"));
    }

    #[test]
    fn a_cancelled_job_fails_its_tasks_and_refunds_and_only_its_creator_may() {
        let mut world = World::of_nodes(2);
        let job = world.submit(1, spec(1, Quorum::All), 2);
        world.lease(2, job, 0);
        world.refused(2, Code::Unauthorized, Message::CancelJob { job_id: job });
        world.ok(1, Message::CancelJob { job_id: job });
        assert_eq!((world.account(1).balance, world.job(job).escrow), (FAUCET, 0));
        for task in world.tasks(job) {
            assert_eq!((task.status, task.error.as_deref()), (TaskStatus::Failed, Some("cancelled")));
        }
        assert_eq!(world.node(2).active_tasks, 0);
        world.refused(1, Code::Conflict, Message::CancelJob { job_id: job });
    }

    #[test]
    fn a_job_fails_at_its_deadline() {
        let mut world = World::of_nodes(1);
        let job = world.submit(1, JobSpec { deadline_millis: 10_000, ..spec(1, Quorum::All) }, 1);
        world.block(10_000, &[]);
        assert_eq!(world.job(job).status, JobStatus::Open);
        world.block(1, &[]);
        assert_eq!((world.job(job).status, world.job(job).error.as_deref()), (JobStatus::Failed, Some("deadline")));
        assert_eq!(world.account(1).balance, FAUCET);
    }

    #[test]
    fn a_shard_joins_an_own_job_in_round_0() {
        let mut world = World::of_nodes(2);
        let job = world.submit(1, spec(2, Quorum::All), 1);
        let shard = ShardSpec { cid: content("late"), size: 1, records: 1 };
        let grow = Message::CreateTask { job_id: job, shard };
        world.refused(2, Code::Unauthorized, grow.clone());
        let result = world.send(1, grow.clone());
        assert_eq!(codec::decode::<TaskId>(&result.data, 64).unwrap(), TaskId { job, slot: 1 });
        for slot in 0..2 {
            world.lease(2, job, slot);
            world.prove(2, 1, job, slot);
        }
        world.close(job, &[2]);
        world.refused(1, Code::Stale, grow);
    }

    #[test]
    fn a_creator_has_a_bounded_number_of_open_jobs() {
        let mut world = World::of_nodes(1);
        let free = || JobSpec { budget: 0, ..spec(1, Quorum::All) };
        let first = world.submit(1, free(), 1);
        for _ in 1..100 {
            world.submit(1, free(), 1);
        }
        world.refused(1, Code::Conflict, submission(free(), 1));
        world.ok(1, Message::CancelJob { job_id: first });
        world.ok(1, submission(free(), 1));
    }
}
