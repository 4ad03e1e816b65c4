//! The edge between transfers and the disk: blocking work, one answer for each request, whatever happens.

use std::{collections::HashSet, io, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::wire::Slot;
use crate::{
    store::{
        BlockStore, blocks,
        dag_pb::{self, DAG_PB},
    },
    types::{Cause, ContentId, OrCause as _},
};

/// Names a piece of work; the answer repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EdgeId(pub u64);

/// Work for the disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Repeated by the answer.
    pub id: EdgeId,
    /// What to do.
    pub work: Work,
}

/// What there is to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Work {
    /// Walk the DAG from `root` as far as it is here, keep it from eviction from now on, and name the first blocks
    /// that are missing, in the order of the DAG.
    Missing {
        /// The root.
        root: ContentId,
        /// Names at most this many.
        limit: usize,
    },
    /// Verify and keep blocks that a peer sent.
    Put {
        /// The blocks under the names that they were asked for.
        blocks: Vec<(ContentId, Bytes)>,
    },
    /// Read blocks for a peer.
    Read {
        /// The blocks.
        cids: Vec<ContentId>,
        /// Bytes read at most.
        budget: u32,
    },
    /// Look which blocks are here.
    Has {
        /// The blocks.
        cids: Vec<ContentId>,
    },
    /// A DAG is complete: bring it to the disk, then pin it for each reason.
    Seal {
        /// The root.
        root: ContentId,
        /// The reasons to pin it for.
        pins: Vec<String>,
    },
    /// A transfer ended unfinished: its blocks may be evicted again.
    Release {
        /// The root.
        root: ContentId,
    },
    /// A reason to keep a DAG is gone.
    Unpin {
        /// The root.
        root: ContentId,
        /// The reason.
        reason: String,
    },
}

/// The one answer to a request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The request's.
    pub id: EdgeId,
    /// What came of it.
    pub result: Result<Done, Cause>,
}

/// Work that was done.
#[derive(Debug, Serialize, Deserialize)]
pub enum Done {
    /// To [`Work::Missing`].
    Missing {
        /// The first missing blocks. None means that the DAG is complete.
        missing: Vec<ContentId>,
        /// More may be missing than are named.
        more: bool,
        /// Bytes of the blocks that are here; a leaf counts as often as it occurs.
        bytes: u64,
    },
    /// To [`Work::Put`], for each block in order.
    Put(Vec<Stored>),
    /// To [`Work::Read`], for each block in order.
    Read(Vec<Slot>),
    /// To [`Work::Has`], for each block in order.
    Has(Vec<bool>),
    /// To [`Work::Seal`].
    Sealed,
    /// To [`Work::Release`] and [`Work::Unpin`].
    Released,
}

/// What became of one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// It matched its name and is kept.
    Kept {
        /// Its length.
        bytes: u64,
        /// Those of its links that are not here yet.
        missing: Vec<ContentId>,
    },
    /// Its bytes do not match its name.
    Mismatch,
}

/// Work that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] blocks::Error),
    /// The disk failed.
    #[error("the block store could not be read")]
    Disk(#[from] io::Error),
    /// A block matches its name, but nothing can be read from it.
    #[error("{cid}: {source}")]
    Content {
        /// The block.
        cid: ContentId,
        /// What is wrong with it.
        source: dag_pb::Error,
    },
    /// The work panicked, which is a bug.
    #[error("the work on the block store panicked; this is a bug")]
    Panicked,
}

/// Does the work. Blocks; run it off the event loop. Always answers.
pub fn perform(store: &Arc<BlockStore>, request: Request) -> Answer {
    let Request { id, work } = request;
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| work_on(store, work)));
    Answer { id, result: result.unwrap_or(Err(Failure::Panicked)).or_cause() }
}

fn work_on(store: &BlockStore, work: Work) -> Result<Done, Failure> {
    match work {
        Work::Missing { root, limit } => {
            store.keep(&root);
            missing(store, &root, limit)
        }
        Work::Put { blocks } => {
            blocks.iter().map(|(cid, bytes)| put(store, cid, bytes)).collect::<Result<_, _>>().map(Done::Put)
        }
        Work::Read { cids, budget } => read(store, &cids, budget).map(Done::Read),
        Work::Has { cids } => Ok(Done::Has(cids.iter().map(|cid| store.has(cid)).collect())),
        Work::Seal { root, pins } => seal(store, &root, &pins),
        Work::Release { root } => {
            store.release(&root);
            Ok(Done::Released)
        }
        Work::Unpin { root, reason } => {
            store.unpin(&root, &reason)?;
            Ok(Done::Released)
        }
    }
}

