//! Tasks: leases, what holders report, and how a task leaves its holder.
//!
//! The transitions (origin): pending → assigned (lease) → in_progress (started) → completed (last round closed);
//! in_progress ⇄ paused; assigned, in_progress, paused, delegated → rollback → pending with the next generation, in
//! one block; in_progress → delegated → assigned with the next generation (the named node's lease); any open state →
//! failed. Every other is refused. The generation grows when a holder comes and when it goes.

use std::time::Duration;

use super::{
    Event,
    index::deadline,
    jobs, nodes,
    refusal::{Refusal, check_range, check_text, ensure},
    reputation, stake,
    state::State,
    transaction::Context,
};
use crate::{
    chain::records::Task,
    codec,
    types::{CheckpointRef, Digest, Generation, NodeKey, NodeStatus, TaskId, TaskStatus, Time},
};

/// `lease_tx` of a task that nobody holds.
pub(super) const NO_LEASE: Digest = Digest([0; 32]);
/// The longest reason in characters.
const MAX_REASON: usize = 512;

/// Gives the creator the lease of a pending task, or of one delegated to it. Answers its generation.
pub(super) fn take_lease(
    state: &mut State,
    context: &Context,
    id: &TaskId,
    generation: Generation,
) -> Result<Vec<u8>, Refusal> {
    let taker = context.creator;
    nodes::assess_known(state, &taker)?;
    check_standing(state, &taker)?;
    stake::check_enough(state, &taker)?;
    check_free(state, id, generation, &taker)?;
    check_failures(state, id, &taker)?;
    check_capacity(state, id, &taker)?;
    let generation = generation.checked_add(1).ok_or_else(|| Refusal::conflict("no generation is left"))?;
    drop_holder(state, id);
    state.edit_task(id, |task| {
        task.holder = Some(taker);
        task.generation = generation;
        task.lease_tx = context.hash;
        task.status = TaskStatus::Assigned;
    });
    state.edit_node(&taker, |node| node.active_tasks += 1);
    restart_clock(state, id);
    nodes::end_recovery(state, &taker);
    state.emit(Event::new("lease_taken").with("task_id", id).with("node_id", taker).with("generation", generation));
    emit_status(state, id);
    Ok(codec::encode(&generation))
}

fn check_standing(state: &State, taker: &NodeKey) -> Result<(), Refusal> {
    let node = state.known_node(taker)?;
    ensure(node.status != NodeStatus::Offline, || {
        Refusal::unauthorized("the node is offline on the ledger; send a beat first")
    })?;
    ensure(node.reputation > 0, || Refusal::unauthorized("the node has no reputation; stay online to regain it"))
}

fn check_free(state: &State, id: &TaskId, generation: Generation, taker: &NodeKey) -> Result<(), Refusal> {
    let task = state.known_task(id)?;
    let job = jobs::open_job(state, &id.job)?;
    ensure(!job.paused, || Refusal::conflict(format!("job {} is paused", id.job)))?;
    let free = task.status == TaskStatus::Pending
        || (task.status == TaskStatus::Delegated && task.delegate.as_ref() == Some(taker));
    ensure(free, || {
        let holder = task.holder.map_or_else(String::new, |holder| format!(", held by {holder}"));
        Refusal::conflict(format!("task {id} is {}{holder}", task.status))
    })?;
    ensure(task.generation == generation, || {
        Refusal::stale(format!("generation {generation} is not the task's {}", task.generation))
    })
}

/// A node that has just failed the task waits while there are others to try it.
fn check_failures(state: &State, id: &TaskId, taker: &NodeKey) -> Result<(), Refusal> {
    let Some(clock) = state.task_clock(id) else {
        return Ok(());
    };
    let recently = clock
        .failed_by
        .get(taker)
        .is_some_and(|failed| state.clock().live < failed.saturating_add(state.parameters().failure_pause_millis));
    let others = state.index().online() > clock.failed_by.len();
    ensure(!(recently && others), || Refusal::conflict("the node has just failed this task; others go first"))
}

