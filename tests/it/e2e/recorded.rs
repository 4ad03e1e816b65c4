//! The parts of a node decide by what they are told and by nothing else: recorded in real processes, and told the same again,
//! they say the same again.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use atlas_node::{
    codec,
    record::{COORDINATOR, Entry, MAGIC, What, reader::Reader},
    sim::replay::{self, Error, Replayed, recordings},
};

use super::{kills::testnet, lab::Lab};

/// Parts that a job with training, proofs and transfers keeps busy on each node.
const BUSY: [&str; 5] = [COORDINATOR, "/atlas/task/1", "/atlas/health/1", "/atlas/proof/1", "/atlas/shard/1"];

fn entries(path: &Path) -> Vec<Entry> {
    let mut reader = Reader::open(path).unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = reader.read().unwrap() {
        entries.push(entry);
    }
    entries
}

fn write(path: &Path, entries: &[Entry]) {
    let mut file = File::create(path).unwrap();
    file.write_all(MAGIC).unwrap();
    for entry in entries {
        let body = codec::encode(entry);
        file.write_all(&u32::try_from(body.len()).unwrap().to_be_bytes()).unwrap();
        file.write_all(&body).unwrap();
    }
}

fn replay(path: &Path) -> Replayed {
    replay::replay(path, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_that_were_recorded_say_the_same_again_when_they_are_told_the_same() {
    let lab = Lab::new();
    let directory = lab.path().join("recordings");
    // One of them dies in the middle: its recording breaks off, and is right up to there.
    let flags = ["--record", directory.to_str().unwrap(), "--kill", "worker"];
    let line = testnet(lab.path(), &flags).await;
    assert_eq!(line["ok"], true);

    let files = recordings(&directory).unwrap();
    assert_eq!(files.len(), 4, "the ledger's host and three nodes: {files:?}");
    for file in &files {
        let replayed = replay(file);
        assert_eq!(replayed.difference, None, "{}", file.display());
        let hosts = file.parent().unwrap().ends_with("ledger");
        for part in BUSY.into_iter().filter(|_| !hosts) {
            let tally = replayed.parts.get(part).copied().unwrap_or_default();
            assert!(tally.inputs > 0 && tally.outputs > 0, "{}: {part}: {tally:?}", file.display());
        }
        assert_eq!(hosts, replayed.parts.keys().any(|part| part.starts_with("ledger:")), "{:?}", replayed.parts);
    }
    a_difference_is_found(files.iter().find(|file| file.to_str().unwrap().contains("node-1")).unwrap());
}

/// Whatever is left out, changed or added is noticed where it begins to matter.
fn a_difference_is_found(file: &Path) {
    let whole = entries(file);
    for part in BUSY {
        let said = |entry: &Entry| entry.part == part && matches!(entry.what, What::Output(_));
        let first = whole.iter().position(said).unwrap();

        let mut silent = whole.clone();
        silent.remove(first);
        write(file, &silent);
        assert_eq!(replay(file).difference.unwrap().part, part, "it says more than was recorded");

        let mut deaf = whole.clone();
        let told = |entry: &Entry| entry.part == part && matches!(entry.what, What::Input { .. });
        deaf.remove(whole[..first].iter().rposition(told).unwrap());
        write(file, &deaf);
        assert_eq!(replay(file).difference.unwrap().part, part, "it was told less than was recorded");

        let mut other = whole.clone();
        if let What::Output(spoken) = &mut other[first].what {
            spoken.digest[0] ^= 1;
        }
        write(file, &other);
        let difference = replay(file).difference.unwrap();
        assert_eq!((difference.part.as_str(), difference.entry), (part, first as u64), "it says something else");
    }
    write(file, &whole);
    assert_eq!(replay(file).difference, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_needs_the_nodes_own_key_and_a_recording() {
    let mut lab = Lab::new();
    let directory = lab.path().join("recordings");
    lab.start("n0", &["--record", directory.to_str().unwrap()]).await;
    lab.start("n1", &[]).await;
    lab.nodes[0].ask_to_stop();
    lab.nodes[0].stopped().await;
    let file = &recordings(&directory).unwrap()[0];
    assert_eq!(replay(file).difference, None);
    let other = lab.nodes[1].data_dir.join("node.key");
    assert!(matches!(replay::replay(file, Some(&other)).unwrap_err(), Error::OtherKey { .. }));
    fs::remove_file(lab.nodes[0].data_dir.join("node.key")).unwrap();
    assert!(matches!(replay::replay(file, None).unwrap_err(), Error::Key(_)));
    assert!(matches!(recordings(&lab.nodes[1].data_dir).unwrap_err(), Error::Nothing { .. }));
}
