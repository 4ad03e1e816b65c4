//! libFuzzer over the targets: `scripts/fuzz` builds and runs this, see there.
//!
//! `ATLAS_FUZZ_TARGET` names the target. With `ATLAS_FUZZ_SEEDS`, its seeds are first written to that directory, which
//! libFuzzer then reads as its corpus.
#![no_main]

mod targets;

use std::{fs, path::Path, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use targets::Target;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(init: begin(), |input: &[u8]| {
    if let Some(target) = TARGET.get() {
        target.run(input);
    }
});

fn begin() {
    let name = std::env::var("ATLAS_FUZZ_TARGET").expect("scripts/fuzz names a target in ATLAS_FUZZ_TARGET");
    let names = || targets::all().iter().map(|target| target.name).collect::<Vec<_>>().join(" ");
    let target = Target::find(&name).unwrap_or_else(|| panic!("no target `{name}`; there are: {}", names()));
    if let Some(directory) = std::env::var_os("ATLAS_FUZZ_SEEDS") {
        for (number, seed) in target.seeds().iter().enumerate() {
            fs::write(Path::new(&directory).join(format!("seed-{number:04}")), seed)
                .expect("the corpus can be written");
        }
    }
    let _ = TARGET.set(target);
}
