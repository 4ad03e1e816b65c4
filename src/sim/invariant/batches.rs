//! No batch is lost or counted twice: each closed round applies or skips each slot once, and, where nothing was skipped,
//! every round's model is that of a computation in which nothing ever went wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        content::Store,
        scenario::Scenario,
        training::{BATCH, Chain, Inputs},
        workload,
        world::World,
    },
    Violation,
};
use crate::{
    chain::records::{Changes, Job, RoundRecord, Task},
    proof, round,
    store::Files,
    tensor::checkpoint::{MODEL, OPTIMIZER},
    types::{ContentId, Digest, JobId, Round, Slot},
};

const NAME: &str = "batches";

/// The closed rounds.
#[derive(Debug)]
pub(super) struct Batches {
    scenario: Scenario,
    jobs: BTreeMap<JobId, Job>,
    rounds: BTreeMap<(JobId, Round), RoundRecord>,
}

impl Batches {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self { scenario: scenario.clone(), jobs: BTreeMap::new(), rounds: BTreeMap::new() }
    }

    pub(super) fn on_changes(&mut self, changes: &Changes) -> Result<(), Violation> {
        self.jobs.extend(changes.jobs.iter().map(|job| (job.id, job.clone())));
        for record in &changes.rounds {
            self.check_record(record)?;
            let key = (record.outcome.job, record.outcome.round);
            if self.rounds.insert(key, record.clone()).is_some_and(|known| known != *record) {
                return Err(Violation::new(NAME, format!("round {} was closed twice", key.1)));
            }
        }
        changes.tasks.iter().try_for_each(|task| self.check_cursor(task))
    }

    /// Every task, whether it changed or not.
    pub(super) fn check_cursors(&self, world: &World) -> Result<(), Violation> {
        world.view.tasks.values().try_for_each(|task| self.check_cursor(task))
    }

    fn check_cursor(&self, task: &Task) -> Result<(), Violation> {
        let applied = self.applied(&task.id.job, task.id.slot);
        if task.cursor as usize == applied {
            return Ok(());
        }
        let what = format!("task {} has cursor {}, and {applied} of its rounds were applied", task.id, task.cursor);
        Err(Violation::new(NAME, what))
    }

    fn applied(&self, job: &JobId, slot: Slot) -> usize {
        let rounds = self.rounds.range((*job, 0)..=(*job, Round::MAX));
        rounds.filter(|(_, record)| record.outcome.applied.iter().any(|applied| applied.slot == slot)).count()
    }

    fn check_record(&self, record: &RoundRecord) -> Result<(), Violation> {
        let outcome = &record.outcome;
        let slots = self.jobs.get(&outcome.job).map_or(0, |job| job.shards.len());
        let applied: Vec<Slot> = outcome.applied.iter().map(|applied| applied.slot).collect();
        let all: BTreeSet<Slot> = applied.iter().chain(&outcome.skipped).copied().collect();
        if all.len() != slots || applied.len() + outcome.skipped.len() != slots {
            let what =
                format!("round {} applied {applied:?} and skipped {:?} of {slots}", outcome.round, outcome.skipped);
            return Err(Violation::new(NAME, what));
        }
        let expected = applied.len() as u64 * u64::from(self.scenario.job.local_steps);
        if record.batches != expected {
            let what = format!("round {} counts {} batches, expected {expected}", outcome.round, record.batches);
            return Err(Violation::new(NAME, what));
        }
        Ok(())
    }

    /// Compares every round with a computation in which nothing goes wrong.
    pub(super) fn check(&self, world: &World) -> Result<(), Violation> {
        let Some(job) = world.job else { return Ok(()) };
        let mut reference = Reference::new(&self.scenario);
        for ((_, number), record) in self.rounds.range((job, 0)..=(job, Round::MAX)) {
            if !record.outcome.skipped.is_empty() {
                return Ok(());
            }
            let expected = reference.round(*number).map_err(|error| Violation::new(NAME, error.to_string()))?;
            if record.outcome.params_root != expected {
                let what = format!("the model of round {number} is not the one that its batches give");
                return Err(Violation::new(NAME, what));
            }
        }
        Ok(())
    }
}

/// The same job on one machine on which nothing goes wrong.
struct Reference<'a> {
    scenario: &'a Scenario,
    store: Store,
    model: ContentId,
    momentum: Option<ContentId>,
    optimizers: BTreeMap<Slot, Vec<u8>>,
}

impl<'a> Reference<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let store = Store::default();
        let model = store.import(&super::super::training::initial_model(scenario.seed));
        Self { scenario, store, model, momentum: None, optimizers: BTreeMap::new() }
    }

    /// The root of the model after one more round.
    fn round(&mut self, number: Round) -> Result<Digest, round::edge::Error> {
        let slots = 0..self.scenario.job.slots;
        let updates = slots.map(|slot| self.update(slot, number)).collect::<Result<_, _>>()?;
        let request = round::edge::AggregateRequest {
            base_model: self.model,
            momentum: self.momentum,
            updates,
            outer: crate::types::OuterStep::default(),
            codec: workload::CODEC,
            rule: crate::types::AggregationRule::NormClippedMean,
        };
        let next = round::edge::aggregate(&self.store, &request)?;
        (self.model, self.momentum) = (next.model_cid, Some(next.momentum_cid));
        Ok(next.params_root)
    }

    fn update(&mut self, slot: Slot, cursor: u32) -> Result<round::edge::Update, round::edge::Error> {
        let steps = self.scenario.job.local_steps;
        let seed = proof::seed::seed(self.scenario.seed, slot, cursor);
        let (model, data) = (self.store.read(&self.model, usize::MAX)?, workload::shard(self.scenario, slot));
        let optimizer = self.optimizers.get(&slot).map(Vec::as_slice);
        let inputs = Inputs { model: &model, optimizer, data: &data, seed: &seed };
        let end = Chain::begin(&inputs).advance(&seed, 0, steps).to_directory();
        let file = |name: &str| end.0.get(name).map(|bytes| bytes.to_vec()).unwrap_or_default();
        self.optimizers.insert(slot, file(OPTIMIZER));
        let trained = self.store.import(&file(MODEL));
        let request = round::edge::PackageRequest { base_model: self.model, trained, codec: workload::CODEC };
        let package = round::edge::package(&self.store, &request)?;
        let samples = u64::from(steps) * BATCH;
        Ok(round::edge::Update { slot, cid: package.update_cid, digest: package.update_digest, samples })
    }
}
