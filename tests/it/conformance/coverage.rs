//! Nothing on the wire without a page, no page without vectors, no number in a page that is not the code's.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use atlas_node::{
    chain::{
        ledger::{Economy, Parameters},
        rpc,
    },
    conduct::{self, Budget, Offence},
    executor, gossip, health, proof,
    protocol::{State, frame},
    shard,
    swarm::{gate, mesh},
};

use super::{registry, vectors};

/// Pages without bytes of their own.
const NO_VECTORS: &[&str] = &["README"];

/// Hashed or named by a node for itself alone: another may do it in another way.
const OWN_AFFAIRS: &[&str] = &[
    // `class_id` of a receipt, which is compared and never computed by others.
    "atlas/class/v1",
    // Whom to ask first to hold a copy, and when to dial again.
    "atlas/hold/v1",
    "atlas/redial/v1",
    // Directories and sockets of script processes.
    "atlas/work/v1",
    "atlas/worker/v1",
];

#[test]
fn every_type_of_the_wire_is_registered() {
    let registered: BTreeSet<(String, String)> = registry::all()
        .iter()
        .filter_map(|known| known.source)
        .map(|(file, name)| (file.into(), name.into()))
        .collect();
    let found = wire_types();
    assert!(found.len() > 20, "the scan finds the types: {found:?}");
    let forgotten: Vec<_> = found.difference(&registered).collect();
    assert!(
        forgotten.is_empty(),
        "without a page and vectors: {forgotten:?}; register them in conformance/registry.rs"
    );
    let gone: Vec<_> = registered.difference(&found).collect();
    assert!(gone.is_empty(), "registered, but not found in src/: {gone:?}");
}

#[test]
fn every_type_has_a_page_a_form_and_vectors_of_both_kinds() {
    let schema = read("schema.cddl");
    let pages = vectors::Page::all();
    for known in registry::all() {
        let name = known.name;
        let page = pages.iter().find(|page| page.page == known.page);
        let page = page.unwrap_or_else(|| panic!("{name}: no vectors/{}.json", known.page));
        let of_it = || page.vectors.iter().filter(|vector| vector.kind == name);
        assert!(of_it().any(|vector| vector.value.is_some()), "{name}: no valid vector");
        assert!(of_it().any(|vector| vector.error.is_some()), "{name}: no invalid vector");
        let text = if known.page == "control-api" { read("control-api.yaml") } else { read_page(known.page) };
        if let Some(limit) = known.limit {
            assert!(text.contains(&thousands(limit)), "{}.md does not state the limit of {name}: {limit}", known.page);
        }
        let in_schema = schema.lines().any(|line| line.starts_with(&format!("{name} = ")));
        let other_form = ["shard", "content", "state-root", "update", "script", "encoding", "control-api"];
        let is_other = other_form.contains(&known.page) && !in_schema;
        assert!(in_schema || is_other, "{name}: no rule in schema.cddl");
    }
}

#[test]
fn every_page_has_vectors_and_stands_in_the_table() {
    let readme = read("README.md");
    let vectors = vectors::names();
    let pages = files("md");
    for page in &pages {
        if NO_VECTORS.contains(&page.as_str()) {
            continue;
        }
        assert!(vectors.contains(page), "{page}.md has no vectors/{page}.json");
        assert!(readme.contains(&format!("]({page}.md)")), "{page}.md is not in the table of README.md");
    }
    for name in vectors {
        assert!(pages.contains(&name) || name == "control-api", "vectors/{name}.json has no page");
    }
}

#[test]
fn the_page_on_the_mesh_names_every_protocol_and_topic() {
    let page = read_page("network");
    let rows = [
        row::<health::State>(),
        row::<executor::State>(),
        row::<executor::inference::State>(),
        row::<proof::State>(),
        row::<shard::State>(),
        row::<rpc::State>(),
    ];
    for row in rows {
        assert!(page.contains(&row), "network.md has no line `{row}`");
    }
    for topic in [gossip::TOPIC_JOBS, gossip::TOPIC_ASSIGN, gossip::TOPIC_ROLLBACK, gossip::TOPIC_HEARTBEAT] {
        assert!(page.contains(&format!("| `{topic}` |")), "network.md does not name {topic}");
    }
}

