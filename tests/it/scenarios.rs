//! The files of `simulations/`: each comes out as it was accepted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use atlas_node::sim::{Scenario, run};

/// Over half a minute each in a debug build; `atlas-sim table` compares them too.
const LONG: &[&str] = &["churn", "ledger-away", "smoke", "thousand", "thundering"];
/// Seeds of `search.toml` that once failed, or never ended: a node worked on an older view of the ledger for ever
/// (22, 60), the run stood still, for a reason that was not found (11), or a checkpoint was missed whose two machines were
/// both lost for ever (852).
const ONCE_FAILED: &[u64] = &[11, 22, 60, 852];

fn scenarios() -> Vec<(PathBuf, Scenario)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let toml = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    toml.map(|path| (path.clone(), Scenario::parse(&fs::read_to_string(path).unwrap()).unwrap())).collect()
}

/// Runs each on all processors; the words of those that do not come out as they must.
fn complaints<T: Send>(work: Vec<T>, judge: impl Fn(T) -> Option<String> + Sync) -> Vec<String> {
    let (work, found) = (Mutex::new(work), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(next) = work.lock().unwrap().pop() else { return };
                    let complaint = judge(next);
                    found.lock().unwrap().extend(complaint);
                }
            });
        }
    });
    found.into_inner().unwrap()
}

#[test]
fn every_scenario_comes_out_as_it_was_accepted() {
    let scenarios = scenarios();
    assert!(scenarios.iter().all(|(_, scenario)| scenario.accepted.is_some()), "`atlas-sim table --accept` writes it");
    let short = scenarios.into_iter().filter(|(_, scenario)| !LONG.contains(&scenario.name.as_str())).collect();
    let complaints = complaints(short, |(path, scenario)| {
        let report = run(&scenario, scenario.seed, None);
        let same = report.violation.is_none() && scenario.accepted == Some(report.accepted());
        (!same).then(|| format!("{}: accepted {:?}\n{report}{:?}", path.display(), scenario.accepted, report.violation))
    });
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn seeds_that_once_failed_hold() {
    let (_, scenario) = scenarios().into_iter().find(|(_, scenario)| scenario.name == "search").unwrap();
    let complaints = complaints(ONCE_FAILED.to_vec(), |seed| {
        run(&scenario, seed, None).violation.map(|violation| format!("seed {seed}: {violation}"))
    });
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
