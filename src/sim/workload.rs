//! The ledger that a simulated network begins with, and the job that it is given.

use std::collections::BTreeMap;

use super::{
    content::{self, Directory},
    machine::Machine,
    node::TASK,
    scenario::Scenario,
    training,
    world::{BEGIN, World},
};
use crate::{
    api::{Command, SubmitPrepared},
    chain::ledger::{Genesis, Parameters},
    node::coordinator::Input,
    tensor::root,
    types::{AggregationRule, JobSpec, OuterStep, OutputKind, Settle, ShardSpec, Slot, TaskType, UpdateCodec},
};

/// The ledger's name.
pub(super) const CHAIN_ID: &str = "atlas-sim";
/// How updates are encoded.
pub(super) const CODEC: UpdateCodec = UpdateCodec::I8B256;
/// The command that submits the job.
pub(super) const SUBMISSION: u64 = 1;
/// Bytes of a shard.
const SHARD_BYTES: usize = 256;

pub(super) fn genesis(scenario: &Scenario, validator: &Machine) -> Genesis {
    let ledger = &scenario.ledger;
    Genesis {
        chain_id: CHAIN_ID.to_owned(),
        parameters: Parameters {
            faucet_per_account: ledger.faucet,
            lease_millis: ledger.lease_millis,
            audit_window_blocks: ledger.audit_window_blocks,
            max_objects: scenario.storage.map_or(0, |storage| storage.objects),
            ..Parameters::with_offline_after(ledger.offline_after_millis)
        },
        accounts: BTreeMap::new(),
        time: BEGIN,
        validator: validator.keypair.node_key(),
        economy: ledger.economy,
    }
}

fn bundle() -> Vec<u8> {
    Directory::of([("atlas.toml", b"name = \"simulated\"".to_vec())]).to_block()
}

fn manifest(scenario: &Scenario) -> Vec<u8> {
    format!("{} shards, seed {}", scenario.job.slots, scenario.seed).into_bytes()
}

/// The data of a slot.
pub(super) fn shard(scenario: &Scenario, slot: Slot) -> Vec<u8> {
    let mut chance = super::chance::Chance::new(scenario.seed, &format!("shard {slot}"));
    let records: Vec<u8> = (0..SHARD_BYTES / 8).flat_map(|_| chance.bits().to_be_bytes()).collect();
    Directory::of([("records.bin", records)]).to_block()
}

/// Puts the job's content where it is submitted from.
pub(super) fn store(scenario: &Scenario, machine: &Machine) {
    let shards = (0..scenario.job.slots).map(|slot| shard(scenario, slot));
    let content = [bundle(), manifest(scenario), training::initial_model(scenario.seed)];
    for bytes in content.into_iter().chain(shards) {
        let root = machine.store.import(&bytes);
        machine.store.pin(root, "submission", true);
    }
}

impl World {
    /// A person submits the job.
    pub(super) fn submit(&mut self) {
        let command = command(&self.scenario, &self.machines[0]);
        let input = Input::Command { id: SUBMISSION, command };
        self.with_node(0, |node, now, out| node.input(input, now, out));
    }
}

/// What a person would have `atlas-node submit` send.
fn command(scenario: &Scenario, machine: &Machine) -> Command {
    let job = &scenario.job;
    let model = training::initial_model(scenario.seed);
    let spec = JobSpec {
        name: scenario.name.chars().take(64).collect(),
        model_id: "simulated".to_owned(),
        task_type: TaskType::Training,
        bundle: machine.store.import(&bundle()),
        model: content::name(&model),
        model_root: root::of_file(&model).expect("the initial model is a tensor file"),
        dataset_cid: content::name(&manifest(scenario)),
        held_out: None,
        seed: scenario.seed,
        rounds: job.rounds,
        local_steps: job.local_steps,
        checkpoint_every: job.checkpoint_every,
        config: "{}".to_owned(),
        output: OutputKind::Model,
        codec: CODEC,
        rule: AggregationRule::NormClippedMean,
        outer: OuterStep::default(),
        quorum: job.quorum,
        resources: TASK,
        round_limit_millis: job.round_limit_millis,
        deadline_millis: job.deadline_millis,
        budget: job.budget,
        settle: Settle::Ledger,
        copies: job.copies,
        session: job.session,
        data_key: None,
    };
    let shard_spec = |slot| {
        let bytes = shard(scenario, slot);
        ShardSpec { cid: content::name(&bytes), size: bytes.len() as u64, records: training::BATCH }
    };
    let shards = (0..job.slots).map(shard_spec).collect();
    Command::SubmitPrepared(SubmitPrepared { spec: Box::new(spec), shards })
}
