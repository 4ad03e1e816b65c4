//! Content that nodes keep for another, on a real chain: what they lend, what is asked, who holds it, who takes the place of
//! one that died, and its release are in blocks; and who believes no endpoint reads the holders with proofs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use atlas_node::{
    api::{ShardAdd, StorageKeep, StorageRelease, StoredObject, views::peer_text},
    chain::{
        client::QueryError,
        records::{Node, Object, ObjectId},
        wire::{Message, Transaction, query},
    },
    codec, identity,
    types::{ContentId, NodeStatus, Signed},
};
use libp2p::PeerId;
use serde::{Serialize, de::DeserializeOwned};
use tendermint::block::Height;
use tendermint_rpc::Client as _;

use super::{
    chain::{CHAIN_ID, Chain, SOON},
    liar::{Lie, NOBODY},
    liars::writer_behind,
    writer::Writer,
};
use crate::{
    content::bytes,
    e2e::{
        lab::{Lab, ONE_TASK},
        wait::{JOB, until},
    },
};

/// Bytes of room that each keeper gives.
const ROOM: u64 = 200_000_000;
/// Two chunks below a root, and a bit of another.
const CONTENT: usize = (2 << 20) + 77;

/// A node that owns content and keeps nothing, and three that keep what others own.
async fn mesh(chain: &Chain) -> Lab {
    let mut lab = Lab::new();
    let url = chain.url(0);
    let flags = [&["--chain-rpc", url.as_str(), "--chain-id", CHAIN_ID], ONE_TASK].concat();
    lab.start("owner", &flags).await;
    let bootstrap = lab.nodes[0].address.clone();
    let keeps = [&flags[..], &["--bootstrap", &bootstrap, "--keep-gb", "0.2"]].concat();
    for number in 1..=3 {
        lab.start(&format!("keeper-{number}"), &keeps).await;
    }
    lab.nodes[0].until_status("it is registered", |status| status.registered).await;
    for keeper in &mut lab.nodes[1..] {
        let offers = |status: &atlas_node::api::Status| status.storage.offered == ROOM && status.peers > 0;
        keeper.until_status("the chain has its offer", offers).await;
    }
    lab
}

/// What the chain has, proven; asked again while the header that proves it is not there.
async fn proven<T: DeserializeOwned>(reader: &mut Writer, path: &str, data: &impl Serialize) -> T {
    let data = codec::encode(data);
    let answer = until("the answer is proven", SOON, async || {
        // Its reports wait for a reader, and it waits for them.
        reader.take_events();
        reader.handle().query(path, data.clone()).await.ok()
    });
    codec::decode(&answer.await, 1 << 20).unwrap()
}

/// An object and the nodes that hold it now, each record with its proof.
async fn proven_holders(reader: &mut Writer, id: &ObjectId) -> Option<(Object, BTreeSet<String>)> {
    let object: Object = proven::<Option<Object>>(reader, query::GET_OBJECT, id).await?;
    let mut nodes = BTreeMap::new();
    for holder in &object.holders {
        let node = proven::<Option<Node>>(reader, query::GET_NODE, &holder.node).await;
        nodes.insert(holder.node, node.expect("a holder is registered"));
    }
    let live = object.live(|node| nodes.get(node)).map(|node| peer_text(&node)).collect();
    Some((object, live))
}

/// The same, once so many hold it and `gone` does not.
async fn until_held(reader: &mut Writer, id: &ObjectId, gone: &str) -> (Object, BTreeSet<String>) {
    until("two nodes hold it, and it is proven", JOB, async || {
        let (object, live) = proven_holders(reader, id).await?;
        (live.len() == 2 && !live.contains(gone)).then_some((object, live))
    })
    .await
}

/// Puts content into the owner's store and has two others keep it; its name there.
async fn ask_two(lab: &Lab) -> (ContentId, u64) {
    let file = lab.path().join("original");
    fs::write(&file, bytes(CONTENT, 5)).unwrap();
    let owner = lab.nodes[0].client();
    let added = owner.shard_add(&ShardAdd { path: file, car: false }).await.unwrap();
    owner.storage_keep(&StorageKeep { cid: added.cid, copies: 2, seconds: 3_600 }).await.unwrap();
    (added.cid, added.size)
}

