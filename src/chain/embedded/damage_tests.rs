//! Each file of an embedded ledger, bent or cut at any place: the ledger is the same, or it does not start and says why.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use proptest::prelude::*;

use super::{
    Error, LogError,
    block::Host,
    chain::{Chain, SNAPSHOT_EVERY},
    check_genesis,
    tests::{Journal, keypair},
};
use crate::types::{Digest, Time};

/// Blocks of the ledger that is damaged: some come after its snapshot.
const BLOCKS: u64 = SNAPSHOT_EVERY + 5;
const FILES: &[&str] = &["blocks.log", "blocks.synced", "index.redb", "snapshot-1000"];

fn open(directory: &Path) -> Result<Chain, Error> {
    let host = Host::new("atlas-test", keypair()).unwrap();
    Chain::open(directory, host, Box::new(Journal::default()))
}

fn end(chain: &Chain) -> (u64, Digest) {
    let application = chain.application();
    let application = application.read().unwrap();
    (application.height(), application.app_hash())
}

/// A ledger of [`BLOCKS`] blocks as its node left it, and its app hash after each of the last two.
fn whole() -> &'static (tempfile::TempDir, Digest, Digest) {
    static WHOLE: OnceLock<(tempfile::TempDir, Digest, Digest)> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let mut chain = open(directory.path()).unwrap();
        let mut hashes = (Digest([0; 32]), Digest([0; 32]));
        for number in 1..=BLOCKS {
            chain.commit(Time(1_000 + number), vec![number.to_string().into_bytes()]).unwrap();
            hashes = (hashes.1, end(&chain).1);
        }
        (directory, hashes.0, hashes.1)
    })
}

fn copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(whole().0.path()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// Flips a bit of a file, or cuts it off there: at `place` millionths of its length.
fn damage(file: &PathBuf, place: u32, bit: Option<u8>) {
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.len() * usize::try_from(place).unwrap() / 1_000_000;
    match bit {
        Some(bit) => bytes[at] ^= 1 << bit,
        None => bytes.truncate(at),
    }
    fs::write(file, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_ledger_with_one_damaged_file_is_the_same_ledger_or_does_not_start(
        file in prop::sample::select(FILES),
        // Half of the places near the end, where the newest block is.
        place in prop_oneof![0..1_000_000_u32, 990_000..1_000_000_u32],
        bit in prop::option::of(0..8_u8),
    ) {
        let directory = copy();
        damage(&directory.path().join(file), place, bit);
        match open(directory.path()) {
            Ok(chain) => prop_assert_eq!(end(&chain), (BLOCKS, whole().2)),
            Err(error) => {
                let words = crate::types::words(&error);
                prop_assert!(words.contains("from a copy") || words.contains("may be deleted"), "{file}: {words}");
                prop_assert!(file != "blocks.synced" && file != "snapshot-1000", "{words}");
            }
        }
    }
}

#[test]
fn a_last_block_that_rotted_stops_the_ledger_which_goes_on_without_it_only_if_it_is_told_to() {
    let directory = copy();
    let log = directory.path().join("blocks.log");
    damage(&log, 999_990, Some(3));
    let (bent, error) = (fs::read(&log).unwrap(), open(directory.path()).err().unwrap());
    let Error::Log(LogError::Lost { offset, .. }) = &error else { panic!("{error}") };
    assert_eq!(fs::read(&log).unwrap(), bent, "nothing was cut off");

    // What the error says.
    let words = error.to_string();
    assert!(words.contains(&format!("truncate --size={offset} ")) && words.contains("blocks.synced"), "{words}");
    fs::File::options().write(true).open(&log).unwrap().set_len(*offset).unwrap();
    fs::remove_file(directory.path().join("blocks.synced")).unwrap();
    fs::remove_file(directory.path().join("index.redb")).unwrap();
    let mut chain = open(directory.path()).unwrap();
    assert_eq!(end(&chain), (BLOCKS - 1, whole().1));
    chain.commit(Time(9_000), vec![b"another".to_vec()]).unwrap();
    drop(chain);
    assert_eq!(end(&open(directory.path()).unwrap()).0, BLOCKS);
}

#[test]
fn a_last_block_that_a_crash_tore_was_not_acknowledged_and_is_cut_off() {
    let directory = copy();
    let log = directory.path().join("blocks.log");
    let bytes = fs::read(&log).unwrap();
    // As if the last append had never ended: its mark is that of the block before.
    let chain = open(directory.path()).unwrap();
    drop(chain);
    fs::write(&log, [&bytes[..], &[0, 0, 2, 0, 9, 9]].concat()).unwrap();
    assert_eq!(end(&open(directory.path()).unwrap()), (BLOCKS, whole().2));
    assert_eq!(fs::read(directory.path().join("blocks.torn")).unwrap(), [0, 0, 2, 0, 9, 9]);
}

#[test]
fn a_log_that_ends_before_its_snapshot_is_never_gone_on_with() {
    for mark in [true, false] {
        let directory = copy();
        let log = directory.path().join("blocks.log");
        damage(&log, 400_000, None);
        if !mark {
            fs::remove_file(directory.path().join("blocks.synced")).unwrap();
        }
        let error = open(directory.path()).err().unwrap();
        assert!(matches!(error, Error::Log(LogError::Lost { .. })), "{error}");
    }
}

#[test]
fn a_genesis_that_is_not_what_was_written_is_told_by_its_digest() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = super::job_genesis("atlas-test".to_owned(), keypair().node_key());
    drop(super::Embedded::start(directory.path(), genesis.clone(), &keypair(), None).unwrap());
    let path = directory.path().join("genesis.cbor");
    let whole = fs::read(&path).unwrap();
    for place in 0..whole.len() {
        let mut bent = whole.clone();
        bent[place] ^= 1;
        let error = check_genesis(&path, &bent).unwrap_err();
        assert!(error.to_string().contains("restore both from a copy"), "{error}");
        assert!(check_genesis(&path, &whole[..place]).is_err());
    }
    let mut bent = whole.clone();
    bent[whole.len() / 2] ^= 1;
    fs::write(&path, bent).unwrap();
    let error = super::Embedded::start(directory.path(), genesis.clone(), &keypair(), None).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");

    // A ledger of an earlier program has no digest.
    fs::write(&path, whole).unwrap();
    fs::remove_file(directory.path().join("genesis.sha256")).unwrap();
    super::Embedded::start(directory.path(), genesis, &keypair(), None).unwrap();
}
