//! Every honest node is on one model: whoever combines the same updates gets the same root, and in the end everybody's
//! ledger names the same model.

use std::collections::BTreeMap;

use super::{super::world::World, Violation};
use crate::{
    node::edges::Answer,
    round::edge::Answer as RoundAnswer,
    types::{Digest, JobId, Quorum, Round},
};

const NAME: &str = "model";

/// Roots that nodes computed.
#[derive(Debug, Default)]
pub(super) struct Model {
    roots: BTreeMap<(JobId, Round), (usize, Digest)>,
}

impl Model {
    pub(super) fn on_answer(&mut self, node: usize, answer: &Answer, quorum: Quorum) -> Result<(), Violation> {
        let Answer::Round(answer) = answer else { return Ok(()) };
        let RoundAnswer::Aggregated { job, round, result: Ok(aggregated), .. } = &**answer else { return Ok(()) };
        // With a smaller quorum nodes may combine different sets before they agree on one.
        if quorum != Quorum::All {
            return Ok(());
        }
        let root = aggregated.params_root;
        let (other, known) = *self.roots.entry((*job, *round)).or_insert((node, root));
        if known == root {
            return Ok(());
        }
        Err(Violation::new(NAME, format!("nodes {other} and {node} combined round {round} to different models")))
    }
}

/// Every node that is up and reaches the ledger has heard of the last model.
pub(super) fn check(world: &World) -> Result<(), Violation> {
    let Some(job) = world.job.and_then(|job| world.view.jobs.get(&job)) else { return Ok(()) };
    for (index, machine) in world.machines.iter().enumerate() {
        let Some(node) = &machine.node else { continue };
        if !node.connected || machine.paused_until > world.now {
            continue;
        }
        let seen = node.coordinator.view(super::super::workload::CHAIN_ID).and_then(|view| view.jobs.get(&job.id));
        if seen.map(|seen| (seen.round, seen.model_root)) != Some((job.round, job.model_root)) {
            let what = format!("node {index} has another model than the ledger after round {}", job.round);
            return Err(Violation::new(NAME, what));
        }
    }
    Ok(())
}
