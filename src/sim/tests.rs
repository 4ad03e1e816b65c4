//! The simulator against itself: it repeats, it survives, and it notices.

use super::*;
use crate::{
    chain::ledger::Economy,
    types::{JobStatus, Quorum},
};

const SMOKE: &str = include_str!("../../simulations/smoke.toml");

/// The smoke scenario, with four nodes and fewer rounds.
fn smoke(rounds: u32) -> Scenario {
    let mut scenario = Scenario::parse(SMOKE).unwrap();
    (scenario.nodes, scenario.job.slots, scenario.job.rounds) = (4, 4, rounds);
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
    assert_eq!(notices(&smoke(4), Plant::RolledBack), "rollback");
    let mut staked = calm(3);
    staked.ledger.economy = Some(Economy { min_stake: 1_000, ..Economy::default() });
    assert_eq!(run(&staked, 1, None).violation, None);
    assert_eq!(notices(&staked, Plant::StakeLost), "supply");
    let short = Scenario { limit_seconds: 20, ..calm(3) };
    assert_eq!(notices(&short, Plant::NoClose), "ended");
    assert_eq!(notices(&calm(3), Plant::NoClose), "alive");
}

#[test]
fn a_holder_whose_place_nobody_takes_and_a_node_that_keeps_more_than_it_lends_are_noticed() {
    let mut scenario = Scenario::parse(include_str!("../../simulations/storage.toml")).unwrap();
    scenario.fault.truncate(1);
    (scenario.settle_seconds, scenario.expect.repaired_at_least) = (30, Some(1));
    assert_eq!(run(&scenario, 1, None).violation, None);
    let noticed = |scenario: &Scenario, plant| run(scenario, 1, Some(plant)).violation.unwrap();
    let missing = noticed(&scenario, Plant::LapseUnseen);
    assert!(missing.invariant == "storage" && missing.what.contains("shall have 2 copies: 1 are counted"), "{missing}");
    // Fewer nodes than copies, each with room for one: whoever does not know that it is full takes a second.
    scenario.storage.as_mut().unwrap().objects = 6;
    let over = noticed(&scenario, Plant::RoomUnseen);
    assert!(
        over.invariant == "storage" && over.what.contains("keeps 131072 bytes for others and lends 65536"),
        "{over}"
    );
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
fn looking_at_everything_at_each_event_finds_what_looking_at_changes_does() {
    let thorough =
        |scenario: &Scenario, plant| run_with(scenario, 1, &Setup { plant, thorough: true, ..Setup::default() });
    assert_eq!(thorough(&smoke(4), None), run(&smoke(4), 1, None));
    let plants = [(4, Plant::BatchTwice), (3, Plant::ForgedHolder), (3, Plant::OtherModel), (3, Plant::MoneyLost)];
    for (rounds, plant) in plants {
        let found = |report: Report| report.violation.map(|violation| violation.invariant);
        let scenario = smoke(rounds);
        assert_eq!(found(thorough(&scenario, Some(plant))), found(run(&scenario, 1, Some(plant))), "{plant:?}");
    }
}

#[test]
fn a_signature_that_is_verified_once_for_all_changes_nothing() {
    let setup = Setup { verify_all: true, ..Setup::default() };
    assert_eq!(run_with(&smoke(4), 1, &setup), run(&smoke(4), 1, None));
}

#[test]
fn every_scenario_can_be_read() {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/simulations")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let scenario = Scenario::parse(&std::fs::read_to_string(&path).unwrap());
            assert!(scenario.is_ok_and(|read| path.file_stem().is_some_and(|stem| *stem == *read.name)), "{path:?}");
        }
    }
}

/// A scenario of a file, with a few rounds.
fn short(text: &str) -> Report {
    let mut scenario = Scenario::parse(text).unwrap();
    scenario.job.rounds = 5;
    run(&scenario, scenario.seed, None)
}