/// Depth first, so that the blocks named first are those that complete files soonest. Each inner node is read once
/// however often it occurs, so that a DAG that names its nodes many times costs no more than its blocks.
fn missing(store: &BlockStore, root: &ContentId, limit: usize) -> Result<Done, Failure> {
    let mut open = vec![*root];
    let mut seen = HashSet::new();
    let mut named = HashSet::new();
    let (mut missing, mut bytes) = (Vec::new(), 0_u64);
    while let Some(cid) = open.pop() {
        let inner = cid.0.codec() == DAG_PB;
        if inner && !seen.insert(cid) {
            continue;
        }
        let Some(size) = store.size(&cid) else {
            if missing.len() == limit {
                return Ok(Done::Missing { missing, more: true, bytes });
            }
            if named.insert(cid) {
                missing.push(cid);
            }
            continue;
        };
        bytes += size;
        if inner {
            open.extend(links_of(store, &cid)?.into_iter().rev());
        }
    }
    Ok(Done::Missing { missing, more: false, bytes })
}

/// The links of a block that is here. It was verified when it was written and is not hashed again, unless it makes no
/// sense: then it is dropped if it rotted.
fn links_of(store: &BlockStore, cid: &ContentId) -> Result<Vec<ContentId>, Failure> {
    let block = store.get(cid)?.unwrap_or_default();
    links(cid, &block).or_else(|failure| store.get_verified(cid).map_err(Failure::from).and(Err(failure)))
}

/// Bytes of the blocks of a DAG that are here. Blocks while it walks the inner nodes.
///
/// # Errors
/// If the store can't be read or a block is no DAG node.
pub fn dag_bytes(store: &BlockStore, root: &ContentId) -> Result<u64, Failure> {
    match missing(store, root, usize::MAX)? {
        Done::Missing { bytes, .. } => Ok(bytes),
        _ => Ok(0),
    }
}

/// Bytes of the blocks of a DAG, counted as [`dag_bytes`] does, if all of it is here.
///
/// # Errors
/// If the store can't be read or a block is no DAG node.
pub fn whole_bytes(store: &BlockStore, root: &ContentId) -> Result<Option<u64>, Failure> {
    match missing(store, root, 0)? {
        Done::Missing { more: false, bytes, .. } => Ok(Some(bytes)),
        _ => Ok(None),
    }
}

fn put(store: &BlockStore, cid: &ContentId, bytes: &[u8]) -> Result<Stored, Failure> {
    match store.put(cid, bytes) {
        Ok(()) => {
            let mut missing = links(cid, bytes)?;
            missing.retain(|link| !store.has(link));
            Ok(Stored::Kept { bytes: bytes.len() as u64, missing })
        }
        Err(blocks::Error::Mismatch(_)) => Ok(Stored::Mismatch),
        Err(error) => Err(error.into()),
    }
}

fn links(cid: &ContentId, bytes: &[u8]) -> Result<Vec<ContentId>, Failure> {
    dag_pb::links(cid, bytes).map_err(|source| Failure::Content { cid: *cid, source })
}

fn read(store: &BlockStore, cids: &[ContentId], budget: u32) -> Result<Vec<Slot>, Failure> {
    let mut left = u64::from(budget);
    let mut first = true;
    let mut slots = Vec::with_capacity(cids.len());
    for cid in cids {
        let size = store.size(cid);
        let slot = match size {
            None => Slot::Missing,
            Some(size) if size > left && !first => Slot::Omitted,
            Some(_) => store.get(cid)?.map_or(Slot::Missing, Slot::Present),
        };
        if let Slot::Present(block) = &slot {
            first = false;
            left = left.saturating_sub(block.len() as u64);
        }
        slots.push(slot);
    }
    Ok(slots)
}

fn seal(store: &BlockStore, root: &ContentId, pins: &[String]) -> Result<Done, Failure> {
    store.sync()?;
    for reason in pins {
        store.pin(root, reason)?;
    }
    store.release(root);
    Ok(Done::Sealed)
}

/// A DAG that this node keeps because a peer asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hold {
    /// The root.
    pub root: ContentId,
    /// Who asked.
    pub peer: PeerId,
    /// Bytes as the peer told them.
    pub size: u64,
}

