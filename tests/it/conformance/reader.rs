//! The second reader, in another language: `scripts/reference/reader.py`, written from the pages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::vectors::protocols;
use crate::executor::host::python;

#[test]
fn the_second_reader_agrees_on_every_vector() {
    let Some(output) = read(&protocols()) else { return };
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn the_second_reader_finds_a_wrong_vector() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("protocols");
    copy_directory(&protocols(), &copy);
    let page = copy.join("vectors/beat.json");
    let text = fs::read_to_string(&page).unwrap();
    fs::write(page, text.replacen("\"leaving\": false", "\"leaving\": true", 1)).unwrap();
    let Some(output) = read(&copy) else { return };
    assert!(!output.status.success() && words(&output).contains("1 disagreements"), "{}", words(&output));
}

/// What the reader says of these pages; none if its packages are not there.
fn read(protocols: &Path) -> Option<Output> {
    let python = python();
    let packages = Command::new(&python).args(["-c", "import cbor2, cryptography"]).output();
    if !packages.is_ok_and(|output| output.status.success()) {
        // `scripts/test` installs them first, so there it never comes to this.
        assert!(std::env::var_os("ATLAS_TEST_PYTHON").is_none(), "{} lacks cbor2 and cryptography", python.display());
        eprintln!("skipped: {} lacks cbor2 and cryptography; run scripts/setup --dev", python.display());
        return None;
    }
    let reader = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/reference/reader.py");
    Some(Command::new(python).arg(reader).arg(protocols).output().unwrap())
}

fn words(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
