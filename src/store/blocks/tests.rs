//! The store on a real directory.

use super::*;
use crate::store::Pin;
use dag_pb::{DAG_PB, Link, Node, RAW};

const ROOMY: Quota = Quota { bytes: 1 << 20 };

fn block(number: u8) -> Vec<u8> {
    vec![number; 1000]
}

fn parent(store: &BlockStore, children: &[ContentId]) -> ContentId {
    let link = |cid: &ContentId| Link { cid: *cid, name: String::new(), total_size: 0 };
    let node = Node { links: children.iter().map(link).collect(), data: vec![8, 2] };
    store.put_new(DAG_PB, &node.encode()).unwrap()
}

#[test]
fn blocks_are_there_after_a_restart_synced_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlockStore::open(directory.path(), ROOMY).unwrap();
    let synced = store.put_new(RAW, &block(1)).unwrap();
    store.sync().unwrap();
    let fresh = store.put_new(RAW, &block(2)).unwrap();
    fs::write(directory.path().join("fresh/7.part"), b"half").unwrap();
    drop(store);
    let store = BlockStore::open(directory.path(), ROOMY).unwrap();
    assert_eq!(store.get(&synced).unwrap().unwrap(), block(1));
    assert_eq!(store.get(&fresh).unwrap().unwrap(), block(2));
    assert_eq!(store.used_bytes(), 2000);
    assert!(!directory.path().join("fresh/7.part").exists());
    store.sync().unwrap();
    assert_eq!(store.get_verified(&fresh).unwrap().unwrap(), block(2));
}

#[test]
fn what_a_crash_of_the_machine_tore_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlockStore::open(directory.path(), ROOMY).unwrap();
    let whole = store.put_new(RAW, &block(1)).unwrap();
    let torn = store.put_new(RAW, &block(2)).unwrap();
    let Named::Sha256(key) = dag_pb::named(&torn) else { unreachable!("made with sha2-256") };
    fs::write(store.fresh_path(&key), b"").unwrap();
    drop(store);
    fs::write(directory.path().join("fresh/boot"), b"another boot").unwrap();
    let store = BlockStore::open(directory.path(), ROOMY).unwrap();
    assert!(store.has(&whole));
    assert!(!store.has(&torn));
    store.put(&torn, &block(2)).unwrap();
}

#[test]
fn bytes_that_do_not_match_their_name_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlockStore::open(directory.path(), ROOMY).unwrap();
    let cid = dag_pb::content_id(RAW, b"right");
    assert!(matches!(store.put(&cid, b"wrong"), Err(Error::Mismatch(_))));
    assert!(!store.has(&cid));
    let large = vec![0; MAX_BLOCK_BYTES + 1];
    assert!(matches!(store.put_new(RAW, &large), Err(Error::TooLarge(_))));
}

#[test]
fn a_rotten_block_is_dropped_when_it_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlockStore::open(directory.path(), ROOMY).unwrap();
    let cid = store.put_new(RAW, &block(1)).unwrap();
    store.sync().unwrap();
    let Named::Sha256(key) = dag_pb::named(&cid) else { unreachable!("made with sha2-256") };
    fs::write(store.placed_path(&key), block(9)).unwrap();
    assert_eq!(store.get_verified(&cid).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(!store.has(&cid));
}

#[test]
fn two_stores_on_one_directory_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = BlockStore::open(directory.path(), ROOMY).unwrap();
    assert!(matches!(BlockStore::open(directory.path(), ROOMY), Err(Error::Locked(_))));
}

#[test]
fn pinned_dags_stay_and_the_least_recently_used_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlockStore::open(directory.path(), Quota { bytes: 10_000 }).unwrap();
    let leaves: Vec<ContentId> = (0..3).map(|number| store.put_new(RAW, &block(number)).unwrap()).collect();
    let root = parent(&store, &leaves);
    store.pin(&root, "test").unwrap();
    let old = store.put_new(RAW, &block(10)).unwrap();
    let used = store.put_new(RAW, &block(11)).unwrap();
    store.get(&old).unwrap();
    store.get(&used).unwrap();
    for number in 12..18 {
        store.put_new(RAW, &block(number)).unwrap();
    }
    assert!(leaves.iter().chain([&root]).all(|cid| store.has(cid)));
    assert!(!store.has(&old));
    assert!(store.used_bytes() <= 10_000);

    store.unpin(&root, "test").unwrap();
    store.collect_garbage(0).unwrap();
    assert_eq!(store.used_bytes(), 0);
}

#[test]
fn a_pin_covers_what_arrives_after_it_and_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlockStore::open(directory.path(), ROOMY).unwrap();
    let leaf = dag_pb::content_id(RAW, &block(1));
    let node = Node { links: vec![Link { cid: leaf, name: String::new(), total_size: 0 }], data: vec![8, 2] };
    let root = dag_pb::content_id(DAG_PB, &node.encode());
    store.pin(&root, "transfer").unwrap();
    store.collect_garbage(0).unwrap();
    store.put(&root, &node.encode()).unwrap();
    store.put(&leaf, &block(1)).unwrap();
    store.collect_garbage(0).unwrap();
    assert!(store.has(&root) && store.has(&leaf));
    drop(store);
    let store = BlockStore::open(directory.path(), ROOMY).unwrap();
    assert_eq!(store.pins(), vec![Pin { root, reason: "transfer".into() }]);
    store.collect_garbage(0).unwrap();
    assert!(store.has(&root) && store.has(&leaf));
}

#[test]
fn a_store_full_of_pinned_blocks_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlockStore::open(directory.path(), Quota { bytes: 2500 }).unwrap();
    for number in 0..2 {
        let cid = store.put_new(RAW, &block(number)).unwrap();
        store.pin(&cid, "test").unwrap();
    }
    assert!(matches!(store.put_new(RAW, &block(2)), Err(Error::Full { used: 2000, quota: 2500 })));
}

#[test]
fn an_import_is_not_evicted_before_it_has_a_root() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlockStore::open(directory.path(), Quota { bytes: 2500 }).unwrap();
    let importing = store.importing();
    let first = store.put_new(RAW, &block(0)).unwrap();
    store.put_new(RAW, &block(1)).unwrap();
    assert!(matches!(store.put_new(RAW, &block(2)), Err(Error::Full { .. })));
    drop(importing);
    store.put_new(RAW, &block(2)).unwrap();
    assert!(!store.has(&first));
}