#[test]
fn the_page_on_the_mesh_says_what_a_peer_is_cut_off_for() {
    let page = read_page("network");
    let protocol = || "".into();
    let offences = [
        Offence::Gossip,
        Offence::GossipFlood { count: 1 },
        Offence::GossipAgain { count: 1 },
        Offence::Streams { protocol: protocol(), count: 1 },
        Offence::Oversize { protocol: protocol() },
        Offence::Malformed { protocol: protocol() },
        Offence::Forged { protocol: protocol() },
        Offence::Stalled { protocol: protocol() },
        Offence::Lie { count: 1 },
        Offence::Connections { count: 1 },
    ];
    let rows = page.split("| offence | points |").nth(1).unwrap().lines().skip(2);
    let points: Vec<u32> = rows.map_while(|row| row.trim_end_matches(" |").rsplit_once("| ")?.1.parse().ok()).collect();
    assert_eq!(points, offences.map(|offence| offence.points()), "in the page's order");

    let seconds = |time: Duration| thousands(usize::try_from(time.as_secs()).unwrap());
    let mut said = vec![
        format!("At {} points (`CUT_OFF_AT`)", conduct::CUT_OFF_AT),
        format!("{} s (`FIRST_CUT_OFF`)", seconds(conduct::FIRST_CUT_OFF)),
        format!("{} s (`LONGEST_CUT_OFF`)", seconds(conduct::LONGEST_CUT_OFF)),
        format!("{} s without (`FORGET_REPEATS`)", seconds(conduct::FORGET_REPEATS)),
        format!("{} point a second (`POINTS_FORGOTTEN`)", conduct::POINTS_FORGOTTEN),
        format!("had {} (`GOSSIP_STREAMS`)", conduct::GOSSIP_STREAMS),
        format!("at most {} (`MAX_TOPICS_OF_PEER`)", mesh::MAX_TOPICS_OF_PEER),
        format!("| `MAX_ESTABLISHED_PER_PEER` | {} connections |", gate::MAX_ESTABLISHED_PER_PEER),
        format!("| `MAX_PENDING` | {} handshakes", gate::MAX_PENDING),
        format!("| `MAX_PENDING_PER_ADDRESS` | {} incoming", gate::MAX_PENDING_PER_ADDRESS),
        format!("| `STALL` | {} s ", seconds(frame::STALL)),
        format!(
            "| `MAX_READING` | {} MiB of requests over {} KiB (`SHORT`)",
            frame::MAX_READING >> 20,
            frame::SHORT >> 10
        ),
    ];
    let budgets = [
        ("GOSSIP", conduct::GOSSIP),
        ("GOSSIP_FRAMES", conduct::GOSSIP_FRAMES),
        ("GOSSIP_FORWARDED", conduct::GOSSIP_FORWARDED),
        (health::State::PROTOCOL, health::State::STREAMS),
        (executor::State::PROTOCOL, executor::State::STREAMS),
        (executor::inference::State::PROTOCOL, executor::inference::State::STREAMS),
        (proof::State::PROTOCOL, proof::State::STREAMS),
        (shard::State::PROTOCOL, shard::State::STREAMS),
        (rpc::State::PROTOCOL, rpc::State::STREAMS),
        ("KADEMLIA_STREAMS", conduct::KADEMLIA_STREAMS),
        ("IDENTIFY_STREAMS", conduct::IDENTIFY_STREAMS),
        ("CONNECTIONS", conduct::CONNECTIONS),
        ("CONNECTIONS_OF_ADDRESS", conduct::CONNECTIONS_OF_ADDRESS),
    ];
    let table = page.split("| budget | of |").nth(1).unwrap();
    for (name, Budget { start, burst, per_minute }) in budgets {
        let row = table.lines().find(|row| row.starts_with(&format!("| `{name}` |"))).unwrap_or_default();
        let numbers = [start, burst, per_minute].map(|number| thousands(number as usize)).join(" | ");
        assert!(row.ends_with(&format!("| {numbers} |")), "network.md: `{name}` is {numbers}, not {row}");
    }
    let (own, neighbours) = (conduct::GOSSIP_FORWARDED, conduct::GOSSIP);
    let is_less = 2 * own.burst <= neighbours.start && 2 * own.per_minute <= neighbours.per_minute;
    assert!(is_less, "who forwards must not look like a flood");
    said.retain(|words| !page.contains(words));
    assert!(said.is_empty(), "network.md does not say {said:?}");
}

fn row<S: State>() -> String {
    format!("| `{}` | {} | {} s |", S::PROTOCOL, S::MAX_STREAMS, S::TIMEOUT_MILLIS / 1_000)
}

#[test]
fn every_name_in_the_source_that_is_hashed_signed_or_asked_for_stands_on_a_page() {
    let pages: String = files("md").iter().map(|page| read_page(page)).collect();
    let mut names = BTreeSet::new();
    for (file, text) in sources() {
        for literal in text.split('"').skip(1).step_by(2) {
            let is_domain = literal.starts_with("atlas/") && literal.contains("/v1");
            let is_path = literal.starts_with("/atlas/") || literal.starts_with("/atlas.");
            if (is_domain || is_path) && !literal.contains(['{', ' ']) {
                names.insert((literal.trim_end_matches("\\0").to_owned(), file.clone()));
            }
        }
    }
    assert!(names.len() > 30, "the scan finds the names: {names:?}");
    let is_known = |name: &str| pages.contains(name) || OWN_AFFAIRS.contains(&name);
    let missing: Vec<_> = names.iter().filter(|(name, _)| !is_known(name)).collect();
    assert!(missing.is_empty(), "on no page: {missing:?}");
}

