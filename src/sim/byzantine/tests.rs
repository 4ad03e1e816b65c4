//! The chain of several replicas against itself: it holds, it repeats, and it notices.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::*;

/// Seeds that a plain test run goes through; `atlas-sim byzantine` goes through as many as it is told.
const SEEDS: u64 = 64;

/// A directory for replicas, in memory where the system has one: they sync after each snapshot.
fn directory() -> tempfile::TempDir {
    let builder = || tempfile::Builder::new();
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).unwrap()
}

fn run_seed(seed: u64, plant: Option<Plant>) -> Report {
    run(seed, directory().path(), plant)
}

#[test]
fn honest_replicas_agree_whatever_liars_propose_and_whoever_dies() {
    let next = AtomicU64::new(1);
    let worker = || {
        let mut sum = Counts::default();
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed > SEEDS {
                return sum;
            }
            let report = run_seed(seed, None);
            assert_eq!(report.violation, None, "{report}replay: atlas-sim byzantine --first {seed} --seeds 1");
            sum.add(&report.counts);
        }
    };
    let sums: Vec<Counts> = thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut all = Counts::default();
    sums.iter().for_each(|sum| all.add(sum));
    let idle: Vec<_> = all.named().into_iter().filter(|(_, count)| *count == 0).collect();
    assert!(idle.is_empty(), "it never happened in {SEEDS} seeds: {idle:?}");
    println!("{SEEDS} seeds: {:?}", all.named());
}

#[test]
fn a_seed_gives_one_chain_and_another_gives_another() {
    let [one, again, other] = [3, 3, 4].map(|seed| run_seed(seed, None));
    assert_eq!(one, again);
    assert_ne!(one.digest, other.digest);
}

#[test]
fn each_invariant_of_several_replicas_notices_a_planted_bug() {
    for (plant, invariant) in [
        (Plant::Reordered, "agreement"),
        (Plant::Credulous, "proposals"),
        (Plant::MoneyLost, "supply"),
        (Plant::PaidTwice, "payments"),
        (Plant::Rewritten, "history"),
        (Plant::TwoHolders, "leases"),
        (Plant::NonceSkipped, "nonces"),
        (Plant::Censored, "liveness"),
        (Plant::Replayed, "mempool"),
    ] {
        let found: Vec<&str> =
            (1..=4).filter_map(|seed| Some(run_seed(seed, Some(plant)).violation?.invariant)).collect();
        assert!(!found.is_empty() && found.iter().all(|found| *found == invariant), "{plant:?}: {found:?}");
    }
}
