//! Runs a scenario and says what came out.

use std::{collections::BTreeSet, fmt};

use super::{
    Plant,
    draw::draw,
    invariant::Violation,
    scenario::{Accepted, Expect, Scenario},
    world::{BEGIN, World},
};
use crate::types::{Digest, JobStatus, TaskStatus, memo};

/// What came out of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The scenario's name.
    pub name: String,
    /// The seed.
    pub seed: u64,
    /// How the job ended; `None` if it never began.
    pub status: Option<JobStatus>,
    /// Rounds closed.
    pub rounds: u32,
    /// Tasks completed.
    pub completed: usize,
    /// Tasks that changed hands.
    pub reassigned: u32,
    /// Runs of a later generation that began later than at a round's start.
    pub resumed: u32,
    /// Batches applied.
    pub batches: u64,
    /// Updates that came too late.
    pub skipped: u64,
    /// Offences that the ledger punished.
    pub punished: u32,
    /// Nodes that it punished.
    pub offenders: u32,
    /// Nodes that took the place of another as holder of an object.
    pub repaired: u32,
    /// Root of the last model.
    pub model_root: Option<Digest>,
    /// Virtual milliseconds from the beginning to the job's end, or to the run's.
    pub millis: u64,
    /// Things that happened.
    pub events: u64,
    /// Messages sent between nodes, and their bytes.
    pub messages: (u64, u64),
    /// Blocks of the ledger.
    pub height: u64,
    /// Digest of everything that happened.
    pub digest: Digest,
    /// What did not hold.
    pub violation: Option<Violation>,
}

/// How a run differs from what its scenario and seed say.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// A planted bug.
    pub plant: Option<Plant>,
    /// Of the faults (the scenario's, then those drawn by chance) only these; absent: all.
    pub only: Option<BTreeSet<usize>>,
    /// Look at everything at each event, not only at what it changes.
    pub thorough: bool,
    /// Verify each signature at every node that sees it, also if another has.
    pub verify_all: bool,
}

/// Runs a scenario from a seed, perhaps with a planted bug.
pub fn run(scenario: &Scenario, seed: u64, plant: Option<Plant>) -> Report {
    run_with(scenario, seed, &Setup { plant, ..Setup::default() })
}

/// Runs a scenario from a seed.
pub fn run_with(scenario: &Scenario, seed: u64, setup: &Setup) -> Report {
    let mut drawn = draw(scenario, seed);
    if let Some(only) = &setup.only {
        let faults = drawn.fault.into_iter().enumerate().filter(|(number, _)| only.contains(number));
        drawn.fault = faults.map(|(_, fault)| fault).collect();
    }
    let _memo = (!setup.verify_all).then(memo::Remembering::begin);
    let mut world = World::new(drawn, seed, setup);
    world.run();
    let mut report = read(&world);
    if report.violation.is_none() {
        report.violation = unmet(&scenario.expect, &report);
    }
    report
}

fn read(world: &World) -> Report {
    let job = world.job.and_then(|job| world.view.jobs.get(&job));
    let tasks: Vec<_> = job.into_iter().flat_map(|job| world.view.tasks_of(&job.id)).collect();
    let rounds: Vec<_> = job.into_iter().flat_map(|job| world.view.rounds_of(&job.id)).collect();
    let offences = world.chain.offences();
    let offenders: BTreeSet<_> = offences.iter().map(|offence| offence.id.node).collect();
    let end = job.filter(|job| job.status != JobStatus::Open).map_or(world.now, |job| job.updated_at);
    Report {
        name: world.scenario.name.clone(),
        seed: world.seed,
        status: job.map(|job| job.status),
        rounds: job.map_or(0, |job| job.round),
        completed: tasks.iter().filter(|task| task.status == TaskStatus::Completed).count(),
        reassigned: tasks.iter().map(|task| task.reassigned).sum(),
        resumed: world.counts.resumed,
        batches: rounds.iter().map(|round| round.batches).sum(),
        skipped: rounds.iter().map(|round| round.outcome.skipped.len() as u64).sum(),
        punished: u32::try_from(offences.len()).unwrap_or(u32::MAX),
        offenders: u32::try_from(offenders.len()).unwrap_or(u32::MAX),
        repaired: world.watch.storage.repaired(&world.view),
        model_root: job.and_then(|job| job.model_root),
        millis: u64::try_from(end.since(BEGIN).as_millis()).unwrap_or(u64::MAX),
        events: world.counts.events,
        messages: (world.counts.messages, world.counts.bytes),
        height: world.chain.height(),
        digest: world.record.digest(),
        violation: world.violation.clone(),
    }
}

/// The first expectation that was not met.
fn unmet(expect: &Expect, report: &Report) -> Option<Violation> {
    let at_least = |wanted: Option<u32>, found: u32| wanted.is_some_and(|wanted| found < wanted);
    let unmet = [
        (expect.status.is_some() && expect.status != report.status, "status"),
        (at_least(expect.reassigned_at_least, report.reassigned), "reassigned_at_least"),
        (expect.reassigned_at_most.is_some_and(|most| report.reassigned > most), "reassigned_at_most"),
        (at_least(expect.resumed_at_least, report.resumed), "resumed_at_least"),
        (at_least(expect.punished_at_least, report.punished), "punished_at_least"),
        (at_least(expect.repaired_at_least, report.repaired), "repaired_at_least"),
        (expect.offenders.is_some_and(|wanted| report.offenders != wanted), "offenders"),
        (expect.skipped_at_most.is_some_and(|most| report.skipped > most), "skipped_at_most"),
    ];
    let (_, key) = unmet.into_iter().find(|(unmet, _)| *unmet)?;
    Some(Violation { invariant: "expect", what: format!("`{key}` is not met") })
}

impl Report {
    /// What a scenario's file keeps of it.
    pub fn accepted(&self) -> Accepted {
        Accepted {
            status: self.status.map_or("never began", JobStatus::as_str).to_owned(),
            rounds: self.rounds,
            model_root: self.model_root.map_or_else(|| "none".to_owned(), |root| root.to_string()),
            reassigned: self.reassigned,
            resumed: self.resumed,
            skipped: self.skipped,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |name: &str, value: &dyn fmt::Display, f: &mut fmt::Formatter<'_>| writeln!(f, "{name:<14}{value}");
        let status = self.status.map_or("never began", JobStatus::as_str);
        let root = self.model_root.map_or("none".to_owned(), |root| root.to_string());
        text("scenario", &format!("{} (seed {})", self.name, self.seed), f)?;
        text("job", &status, f)?;
        text("rounds", &self.rounds, f)?;
        text(
            "tasks",
            &format!("{} completed, {} reassigned, {} resumed", self.completed, self.reassigned, self.resumed),
            f,
        )?;
        text("batches", &format!("{} applied, {} updates skipped", self.batches, self.skipped), f)?;
        if self.punished > 0 {
            text("offences", &format!("{} punished, of {} nodes", self.punished, self.offenders), f)?;
        }
        if self.repaired > 0 {
            text("objects", &format!("{} holders replaced", self.repaired), f)?;
        }
        text("model root", &root, f)?;
        text("virtual time", &format!("{}.{:03} s", self.millis / 1_000, self.millis % 1_000), f)?;
        text("ledger", &format!("{} blocks", self.height), f)?;
        text("traffic", &format!("{} messages, {} bytes", self.messages.0, self.messages.1), f)?;
        text("events", &self.events, f)?;
        text("digest", &self.digest, f)
    }
}
