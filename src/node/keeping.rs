//! What this node keeps for others, on its disk: an edge.
//!
//! A pin with a reason of its own says whose object it is, and is all that is remembered across a restart. It is set only once
//! all of the object is here and on the disk: what is pinned was whole. Nothing is decided here.

use std::sync::Arc;

use crate::{
    shard::edge::whole_bytes,
    store::BlockStore,
    types::{ContentId, NodeKey, words},
};

/// Begins the reason of a pin, before the owner's key.
const REASON: &str = "kept for ";

/// Why an object of this owner is pinned.
pub(crate) fn reason(owner: &NodeKey) -> String {
    format!("{REASON}{owner}")
}

/// Whose object it is that is pinned for this reason, if it is one.
pub(crate) fn owner(reason: &str) -> Option<NodeKey> {
    reason.strip_prefix(REASON)?.parse().ok()
}

/// Pins an object that is whole and has at most so many bytes of blocks. Answers how many. Blocks.
pub(super) fn keep(store: &BlockStore, owner: &NodeKey, root: &ContentId, most: u64) -> Result<u64, String> {
    let bytes = check(store, root, most)?;
    store.sync().map_err(|error| words(&error))?;
    store.pin(root, &reason(owner)).map_err(|error| words(&error))?;
    // Until it was pinned, some of it may have made room for other blocks.
    if let Err(reason) = check(store, root, most) {
        let_go(store, owner, root)?;
        return Err(reason);
    }
    Ok(bytes)
}

fn check(store: &BlockStore, root: &ContentId, most: u64) -> Result<u64, String> {
    let bytes = whole_bytes(store, root).map_err(|error| words(&error))?;
    let bytes = bytes.ok_or("part of it is not here")?;
    if bytes > most {
        return Err(format!("it has {bytes} bytes, its owner said {most}"));
    }
    Ok(bytes)
}

/// Keeps an object no longer. Its blocks go when their room is needed.
pub(super) fn let_go(store: &BlockStore, owner: &NodeKey, root: &ContentId) -> Result<(), String> {
    store.unpin(root, &reason(owner)).map_err(|error| words(&error))
}

/// What is kept, by owner and root.
pub(super) fn kept(store: &Arc<BlockStore>) -> Vec<(NodeKey, ContentId)> {
    store.pins().into_iter().filter_map(|pin| Some((owner(&pin.reason)?, pin.root))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        shard::Files,
        store::{Files as _, Quota},
    };

    #[test]
    fn only_what_is_whole_and_as_small_as_its_owner_said_is_pinned_and_a_restart_finds_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(directory.path(), Quota { bytes: 64 << 20 }).unwrap();
        let files = Files::new(Arc::clone(&store));
        let owner = NodeKey([7; 32]);
        // Two leaves below a root.
        let root = files.import_bytes(&vec![3; (1 << 20) + 1]).unwrap();
        let bytes = whole_bytes(&store, &root).unwrap().unwrap();
        assert!(bytes > 1 << 20);
        assert!(keep(&store, &owner, &root, bytes - 1).unwrap_err().contains("its owner said"));
        assert_eq!(kept(&store), []);
        assert_eq!(keep(&store, &owner, &root, bytes), Ok(bytes));
        store.pin(&root, "added").unwrap();
        drop((files, store));

        let store = BlockStore::open(directory.path(), Quota { bytes: 64 << 20 }).unwrap();
        assert_eq!(kept(&store), [(owner, root)]);
        let_go(&store, &owner, &root).unwrap();
        assert_eq!((kept(&store), store.pins().len()), (vec![], 1));

        let other = tempfile::tempdir().unwrap();
        let empty = BlockStore::open(other.path(), Quota { bytes: 64 << 20 }).unwrap();
        let inner = store.get(&root).unwrap().unwrap();
        empty.put(&root, &inner).unwrap();
        assert!(keep(&empty, &owner, &root, bytes).unwrap_err().contains("not here"));
        assert_eq!(kept(&empty), []);
    }
}
