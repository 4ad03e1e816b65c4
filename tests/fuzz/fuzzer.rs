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

/// The crate that decodes base64 for the RPC library. It panics on some of it; the client knows, and takes the panic for an
/// answer that can't be decoded.
const CAUGHT: &str = "/subtle-encoding-";

/// libFuzzer's hook ends the process at every panic, caught or not: so those that the node catches don't reach it.
fn spare_what_is_caught() {
    let fatal = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|location| !location.file().contains(CAUGHT)) {
            fatal(panic);
        }
    }));
}

fn begin() {
    spare_what_is_caught();
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
