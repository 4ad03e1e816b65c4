//! Fails, with the reason, where the source breaks a rule of the architecture (the crate doc of `src/lib.rs`).
//!
//! The rules are about text, so a rule looks at source lines without comments and without the tests at a file's end.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The protocol modules. They meet in the coordinator and never import each other.
const SIBLINGS: &[&str] = &["executor", "health", "proof", "shard", "recovery", "round"];
/// What each sibling may import beside itself.
const SIBLINGS_MAY: &[&str] =
    &["types", "codec", "protocol", "store", "identity", "gossip", "clock", "tensor", "chain", "resource"];
/// What the wire and the pure parts may never touch: files, processes, sockets, threads, chance, time.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "tokio",
    "rustix",
    "nix::",
    "reqwest",
    "redb",
    "getrandom",
    "crate::clock",
    "HashMap",
    "HashSet",
    "SystemTime",
    "Instant::now",
];
/// Files that decide without IO though their names don't say so: those of the ledger's application.
const PURE_FILES: &[&str] = &[
    "chain/abci/genesis.rs",
    "chain/abci/proposal.rs",
    "chain/abci/query.rs",
    "chain/abci/sync.rs",
    "chain/authenticated.rs",
    "chain/authenticated/sparse.rs",
    "chain/client/outbox/doubt.rs",
    "chain/client/outbox/kept.rs",
    "chain/key.rs",
];
/// Lines of a file before its tests, documentation included.
const MAX_LINES: usize = 500;
/// Files over the limit that wait to be split. The list only shrinks: an entry that is not needed fails too.
const TO_BE_SPLIT: &[&str] = &[];

/// One source file: its path below `src/`, and its lines without comments and tests.
struct Source {
    path: String,
    text: String,
    lines: Vec<(usize, String)>,
}

impl Source {
    /// The first part of its path: the module it belongs to.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    fn is_pure(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let pure_name = ["state.rs", "wire.rs", "unixfs.rs", "car.rs", "outbox.rs"].contains(&name);
        let pure_folder = ["types/", "chain/ledger/", "chain/light/", "node/coordinator/"]
            .iter()
            .any(|folder| self.path.starts_with(folder));
        pure_name || pure_folder || PURE_FILES.contains(&self.path.as_str()) || self.path.contains("/state/")
    }

    /// Complaints about each line that has one of `words`.
    fn complain(&self, words: &[&str], reason: &str) -> Vec<String> {
        let has = |line: &str| words.iter().find(|word| line.contains(**word)).copied();
        let complaint = |(number, line): &(usize, String)| {
            has(line).map(|word| format!("src/{}:{number}: `{word}`: {reason}", self.path))
        };
        self.lines.iter().filter_map(complaint).collect()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    files.iter().map(|file| read(&root, file)).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            collect(&path, files);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
}

fn read(root: &Path, file: &Path) -> Source {
    let text = fs::read_to_string(file).unwrap();
    let production = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code = production.lines().enumerate().map(|(index, line)| (index + 1, uncommented(line)));
    let lines = code.filter(|(_, line)| !line.trim().is_empty()).collect();
    let path = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    Source { path, lines, text }
}

/// The line without its comment. Two slashes inside an address (`http://`) begin none.
fn uncommented(line: &str) -> String {
    let start = line.match_indices("//").map(|(at, _)| at).find(|at| !line[..*at].ends_with(':'));
    line[..start.unwrap_or(line.len())].to_owned()
}

/// Modules of this crate that the code imports or names: the outer names of `crate::a` and `crate::{a::b, c}`.
fn imports(source: &Source) -> BTreeSet<String> {
    let code: String = source.lines.iter().map(|(_, line)| line.clone() + " ").collect();
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(outer_names(list)),
            None => found.extend(first_word(rest)),
        }
    }
    found
}

/// The names at the outer level of a list up to the brace that ends it.
fn outer_names(list: &str) -> Vec<String> {
    let (mut depth, mut outer) = (0_u32, String::new());
    for letter in list.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            letter if depth == 0 => outer.push(letter),
            _ => {}
        }
    }
    outer.split(',').filter_map(first_word).collect()
}