#[test]
fn the_messages_of_a_transaction_and_its_codes_are_those_of_the_source() {
    let page = read_page("transaction");
    let source = fs::read_to_string(source_root().join("chain/wire.rs")).unwrap();
    for message in variants(&source, "pub enum Message {") {
        assert!(page.contains(&format!("| `{message}` |")), "transaction.md does not name {message}");
    }
    let codes = variants(&source, "pub enum Code {");
    assert_eq!(codes.len(), 11, "a code was added: {codes:?}");
    for code in 0..codes.len() {
        assert!(page.contains(&format!("\n| {code} | ")), "transaction.md does not name code {code}");
    }
}

#[test]
fn the_parameters_of_a_ledger_are_those_of_the_source() {
    let page = read_page("ledger-state");
    let defaults = [serde_json::to_value(Parameters::default()), serde_json::to_value(Economy::default())];
    for defaults in defaults {
        for (name, value) in defaults.unwrap().as_object().unwrap() {
            assert!(page.contains(&format!("`{name}` {value}")), "ledger-state.md does not say `{name}` {value}");
        }
    }
    // It is left out where it has its default.
    assert!(page.contains(&format!("`max_objects` {}", Parameters::default().max_objects)));
}

#[test]
fn the_control_api_has_the_routes_of_the_source() {
    let page = read("control-api.yaml");
    let source = fs::read_to_string(source_root().join("api/routes.rs")).unwrap();
    let routes: BTreeSet<(String, String)> = source.split(".route(").skip(1).flat_map(methods).collect();
    assert!(routes.len() > 25, "the scan finds the routes: {routes:?}");
    assert_eq!(described(&page), routes);
}

/// The methods of one `.route("path", get(…).post(…))`.
fn methods(route: &str) -> Vec<(String, String)> {
    let path = route.split('"').nth(1).unwrap().to_owned();
    let own = route.split(".fallback(").next().unwrap();
    let has = |method: &str| {
        own.match_indices(&format!("{method}(")).any(|(at, _)| matches!(own.as_bytes()[at - 1], b' ' | b'.'))
    };
    ["get", "post"].into_iter().filter(|method| has(method)).map(|method| (path.clone(), method.into())).collect()
}

/// The paths and methods of an OpenAPI page, by their indentation.
fn described(page: &str) -> BTreeSet<(String, String)> {
    let mut path = String::new();
    let mut found = BTreeSet::new();
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("  /") {
            path = format!("/{}", name.trim_end_matches(':'));
        }
        if let "    get:" | "    post:" = line {
            found.insert((path.clone(), line.trim().trim_end_matches(':').into()));
        }
    }
    found
}

/// Types that implement a trait of the wire: their file below `src/`, and their name.
fn wire_types() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (file, text) in sources() {
        let mut add = |name: &str| {
            let is_name = !name.is_empty() && name.chars().all(char::is_alphanumeric);
            is_name.then(|| found.insert((file.clone(), name.to_owned())));
        };
        for line in text.lines() {
            let line = line.trim();
            for before in ["cbor_message!(", "gossip_object!("] {
                line.strip_prefix(before).and_then(|rest| rest.split(',').next()).map(&mut add);
            }
            for before in ["impl Message for ", "impl SignedObject for "] {
                line.strip_prefix(before).and_then(|rest| rest.split([' ', '{']).next()).map(&mut add);
            }
        }
    }
    found
}

/// The variants of the enumeration that begins with `head`: the names at the first level.
fn variants(source: &str, head: &str) -> Vec<String> {
    let body = source.split(head).nth(1).unwrap().split("\n}").next().unwrap();
    let at_first_level = body.lines().filter_map(|line| line.strip_prefix("    "));
    let names = at_first_level.filter(|line| line.starts_with(char::is_uppercase));
    names.map(|line| line.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned()).collect()
}

/// Each source file without its tests, by its path below `src/`.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(&source_root(), &mut files);
    let read = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
        let code: Vec<&str> = production.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        (file.strip_prefix(source_root()).unwrap().to_str().unwrap().to_owned(), code.join("\n"))
    };
    files.iter().map(read).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            collect(&path, files);
        } else if name.ends_with(".rs") && !name.contains("test") {
            files.push(path);
        }
    }
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The names of the files in `protocols/` with this ending.
fn files(ending: &str) -> Vec<String> {
    let paths = fs::read_dir(vectors::protocols()).unwrap().map(|entry| entry.unwrap().path());
    let named = paths.filter(|path| path.extension().is_some_and(|own| own == ending));
    named.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn read_page(page: &str) -> String {
    read(&format!("{page}.md"))
}

fn read(file: &str) -> String {
    fs::read_to_string(vectors::protocols().join(file)).unwrap_or_else(|error| panic!("protocols/{file}: {error}"))
}

/// As the pages write numbers: `1,048,576`.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}
