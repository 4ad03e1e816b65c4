//! One honest assignment, and each way in which it can be wrong.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::types::{
    AggregationRule, Digest, JobId, JobSpec, Load, OuterStep, OutputKind, Quorum, Settle, TaskId, TaskType, UpdateCodec,
};

const ME: NodeKey = NodeKey([1; 32]);
const OTHER: NodeKey = NodeKey([2; 32]);
const NOW: Time = Time(1_000_000);

fn content(seed: u8) -> ContentId {
    let digest = multihash::Multihash::wrap(0x12, &[seed; 32]).unwrap();
    ContentId(cid::Cid::new_v1(0x55, digest))
}

fn spec() -> JobSpec {
    JobSpec {
        name: "digits".into(),
        model_id: "digits".into(),
        task_type: TaskType::Training,
        bundle: content(1),
        model: content(2),
        model_root: Digest([7; 32]),
        dataset_cid: content(3),
        held_out: None,
        seed: 7,
        rounds: 20,
        local_steps: 50,
        checkpoint_every: 10,
        config: "{}".into(),
        output: OutputKind::Model,
        codec: UpdateCodec::F32,
        rule: AggregationRule::NormClippedMean,
        outer: OuterStep::default(),
        quorum: Quorum::All,
        resources: Resources { cpu_millicores: 500, memory_bytes: 500, storage_bytes: 10, gpu_count: 0 },
        round_limit_millis: 60_000,
        deadline_millis: 3_600_000,
        budget: 100,
        settle: Settle::Ledger,
        copies: 2,
        session: true,
        data_key: None,
    }
}

/// An open job.
pub(crate) fn job() -> Job {
    Case::good().job
}

/// Everything that a question is about, right in every respect.
#[derive(Clone)]
struct Case {
    node: Option<Node>,
    ledger: LedgerId,
    job: Job,
    task: Task,
    free: Resources,
    /// What the node holds besides, by ledger.
    held: Vec<(LedgerId, Job, Task)>,
    stake: Stake,
    now: Time,
    policy: Policy,
}

