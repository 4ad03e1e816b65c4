//! An embedded ledger on a disk that fills up at any place in its life: what it acknowledged stays, what it can't keep it
//! refuses in words, and it goes on as soon as there is room.

use std::{fs, time::Duration};

use super::{
    block::Host,
    chain::{Chain, CommitError, SNAPSHOT_EVERY},
    tests::{Journal, keypair},
};
use crate::{
    chain::small_disk::SmallDisk,
    types::{Digest, Time, words},
};

/// KiB of the disk, and of it what is left for blocks of so many bytes: large ones fill the log first, small ones more than one
/// batch of the index.
const DISK: usize = 40 * 1024;
const ROOMS: [(usize, usize); 3] = [(200_000, 4_200), (3_000, 2_600), (10, 1_450)];
/// Blocks after which the index has been written again.
const BATCH: u64 = 70;

fn open(directory: &std::path::Path) -> Result<Chain, super::Error> {
    let host = Host::new("atlas-test", keypair()).unwrap();
    Chain::open(directory, host, Box::new(Journal::default()))
}

/// Commits blocks of one transaction of so many bytes until one is refused; how many were not.
fn fill_with_blocks(chain: &mut Chain, bytes: usize) -> (u64, CommitError) {
    let mut made = 0;
    loop {
        match commit(chain, bytes) {
            Ok(_) => made += 1,
            Err(error) => return (made, error),
        }
    }
}

fn commit(chain: &mut Chain, bytes: usize) -> Result<u64, CommitError> {
    let time = chain.last_time() + Duration::from_millis(1);
    chain.commit(time, vec![vec![7; bytes]]).map(|block| block.sealed.height())
}

fn end(chain: &Chain) -> (u64, Digest) {
    let application = chain.application();
    let application = application.read().unwrap();
    (application.height(), application.app_hash())
}

#[test]
fn whatever_a_ledger_writes_when_its_disk_is_full_it_loses_nothing_and_goes_on_when_there_is_room() {
    for (bytes, room) in ROOMS {
        let Some(disk) = SmallDisk::mount(DISK) else { return };
        let ballast = disk.path().join("ballast");
        fs::write(&ballast, vec![0; (DISK - room) * 1024]).unwrap();
        let mut chain = open(disk.path()).unwrap();
        let (made, error) = fill_with_blocks(&mut chain, bytes);
        let words = words(&error);
        println!("{made} blocks of {bytes} bytes: {words}");
        assert!(words.contains("can't write its block") && words.contains("o space left"), "{words}");
        // Another that fits no better is refused as well, and changes nothing.
        let full = end(&chain);
        assert_eq!(full.0, made, "what was refused is no block");
        assert!(commit(&mut chain, 4_000_000).is_err());
        assert_eq!(end(&chain), full);

        // Elsewhere, as after a crash, all of them are there.
        let copy = tempfile::tempdir().unwrap();
        for path in fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().path()) {
            if path != ballast {
                fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        assert_eq!(end(&open(copy.path()).unwrap()), full);

        fs::remove_file(ballast).unwrap();
        for number in 1..=BATCH {
            assert_eq!(commit(&mut chain, 10).unwrap(), made + number);
        }
        let (after, archive) = (end(&chain), chain.archive());
        for height in [1, made, made + 1, made + BATCH] {
            assert_eq!(archive.block(height).unwrap().unwrap().sealed.height(), height);
        }
        drop((chain, archive));
        assert_eq!(end(&open(disk.path()).unwrap()), after);
    }
}

#[test]
fn a_ledger_that_waits_for_room_makes_the_refused_block_when_it_comes() {
    let Some(disk) = SmallDisk::mount(DISK) else { return };
    let mut chain = open(disk.path()).unwrap();
    for number in 1..SNAPSHOT_EVERY {
        chain.commit(Time(1_000 + number), vec![vec![1; 100]]).unwrap();
    }
    disk.fill();
    let refused = chain.commit(Time(5_000), vec![vec![2; 100_000]]).err().unwrap();
    assert!(refused.to_string().contains("can't write its block log"), "{refused}");
    disk.make_room();
    let block = chain.commit(Time(5_001), vec![vec![2; 100_000]]).unwrap();
    assert_eq!(block.sealed.height(), SNAPSHOT_EVERY);
    assert!(disk.path().join("snapshot-1000").exists() && !disk.path().join("snapshot.part").exists());
    let hash = chain.application().read().unwrap().app_hash();
    drop((block, chain));
    disk.fill();
    // A start writes next to nothing; what it can't write it says.
    if let Err(error) = open(disk.path()) {
        assert!(words(&error).contains("o space left"), "{error}");
    }
    disk.make_room();
    assert_eq!(open(disk.path()).unwrap().application().read().unwrap().app_hash(), hash);
}