impl Hold {
    /// The reason under which it is pinned; it is all that is remembered across a restart.
    pub fn reason(&self) -> String {
        format!("hold {} {}", self.size, self.peer)
    }

    /// What a pin is a hold of; `None` for a pin for any other reason.
    pub fn from_pin(root: ContentId, reason: &str) -> Option<Self> {
        let (size, peer) = reason.strip_prefix("hold ")?.split_once(' ')?;
        Some(Self { root, peer: peer.parse().ok()?, size: size.parse().ok()? })
    }
}

/// What this node held for others when it stopped, for [`super::State::new`].
pub fn holds(store: &BlockStore) -> Vec<Hold> {
    store.pins().into_iter().filter_map(|pin| Hold::from_pin(pin.root, &pin.reason)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        shard::Files,
        store::{Files as _, Quota, dag_pb::RAW},
    };

    fn store() -> (tempfile::TempDir, Arc<BlockStore>) {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(directory.path(), Quota { bytes: 64 << 20 }).unwrap();
        (directory, store)
    }

    fn done(store: &Arc<BlockStore>, work: Work) -> Done {
        let answer = perform(store, Request { id: EdgeId(7), work });
        assert_eq!(answer.id, EdgeId(7));
        answer.result.unwrap()
    }

    #[test]
    fn what_is_missing_shrinks_as_blocks_arrive() {
        let (_first, source) = store();
        let bytes: Vec<u8> = (0..3 << 20).map(|index: u32| index.to_be_bytes()[1] ^ index.to_be_bytes()[3]).collect();
        let root = Files::new(source.clone()).import_bytes(&bytes).unwrap();
        let (_second, target) = store();
        let mut rounds = 0;
        loop {
            let Done::Missing { missing, .. } = done(&target, Work::Missing { root, limit: 2 }) else {
                panic!("not the answer to that")
            };
            if missing.is_empty() {
                break;
            }
            rounds += 1;
            for cid in missing {
                let bytes = source.get(&cid).unwrap().unwrap();
                done(&target, Work::Put { blocks: vec![(cid, bytes)] });
            }
        }
        assert_eq!(rounds, 3);
        done(&target, Work::Seal { root, pins: vec!["test".into()] });
        assert_eq!(target.pins().len(), 1);
        assert_eq!(Files::new(target).read(&root, bytes.len()).unwrap(), bytes);
    }

    #[test]
    fn an_answer_keeps_to_its_budget_but_gives_the_first() {
        let (_directory, store) = store();
        let cids: Vec<ContentId> = (0..3).map(|number| store.put_new(RAW, &vec![number; 1000]).unwrap()).collect();
        let absent = dag_pb::content_id(RAW, b"absent");
        let asked = vec![absent, cids[0], cids[1], cids[2]];
        let Done::Read(slots) = done(&store, Work::Read { cids: asked, budget: 1500 }) else { panic!("not that") };
        assert!(matches!(&slots[..], [Slot::Missing, Slot::Present(_), Slot::Omitted, Slot::Omitted]));
        let Done::Read(slots) = done(&store, Work::Read { cids: cids[..1].to_vec(), budget: 0 }) else {
            panic!("not that")
        };
        assert!(matches!(&slots[..], [Slot::Present(_)]));
    }

    #[test]
    fn a_wrong_block_is_data_and_an_unreadable_one_an_error() {
        let (_directory, store) = store();
        let cid = dag_pb::content_id(RAW, b"right");
        let Done::Put(stored) = done(&store, Work::Put { blocks: vec![(cid, Bytes::from_static(b"wrong"))] }) else {
            panic!("not that")
        };
        assert_eq!(stored, [Stored::Mismatch]);
        let garbage = Bytes::from_static(b"\xff\xff");
        let cid = dag_pb::content_id(DAG_PB, &garbage);
        let answer = perform(&store, Request { id: EdgeId(1), work: Work::Put { blocks: vec![(cid, garbage)] } });
        assert!(answer.result.unwrap_err().to_string().starts_with(&cid.to_string()));
    }

    #[test]
    fn holds_are_found_again_from_their_pins() {
        let (_directory, store) = store();
        let root = store.put_new(RAW, b"held").unwrap();
        let hold = Hold { root, peer: PeerId::random(), size: 4 };
        store.pin(&root, &hold.reason()).unwrap();
        store.pin(&root, "job 7").unwrap();
        assert_eq!(holds(&store), [hold]);
    }
}