fn check_capacity(state: &State, id: &TaskId, taker: &NodeKey) -> Result<(), Refusal> {
    let needs = |task: TaskId| state.job(&task.job).map(|job| job.spec.resources).unwrap_or_default();
    // As many as fit into what the node registered.
    let wanted = state.index().held_by(taker).chain([*id]).map(needs);
    let lacking = state.known_node(taker)?.resources.lacks_for(wanted);
    ensure(lacking.is_none(), || {
        Refusal::conflict(format!("the node has registered too little {} for it", lacking.unwrap_or_default()))
    })
}

/// What a holder says of its task.
pub(super) struct Report<'a> {
    pub(super) status: TaskStatus,
    pub(super) progress: u32,
    pub(super) checkpoint: Option<&'a CheckpointRef>,
    pub(super) delegate: Option<&'a NodeKey>,
    pub(super) error: Option<&'a str>,
}

/// Takes a holder's report.
pub(super) fn update_status(
    state: &mut State,
    context: &Context,
    id: &TaskId,
    generation: Generation,
    report: &Report<'_>,
) -> Result<Vec<u8>, Refusal> {
    let task = state.known_task(id)?;
    ensure(task.holder == Some(context.creator), || {
        Refusal::unauthorized(format!("the sender does not hold task {id}"))
    })?;
    ensure(task.generation == generation, || {
        Refusal::stale(format!("generation {generation} is not the task's {}", task.generation))
    })?;
    ensure(holder_may(task.status, report.status), || {
        Refusal::conflict(format!("a task that is {} can't become {} by its holder", task.status, report.status))
    })?;
    check_range("progress", report.progress, 0, nodes::FULL)?;
    check_text("error", report.error.unwrap_or_default(), MAX_REASON)?;
    if let Some(checkpoint) = report.checkpoint {
        check_checkpoint(state, task, checkpoint)?;
    }
    let delegate = check_delegate(state, task, report)?;
    note_progress(state, id, report);
    match report.status {
        TaskStatus::Rollback => release(state, id, report.error.unwrap_or("handed back")),
        TaskStatus::Failed => note_failure(state, id, context.creator, report.error.unwrap_or("failed")),
        status => enter(state, id, status, delegate),
    }
    Ok(Vec::new())
}

/// The transitions that are a holder's to make.
fn holder_may(from: TaskStatus, to: TaskStatus) -> bool {
    use TaskStatus::{Assigned, Delegated, Failed, InProgress, Paused, Rollback};
    matches!(
        (from, to),
        (Assigned, Assigned | InProgress)
            | (InProgress, InProgress | Paused | Delegated)
            | (Paused, Paused | InProgress)
            | (Assigned | InProgress | Paused | Delegated, Rollback | Failed)
    )
}

/// A checkpoint belongs to the open round and is newer than what the ledger has.
fn check_checkpoint(state: &State, task: &Task, checkpoint: &CheckpointRef) -> Result<(), Refusal> {
    let job = state.known_job(&task.id.job)?;
    ensure(checkpoint.round == job.round, || {
        Refusal::stale(format!("the checkpoint is of round {}, round {} is open", checkpoint.round, job.round))
    })?;
    check_range("step of the checkpoint", checkpoint.step, 1, job.spec.local_steps)?;
    let newest = task.checkpoint.map(|newest| (newest.round, newest.step));
    ensure(newest < Some((checkpoint.round, checkpoint.step)), || {
        Refusal::stale(format!("a checkpoint of step {} is not newer than the task's", checkpoint.step))
    })
}

fn check_delegate(state: &State, task: &Task, report: &Report<'_>) -> Result<Option<NodeKey>, Refusal> {
    if report.status != TaskStatus::Delegated {
        return Ok(None);
    }
    let delegate = report.delegate.ok_or_else(|| Refusal::invalid("`delegate` must name the node to hand over to"))?;
    let node = state.known_node(delegate)?;
    ensure(task.holder.as_ref() != Some(delegate), || Refusal::invalid("`delegate` is the holder itself"))?;
    ensure(node.status != NodeStatus::Offline, || Refusal::conflict(format!("node {delegate} is offline")))?;
    Ok(Some(*delegate))
}

