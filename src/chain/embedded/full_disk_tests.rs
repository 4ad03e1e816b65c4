//! An embedded ledger on a disk that fills up at any place in its life: what it acknowledged stays, what it can't keep it
//! refuses in words, and it goes on as soon as there is room.

use std::fs;

use super::{
    block::Host,
    chain::{Chain, CommitError, SNAPSHOT_EVERY},
    tests::{Journal, keypair},
};
use crate::{chain::small_disk::SmallDisk, types::Time};

/// KiB of the disk: enough for the index, the snapshot, and some 2,000 blocks.
const DISK: usize = 6 * 1024;

fn open(directory: &std::path::Path) -> Result<Chain, super::Error> {
    let host = Host::new("atlas-test", keypair()).unwrap();
    Chain::open(directory, host, Box::new(Journal::default()))
}

/// Commits blocks of one transaction of so many bytes until one is refused; how many were not.
fn fill_with_blocks(chain: &mut Chain, bytes: usize) -> (u64, CommitError) {
    let mut made = 0;
    loop {
        let time = chain.last_time() + std::time::Duration::from_millis(1);
        match chain.commit(time, vec![vec![7; bytes]]) {
            Ok(_) => made += 1,
            Err(error) => return (made, error),
        }
    }
}

#[test]
fn whatever_a_ledger_writes_when_its_disk_is_full_it_loses_nothing_and_goes_on_when_there_is_room() {
    // Large blocks fill it in the log, small ones in the index and the snapshot as well.
    for bytes in [200_000, 3_000, 10] {
        let Some(disk) = SmallDisk::mount(DISK) else { return };
        let mut chain = open(disk.path()).unwrap();
        let ballast = disk.path().join("ballast");
        // For the small blocks little room is left from the beginning, so that it is over before the snapshot.
        let room = if bytes == 10 { 900 * 1024 } else { 0 };
        if room > 0 {
            fs::write(&ballast, vec![0; DISK * 1024 - room - 2_200 * 1024]).unwrap();
        }
        let (made, error) = fill_with_blocks(&mut chain, bytes);
        assert!(error.to_string().contains("can't write its block"), "{error}");
        assert!(made > 2, "{made} blocks of {bytes} bytes");
        println!("{made} blocks of {bytes} bytes: {error}");
        let last = chain.archive().last().unwrap().sealed.height();
        assert_eq!(last, made, "what was refused is no block");

        // Another that fits no better is refused as well, and changes nothing.
        assert!(chain.commit(Time(u64::MAX / 2), vec![vec![8; 4_000_000]]).is_err());
        assert_eq!(chain.application().read().unwrap().height(), made);

        // Elsewhere, as after a crash, all of them are there.
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(disk.path()).unwrap() {
            let path = entry.unwrap().path();
            if path != ballast {
                fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        let again = open(copy.path()).unwrap();
        let hash = chain.application().read().unwrap().app_hash();
        assert_eq!(again.application().read().unwrap().app_hash(), hash);
        let mut again = again;
        let next = again.commit(again.last_time() + std::time::Duration::from_millis(1), vec![b"room".to_vec()]);
        assert_eq!(next.unwrap().sealed.height(), made + 1);
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
        assert!(crate::types::words(&error).contains("No space left"), "{error}");
    }
    disk.make_room();
    assert_eq!(open(disk.path()).unwrap().application().read().unwrap().app_hash(), hash);
}
