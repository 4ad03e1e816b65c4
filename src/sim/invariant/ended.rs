//! Every task ends.

use super::{
    super::{workload::SUBMISSION, world::World},
    Violation,
};
use crate::types::{JobStatus, TaskStatus};

const NAME: &str = "ended";

pub(super) fn check(world: &World) -> Result<(), Violation> {
    let Some(job) = world.job.and_then(|job| world.view.jobs.get(&job)) else {
        let answer = world.answer(SUBMISSION);
        return Err(Violation::new(NAME, format!("the job never reached the ledger: {answer}")));
    };
    if job.status == JobStatus::Open {
        let tasks = world.view.tasks_of(&job.id);
        let tasks: Vec<String> = tasks.map(|task| format!("{} {}", task.id.slot, task.status)).collect();
        let what =
            format!("the job is still open in round {} of {}: tasks {}", job.round, job.spec.rounds, tasks.join(", "));
        return Err(Violation::new(NAME, what));
    }
    let open =
        world.view.tasks_of(&job.id).find(|task| !matches!(task.status, TaskStatus::Completed | TaskStatus::Failed));
    match open {
        Some(task) => {
            Err(Violation::new(NAME, format!("the job is {}, its task {} is {}", job.status, task.id, task.status)))
        }
        None => Ok(()),
    }
}