/// Progress never goes backwards: a successor that resumed earlier catches up first.
fn note_progress(state: &mut State, id: &TaskId, report: &Report<'_>) {
    state.edit_task(id, |task| {
        task.progress = task.progress.max(report.progress);
        task.checkpoint = report.checkpoint.copied().or(task.checkpoint);
    });
    if report.checkpoint.is_some() {
        renew(state, id);
    }
}

fn enter(state: &mut State, id: &TaskId, status: TaskStatus, delegate: Option<NodeKey>) {
    let clock = state.clock();
    let entered = state.edit_task(id, |task| {
        let entered = task.status != status;
        task.status = status;
        task.delegate = delegate;
        if status == TaskStatus::InProgress {
            task.started_at = task.started_at.or(Some(clock.time));
        }
        entered
    });
    if delegate.is_some() {
        renew(state, id);
    }
    set_lapse(state, id);
    if entered {
        emit_status(state, id);
    }
}

/// A failure may be the machine's, so the task goes to others first; after `task_failures` it is the job's.
fn note_failure(state: &mut State, id: &TaskId, holder: NodeKey, reason: &str) {
    let live = state.clock().live;
    let failures = state.edit_task_clock(id, |clock| {
        clock.failed_by.insert(holder, live);
        clock.failures = clock.failures.saturating_add(1);
        clock.failures
    });
    if failures < state.parameters().task_failures {
        release(state, id, reason);
    } else {
        jobs::fail(state, &id.job, &format!("task {} failed {failures} times, last: {reason}", id.slot));
    }
}

/// Takes a task from its holder: rollback, then pending with the next generation, in one block. A provisional
/// receipt is void; the checkpoint stays for the next holder.
pub(super) fn release(state: &mut State, id: &TaskId, reason: &str) {
    state.edit_task(id, |task| {
        task.status = TaskStatus::Rollback;
        task.error = Some(reason.to_owned());
    });
    emit_status(state, id);
    drop_holder(state, id);
    state.edit_task(id, |task| {
        task.status = TaskStatus::Pending;
        task.generation = task.generation.saturating_add(1);
        task.reassigned = task.reassigned.saturating_add(1);
    });
    emit_status(state, id);
}

/// Ends an open task.
pub(super) fn end(state: &mut State, id: &TaskId, status: TaskStatus, reason: Option<&str>) {
    if state.task(id).is_none_or(|task| matches!(task.status, TaskStatus::Completed | TaskStatus::Failed)) {
        return;
    }
    let now = state.clock().time;
    drop_holder(state, id);
    state.edit_task(id, |task| {
        task.status = status;
        task.completed_at = Some(now);
        task.error = reason.map(str::to_owned);
    });
    emit_status(state, id);
}

/// Nobody holds the task any more; what belonged to its lease goes with it.
fn drop_holder(state: &mut State, id: &TaskId) {
    let holder = state.edit_task(id, |task| {
        task.lease_tx = NO_LEASE;
        task.lease_expires = Time::ZERO;
        task.receipt = None;
        task.delegate = None;
        task.holder.take()
    });
    if let Some(holder) = holder {
        state.edit_node(&holder, |node| node.active_tasks = node.active_tasks.saturating_sub(1));
    }
    if state.task_clock(id).is_some() {
        set_lapse(state, id);
    }
}

/// A lease begins, a round opens, or a pause ends: both of its clocks begin now.
pub(super) fn restart_clock(state: &mut State, id: &TaskId) {
    let mut clock = state.task_clock(id).cloned().unwrap_or_default();
    clock.round_from = state.clock().live;
    state.put_task_clock(id, clock);
    renew(state, id);
}

