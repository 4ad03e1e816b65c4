//! What is kept and what goes: pins, and eviction of the rest.

use std::{collections::HashSet, sync::PoisonError};

use super::{BlockStore, Error, Key};
use crate::{
    store::{
        dag_pb::{self, Named},
        pins::{MAX_REASON_BYTES, Pin},
    },
    types::ContentId,
};

/// Eviction goes on until the store is this many percent full, so that it isn't called for at every block.
const EVICT_TO_PERCENT: u64 = 90;

impl BlockStore {
    /// Keeps `root` and all below it, as far as it is here and as it arrives, until the same reason is unpinned.
    pub fn pin(&self, root: &ContentId, reason: &str) -> Result<(), Error> {
        if reason.len() > MAX_REASON_BYTES {
            return Err(Error::Reason);
        }
        let _no_collection = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.pins.insert(Pin { root: *root, reason: reason.to_owned() })? {
            self.mark(*root);
        }
        Ok(())
    }

    /// Takes one reason away. Nothing is deleted until space is needed.
    pub fn unpin(&self, root: &ContentId, reason: &str) -> Result<(), Error> {
        if self.pins.remove(&Pin { root: *root, reason: reason.to_owned() })? {
            self.lock().pinned = None;
        }
        Ok(())
    }

    /// As [`BlockStore::pin`] while something goes on that a restart would end: nothing is written.
    pub fn keep(&self, root: &ContentId) {
        let _no_collection = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let new = self.lock().kept.insert(*root);
        if new {
            self.mark(*root);
        }
    }

    /// Ends [`BlockStore::keep`].
    pub fn release(&self, root: &ContentId) {
        let mut index = self.lock();
        if index.kept.remove(root) {
            index.pinned = None;
        }
    }

    /// All pins, by root and reason.
    pub fn pins(&self) -> Vec<Pin> {
        self.pins.list()
    }

    /// Deletes unpinned blocks, least recently used first, until at most `target` bytes are used. Returns the
    /// bytes freed.
    pub fn collect_garbage(&self, target: u64) -> Result<u64, Error> {
        let _one_at_a_time = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        self.mark_all();
        let mut freed = 0;
        for key in self.evictable(target) {
            if let Some(size) = self.drop_block(&key) {
                freed += u64::from(size);
            }
        }
        Ok(freed)
    }

    pub(super) fn make_room(&self, size: u64) -> Result<(), Error> {
        let quota = self.quota.bytes;
        let used = self.used_bytes();
        if used.saturating_add(size) <= quota {
            return Ok(());
        }
        self.collect_garbage((quota / 100 * EVICT_TO_PERCENT).min(quota.saturating_sub(size)))?;
        let used = self.used_bytes();
        if used.saturating_add(size) <= quota { Ok(()) } else { Err(Error::Full { used, quota }) }
    }

    /// The unpinned blocks to delete, oldest first, so that at most `target` bytes remain.
    fn evictable(&self, target: u64) -> Vec<Key> {
        let index = self.lock();
        let protected_since = index.imports.iter().min().copied().unwrap_or(u64::MAX);
        let pinned = |key: &Key| index.pinned.as_ref().is_none_or(|set| set.contains(key));
        let mut candidates: Vec<(u64, Key, u32)> = index
            .blocks
            .iter()
            .filter(|(key, entry)| entry.used < protected_since && !pinned(key))
            .map(|(key, entry)| (entry.used, *key, entry.size))
            .collect();
        candidates.sort_unstable();
        let mut remaining = index.bytes;
        let mut chosen = Vec::new();
        for (_, key, size) in candidates {
            if remaining <= target {
                break;
            }
            remaining -= u64::from(size);
            chosen.push(key);
        }
        chosen
    }

    /// Makes the set of pinned blocks, if there is none.
    fn mark_all(&self) {
        let kept: Vec<ContentId> = {
            let mut index = self.lock();
            if index.pinned.is_some() {
                return;
            }
            index.pinned = Some(HashSet::new());
            index.kept.iter().copied().collect()
        };
        for root in self.pins.list().into_iter().map(|pin| pin.root).chain(kept) {
            self.mark(root);
        }
    }

    /// Adds `root` and what is below it to the set of pinned blocks, if there is one.
    fn mark(&self, root: ContentId) {
        let mut open = vec![root];
        while let Some(cid) = open.pop() {
            if let Named::Sha256(key) = dag_pb::named(&cid) {
                let new = self.lock().pinned.as_mut().is_some_and(|set| set.insert(key));
                if new && cid.0.codec() == dag_pb::DAG_PB {
                    open.extend(self.links_of(&cid));
                }
            }
        }
    }

    pub(super) fn mark_below(&self, cid: &ContentId, bytes: &[u8]) {
        for link in dag_pb::links(cid, bytes).unwrap_or_default() {
            self.mark(link);
        }
    }

    /// The links of a block that is here; none if it is not here or can't be read.
    fn links_of(&self, cid: &ContentId) -> Vec<ContentId> {
        let bytes = self.get(cid).ok().flatten();
        bytes.and_then(|bytes| dag_pb::links(cid, &bytes).ok()).unwrap_or_default()
    }
}
