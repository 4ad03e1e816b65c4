//! Looks for a seed that breaks something, and for the fewest faults that still do.

use std::{
    collections::BTreeSet,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::{Report, Scenario, Setup, draw, fault::Fault, run_with};

/// A seed that fails, with what is left of its faults once those that do not matter are gone.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run with the fewest faults.
    pub report: Report,
    /// Which of the seed's faults they are.
    pub faults: Vec<(usize, Fault)>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let violation = self.report.violation.as_ref().map(ToString::to_string).unwrap_or_default();
        writeln!(f, "seed {}: {violation}", self.report.seed)?;
        self.faults
            .iter()
            .try_for_each(|(number, fault)| writeln!(f, "  fault {number}: {:?} {:?}", fault.when, fault.kind))
    }
}

impl Failure {
    /// The arguments that show it again.
    pub fn replay(&self) -> String {
        let numbers: Vec<String> = self.faults.iter().map(|(number, _)| number.to_string()).collect();
        format!("--seed {} --faults '{}'", self.report.seed, numbers.join(","))
    }
}

/// Runs `count` seeds from `first` on, on so many threads, and shrinks those that fail. In the order of the seeds.
pub fn search(scenario: &Scenario, first: u64, count: u64, jobs: usize) -> Vec<Failure> {
    let (next, end) = (AtomicU64::new(first), first.saturating_add(count));
    let work = || {
        let mut failures = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return failures;
            }
            failures.extend(failure(scenario, seed));
        }
    };
    let mut failures: Vec<Failure> = thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a run that panics is a bug of its own")).collect()
    });
    failures.sort_by_key(|failure| failure.report.seed);
    failures
}

/// What a seed breaks; `None` if everything holds.
pub fn failure(scenario: &Scenario, seed: u64) -> Option<Failure> {
    let all: Vec<Fault> = draw::draw(scenario, seed).fault;
    let mut left: BTreeSet<usize> = (0..all.len()).collect();
    let with =
        |left: &BTreeSet<usize>| run_with(scenario, seed, &Setup { only: Some(left.clone()), ..Setup::default() });
    let mut report = with(&left);
    let broken = report.violation.clone()?.invariant;
    for fault in 0..all.len() {
        left.remove(&fault);
        let without = with(&left);
        if without.violation.as_ref().is_some_and(|violation| violation.invariant == broken) {
            report = without;
        } else {
            left.insert(fault);
        }
    }
    let faults = left.into_iter().filter_map(|number| Some((number, all.get(number)?.clone()))).collect();
    Some(Failure { report, faults })
}
