//! Content that nodes keep for another, while those who have it die one after the other.

use std::fs;

use atlas_node::api::{ShardAdd, ShardGet, StorageKeep, StoredObject};

use super::{
    lab::{Lab, ONE_TASK},
    wait::{JOB, START, until},
};
use crate::content::bytes;

/// Bytes of room that each keeper gives.
const ROOM: u64 = 200_000_000;
/// Eight chunks below a root, and a bit of another.
const CONTENT: usize = (8 << 20) + 77;

/// The only object, as a node sees it, once it is as wanted.
async fn until_kept(lab: &Lab, observer: usize, what: &str, wanted: impl Fn(&StoredObject) -> bool) -> StoredObject {
    let client = lab.nodes[observer].client();
    until(what, JOB, async || client.storage().await.ok()?.pop().filter(&wanted)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_others_keep_outlives_a_holder_and_its_owner() {
    // The first carries the ledger and keeps nothing; the second owns the content.
    let mut lab = Lab::mesh(1, ONE_TASK).await;
    let (bootstrap, rpc) = (lab.nodes[0].address.clone(), lab.nodes[1].client().status().await.unwrap().ledger);
    let rpc = rpc.endpoint.unwrap_or_default();
    let keeps = [ONE_TASK, &["--chain-rpc", &rpc, "--bootstrap", &bootstrap, "--keep-gb", "0.2"]].concat();
    for number in 2..=4 {
        let keeper = lab.start(&format!("n{number}"), &keeps).await;
        let offers = |status: &atlas_node::api::Status| status.storage.offered == ROOM && status.peers >= 2;
        lab.nodes[keeper].until_status("the ledger has its offer", offers).await;
    }

    let original = bytes(CONTENT, 5);
    let file = lab.path().join("original");
    fs::write(&file, &original).unwrap();
    let owner = lab.nodes[1].client();
    let added = owner.shard_add(&ShardAdd { path: file, car: false }).await.unwrap();
    owner.storage_keep(&StorageKeep { cid: added.cid, copies: 2, seconds: 3_600 }).await.unwrap();
    let object = until_kept(&lab, 0, "two nodes hold it", |object| object.holders.len() == 2).await;
    assert_eq!((object.cid, object.bytes, &object.owner), (added.cid, added.size, &lab.nodes[1].peer_id));
    assert!(!object.holders.contains(&object.owner), "the owner's own copy is none of them");
    for node in lab.nodes.iter().filter(|node| object.holders.contains(&node.peer_id)) {
        let status = node.client().status().await.unwrap();
        assert_eq!(status.storage.used, added.size, "{}", node.label);
        let pins = node.client().shards().await.unwrap();
        assert!(pins.iter().any(|shard| shard.cid == added.cid && shard.size == added.size), "{pins:?}");
    }
    let listed = lab.nodes[0].command(&["storage", "ls"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(&added.cid.to_string()) && listed.contains("2 of 2"), "{listed}");

    let dies = lab.nodes.iter().position(|node| node.peer_id == object.holders[0]).unwrap();
    lab.nodes[dies].kill();
    let gone = object.holders[0].clone();
    let repaired = until_kept(&lab, 0, "a third node took its place", |object| {
        object.holders.len() == 2 && !object.holders.contains(&gone)
    })
    .await;
    assert!(repaired.holders.contains(&object.holders[1]), "the other holds it as before");

    lab.nodes[1].kill();
    let last = lab.nodes[0].client();
    assert!(last.shards().await.unwrap().iter().all(|shard| shard.cid != added.cid), "it never had it");
    let to = lab.path().join("fetched");
    let fetched = async || last.shard_get(&ShardGet { cid: added.cid, to: Some(to.clone()), open: false }).await.ok();
    until("the last node fetches it", START, fetched).await;
    assert!(fs::read(&to).unwrap() == original, "whole, and the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_released_is_kept_no_longer_and_an_order_that_can_not_be_is_refused_in_words() {
    let mut lab = Lab::mesh(0, ONE_TASK).await;
    let file = lab.path().join("original");
    fs::write(&file, bytes(1_000, 1)).unwrap();
    let owner = lab.nodes[0].client();
    let added = owner.shard_add(&ShardAdd { path: file, car: false }).await.unwrap();
    let keep = |copies, seconds| StorageKeep { cid: added.cid, copies, seconds };
    let refused = owner.storage_keep(&keep(17, 3_600)).await.unwrap_err().to_string();
    assert!(refused.contains("`copies` is 17; it must be from 1 to 16"), "{refused}");
    let refused = owner.storage_keep(&keep(1, 400 * 86_400)).await.unwrap_err().to_string();
    assert!(refused.contains("`until`"), "{refused}");
    owner.storage_keep(&keep(1, 3_600)).await.unwrap();
    let object = until_kept(&lab, 0, "it is on the ledger", |_| true).await;
    assert_eq!(object.holders, [""; 0], "nobody is there who could keep it");
    lab.nodes[0].until_status("nothing is offered", |status| status.storage.room == 0).await;

    let cid = added.cid.to_string();
    let released = lab.nodes[0].command(&["storage", "release", &cid]).output().unwrap();
    assert!(released.status.success(), "{released:?}");
    until("the ledger forgets it", START, async || owner.storage().await.ok()?.is_empty().then_some(())).await;
    let again = lab.nodes[0].command(&["storage", "release", &cid]).output().unwrap();
    let words = String::from_utf8(again.stderr).unwrap();
    assert!(again.status.code() == Some(1) && words.contains("does not exist"), "{words}");
}