/// The lease lives its full length from now.
fn renew(state: &mut State, id: &TaskId) {
    let parameters = *state.parameters();
    let round_limit = state.job(&id.job).map_or(0, |job| job.spec.round_limit_millis);
    let length = match state.task(id).map(|task| task.status) {
        Some(TaskStatus::Delegated) => parameters.delegate_millis,
        _ => parameters.lease_millis.max(round_limit.saturating_mul(2)),
    };
    let until = state.clock().live.saturating_add(length);
    state.edit_task_clock(id, |clock| clock.renewed_until = until);
    set_lapse(state, id);
}

/// Works out when the lease lapses by lack of progress, for the index and for the reader.
pub(super) fn set_lapse(state: &mut State, id: &TaskId) {
    let (Some(task), Some(job), Some(clock)) = (state.task(id), state.job(&id.job), state.task_clock(id)) else {
        return;
    };
    let round_end = clock.round_from.saturating_add(job.spec.round_limit_millis);
    let lapses_at = match task.status {
        _ if task.holder.is_none() || job.paused => None,
        TaskStatus::Delegated => Some(clock.renewed_until),
        // It has done its part and waits for the others.
        _ if task.receipt.is_some() => None,
        _ => Some(clock.renewed_until.min(round_end)),
    };
    let now = state.clock();
    let until = lapses_at.map(|at| now.time + Duration::from_millis(at.saturating_sub(now.live)));
    let expires = if task.holder.is_some() { until.unwrap_or_else(|| deadline(job)) } else { Time::ZERO };
    state.edit_task_clock(id, |clock| clock.lapses_at = lapses_at);
    state.edit_task(id, |task| task.lease_expires = expires);
}

/// Takes back every lease that made no progress in time.
pub(super) fn end_lapsed(state: &mut State) {
    while let Some((at, id)) = state.index().next_lapse()
        && at < state.clock().live
    {
        // Who handed its task over is not to blame that the other did not come for it.
        let own = state.task(&id).filter(|task| task.status != TaskStatus::Delegated);
        let holder = own.and_then(|task| task.holder);
        release(state, &id, "the lease lapsed: no progress in time");
        holder.iter().for_each(|holder| reputation::lost(state, holder));
    }
}

