//! An application on a real directory, asked as CometBFT asks it.

use std::num::NonZeroU64;

use tendermint_proto::v0_38::abci::{
    RequestCommit, RequestListSnapshots, RequestLoadSnapshotChunk, ResponseFinalizeBlock, Snapshot as Offer,
    response_apply_snapshot_chunk::Result as Applied,
};

use super::{
    super::testing::{block, init_chain, transaction},
    *,
};

pub(super) const CONFIG: Config = Config { snapshot_every: NonZeroU64::new(3).unwrap(), keep_blocks: None };

pub(super) fn open(directory: &Path) -> Application {
    Application::open(directory, CONFIG).unwrap()
}

pub(super) fn finalize(application: &Application, height: u64) -> ResponseFinalizeBlock {
    let request = block(height, vec![transaction(1, height - 1)]);
    match application.answer(request::Value::FinalizeBlock(request)) {
        response::Value::FinalizeBlock(response) => response,
        other => panic!("{other:?}"),
    }
}

pub(super) fn commit(application: &Application) -> i64 {
    match application.answer(request::Value::Commit(RequestCommit {})) {
        response::Value::Commit(response) => response.retain_height,
        other => panic!("{other:?}"),
    }
}

/// Begins the chain if it must be, and brings it from where it is to `height`, as CometBFT does at a start. The last app
/// hash.
pub(super) fn replay(application: &Application, height: u64) -> Bytes {
    if application.height() == 0 {
        application.answer(request::Value::InitChain(init_chain()));
    }
    let mut app_hash = application.read(State::info).last_block_app_hash;
    for height in u64::try_from(application.height()).unwrap() + 1..=height {
        app_hash = finalize(application, height).app_hash;
        commit(application);
    }
    app_hash
}

pub(super) fn offers(application: &Application) -> Vec<Offer> {
    match application.answer(request::Value::ListSnapshots(RequestListSnapshots {})) {
        response::Value::ListSnapshots(response) => response.snapshots,
        other => panic!("{other:?}"),
    }
}

pub(super) fn load(application: &Application, height: u64, chunk: u32) -> Bytes {
    let request = RequestLoadSnapshotChunk { height, format: 1, chunk };
    match application.answer(request::Value::LoadSnapshotChunk(request)) {
        response::Value::LoadSnapshotChunk(response) => response.chunk,
        other => panic!("{other:?}"),
    }
}

pub(super) fn offer(application: &Application, offer: &Offer, app_hash: &Bytes) -> Offered {
    let request = RequestOfferSnapshot { snapshot: Some(offer.clone()), app_hash: app_hash.clone() };
    match application.answer(request::Value::OfferSnapshot(request)) {
        response::Value::OfferSnapshot(response) => Offered::try_from(response.result).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn apply(application: &Application, chunk: Bytes) -> response::Value {
    let request = RequestApplySnapshotChunk { index: 0, chunk, sender: "stranger".to_owned() };
    application.answer(request::Value::ApplySnapshotChunk(request))
}

#[test]
fn whatever_block_it_stops_after_a_replay_from_its_snapshot_gives_the_same_app_hash() {
    let whole = tempfile::tempdir().unwrap();
    let expected = replay(&open(whole.path()), 11);
    for stop in 0..11 {
        let directory = tempfile::tempdir().unwrap();
        replay(&open(directory.path()), stop);
        let again = open(directory.path());
        assert_eq!(again.height(), i64::try_from(stop / 3 * 3).unwrap(), "the newest snapshot");
        assert_eq!(replay(&again, 11), expected, "stopped after block {stop}");
    }
}

#[test]
fn a_block_that_was_not_committed_is_in_no_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let application = open(directory.path());
    replay(&application, 2);
    finalize(&application, 3);
    drop(application);
    assert_eq!(open(directory.path()).height(), 0);
}

#[test]
fn a_damaged_snapshot_is_passed_over_and_everything_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let expected = replay(&open(directory.path()), 7);
    for (damage, height) in [(6, 3), (3, 0)] {
        let file = directory.path().join(format!("snapshot-{damage}"));
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let application = open(directory.path());
        assert_eq!(application.height(), height);
        assert!(offers(&application).iter().all(|offer| offer.height < damage), "it is not offered either");
    }
    assert_eq!(replay(&open(directory.path()), 7), expected);
    assert_eq!(open(directory.path()).height(), 6, "the replay made them anew");
}