#[test]
fn a_liar_in_each_role_changes_no_model() {
    let honest = run(&calm(5), 1, None).model_root;
    let files = [
        include_str!("../../simulations/liar-receipt.toml"),
        include_str!("../../simulations/liar-update.toml"),
        include_str!("../../simulations/liar-verifier.toml"),
        include_str!("../../simulations/liar-aggregator.toml"),
        include_str!("../../simulations/liar-giver.toml"),
        include_str!("../../simulations/liar-client.toml"),
    ];
    for report in files.map(short) {
        assert_eq!((report.violation.as_ref(), report.model_root), (None, honest), "{report}");
    }
}

#[test]
fn offences_of_each_kind_are_reported_and_punished_and_nobody_honest_is() {
    let mut scenario = Scenario::parse(include_str!("../../simulations/economy.toml")).unwrap();
    scenario.job.rounds = 4;
    let mut without = scenario.clone();
    without.ledger.economy = None;
    scenario.expect.punished_at_least = Some(1);
    scenario.expect.offenders = Some(1);
    without.expect = scenario::Expect { offenders: Some(0), ..scenario::Expect::default() };
    for (who, lie) in
        [(Who::Holder(1), Lie::Forge), (Who::Holder(1), Lie::TwoReceipts), (Who::Aggregator, Lie::TwoRoots)]
    {
        // Where the ledger knows no offences nobody is reported, and the job ends as well.
        for scenario in [&mut scenario, &mut without] {
            scenario.fault = vec![Fault { kind: Kind::Liar { who, lie }, when: When::RoundOpened(1) }];
            let report = run(scenario, 1, None);
            let ended = (report.violation.as_ref(), report.status);
            assert_eq!(ended, (None, Some(JobStatus::Completed)), "{lie:?}: {report}");
        }
    }
}

#[test]
fn clocks_that_differ_and_slow_disks_stop_nothing() {
    let files = [include_str!("../../simulations/clock-skew.toml"), include_str!("../../simulations/slow-disks.toml")];
    for report in files.map(short) {
        assert_eq!(report.violation, None, "{report}");
    }
}

#[test]
fn a_failing_run_is_shrunk_to_the_fault_that_matters() {
    let mut scenario = calm(4);
    scenario.expect.reassigned_at_most = Some(0);
    let at = |kind, round| Fault { kind, when: When::RoundOpened(round) };
    let crash = Kind::Crash { who: Who::Holder(1), restart_after_millis: None, silent: false };
    scenario.fault = vec![
        at(Kind::Slow { who: Who::Node(2), percent: 150 }, 1),
        at(crash.clone(), 2),
        at(Kind::Skew { who: Who::Node(3), millis: 5_000 }, 2),
    ];
    let failure = search::failure(&scenario, 1).expect("a task was reassigned");
    assert_eq!(failure.faults, [(1, at(crash, 2))]);
    assert_eq!(failure.replay(), "--seed 1 --faults '1'");
    scenario.expect.reassigned_at_most = None;
    assert!(search::search(&scenario, 1, 2, 2).is_empty());
}

#[test]
fn a_seed_draws_the_same_faults_again_and_another_draws_others() {
    let scenario = Scenario::parse(include_str!("../../simulations/search.toml")).unwrap();
    let drawn = |seed| draw::draw(&scenario, seed);
    assert_eq!(drawn(3), drawn(3));
    assert!((1..50).any(|seed| drawn(seed).fault != drawn(seed + 1).fault));
    assert!((1..50).all(|seed| (1..=6).contains(&drawn(seed).fault.len()) && drawn(seed).random.is_none()));
}

#[test]
fn a_scenario_out_of_range_is_refused_by_the_name_of_its_key() {
    let refused = |text: &str| Scenario::parse(text).unwrap_err().to_string();
    assert!(refused("name = \"x\"\nnodes = 1").contains("nodes"));
    assert!(refused("name = \"x\"\nnodes = 4\n[job]\nslots = 0").contains("job.slots"));
    assert!(refused("name = \"x\"\nnodes = 4\nnods = 4").contains("README"));
    let storage = "name = \"x\"\nnodes = 4\n[storage]\nroom_bytes = 8\nobjects = 1\nobject_bytes = 8\ncopies = ";
    assert!(
        Scenario::parse(&format!("{storage}3")).is_ok() && refused(&format!("{storage}4")).contains("storage.copies")
    );
}
