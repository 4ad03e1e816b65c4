//! What honest people want of the ledger, by what they see of it: they register, bond, submit jobs, take leases, prove and
//! close rounds, pay each other, and report who signed two results. Several may want one thing at once; the ledger decides.

use std::collections::BTreeMap;

use super::{
    super::{chance::Chance, content},
    people::People,
};
use crate::{
    chain::{
        records::{Changes, Job, Node, Task},
        wire::{Evidence, Message},
    },
    types::{
        AggregationRule, AppliedSlot, AssignmentId, Attestation, Beat, CheckpointRef, Digest, JobId, JobSpec,
        JobStatus, Load, Metrics, NodeKey, OuterStep, OutputKind, Quorum, Receipt, Resources, RoundOutcome, RoundVote,
        Settle, ShardSpec, TaskId, TaskStatus, TaskType, Time, UpdateCodec,
    },
};

/// What a task needs; a node has room for three.
const TASK: Resources = Resources { cpu_millicores: 500, memory_bytes: 1_000, storage_bytes: 1_000, gpu_count: 0 };
/// Open jobs at once.
const MAX_OPEN: usize = 3;
/// What a node bonds, in the smallest unit.
pub(super) const BOND: u64 = 10_000;

/// What everybody sees of the ledger.
#[derive(Debug, Default)]
pub(super) struct View {
    height: u64,
    nodes: BTreeMap<NodeKey, Node>,
    jobs: BTreeMap<JobId, Job>,
    tasks: BTreeMap<TaskId, Task>,
}

impl View {
    /// Takes over what a block changed.
    pub(super) fn on_changes(&mut self, changes: Changes) {
        self.height = changes.height;
        self.nodes.extend(changes.nodes.into_iter().map(|node| (node.id, node)));
        self.jobs.extend(changes.jobs.into_iter().map(|job| (job.id, job)));
        self.tasks.extend(changes.tasks.into_iter().map(|task| (task.id, task)));
    }

    fn open_jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(|job| job.status == JobStatus::Open)
    }
}

/// What this person does next.
pub(super) fn next(people: &mut People, who: usize, view: &View, now: Time, chance: &mut Chance) -> Option<Message> {
    let own = people.key(who);
    if !view.nodes.contains_key(&own) {
        return Some(register(who));
    }
    if people.economy && !people.all[who].bonded {
        people.all[who].bonded = true;
        return Some(Message::Bond { amount: BOND });
    }
    let mut wishes = work(people, who, view, now);
    if view.open_jobs().count() < MAX_OPEN {
        wishes.push(submit(chance.within(1..=2)));
    }
    wishes.push(beats(people, view, now));
    if people.economy {
        let to = people.key(usize::try_from(chance.within(0..=5)).unwrap_or(0));
        wishes.push(Message::Send { to, amount: chance.within(1..=50) });
        wishes.push(Message::Unbond { amount: chance.within(1..=5) });
    }
    if chance.happens(100) {
        let own = view.open_jobs().find(|job| job.creator == own);
        wishes.extend(own.map(|job| Message::CancelJob { job_id: job.id }));
    }
    wishes.push(people.something());
    let pick = usize::try_from(chance.within(0..=wishes.len() as u64 - 1)).unwrap_or(0);
    Some(wishes.swap_remove(pick))
}

/// What can be done for open jobs. Each comes twice in the list: work is what most of a ledger's traffic is.
fn work(people: &People, who: usize, view: &View, now: Time) -> Vec<Message> {
    let mut wishes = Vec::new();
    for job in view.open_jobs() {
        let tasks: Vec<&Task> = view.tasks.values().filter(|task| task.id.job == job.id).collect();
        for task in &tasks {
            wishes.extend(work_on(people, who, job, task, now));
        }
        let proven = !tasks.is_empty() && tasks.iter().all(|task| task.receipt.is_some());
        if proven {
            wishes.push(close(people, job, &tasks));
            wishes.push(close(people, job, &tasks));
        }
    }
    wishes
}

fn work_on(people: &People, who: usize, job: &Job, task: &Task, now: Time) -> Vec<Message> {
    let own = people.key(who);
    let (task_id, generation) = (task.id, task.generation);
    match task.holder {
        None if task.status == TaskStatus::Pending => {
            vec![Message::TakeLease { task_id, generation }, Message::TakeLease { task_id, generation }]
        }
        Some(holder) if holder == own && task.receipt.is_none() => {
            let receipt = receipt(job, task, now);
            let proof = prove(people, who, &receipt);
            vec![report(task), proof.clone(), proof]
        }
        Some(holder) if people.economy && people.number_of(&holder) == Some(0) && who == 1 => {
            vec![accuse(people, &receipt(job, task, now))]
        }
        _ => Vec::new(),
    }
}

fn register(who: usize) -> Message {
    Message::RegisterNode {
        node_id: format!("node-{who}"),
        address: None,
        resources: Resources {
            cpu_millicores: 3 * TASK.cpu_millicores,
            memory_bytes: 3 * TASK.memory_bytes,
            storage_bytes: 3 * TASK.storage_bytes,
            gpu_count: 0,
        },
        listen: vec!["/ip4/127.0.0.1/tcp/4001".to_owned()],
        attributes: BTreeMap::new(),
    }
}

/// A model of this number.
pub(super) fn model(number: u64) -> Message {
    Message::RegisterModel {
        name: "model".to_owned(),
        version: number.to_string(),
        cid: content::name(&number.to_be_bytes()),
        metadata: BTreeMap::new(),
    }
}

