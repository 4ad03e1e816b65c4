//! The training run whose answer names the bits of this host.

use atlas_node::executor::known_answer;

use super::host::{launcher_command, python};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_host_gives_the_same_answer_with_and_another_without_numpy() {
    let answer = async |python| known_answer::run(python, launcher_command()).await.unwrap();
    let (first, second) = tokio::join!(answer(python()), answer(python()));
    assert_eq!(first, second);
    // A virtual environment without packages.
    let directory = tempfile::tempdir().unwrap();
    let made = std::process::Command::new(python())
        .args(["-m", "venv", "--without-pip"])
        .arg(directory.path().join("bare"))
        .status()
        .unwrap();
    assert!(made.success());
    assert_ne!(answer(directory.path().join("bare/bin/python")).await, first);
}
