//! When to kill whom. Pure: decided from the ledger's records alone.

use clap::ValueEnum;

use crate::{
    api::{JobDetail, Task},
    types::{ContentId, Step, TaskId},
};

/// Whose process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Victim {
    /// A holder of a task that did not submit the job.
    Worker,
    /// The node that is elected to combine the open round.
    Aggregator,
    /// The node that submitted the job.
    Submitter,
}

/// A checkpoint inside the open round is held by another node, and the round's receipt is not on the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Whose process is killed.
    pub(super) peer_id: String,
    /// The task.
    pub(super) task: TaskId,
    /// The round.
    pub(super) round: u32,
    /// Steps of the round that the checkpoint holds.
    pub(super) step: Step,
    /// The checkpoint.
    pub(super) checkpoint: ContentId,
}

/// The moment to kill `victim`, if it is now. `aggregator` is the peer elected for the open round.
pub(super) fn find(detail: &JobDetail, victim: Victim, aggregator: Option<&str>) -> Option<Moment> {
    // A first round has no optimizer state or momentum behind it: a later one proves more.
    if detail.job.round == 0 && detail.job.rounds > 1 {
        return None;
    }
    let creator = detail.job.creator.as_str();
    let is_victim = |peer: &str| match victim {
        Victim::Worker => peer != creator,
        Victim::Aggregator => Some(peer) == aggregator,
        Victim::Submitter => peer == creator,
    };
    let moments: Vec<Moment> = detail.tasks.iter().filter_map(|task| moment_of(detail, task)).collect();
    // The earliest step leaves the most time before the receipt.
    let own = moments.iter().filter(|moment| is_victim(&moment.peer_id)).min_by_key(|moment| moment.step).cloned();
    // A submitter that holds no task still dies inside a round.
    let holds_none = !detail.tasks.iter().any(|task| task.node_id.as_deref() == Some(creator));
    own.or_else(|| {
        let absent = victim == Victim::Submitter && holds_none;
        let other = moments.first().filter(|_| absent)?;
        Some(Moment { peer_id: creator.to_owned(), ..other.clone() })
    })
}

fn moment_of(detail: &JobDetail, task: &Task) -> Option<Moment> {
    let inside = task.checkpoint_round == Some(detail.job.round)
        && task.checkpoint_step.is_some_and(|step| (1..detail.job.local_steps).contains(&step));
    if !inside || task.receipt {
        return None;
    }
    Some(Moment {
        peer_id: task.node_id.clone()?,
        task: task.id,
        round: detail.job.round,
        step: task.checkpoint_step?,
        checkpoint: task.checkpoint_cid?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testnet::summary::tests::detail;

    /// Round 1 of 2 is open; slot 1 is held by `worker` and has a checkpoint at step 5 of 10.
    fn inside_a_round() -> JobDetail {
        let mut detail = detail();
        detail.job.round = 1;
        let task = &mut detail.tasks[1];
        task.checkpoint_round = Some(1);
        task.checkpoint_step = Some(5);
        task.checkpoint_cid = Some(detail.job.bundle_cid);
        detail
    }

    #[test]
    fn a_worker_dies_between_its_checkpoint_and_its_receipt() {
        let mut detail = inside_a_round();
        let moment = find(&detail, Victim::Worker, None).unwrap();
        assert_eq!((moment.peer_id.as_str(), moment.round, moment.step), ("worker", 1, 5));
        detail.tasks[1].receipt = true;
        assert_eq!(find(&detail, Victim::Worker, None), None, "the receipt is out");
    }

    #[test]
    fn checkpoints_at_the_ends_of_a_round_or_of_another_round_are_no_moment() {
        for (round, step) in [(1, 0), (1, 10), (0, 5)] {
            let mut detail = inside_a_round();
            detail.tasks[1].checkpoint_round = Some(round);
            detail.tasks[1].checkpoint_step = Some(step);
            assert_eq!(find(&detail, Victim::Worker, None), None, "round {round}, step {step}");
        }
    }

    #[test]
    fn the_aggregator_dies_in_its_own_task_and_the_submitter_in_any_if_it_holds_none() {
        let mut detail = inside_a_round();
        assert_eq!(find(&detail, Victim::Aggregator, Some("creator")), None);
        assert!(find(&detail, Victim::Aggregator, Some("worker")).is_some());
        assert_eq!(find(&detail, Victim::Submitter, None), None, "the submitter holds a task without a checkpoint");
        detail.tasks[0].node_id = Some("third".into());
        assert_eq!(find(&detail, Victim::Submitter, None).unwrap().peer_id, "creator");
    }
}