/// The beats of all that are registered, but for the third person, whose node is offline now and then.
fn beats(people: &People, view: &View, now: Time) -> Message {
    let silent = people.key(2);
    let alive = people.all.iter().filter(|person| {
        let key = person.keypair.node_key();
        view.nodes.contains_key(&key) && (key != silent || view.height % 24 < 12)
    });
    let beat = |keypair: &crate::identity::Keypair| {
        let node = keypair.node_key();
        keypair.seal(&Beat { node, sequence: now.as_millis(), timestamp: now, load: Load::default(), leaving: false })
    };
    Message::UpdateHeartbeat { beats: alive.map(|person| beat(&person.keypair)).collect() }
}

fn submit(slots: u64) -> Message {
    let spec = JobSpec {
        name: "digits".to_owned(),
        model_id: "digits-mlp".to_owned(),
        task_type: TaskType::Training,
        bundle: content::name(b"bundle"),
        model: content::name(b"model"),
        model_root: Digest::of(b"model"),
        dataset_cid: content::name(b"data"),
        held_out: None,
        seed: 7,
        rounds: 2,
        local_steps: 50,
        checkpoint_every: 10,
        config: "{}".to_owned(),
        output: OutputKind::Model,
        codec: UpdateCodec::F32,
        rule: AggregationRule::NormClippedMean,
        outer: OuterStep::default(),
        quorum: Quorum::All,
        resources: TASK,
        round_limit_millis: 20_000,
        deadline_millis: 3_600_000,
        budget: 600_000,
        settle: Settle::Ledger,
        copies: 2,
        session: true,
        data_key: None,
    };
    let shard = |slot: u64| ShardSpec { cid: content::name(&slot.to_be_bytes()), size: 10, records: 5 };
    Message::SubmitJob { spec: Box::new(spec), shards: (0..slots).map(shard).collect() }
}

fn report(task: &Task) -> Message {
    Message::UpdateTaskStatus {
        task_id: task.id,
        generation: task.generation,
        status: TaskStatus::InProgress,
        progress: 0,
        checkpoint: None,
        delegate: None,
        error: None,
    }
}

/// The receipt that the holder of a task signs.
fn receipt(job: &Job, task: &Task, now: Time) -> Receipt {
    let name = format!("{} round {} generation {}", task.id, job.round, task.generation);
    let digest = |what: &str| Digest::of(format!("{what} of {name}").as_bytes());
    Receipt {
        assignment: AssignmentId::derive(&task.id, job.round, task.generation, &task.lease_tx),
        task: task.id,
        round: job.round,
        node: task.holder.expect("it is held"),
        timestamp: now,
        class_id: digest("class"),
        kat_root: digest("kat"),
        in_params_root: job.model_root.unwrap_or(job.spec.model_root),
        in_opt_root: task.opt_root,
        trace_root: digest("trace"),
        segments: 5,
        out_state_root: digest("state"),
        out_opt_root: digest("optimizer"),
        update_digest: digest("update"),
        update_cid: content::name(name.as_bytes()),
        update_length: 1_000,
        checkpoint: CheckpointRef { cid: content::name(&digest("end").0), round: job.round, step: 50 },
        computation_hash: digest("computation"),
        metrics: Metrics { iterations: 50, samples: 100, loss_micros: 2_000_000, ..Metrics::default() },
    }
}

/// The receipt with the word of another node, the next one.
fn prove(people: &People, who: usize, receipt: &Receipt) -> Message {
    let worker = &people.all[who].keypair;
    let verifier = &people.all[(who + 1) % people.cheat()].keypair;
    let attestation = Attestation {
        receipt: worker.seal(receipt).digest(),
        verifier: verifier.node_key(),
        timestamp: receipt.timestamp,
    };
    Message::SubmitReceipt { receipt: worker.seal(receipt), attestation: verifier.seal(&attestation) }
}

/// The first person signs two results for one assignment whenever it works.
fn accuse(people: &People, receipt: &Receipt) -> Message {
    let other = Receipt { update_digest: Digest::of(&receipt.update_digest.0), ..receipt.clone() };
    let sign = |receipt: &Receipt| people.all[0].keypair.seal(receipt);
    Message::ReportOffence { evidence: Box::new(Evidence::TwoReceipts { first: sign(receipt), second: sign(&other) }) }
}

fn close(people: &People, job: &Job, tasks: &[&Task]) -> Message {
    let name = |what: &str| content::name(format!("{what} {} {}", job.id, job.round).as_bytes());
    let root = |what: &str| Digest::of(format!("{what} {} {}", job.id, job.round).as_bytes());
    let applied = |task: &&Task| {
        let provisional = task.receipt.as_ref()?;
        Some(AppliedSlot {
            slot: task.id.slot,
            update_digest: provisional.receipt.update_digest,
            node: provisional.receipt.node,
            samples: provisional.receipt.metrics.samples,
        })
    };
    let outcome = RoundOutcome {
        job: job.id,
        round: job.round,
        params_root: root("params"),
        momentum_root: root("momentum"),
        model_cid: name("params"),
        momentum_cid: name("momentum"),
        applied: tasks.iter().filter_map(applied).collect(),
        skipped: Vec::new(),
    };
    let mut holders: Vec<usize> = tasks.iter().filter_map(|task| people.number_of(&task.holder?)).collect();
    holders.sort_unstable();
    holders.dedup();
    let vote = |who: usize| {
        let (job, round, digest) = (outcome.job, outcome.round, outcome.digest());
        people.all[who].keypair.seal(&RoundVote { job, round, outcome: digest, node: people.key(who) })
    };
    Message::CloseRound { votes: holders.into_iter().map(vote).collect(), outcome: Box::new(outcome.clone()) }
}