fn first_word(text: &str) -> Option<String> {
    let word: String =
        text.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    (!word.is_empty()).then_some(word)
}

fn verdict(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn protocol_modules_are_siblings_and_never_import_each_other() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| SIBLINGS.contains(&source.module())) {
        for import in imports(source) {
            let own = import == source.module();
            if !own && !SIBLINGS_MAY.contains(&import.as_str()) {
                complaints.push(format!(
                    "src/{} imports `crate::{import}`: siblings meet in the coordinator, and stand only on {SIBLINGS_MAY:?}",
                    source.path
                ));
            }
        }
    }
    verdict(complaints);
}

#[test]
fn arrows_point_down_from_the_command_line_to_the_values() {
    // Who may be imported by whom: a module stands above those it lists.
    let forbidden: &[(&str, &[&str], &str)] = &[
        ("types", &["*"], "values know nobody but the codec"),
        ("codec", &["*"], "the codec knows nobody"),
        ("conduct", &["*"], "who counts misbehaviour knows nobody but the values"),
        ("protocol", &["node", "cli", "config", "api", "swarm", "sim", "chain"], "the shim knows no policy"),
        ("store", &["node", "cli", "config", "api", "swarm", "sim"], "edges are below the node"),
        ("chain", &["node", "cli", "config", "api", "swarm", "sim"], "the ledger is below the node"),
        ("gossip", &["node", "cli", "config", "api", "swarm", "sim", "chain"], "messages are data"),
        ("resource", &["node", "cli", "config", "api", "swarm", "sim"], "what the node stands on"),
        ("validator", &["node", "cli", "config", "api", "swarm", "sim"], "what the node stands on"),
        ("network", &["node", "cli", "config", "api", "swarm", "sim"], "what the node stands on"),
        ("ipfs", &["node", "cli", "config", "api", "swarm", "sim"], "what the node stands on"),
        ("swarm", &["node", "cli", "api", "sim"], "the swarm carries, the node decides"),
        ("config", &["node", "cli", "api", "swarm", "sim"], "settings are read by those above"),
        ("api", &["node", "cli", "config", "swarm", "sim"], "the control API is plain data with a server"),
        ("submit", &["node", "cli", "config", "api", "swarm", "sim"], "a job file is read without a node"),
        ("node", &["cli", "sim"], "the node does not know who started it"),
        ("sim", &["cli", "swarm"], "the simulator drives pure parts alone"),
    ];
    let mut complaints = Vec::new();
    for source in sources() {
        let Some((_, below, reason)) = forbidden.iter().find(|(module, ..)| *module == source.module()) else {
            continue;
        };
        for import in imports(&source) {
            let allowed = import == source.module()
                || (source.module() == "types" && import == "codec")
                || (source.module() == "conduct" && import == "types");
            if !allowed && (below.contains(&"*") || below.contains(&import.as_str())) {
                complaints.push(format!("src/{} imports `crate::{import}`: {reason}", source.path));
            }
        }
    }
    verdict(complaints);
}

#[test]
fn the_swarm_is_owned_by_the_event_loop_alone() {
    let mut complaints = Vec::new();
    for source in sources() {
        if source.path != "swarm.rs" && source.path != "node/event_loop.rs" {
            complaints.extend(source.complain(
                &[" Swarm<", "<Swarm<", "(Swarm<", "&Swarm<", "&mut Swarm<"],
                "only swarm.rs and the event loop hold it",
            ));
        }
        let speaks_swarm = ["swarm.rs", "protocol/behaviour.rs", "protocol/metered.rs", "node/event_loop.rs"]
            .contains(&source.path.as_str())
            || source.path.starts_with("swarm/");
        if !speaks_swarm {
            complaints.extend(source.complain(
                &["libp2p::swarm", "libp2p_swarm"],
                "libp2p's swarm types stay in protocol/, swarm.rs and its parts, and the event loop",
            ));
        }
    }
    verdict(complaints);
}

