//! Reads blocks again, a few at a time, to find those that rotted on the disk before somebody needs them.

use std::{collections::BinaryHeap, fs, io};

use sha2::{Digest as _, Sha256};

use super::{BlockStore, Key};
use crate::types::Digest;

/// Names looked at in one call, so that the index is not held for long; 64 MiB of blocks of 256 KiB.
const MAX_BLOCKS: usize = 256;

/// What a look at some blocks found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Where the next look begins; `None` if this one came to the end.
    pub next: Option<Digest>,
    /// Blocks read.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Digests of blocks whose bytes were others, or could not be read. They are dropped: whoever needs them fetches them.
    pub rotten: Vec<Digest>,
}

impl BlockStore {
    /// Reads blocks in the order of their digests, from `from` on, until about `bytes` are read, and drops what rotted. It
    /// counts as no use of them. Blocks.
    pub fn scrub(&self, from: Digest, bytes: u64) -> Scrubbed {
        let (keys, more) = self.keys_from(&from.0);
        let mut scrubbed = Scrubbed::default();
        for (index, key) in keys.iter().enumerate() {
            if scrubbed.bytes >= bytes {
                scrubbed.next = Some(Digest(*key));
                return scrubbed;
            }
            match self.is_sound(key) {
                // Evicted meanwhile.
                Ok(None) => {}
                Ok(Some(length)) => {
                    scrubbed.blocks += 1;
                    scrubbed.bytes += length;
                }
                Err(_) => {
                    self.drop_block(key);
                    scrubbed.rotten.push(Digest(*key));
                }
            }
            if index + 1 == keys.len() && more {
                scrubbed.next = successor(key).map(Digest);
            }
        }
        scrubbed
    }

    /// The first names from `from` on, in order, and whether there are more.
    fn keys_from(&self, from: &Key) -> (Vec<Key>, bool) {
        let mut first = BinaryHeap::new();
        let mut more = false;
        for key in self.lock().blocks.keys().filter(|key| *key >= from) {
            first.push(*key);
            if first.len() > MAX_BLOCKS {
                first.pop();
                more = true;
            }
        }
        (first.into_sorted_vec(), more)
    }

    /// The length of a block whose bytes are those of its name; `None` if it is gone.
    fn is_sound(&self, key: &Key) -> io::Result<Option<u64>> {
        for path in [self.placed_path(key), self.fresh_path(key), self.placed_path(key)] {
            match fs::read(&path) {
                Ok(bytes) if Key::from(Sha256::digest(&bytes)) == *key => return Ok(Some(bytes.len() as u64)),
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// The next name after `key`; `None` after the last.
fn successor(key: &Key) -> Option<Key> {
    let mut next = *key;
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        store::{Quota, dag_pb::RAW},
        types::ContentId,
    };

    fn store(directory: &Path, blocks: u32) -> (std::sync::Arc<BlockStore>, Vec<ContentId>) {
        let store = BlockStore::open(directory, Quota { bytes: 1 << 30 }).unwrap();
        let cids = (0..blocks).map(|number| store.put_new(RAW, &number.to_be_bytes()).unwrap()).collect();
        (store, cids)
    }

    /// All of a store, a little at a time.
    fn whole(store: &BlockStore, bytes: u64) -> (u64, Vec<Digest>) {
        let (mut from, mut blocks, mut rotten) = (Digest([0; 32]), 0, Vec::new());
        loop {
            let scrubbed = store.scrub(from, bytes);
            blocks += scrubbed.blocks;
            rotten.extend(scrubbed.rotten);
            match scrubbed.next {
                Some(next) => from = next,
                None => return (blocks, rotten),
            }
        }
    }

    #[test]
    fn every_block_is_read_once_however_little_is_read_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let count = u32::try_from(MAX_BLOCKS).unwrap() * 2 + 7;
        let (store, _) = store(directory.path(), count);
        for bytes in [1, 40, u64::MAX] {
            assert_eq!(whole(&store, bytes), (u64::from(count), vec![]));
        }
    }

    #[test]
    fn a_block_that_rotted_is_found_dropped_and_named_and_the_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let (store, cids) = store(directory.path(), 20);
        store.sync().unwrap();
        let key = Key::from(Sha256::digest(7_u32.to_be_bytes()));
        fs::write(store.placed_path(&key), b"rot").unwrap();
        assert_eq!(whole(&store, 1 << 20), (19, vec![Digest(key)]));
        let left: Vec<_> = cids.iter().filter(|cid| store.has(cid)).collect();
        assert!(left.len() == 19 && !left.contains(&&cids[7]));
        assert_eq!(whole(&store, 1 << 20), (19, vec![]));
    }

    #[test]
    fn the_name_after_the_last_is_none() {
        assert_eq!(successor(&[255; 32]), None);
        let mut key = [0; 32];
        key[31] = 255;
        let mut next = [0; 32];
        next[30] = 1;
        assert_eq!(successor(&key), Some(next));
    }
}
