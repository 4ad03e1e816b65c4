//! The second reader, in another language: `scripts/reference/reader.py`, written from the pages.

use std::{path::Path, process::Command};

use crate::executor::host::python;

#[test]
fn the_second_reader_agrees_on_every_vector() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = python();
    let packages = Command::new(&python).args(["-c", "import cbor2, cryptography"]).output();
    if !packages.as_ref().is_ok_and(|output| output.status.success()) {
        // `scripts/test` installs them first, so there it never comes to this.
        assert!(std::env::var_os("ATLAS_TEST_PYTHON").is_none(), "{} lacks cbor2 and cryptography", python.display());
        eprintln!("skipped: {} lacks cbor2 and cryptography; run scripts/setup --dev", python.display());
        return;
    }
    let output = Command::new(python).arg(root.join("scripts/reference/reader.py")).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
}
