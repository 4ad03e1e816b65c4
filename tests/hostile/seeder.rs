//! A seeder that has everything and gives other bytes now and then.

use std::{collections::BTreeMap, sync::Arc};

use atlas_node::{
    identity::{self, Keypair},
    protocol::Message as _,
    shard::{
        unixfs::{CHUNK_BYTES, FileBuilder, Part},
        wire::{Request, Response, Slot},
    },
    store::dag_pb::{DAG_PB, RAW, content_id},
    types::ContentId,
};
use bytes::Bytes;
use libp2p::Multiaddr;

use super::{Target, swarm};

/// It lies once in so many blocks.
pub(crate) const EVERY_TENTH: u64 = 10;

/// Blocks by their names.
pub(crate) type Blocks = BTreeMap<ContentId, Bytes>;

/// The blocks of a file with these bytes.
pub(crate) fn blocks_of(bytes: &[u8]) -> Blocks {
    let (mut blocks, mut tree) = (Blocks::new(), FileBuilder::default());
    let mut nodes = Vec::new();
    let mut keep = |node: Vec<u8>| {
        nodes.push(node);
        Ok::<_, std::convert::Infallible>(())
    };
    for chunk in bytes.chunks(CHUNK_BYTES) {
        let (cid, size) = (content_id(RAW, chunk), chunk.len() as u64);
        blocks.insert(cid, Bytes::copy_from_slice(chunk));
        let Ok(()) = tree.push(Part { cid, size, total_size: size }, &mut keep);
    }
    let Ok(_) = tree.finish(&mut keep);
    blocks.extend(nodes.into_iter().map(|node| (content_id(DAG_PB, &node), Bytes::from(node))));
    blocks
}

/// Gives the node at `address` what it asks for, as the peer of `secret`, and lies in one block of `lies`, for ever.
pub(crate) async fn seed(address: Multiaddr, secret: [u8; 32], blocks: Arc<Blocks>, lies: u64) {
    let target = Target { peer: identity::peer_of(&address).expect("the address names its peer"), address };
    let mut given = 0;
    let mut give = |cid: &ContentId| match blocks.get(cid) {
        None => Slot::Missing,
        Some(block) => {
            given += 1;
            if given % lies == 0 { Slot::Present(vec![0; block.len()].into()) } else { Slot::Present(block.clone()) }
        }
    };
    let answer = |request: &[u8]| {
        let response = match Request::decode(Bytes::copy_from_slice(request)).ok()? {
            Request::Get { cids, .. } => Response::Blocks(cids.iter().map(&mut give).collect()),
            Request::Have { cids } => Response::Have(cids.iter().map(|cid| blocks.contains_key(cid)).collect()),
            Request::Hold { .. } | Request::Held { .. } => return None,
        };
        Some(response.encode().concat())
    };
    swarm::answer(&target, &Keypair::from_secret(&secret), answer).await;
}
