//! The simulator against itself: it repeats, it survives, and it notices.

use super::*;
use crate::types::{JobStatus, Quorum};

const SMOKE: &str = include_str!("../../simulations/smoke.toml");

/// The smoke scenario, with fewer rounds.
fn smoke(rounds: u32) -> Scenario {
    let mut scenario = Scenario::parse(SMOKE).unwrap();
    scenario.job.rounds = rounds;
    for fault in &mut scenario.fault {
        fault.when = When::Progress { slot: 1, round: 2, step: 30 };
    }
    scenario
}

fn calm(rounds: u32) -> Scenario {
    Scenario { fault: Vec::new(), expect: scenario::Expect::default(), ..smoke(rounds) }
}

/// The invariant that notices a planted bug.
fn notices(scenario: &Scenario, plant: Plant) -> &'static str {
    run(scenario, 1, Some(plant)).violation.map_or("nothing", |violation| violation.invariant)
}

#[test]
fn a_job_completes_with_and_without_a_crash_and_gives_the_same_model_twice() {
    let (crash, again) = (run(&smoke(5), 1, None), run(&smoke(5), 1, None));
    assert_eq!((crash.violation.as_ref(), crash.status), (None, Some(JobStatus::Completed)), "{crash}");
    assert!(crash.resumed >= 1 && crash.reassigned >= 1, "{crash}");
    assert_eq!(crash, again, "one seed, one run");
    let calm = run(&calm(5), 1, None);
    assert_eq!((calm.violation.as_ref(), calm.reassigned), (None, 0), "{calm}");
    assert_eq!(calm.model_root, crash.model_root, "nothing was lost or done twice");
    assert_ne!(calm.digest, crash.digest);
}

#[test]
fn another_seed_is_another_run_of_the_same_job() {
    let (one, two) = (run(&calm(2), 1, None), run(&calm(2), 2, None));
    assert_ne!(one.digest, two.digest);
    assert_eq!((one.model_root, two.violation), (two.model_root, None));
}

#[test]
fn a_round_waits_for_two_thirds_however_slow_a_node_is() {
    let mut scenario = calm(4);
    scenario.nodes = 5;
    scenario.job.quorum = Quorum::TwoThirds;
    scenario.fault =
        vec![Fault { kind: Kind::Slow { who: Who::Holder(2), percent: 2_000 }, when: When::RoundOpened(1) }];
    let report = run(&scenario, 1, None);
    assert_eq!((report.violation.as_ref(), report.status), (None, Some(JobStatus::Completed)), "{report}");
}

#[test]
fn a_ledger_that_was_away_lapses_nobody() {
    let mut scenario = calm(3);
    scenario.fault = vec![Fault { kind: Kind::LedgerAway { for_millis: 20_000 }, when: When::RoundOpened(1) }];
    let report = run(&scenario, 1, None);
    assert_eq!((report.violation.as_ref(), report.reassigned), (None, 0), "{report}");
}

#[test]
fn who_vanishes_without_a_word_is_not_waited_for() {
    let mut scenario = calm(3);
    let kind = Kind::Crash { who: Who::Holder(1), restart_after_millis: None, silent: true };
    scenario.fault = vec![Fault { kind, when: When::Progress { slot: 1, round: 1, step: 30 } }];
    let report = run(&scenario, 1, None);
    assert_eq!((report.violation.as_ref(), report.reassigned), (None, 1), "{report}");
    assert!(report.millis < 20_000, "{report}");
}

#[test]
fn each_invariant_notices_a_planted_bug() {
    assert_eq!(notices(&smoke(4), Plant::BatchTwice), "batches");
    assert_eq!(notices(&calm(12), Plant::LostAnswers), "bounded");
    assert_eq!(notices(&calm(3), Plant::ForgedHolder), "leases");
    assert_eq!(notices(&calm(3), Plant::OtherModel), "model");
    assert_eq!(notices(&calm(3), Plant::MoneyLost), "escrow");
    let short = Scenario { limit_seconds: 20, ..calm(3) };
    assert_eq!(notices(&short, Plant::NoClose), "ended");
}

#[test]
fn a_checkpoint_that_was_never_synced_is_missed() {
    let mut scenario = calm(6);
    // The owner's disk is lost, and then whoever said that it holds the copy loses power.
    let destroy =
        Fault { kind: Kind::Destroy { who: Who::Holder(1) }, when: When::Progress { slot: 1, round: 2, step: 30 } };
    let crash = |node| Fault {
        kind: Kind::Crash { who: Who::Node(node), restart_after_millis: Some(1_000), silent: false },
        when: When::Progress { slot: 1, round: 2, step: 30 },
    };
    scenario.fault = [destroy].into_iter().chain((0..4).map(crash)).collect();
    assert_eq!(run(&scenario, 1, None).violation, None);
    assert_eq!(notices(&scenario, Plant::NoSync), "checkpoints");
}

#[test]
fn a_scenario_out_of_range_is_refused_by_the_name_of_its_key() {
    let refused = |text: &str| Scenario::parse(text).unwrap_err().to_string();
    assert!(refused("name = \"x\"\nnodes = 1").contains("nodes"));
    assert!(refused("name = \"x\"\nnodes = 4\n[job]\nslots = 0").contains("job.slots"));
    assert!(refused("name = \"x\"\nnodes = 4\nnods = 4").contains("README"));
}