impl Case {
    fn good() -> Self {
        let id = JobId([9; 32]);
        Self {
            node: Some(Node {
                id: ME,
                node_id: "me".into(),
                address: None,
                status: NodeStatus::Online,
                resources: Resources { cpu_millicores: 1_000, memory_bytes: 1_000, storage_bytes: 1_000, gpu_count: 0 },
                listen: Vec::new(),
                attributes: Default::default(),
                reputation: 10_000,
                uptime: 10_000,
                load: Load::default(),
                last_sequence: 1,
                last_heartbeat: NOW,
                registered_at: NOW,
                active_tasks: 0,
                rewards: 0,
                storage_offered: 0,
                storage_used: 0,
                storage_epoch: 0,
            }),
            ledger: "atlas-chain".into(),
            job: Job {
                id,
                creator: OTHER,
                spec: spec(),
                shards: vec![ShardSpec { cid: content(4), size: 100, records: 10 }; 2],
                status: JobStatus::Open,
                paused: false,
                round: 0,
                round_opened_height: 1,
                round_opened_at: NOW,
                model_root: None,
                model_cid: content(2),
                momentum_root: None,
                momentum_cid: None,
                result_cid: None,
                escrow: 100,
                paid: 0,
                progress: 0,
                created_at: NOW,
                updated_at: NOW,
                error: None,
            },
            task: Task {
                id: TaskId { job: id, slot: 1 },
                status: TaskStatus::Pending,
                holder: None,
                generation: 0,
                lease_tx: Digest([0; 32]),
                lease_expires: NOW,
                cursor: 0,
                progress: 0,
                checkpoint: None,
                opt_root: Digest([0; 32]),
                opt_checkpoint: None,
                receipt: None,
                delegate: None,
                reassigned: 0,
                refused_receipts: 0,
                created_at: NOW,
                started_at: None,
                completed_at: None,
                error: None,
            },
            free: Resources { cpu_millicores: 1_000, memory_bytes: 1_000, storage_bytes: 100, gpu_count: 0 },
            held: Vec::new(),
            stake: Stake::default(),
            now: NOW,
            policy: Policy::default(),
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut case = Self::good();
        change(&mut case);
        case
    }

    fn ask(&self) -> Result<(), Rejection> {
        let held: Vec<Held<'_>> = self.held.iter().map(|(ledger, job, task)| Held { ledger, job, task }).collect();
        let view = View {
            me: ME,
            node: self.node.as_ref(),
            ledger: &self.ledger,
            job: &self.job,
            task: &self.task,
            free: self.free,
            held: &held,
            stake: self.stake,
            now: self.now,
        };
        validate_assignment(&view, &self.policy)
    }

    fn held(status: TaskStatus, holder: NodeKey) -> Self {
        Self::with(|case| (case.task.status, case.task.holder) = (status, Some(holder)))
    }

    fn node(change: impl FnOnce(&mut Node)) -> Self {
        Self::with(|case| change(case.node.as_mut().unwrap()))
    }
}

#[test]
fn a_free_task_of_an_open_job_may_be_taken() {
    assert_eq!(Case::good().ask(), Ok(()));
    for status in [NodeStatus::Degraded, NodeStatus::Recovering] {
        assert_eq!(Case::node(|node| node.status = status).ask(), Ok(()));
    }
}

#[test]
fn a_shard_that_another_node_holds_is_a_duplicate_in_every_state_of_holding() {
    for status in [TaskStatus::Assigned, TaskStatus::InProgress, TaskStatus::Paused] {
        assert_eq!(Case::held(status, OTHER).ask(), Err(Rejection::Held { holder: OTHER }));
        assert_eq!(Case::held(status, ME).ask(), Ok(()), "its own task is no duplicate");
    }
    for status in [TaskStatus::Rollback, TaskStatus::Completed, TaskStatus::Failed] {
        assert_eq!(Case::held(status, ME).ask(), Err(Rejection::TaskNotFree { status }));
    }
}

#[test]
fn a_delegated_task_is_for_the_named_node_alone() {
    let delegated = |to| {
        Case::with(|case| {
            (case.task.status, case.task.holder) = (TaskStatus::Delegated, Some(OTHER));
            case.task.delegate = to;
        })
    };
    assert_eq!(delegated(Some(ME)).ask(), Ok(()));
    assert_eq!(delegated(Some(OTHER)).ask(), Err(Rejection::Held { holder: OTHER }));
    assert!(delegated(None).ask().is_err());
}

#[test]
fn an_own_task_needs_nothing_more_to_be_free_and_may_go_on_while_the_job_is_paused() {
    let mut case = Case::held(TaskStatus::InProgress, ME);
    case.free = Resources::default();
    case.job.paused = true;
    assert_eq!(case.ask(), Ok(()));
}

#[test]
fn what_is_short_is_named_and_the_shard_counts_as_storage() {
    let short = |change: fn(&mut Resources)| Case::with(|case| change(&mut case.free)).ask();
    assert_eq!(short(|free| free.cpu_millicores = 499), Err(Rejection::Capacity { resource: "cpu" }));
    assert_eq!(short(|free| free.memory_bytes = 499), Err(Rejection::Capacity { resource: "memory" }));
    assert_eq!(short(|free| free.storage_bytes = 99), Err(Rejection::Capacity { resource: "storage" }));
    let gpu = Case::with(|case| case.job.spec.resources.gpu_count = 1);
    assert_eq!(gpu.ask(), Err(Rejection::Capacity { resource: "gpu" }));
}

#[test]
fn an_unknown_offline_or_disreputable_node_takes_nothing() {
    assert_eq!(Case::with(|case| case.node = None).ask(), Err(Rejection::NotRegistered));
    assert_eq!(Case::node(|node| node.reputation = 0).ask(), Err(Rejection::NoReputation));
    let offline = Case::node(|node| node.status = NodeStatus::Offline);
    assert_eq!(offline.ask(), Err(Rejection::Unhealthy { status: NodeStatus::Offline }));
}

#[test]
fn an_ended_paused_or_late_job_gives_no_work() {
    let ended = Case::with(|case| case.job.status = JobStatus::Failed);
    assert_eq!(ended.ask(), Err(Rejection::JobEnded { status: JobStatus::Failed }));
    assert_eq!(Case::with(|case| case.job.paused = true).ask(), Err(Rejection::JobPaused));
    let late = Case::with(|case| case.now = NOW + Duration::from_millis(case.job.spec.deadline_millis));
    assert_eq!(late.ask(), Err(Rejection::DeadlinePassed));
    assert_eq!(Case::with(|case| case.task.id.slot = 2).ask(), Err(Rejection::NoSuchSlot { slot: 2 }));
    assert!(Case::with(|case| case.task.id.job = JobId([8; 32])).ask().is_err());
}

#[test]
fn the_operator_decides_for_whom_the_node_works() {
    let accepting = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Case::with(|case| case.policy = Policy::accepting(&names))
    };
    assert_eq!(accepting(&["lab", "atlas-chain"]).ask(), Ok(()));
    assert_eq!(accepting(&["lab", "*"]).ask(), Ok(()));
    let other = accepting(&["lab"]);
    assert_eq!(other.ask(), Err(Rejection::LedgerNotAccepted { ledger: "atlas-chain".into() }));

    let mut unsettled = other;
    unsettled.job.spec.settle = Settle::None;
    assert_eq!(unsettled.ask(), Ok(()), "an unsettled job has a ledger of its own");
    unsettled.policy.unsettled = false;
    assert_eq!(unsettled.ask(), Err(Rejection::UnsettledNotAccepted));

    let bundle = Case::with(|case| case.policy.bundles = Some(BTreeSet::from([content(5)])));
    assert_eq!(bundle.ask(), Err(Rejection::BundleNotAllowed));
    let cheap = Case::with(|case| case.policy.minimum_budget = 101);
    assert_eq!(cheap.ask(), Err(Rejection::BudgetTooSmall { budget: 100, minimum: 101 }));
}

