//! The simulator against itself: it repeats, it survives, and it notices.

use super::*;
use crate::types::JobStatus;

const SMOKE: &str = include_str!("../../simulations/smoke.toml");

fn smoke() -> Scenario {
    Scenario::parse(SMOKE).unwrap()
}

#[test]
fn the_smoke_scenario_completes_its_job() {
    let report = run(&smoke(), 1, None);
    assert_eq!((report.violation.as_ref(), report.status), (None, Some(JobStatus::Completed)), "{report}");
}
