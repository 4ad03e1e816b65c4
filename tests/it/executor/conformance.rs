//! `script check`, on the shipped bundles and on bundles that break the contract.

use std::{fs, path::Path};

use atlas_node::executor::conformance::{self, Report, Verdict};

use super::host::{bundles, launcher_command, python};

async fn check(bundle: &Path) -> Report {
    conformance::check(bundle, &python(), launcher_command()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_bundles_keep_the_contract() {
    for name in ["digits", "ridge"] {
        let report = check(&bundles().join(name)).await;
        assert!(report.findings.iter().all(|finding| finding.verdict == Verdict::Passed), "{report:#?}");
    }
}

#[test]
fn the_copies_of_the_helper_are_equal() {
    let read = |name: &str| fs::read(bundles().join(name).join("atlas_script.py")).unwrap();
    assert!(read("digits") == read("ridge"), "copy scripts/bundles/digits/atlas_script.py to the other bundles");
}

/// The ridge bundle with one text in place of another.
fn broken(text: &str, by: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["atlas.toml", "atlas_script.py", "make.py", "ridge.py"] {
        let source = fs::read_to_string(bundles().join("ridge").join(name)).unwrap();
        fs::write(copy.path().join(name), source.replace(text, by)).unwrap();
    }
    copy
}

async fn failed(text: &str, by: &str) -> Vec<&'static str> {
    let bundle = broken(text, by);
    let report = check(bundle.path()).await;
    let failed = report.findings.iter().filter(|finding| matches!(finding.verdict, Verdict::Failed(_)));
    failed.map(|finding| finding.check).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_draws_on_chance_is_found_out() {
    let drawn = failed("rate * slope for", "rate * (1 + os.urandom(1)[0]) * slope for").await;
    assert!(drawn.contains(&"two runs give the same bytes"), "{drawn:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_forgets_its_checkpoint_is_found_out() {
    let forgets = failed("if job.resume_from else job.model_path", "if False else job.model_path").await;
    assert_eq!(forgets, ["a resumed run gives the same bytes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_with_exit_codes_of_its_own_is_found_out() {
    assert_eq!(
        failed("INTERNAL, PREEMPTED = 64, 65,", "INTERNAL, PREEMPTED = 64, 66,").await,
        ["bad data exit with 65"]
    );
}