/// A good case of a node that holds the same slot of another job of this ledger.
fn holding(change: impl FnOnce(&mut Job)) -> Case {
    Case::with(|case| {
        let mut other = case.job.clone();
        other.id = JobId([8; 32]);
        change(&mut other);
        let task =
            Task { id: TaskId { job: other.id, slot: case.task.id.slot }, holder: Some(ME), ..case.task.clone() };
        case.held.push((case.ledger.clone(), other, task));
    })
}

#[test]
fn the_same_work_is_not_taken_for_two_paid_jobs() {
    assert_eq!(holding(|_| ()).ask(), Err(Rejection::DoubleWork { job: JobId([8; 32]) }));
    assert!(Rejection::DoubleWork { job: JobId([8; 32]) }.is_temporary());
    assert_eq!(holding(|other| other.spec.seed += 1).ask(), Ok(()), "it draws other batches");
    assert_eq!(holding(|other| other.shards[1].cid = content(5)).ask(), Ok(()), "it has other data");
    assert_eq!(holding(|other| other.spec.budget = 0).ask(), Ok(()), "nobody pays for the other");
    let mut unpaid = holding(|_| ());
    unpaid.job.spec.settle = Settle::None;
    assert_eq!(unpaid.ask(), Ok(()), "nobody pays for this one");
    let mut own = holding(|_| ());
    own.held[0].1.id = own.job.id;
    assert_eq!(own.ask(), Ok(()), "two slots of one job are two tasks");
}

#[test]
fn a_stake_that_is_too_small_is_named_and_a_task_that_is_held_stays() {
    let short = Stake { bonded: 4, needed: 5 };
    let mut case = Case::with(|case| case.stake = short);
    assert_eq!(case.ask(), Err(Rejection::Stake { bonded: 4, needed: 5 }));
    assert!(case.ask().unwrap_err().to_string().contains("wallet bond"));
    case.stake.bonded = 5;
    assert_eq!(case.ask(), Ok(()));
    let held = Case { stake: short, ..Case::held(TaskStatus::InProgress, ME) };
    assert_eq!(held.ask(), Ok(()), "the lease stays with who had the stake when it took it");
}

#[test]
fn what_is_held_on_a_ledger_must_fit_into_what_is_registered_there() {
    let mut case = holding(|other| other.spec.seed += 1);
    case.node.as_mut().unwrap().resources.cpu_millicores = 999;
    assert_eq!(case.ask(), Err(Rejection::Registered { resource: "cpu" }));
    case.held[0].0 = "another".into();
    assert_eq!(case.ask(), Ok(()), "another ledger books for itself");
}

type Change = fn(&mut JobSpec);

#[test]
fn a_field_out_of_its_range_is_named() {
    let changes: [(&str, Change); 13] = [
        ("name", |spec| spec.name = "x".repeat(65)),
        ("model_id", |spec| spec.model_id = "x".repeat(65)),
        ("config", |spec| spec.config = format!("{{\"x\": \"{}\"}}", "x".repeat(16 * 1024))),
        ("config", |spec| spec.config = "[1]".into()),
        ("rounds", |spec| spec.rounds = 0),
        ("local_steps", |spec| spec.local_steps = 0),
        ("checkpoint_every", |spec| (spec.local_steps, spec.checkpoint_every) = (256, 1)),
        ("outer.learning_rate", |spec| spec.outer.learning_rate_micros = 0),
        ("outer.momentum", |spec| spec.outer.momentum_micros = 1_000_000),
        ("resources", |spec| spec.resources = Resources::default()),
        ("round_limit", |spec| spec.round_limit_millis = 0),
        ("round_limit", |spec| spec.round_limit_millis = u64::MAX),
        ("deadline", |spec| spec.deadline_millis = 59_999),
    ];
    for (expected, change) in changes {
        match Case::with(|case| change(&mut case.job.spec)).ask() {
            Err(Rejection::BadSpec { field, .. }) => assert_eq!(field, expected),
            other => panic!("`{expected}` gave {other:?}"),
        }
    }
}

#[test]
fn only_what_can_pass_by_itself_is_temporary() {
    assert!(Rejection::Capacity { resource: "cpu" }.is_temporary());
    assert!(Rejection::TaskNotFree { status: TaskStatus::Rollback }.is_temporary());
    assert!(!Rejection::TaskNotFree { status: TaskStatus::Completed }.is_temporary());
    assert!(!Rejection::BundleNotAllowed.is_temporary());
}

proptest! {
    #[test]
    fn whatever_a_job_says_the_answer_is_a_rejection_and_no_panic(
        config in ".{0,40}",
        numbers in any::<(u32, u32, u32, u32, u32, u64, u64, u64)>(),
        slot in any::<u32>(),
    ) {
        let mut case = Case::good();
        let spec = &mut case.job.spec;
        spec.config = config;
        (spec.rounds, spec.local_steps, spec.checkpoint_every) = (numbers.0, numbers.1, numbers.2);
        (spec.outer.learning_rate_micros, spec.outer.momentum_micros) = (numbers.3, numbers.4);
        (spec.round_limit_millis, spec.deadline_millis) = (numbers.5, numbers.6);
        spec.resources.memory_bytes = numbers.7;
        case.task.id.slot = slot;
        let _ = case.ask();
    }
}