#[test]
fn time_and_chance_are_read_in_the_clock_alone() {
    let words = ["Instant::now", "SystemTime::now", "getrandom::", "rand::random", "thread_rng", "OsRng"];
    let elsewhere = sources().into_iter().filter(|source| source.path != "clock.rs");
    verdict(
        elsewhere
            .flat_map(|source| {
                source.complain(&words, "time and chance come in as arguments; `clock` alone reads them")
            })
            .collect(),
    );
}

#[test]
fn states_and_wire_formats_are_pure() {
    let all = sources();
    let gone: Vec<_> = PURE_FILES.iter().filter(|file| all.iter().all(|source| source.path != **file)).collect();
    assert!(gone.is_empty(), "PURE_FILES names what is not there: {gone:?}");
    let pure = all.into_iter().filter(Source::is_pure);
    let reason = "a state decides without IO, clock, chance or unordered iteration";
    verdict(pure.flat_map(|source| source.complain(IMPURE, reason)).collect());
}

#[test]
fn the_ledger_is_reached_through_its_client_and_never_called() {
    let allowed = |path: &str| {
        ["chain/ledger", "chain/embedded", "chain/abci", "sim/"].iter().any(|start| path.starts_with(start))
    };
    let outside = sources().into_iter().filter(|source| !allowed(&source.path));
    verdict(
        outside
            .flat_map(|source| {
                source.complain(
                    &["chain::ledger", "super::ledger", "ledger::Ledger"],
                    "only chain/embedded, chain/abci and sim run the ledger; everybody else asks a chain",
                )
            })
            .collect(),
    );
}

#[test]
fn cbor_is_written_and_read_in_the_codec_alone() {
    let elsewhere = sources().into_iter().filter(|source| source.path != "codec.rs");
    verdict(
        elsewhere
            .flat_map(|source| {
                source.complain(&["serde_cbor"], "`codec` bounds size and depth; serde_cbor is archived")
            })
            .collect(),
    );
}

#[test]
fn a_test_network_is_made_of_processes() {
    let testnet = sources().into_iter().filter(|source| source.path.starts_with("cli/testnet"));
    let words = ["crate::node", "crate::swarm", "node::run", "libp2p::"];
    verdict(
        testnet.flat_map(|source| source.complain(&words, "testnet owns no swarm and no state of a node")).collect(),
    );
}

#[test]
fn every_file_says_what_it_is_for_and_is_short() {
    let mut complaints = Vec::new();
    for source in sources() {
        if !source.text.starts_with("//!") {
            complaints.push(format!("src/{}: begins without a `//!` that says what it is for", source.path));
        }
        let lines = source.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count();
        match (lines > MAX_LINES, TO_BE_SPLIT.contains(&source.path.as_str())) {
            (true, false) => complaints.push(format!(
                "src/{}: {lines} lines before its tests; split it by concern at {MAX_LINES}",
                source.path
            )),
            (false, true) => {
                complaints.push(format!("src/{}: is short enough now; take it off TO_BE_SPLIT", source.path))
            }
            _ => {}
        }
    }
    verdict(complaints);
}

#[test]
fn the_rules_find_what_they_look_for() {
    assert_eq!(uncommented("let a = 1; // Instant::now"), "let a = 1; ");
    assert_eq!(uncommented("\"http://node\" // x"), "\"http://node\" ");
    let source = |text: &str| Source {
        path: "health/state.rs".into(),
        text: text.into(),
        lines: text.lines().enumerate().map(|(index, line)| (index, line.to_owned())).collect(),
    };
    let nested = source("use crate::{\n    shard::{Files, State},\n    types::Time,\n};\nuse crate::proof::State;");
    let found: Vec<String> = imports(&nested).into_iter().collect();
    assert_eq!(found, ["proof", "shard", "types"]);
    assert!(source("").is_pure());
    assert_eq!(source("let now = Instant::now();").complain(IMPURE, "no").len(), 1);
}
