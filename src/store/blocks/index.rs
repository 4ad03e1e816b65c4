//! What the store knows without touching the disk.

use std::collections::{HashMap, HashSet};

use super::Key;
use crate::types::ContentId;

/// What is known of all blocks without touching the disk: about 60 bytes a block.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) blocks: HashMap<Key, Entry>,
    /// Sum of the sizes.
    pub(super) bytes: u64,
    /// Counts uses; the age of a block for eviction.
    pub(super) tick: u64,
    /// Written since the last sync.
    pub(super) fresh: Vec<Key>,
    pub(super) fresh_bytes: u64,
    /// Every block below a pinned root, present or not; `None` until it is needed, or after an unpin.
    pub(super) pinned: Option<HashSet<Key>>,
    /// Roots of transfers under way: as pins, but forgotten at a restart.
    pub(super) kept: HashSet<ContentId>,
    /// Ticks at which the imports under way began: what was written since is not evicted.
    pub(super) imports: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) size: u32,
    pub(super) used: u64,
    pub(super) fresh: bool,
}

impl Index {
    pub(super) fn touch(&mut self, key: &Key) -> Option<Entry> {
        self.tick += 1;
        let entry = self.blocks.get_mut(key)?;
        entry.used = self.tick;
        Some(*entry)
    }

    pub(super) fn insert(&mut self, key: Key, size: u32, fresh: bool) {
        self.tick += 1;
        let entry = Entry { size, used: self.tick, fresh };
        if self.blocks.insert(key, entry).is_none() {
            self.bytes += u64::from(size);
        }
        if fresh {
            self.fresh.push(key);
            self.fresh_bytes += u64::from(size);
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> bool {
        let Some(entry) = self.blocks.remove(key) else {
            return false;
        };
        self.bytes -= u64::from(entry.size);
        true
    }
}