#[test]
fn a_new_validator_restores_a_snapshot_of_another_and_goes_on_with_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let giver = open(from.path());
    let app_hash = replay(&giver, 6);
    let snapshots = offers(&giver);
    assert_eq!(snapshots.iter().map(|offer| offer.height).collect::<Vec<_>>(), [3, 6]);
    let taker = open(to.path());
    assert!(matches!(apply(&taker, Bytes::new()), response::Value::Exception(_)), "nothing was offered");
    assert_eq!(offer(&taker, &snapshots[1], &app_hash), Offered::Accept);
    let response::Value::ApplySnapshotChunk(bent) = apply(&taker, Bytes::from_static(b"bent")) else { panic!() };
    assert_eq!(
        (bent.result, bent.refetch_chunks, bent.reject_senders),
        (Applied::Retry.into(), vec![0], vec!["stranger".to_owned()])
    );
    let response::Value::ApplySnapshotChunk(applied) = apply(&taker, load(&giver, 6, 0)) else { panic!() };
    assert_eq!(applied.result, i32::from(Applied::Accept));
    assert_eq!((taker.height(), taker.read(State::info).last_block_app_hash), (6, app_hash));
    assert_eq!(finalize(&taker, 7), finalize(&giver, 7));
    drop(taker);
    assert_eq!(open(to.path()).height(), 6, "it survives a crash at once");
}

#[test]
fn a_restored_snapshot_takes_the_place_of_what_was_there_even_if_that_was_newer() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (giver, taker) = (open(from.path()), open(to.path()));
    let app_hash = replay(&giver, 3);
    replay(&taker, 18);
    assert_eq!(offers(&taker).len(), 4);
    assert_eq!(offer(&taker, &offers(&giver)[0], &app_hash), Offered::Accept);
    apply(&taker, load(&giver, 3, 0));
    assert_eq!(offers(&taker).len(), 1);
    drop(taker);
    assert_eq!(open(to.path()).height(), 3);
}

#[test]
fn a_snapshot_that_a_trusted_header_contradicts_changes_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (giver, taker) = (open(from.path()), open(to.path()));
    replay(&giver, 3);
    assert_eq!(offer(&taker, &offers(&giver)[0], &Bytes::from_static(&[9; 32])), Offered::Accept);
    let response::Value::ApplySnapshotChunk(applied) = apply(&taker, load(&giver, 3, 0)) else { panic!() };
    assert_eq!(applied.result, i32::from(Applied::RejectSnapshot));
    assert_eq!((taker.height(), load(&giver, 3, 1).len(), load(&giver, 4, 0).len()), (0, 0, 0));
}

#[test]
fn blocks_are_given_up_only_behind_the_oldest_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let application =
        Application::open(directory.path(), Config { keep_blocks: NonZeroU64::new(4), ..CONFIG }).unwrap();
    application.answer(request::Value::InitChain(init_chain()));
    let retained: Vec<i64> = (1..=9)
        .map(|height| {
            finalize(&application, height);
            commit(&application)
        })
        .collect();
    assert_eq!(retained, [0, 0, 0, 1, 2, 3, 3, 3, 3], "the snapshot of block 3 is still there");
}

#[test]
fn a_directory_serves_one_application() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(directory.path());
    let error = Application::open(directory.path(), CONFIG).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
}

#[test]
fn a_snapshot_that_is_written_beside_later_blocks_is_the_one_that_is_written_at_once() {
    let [at_once, beside] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let expected = open(at_once.path());
    replay(&expected, 3);
    let application = Application { at_once: 0, ..open(beside.path()) };
    replay(&application, 3);
    // Blocks go on; the next snapshot would be due with block 6.
    replay(&application, 5);
    application.writer.finish();
    assert_eq!(offers(&application), offers(&expected));
    assert_eq!(load(&application, 3, 0), load(&expected, 3, 0));
    replay(&application, 6);
    application.writer.finish();
    assert_eq!(offers(&application).iter().map(|offer| offer.height).collect::<Vec<_>>(), [3, 6]);
    drop(application);
    assert_eq!(open(beside.path()).height(), 6);
}

#[test]
fn an_application_that_stops_leaves_out_the_snapshot_that_is_being_written_or_has_it_whole() {
    let directory = tempfile::tempdir().unwrap();
    let application = Application { at_once: 0, ..open(directory.path()) };
    replay(&application, 4);
    drop(application);
    let height = open(directory.path()).height();
    assert!(height == 0 || height == 3, "{height}");
}