/// A reader whose endpoint adds a holder names it, and the next answer is true.
async fn a_false_holder_is_found_out(reader: &mut Writer, id: &ObjectId, url: &str) {
    let data = codec::encode(id);
    let (endpoint, reason) = until("the lie is found out", SOON, async || {
        reader.take_events();
        match reader.handle().query(query::GET_OBJECT, data.clone()).await {
            Err(QueryError::Lie { endpoint, reason }) => Some((endpoint, reason)),
            Err(_) => None,
            Ok(answer) => {
                let object: Option<Object> = codec::decode(&answer, 10_000).unwrap();
                assert!(
                    object.unwrap().holders.iter().all(|holder| holder.node != NOBODY),
                    "a false holder was believed"
                );
                None
            }
        }
    })
    .await;
    assert!(endpoint == url && reason.contains(query::GET_OBJECT), "{endpoint}: {reason}");
}

/// How many transactions of each kind about storage the blocks of the chain have.
async fn in_blocks(chain: &Chain) -> BTreeMap<&'static str, usize> {
    let (rpc, mut kinds) = (chain.rpc(0), BTreeMap::new());
    for height in 1..=chain.height(0).await.unwrap() {
        let block = rpc.block(Height::try_from(height).unwrap()).await.unwrap().block;
        for bytes in &block.data {
            let signed: Signed = codec::decode(bytes, bytes.len()).unwrap();
            let kind = match signed.open::<Transaction>().unwrap().message {
                Message::OfferStorage { .. } => "offer",
                Message::Keep { .. } => "keep",
                Message::Held { .. } => "held",
                Message::Release { .. } => "release",
                _ => continue,
            };
            *kinds.entry(kind).or_default() += 1;
        }
    }
    kinds
}

fn seen_by(objects: &[StoredObject]) -> Option<BTreeSet<String>> {
    objects.first().map(|object| object.holders.iter().cloned().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_an_object_on_a_real_chain_is_proven_before_and_after_a_holder_dies_and_when_it_is_released() {
    let mut chain = Chain::made_with(1, &["--offline-after", "3.5"], &[]);
    chain.start_all(0..1).await;
    let (mut reader, liar, url) = writer_behind(&chain, Lie::None).await;
    let mut lab = mesh(&chain).await;
    let (cid, size) = ask_two(&lab).await;
    let owner = lab.nodes[0].client();
    let asked = until("the owner sees what it asked for", SOON, async || owner.storage().await.ok()?.pop()).await;
    assert_eq!((asked.cid, asked.bytes, asked.copies), (cid, size, 2));
    assert_eq!(asked.owner, lab.nodes[0].peer_id);
    let id = ObjectId::of(identity::node_key(&asked.owner.parse::<PeerId>().unwrap()).unwrap(), &cid);

    let (object, holders) = until_held(&mut reader, &id, "").await;
    assert_eq!((object.root, object.bytes, object.copies), (cid, size, 2));
    liar.begin(Lie::Holder);
    a_false_holder_is_found_out(&mut reader, &id, &url).await;
    assert_eq!(proven_holders(&mut reader, &id).await.unwrap().1, holders, "the honest endpoint is asked");

    let dies = lab.nodes.iter().position(|node| holders.contains(&node.peer_id)).unwrap();
    let gone = lab.nodes[dies].peer_id.clone();
    let gone_key = object.holders.iter().find(|holder| peer_text(&holder.node) == gone).unwrap().node;
    lab.nodes[dies].kill();
    let (_, repaired) = until_held(&mut reader, &id, &gone).await;
    assert_eq!(
        repaired.intersection(&holders).count(),
        1,
        "one holds it as before, and one took the place of the other"
    );
    let dead: Node = proven::<Option<Node>>(&mut reader, query::GET_NODE, &gone_key).await.unwrap();
    assert_eq!((dead.status, dead.storage_used, dead.storage_epoch), (NodeStatus::Offline, 0, 1));
    until("the owner sees the same holders", SOON, async || {
        (seen_by(&owner.storage().await.ok()?)? == repaired).then_some(())
    })
    .await;

    owner.storage_release(&StorageRelease { cid }).await.unwrap();
    until("that it is gone is proven", SOON, async || proven_holders(&mut reader, &id).await.is_none().then_some(()))
        .await;
    for holder in lab.nodes.iter_mut().filter(|node| repaired.contains(&node.peer_id)) {
        holder.until_status("its room is free again", |status| status.storage.used == 0).await;
    }
    reader.take_events();
    assert!(reader.distrusted.iter().all(|(endpoint, _)| *endpoint == url), "{:?}", reader.distrusted);
    let kinds = in_blocks(&chain).await;
    let at_least = |kind, count| kinds.get(kind).is_some_and(|found| *found >= count);
    assert!(at_least("offer", 3) && at_least("keep", 1) && at_least("held", 3) && at_least("release", 1), "{kinds:?}");
}
