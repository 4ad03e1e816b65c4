//! Chains whose validators lie, from many seeds.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use atlas_node::{
    clock,
    sim::byzantine::{Counts, Report, run},
};

use super::Error;

/// What all runs came to.
#[derive(Default)]
struct Sum {
    counts: Counts,
    failed: Vec<Report>,
    error: Option<std::io::Error>,
}

/// Runs so many seeds; false if something does not hold in one.
pub(super) fn search(first: u64, seeds: u64, jobs: Option<usize>) -> Result<bool, Error> {
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    let began = clock::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::SeqCst)).filter(|place| *place < seeds) {
                    let ran = tempfile::tempdir().map(|directory| run(first + seed, directory.path(), None));
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match ran {
                        Ok(report) => sum.take(report),
                        Err(error) => sum.error = Some(error),
                    }
                }
            });
        }
    });
    let took = clock::now().since(began).as_secs_f64();
    let Sum { counts, mut failed, error } = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(error) = error {
        return Err(Error::Replicas(error));
    }
    failed.sort_by_key(|report| report.seed);
    for report in &failed {
        print!("{report}");
        report.violation.iter().for_each(|violation| println!("{violation}"));
        println!("replay: atlas-sim byzantine --first {} --seeds 1", report.seed);
    }
    counts.named().iter().for_each(|(name, count)| println!("{name:<14}{count}"));
    println!("{seeds} seeds in {took:.1} s, {} failed", failed.len());
    Ok(failed.is_empty())
}

impl Sum {
    fn take(&mut self, report: Report) {
        self.counts.add(&report.counts);
        if report.violation.is_some() {
            self.failed.push(report);
        }
    }
}
