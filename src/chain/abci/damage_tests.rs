//! What the application keeps, bent, cut, unreadable or without room: it starts, says so, and comes to the same app hash.

use std::{fs, num::NonZeroU64, os::unix::fs::PermissionsExt as _, path::PathBuf};

use proptest::prelude::*;

use super::{
    tests::{CONFIG, commit, finalize, load, offer, offers, open, replay},
    *,
};
use crate::chain::small_disk::SmallDisk;

/// The blocks of the chain, and the heights of its snapshots.
const BLOCKS: u64 = 14;
const SNAPSHOTS: [i64; 4] = [12, 9, 6, 3];

fn newest(directory: &Path) -> PathBuf {
    directory.join("snapshot-12")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_is_damaged_of_its_snapshots_a_replay_gives_the_same_app_hash(
        damages in prop::collection::vec((0..4_usize, 0..1_000_u32, prop::option::of(0..8_u8)), 1..6),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let expected = replay(&open(directory.path()), BLOCKS);
        let mut whole = SNAPSHOTS.to_vec();
        for (file, place, bit) in damages {
            let height = SNAPSHOTS[file];
            let path = directory.path().join(format!("snapshot-{height}"));
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() * usize::try_from(place).unwrap() / 1_000;
            match bit {
                // The same bit twice is no damage.
                Some(bit) if whole.contains(&height) => bytes[at] ^= 1 << bit,
                Some(_) => continue,
                None => bytes.truncate(at),
            }
            fs::write(&path, bytes).unwrap();
            whole.retain(|other| *other != height);
        }
        let application = open(directory.path());
        prop_assert_eq!(application.height(), whole.first().copied().unwrap_or(0));
        let offered: Vec<i64> = offers(&application).iter().rev().map(|offer| i64::try_from(offer.height).unwrap()).collect();
        prop_assert_eq!(offered, whole, "only what is whole is offered");
        prop_assert_eq!(replay(&application, BLOCKS), expected);
    }
}

#[test]
fn a_snapshot_that_the_disk_does_not_give_back_is_passed_over_and_one_that_may_not_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let expected = replay(&open(directory.path()), BLOCKS);
    // A directory in its place reads as an error of the disk does.
    fs::remove_file(newest(directory.path())).unwrap();
    fs::create_dir(newest(directory.path())).unwrap();
    for stranger in ["snapshot-+7", "snapshot-007", "snapshot-", "snapshot-99999999999999999999", "snapshot-12.old"] {
        fs::write(directory.path().join(stranger), b"not ours").unwrap();
    }
    let application = open(directory.path());
    assert_eq!(application.height(), 9);
    assert_eq!(replay(&application, BLOCKS), expected);
    drop(application);

    if nix::unistd::geteuid().is_root() {
        return eprintln!("not tried: root may read everything");
    }
    fs::set_permissions(directory.path().join("snapshot-9"), fs::Permissions::from_mode(0o000)).unwrap();
    let error = Application::open(directory.path(), CONFIG).unwrap_err().to_string();
    assert!(error.contains("snapshot-9: Permission denied"), "{error}");
}

#[test]
fn half_a_snapshot_that_a_crash_left_is_no_snapshot_and_in_nobodys_way() {
    let directory = tempfile::tempdir().unwrap();
    let expected = replay(&open(directory.path()), 5);
    fs::write(directory.path().join("snapshot.part"), fs::read(directory.path().join("snapshot-3")).unwrap()).unwrap();
    let application = open(directory.path());
    assert_eq!(application.height(), 3);
    assert_eq!(replay(&application, 5), expected);
    replay(&application, 6);
    assert!(!directory.path().join("snapshot.part").exists());
}

#[test]
fn on_a_full_disk_blocks_go_on_and_the_next_snapshot_is_taken_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(256) else { return };
    let application = open(disk.path());
    replay(&application, 3);
    disk.fill();
    let expected = replay(&application, 8);
    let heights = |application: &Application| offers(application).iter().map(|offer| offer.height).collect::<Vec<_>>();
    assert_eq!(heights(&application), [3], "that of block 6 found no room");
    assert!(!disk.path().join("snapshot.part").exists(), "half of one takes no room");
    drop(application);
    // A start on the full disk: nothing acknowledged is missing.
    let application = open(disk.path());
    assert_eq!((application.height(), replay(&application, 8)), (3, expected));
    disk.make_room();
    replay(&application, 9);
    assert_eq!(heights(&application), [3, 9]);
    drop(application);
    assert_eq!(open(disk.path()).height(), 9);
}

#[test]
fn a_snapshot_of_another_that_finds_no_room_is_refused_in_words_and_what_was_there_stays() {
    let Some(disk) = SmallDisk::mount(256) else { return };
    let (from, every) = (tempfile::tempdir().unwrap(), NonZeroU64::new(3).unwrap());
    let giver = Application::open(from.path(), Config { snapshot_every: every, keep_blocks: None }).unwrap();
    let app_hash = replay(&giver, 6);
    let taker = open(disk.path());
    let before = replay(&taker, 3);
    let snapshot = offers(&giver).pop().unwrap();
    assert_eq!(offer(&taker, &snapshot, &app_hash), Offered::Accept);
    disk.fill();
    let chunk = load(&giver, 6, 0);
    let request = RequestApplySnapshotChunk { index: 0, chunk: chunk.clone(), sender: "another".to_owned() };
    let response::Value::Exception(refused) = taker.answer(request::Value::ApplySnapshotChunk(request.clone())) else {
        panic!("there was room")
    };
    assert!(refused.error.contains("No space left") && refused.error.contains("make room"), "{}", refused.error);
    assert_eq!((taker.height(), taker.read(State::info).last_block_app_hash), (3, before));
    drop(taker);
    disk.make_room();
    let taker = open(disk.path());
    assert_eq!(taker.height(), 3);
    assert_eq!(offer(&taker, &snapshot, &app_hash), Offered::Accept);
    taker.answer(request::Value::ApplySnapshotChunk(request));
    assert_eq!(taker.height(), 6);
    assert_eq!(finalize(&taker, 7), finalize(&giver, 7));
    commit(&taker);
}