fn emit_status(state: &mut State, id: &TaskId) {
    let Some(task) = state.task(id) else {
        return;
    };
    let holder = task.holder.map(|holder| holder.to_string()).unwrap_or_default();
    let event = Event::new("task_status_updated")
        .with("task_id", id)
        .with("job_id", id.job)
        .with("node_id", holder)
        .with("status", task.status)
        .with("generation", task.generation);
    state.emit(event);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, content, genesis, id, room, shards, spec};
    use super::super::{Genesis, Parameters};
    use super::*;
    use crate::{
        chain::wire::{Code, Message},
        types::{JobId, JobSpec, JobStatus, Quorum},
    };

    fn working(world: &mut World, spec: JobSpec) -> JobId {
        let job = world.submit(1, spec, 2);
        world.lease(2, job, 0);
        let started = world.report(job, 0, TaskStatus::InProgress);
        world.ok(2, started);
        job
    }

    /// Thousandths of nodes and of hashes that a lease in a block of its own takes of the authenticated map, where there are so
    /// many tasks: it writes five records.
    fn effort_of_a_lease(tasks: u32) -> [u64; 2] {
        let (slots, leases) = (1_000, 16);
        let mut world = World::of_nodes(8);
        let alone = |world: &mut World, who, message| {
            let transaction = world.sign(who, message);
            let result = world.ledger.apply_block(world.now, &[transaction]).results.remove(0);
            assert_eq!(result.code, 0, "{}", result.log);
            result.data
        };
        let submit = |_| {
            let spec = Box::new(JobSpec { budget: 0, ..spec(1, Quorum::All) });
            let data = alone(&mut world, 1, Message::SubmitJob { spec, shards: shards(slots) });
            codec::decode::<JobId>(&data, 64).unwrap()
        };
        let jobs: Vec<JobId> = (0..tasks / slots).map(submit).collect();
        let before = world.ledger.effort();
        for number in 0..leases {
            let job = jobs[usize::try_from(number).unwrap() % jobs.len()];
            let message = world.lease_message(job, number);
            alone(&mut world, u8::try_from(number / 2).unwrap() + 1, message);
        }
        let after = world.ledger.effort();
        [after.nodes - before.nodes, after.hashes - before.hashes].map(|count| count * 1_000 / u64::from(leases))
    }

    #[test]
    fn ten_times_the_tasks_cost_a_lease_so_many_nodes_and_hashes_more_however_many_tasks_there_are() {
        let [small, medium, large] = [1_000, 10_000, 100_000].map(effort_of_a_lease);
        // Five records, each log2(10) deeper, 3.3; they share what is above them.
        for (less, more) in [(small, medium), (medium, large)] {
            for (less, more) in less.iter().zip(&more) {
                assert!((12_000..20_000).contains(&(more - less)), "{less} to {more} thousandths");
            }
        }
    }

    fn delegation(world: &World, job: JobId, to: u8) -> Message {
        match world.report(job, 0, TaskStatus::Delegated) {
            Message::UpdateTaskStatus { task_id, generation, status, progress, checkpoint, error, .. } => {
                let delegate = Some(id(to));
                Message::UpdateTaskStatus { task_id, generation, status, progress, checkpoint, delegate, error }
            }
            _ => unreachable!(),
        }
    }

    #[test]
    fn of_two_nodes_that_want_a_task_in_one_block_the_first_gets_it() {
        let mut world = World::of_nodes(3);
        let job = world.submit(1, spec(1, Quorum::All), 1);
        let wants = [2, 3].map(|number| world.sign(number, world.lease_message(job, 0)));
        let results = world.block(100, &wants).results;
        assert_eq!((results[0].code, results[1].code), (0, Code::Conflict as u32));
        let task = world.task(job, 0);
        assert_eq!((task.holder, task.generation, task.status), (Some(id(2)), 1, TaskStatus::Assigned));
        assert_eq!(task.lease_tx, Digest::of(&wants[0]));
        assert_eq!(codec::decode::<Generation>(&results[0].data, 9).unwrap(), 1);
    }

    #[test]
    fn a_node_holds_only_what_it_has_registered_room_for() {
        let mut world = World::of_nodes(2);
        let job = world.submit(1, spec(1, Quorum::All), 3);
        world.lease(2, job, 0);
        world.lease(2, job, 1);
        let third = world.lease_message(job, 2);
        assert!(world.refused(2, Code::Conflict, third.clone()).contains("too little cpu"));
        let handed_back = world.report(job, 0, TaskStatus::Rollback);
        world.ok(2, handed_back);
        world.ok(2, third);
        let big = world.submit(1, JobSpec { resources: room(3), budget: 0, ..spec(1, Quorum::All) }, 1);
        let big = world.lease_message(big, 0);
        world.refused(1, Code::Conflict, big);
    }

    #[test]
    fn a_stranger_a_stale_generation_and_a_paused_or_ended_job_get_no_lease() {
        let mut world = World::of_nodes(2);
        let job = world.submit(1, spec(1, Quorum::All), 1);
        let lease = world.lease_message(job, 0);
        world.refused(9, Code::NotFound, lease.clone());
        world.refused(2, Code::Stale, Message::TakeLease { task_id: TaskId { job, slot: 0 }, generation: 1 });
        world.refused(2, Code::NotFound, Message::TakeLease { task_id: TaskId { job, slot: 1 }, generation: 0 });
        world.ok(1, Message::PauseJob { job_id: job, paused: true });
        assert!(world.refused(2, Code::Conflict, lease.clone()).contains("paused"));
        world.ok(1, Message::PauseJob { job_id: job, paused: false });
        world.ok(1, Message::CancelJob { job_id: job });
        assert!(world.refused(2, Code::Conflict, lease).contains("failed"));
    }

    #[test]
    fn a_holder_makes_the_documented_transitions_and_no_other() {
        use TaskStatus::{Assigned, Completed, Delegated, Failed, InProgress, Paused, Pending, Rollback};
        let all = [Pending, Assigned, InProgress, Paused, Rollback, Delegated, Completed, Failed];
        let allowed: Vec<_> = all
            .into_iter()
            .flat_map(|from| all.into_iter().map(move |to| (from, to)))
            .filter(|(from, to)| holder_may(*from, *to))
            .collect();
        let expected = [
            (Assigned, Assigned),
            (Assigned, InProgress),
            (Assigned, Rollback),
            (Assigned, Failed),
            (InProgress, InProgress),
            (InProgress, Paused),
            (InProgress, Rollback),
            (InProgress, Delegated),
            (InProgress, Failed),
            (Paused, InProgress),
            (Paused, Paused),
            (Paused, Rollback),
            (Paused, Failed),
            (Delegated, Rollback),
            (Delegated, Failed),
        ];
        assert_eq!(allowed, expected);
    }

    #[test]
    fn a_report_is_taken_from_the_present_holder_alone() {
        let mut world = World::of_nodes(3);
        let job = working(&mut world, spec(1, Quorum::All));
        let report = world.report(job, 0, TaskStatus::Paused);
        world.refused(3, Code::Unauthorized, report.clone());
        let handed_back = world.report(job, 0, TaskStatus::Rollback);
        world.ok(2, handed_back);
        world.refused(2, Code::Unauthorized, report.clone());
        world.lease(2, job, 0);
        assert!(world.refused(2, Code::Stale, report).contains("generation 1"));
    }

    #[test]
    fn checkpoints_only_move_forward_and_only_in_the_open_round() {
        let mut world = World::of_nodes(2);
        let job = working(&mut world, spec(2, Quorum::All));
        for (step, code) in [(20, Code::Ok), (20, Code::Stale), (10, Code::Stale), (51, Code::Invalid), (50, Code::Ok)]
        {
            let report = world.checkpoint(job, 0, step);
            let result = world.send(2, report);
            assert_eq!(result.code, code as u32, "step {step}: {}", result.log);
        }
        let Message::UpdateTaskStatus { task_id, generation, status, .. } = world.checkpoint(job, 0, 1) else {
            unreachable!()
        };
        let checkpoint = Some(CheckpointRef { cid: content("ahead"), round: 1, step: 1 });
        let ahead = Message::UpdateTaskStatus {
            task_id,
            generation,
            status,
            progress: 0,
            checkpoint,
            delegate: None,
            error: None,
        };
        world.refused(2, Code::Stale, ahead);
    }

    #[test]
    fn a_successor_finds_the_checkpoint_of_the_holder_that_vanished() {
        let mut world = World::of_nodes(3);
        let job = working(&mut world, spec(1, Quorum::All));
        let checkpoint = world.checkpoint(job, 0, 30);
        world.ok(2, checkpoint);
        world.pass(92, &[1, 3]);
        world.lease(3, job, 0);
        let task = world.task(job, 0);
        assert_eq!((task.generation, task.holder, task.reassigned), (3, Some(id(3)), 1));
        assert_eq!(task.checkpoint.unwrap().step, 30);
        assert!(task.error.unwrap().contains("offline"));
    }

    #[test]
    fn a_task_without_a_receipt_lapses_at_its_round_limit_though_its_node_beats() {
        let mut world = World::of_nodes(2);
        let job = working(&mut world, JobSpec { round_limit_millis: 60_000, ..spec(1, Quorum::All) });
        let lapse = world.task(job, 0).lease_expires;
        world.pass(30, &[1, 2]);
        let checkpoint = world.checkpoint(job, 0, 10);
        world.ok(2, checkpoint);
        assert_eq!(world.task(job, 0).lease_expires, lapse);
        world.pass(28, &[1, 2]);
        assert_eq!(world.task(job, 0).status, TaskStatus::InProgress);
        world.pass(4, &[1, 2]);
        assert_eq!((world.task(job, 0).status, world.task(job, 0).generation), (TaskStatus::Pending, 2));
    }

    #[test]
    fn checkpoints_renew_a_lease_and_a_receipt_lets_it_wait_for_the_others() {
        let parameters = Parameters { lease_millis: 20_000, ..genesis().parameters };
        let mut world = World::with(Genesis { parameters, ..genesis() });
        (1..=2).for_each(|number| world.ok(number, super::super::testing::register_message()));
        // A lease lasts twice the round limit at least, so the limit is what ends this one.
        let job = working(&mut world, JobSpec { round_limit_millis: 15_000, ..spec(1, Quorum::All) });
        world.pass(10, &[1, 2]);
        world.prove(2, 1, job, 0);
        world.pass(60, &[1, 2]);
        assert_eq!(world.task(job, 0).status, TaskStatus::InProgress);
        assert_eq!(world.task(job, 0).lease_expires, deadline(&world.job(job)));
    }

    #[test]
    fn a_delegate_takes_over_with_the_next_generation_or_the_task_rolls_back() {
        let mut world = World::of_nodes(4);
        let job = working(&mut world, spec(1, Quorum::All));
        let nobody = delegation(&world, job, 2);
        world.refused(2, Code::Invalid, nobody);
        let to_three = delegation(&world, job, 3);
        world.ok(2, to_three);
        assert_eq!((world.task(job, 0).holder, world.task(job, 0).delegate), (Some(id(2)), Some(id(3))));
        let lease = world.lease_message(job, 0);
        world.refused(4, Code::Conflict, lease.clone());
        world.ok(3, lease);
        let task = world.task(job, 0);
        assert_eq!((task.status, task.holder, task.generation), (TaskStatus::Assigned, Some(id(3)), 2));
        assert_eq!((world.node(2).active_tasks, world.node(3).active_tasks), (0, 1));
        let started = world.report(job, 0, TaskStatus::InProgress);
        world.ok(3, started);
        let to_four = delegation(&world, job, 4);
        world.ok(3, to_four);
        world.pass(62, &[1, 2, 3, 4]);
        assert_eq!((world.task(job, 0).status, world.task(job, 0).generation), (TaskStatus::Pending, 3));
    }

    #[test]
    fn a_failure_goes_to_another_node_first_and_the_third_ends_the_job() {
        let mut world = World::of_nodes(3);
        let job = world.submit(1, spec(1, Quorum::All), 1);
        for (number, open) in [(2, true), (3, true), (1, false)] {
            world.lease(number, job, 0);
            let failed = world.report(job, 0, TaskStatus::Failed);
            world.ok(number, failed);
            assert_eq!(world.job(job).status == JobStatus::Open, open);
            if open {
                let again = world.lease_message(job, 0);
                assert!(world.refused(number, Code::Conflict, again).contains("others go first"));
            }
        }
        assert_eq!(world.task(job, 0).status, TaskStatus::Failed);
        assert!(world.job(job).error.unwrap().contains("3 times"));
    }

    #[test]
    fn a_pause_by_the_creator_stops_the_clock_of_every_lease() {
        let mut world = World::of_nodes(2);
        let job = working(&mut world, JobSpec { round_limit_millis: 20_000, ..spec(1, Quorum::All) });
        world.ok(1, Message::PauseJob { job_id: job, paused: true });
        world.pass(40, &[1, 2]);
        assert_eq!(world.task(job, 0).holder, Some(id(2)));
        world.ok(1, Message::PauseJob { job_id: job, paused: false });
        world.pass(18, &[1, 2]);
        assert_eq!(world.task(job, 0).holder, Some(id(2)));
        world.pass(4, &[1, 2]);
        assert_eq!(world.task(job, 0).holder, None);
    }
}
