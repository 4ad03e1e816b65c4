//! The records as they were after one block, kept while they are written out and later blocks change them.
//!
//! A snapshot of a million records takes seconds to write, and no chain waits for it. So it is written a part at a time, in the order
//! of the keys, between blocks; whoever changes a record that the writer has not come to puts its old form aside here. What is
//! put aside is bounded, and so is what a block can change. It never holds a copy of everything.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

use super::{
    Key,
    state::{Kept, Records},
};

/// Records put aside at most: in about 100 MiB. Who changes more while one snapshot is written takes the next one.
const MAX_ASIDE: usize = 200_000;

/// A state that is being written out.
pub(super) struct Frozen {
    /// The block that it was the state after.
    height: u64,
    /// The writer has written the records up to this key.
    passed: Option<Key>,
    /// The old forms of those behind it that have changed since; none for one that was not there.
    aside: BTreeMap<Key, Option<Kept>>,
}

impl Frozen {
    /// Everything as it is now, after the block of this height.
    pub(super) fn at(height: u64) -> Self {
        Self { height, passed: None, aside: BTreeMap::new() }
    }

    /// The block that it was the state after.
    pub(super) fn height(&self) -> u64 {
        self.height
    }

    /// A record changes; this is what it was. False if more is put aside than may be: it can't be written any more.
    pub(super) fn put_aside(&mut self, key: &Key, old: Option<&Kept>) -> bool {
        if self.passed.as_ref().is_none_or(|passed| key > passed) {
            self.aside.entry(key.clone()).or_insert_with(|| old.cloned());
        }
        self.aside.len() <= MAX_ASIDE
    }

    /// Gives the next records as they were, after going through `count` at most. False if there was nothing left to go through.
    pub(super) fn next(&mut self, records: &Records, count: usize, mut give: impl FnMut(&Key, &Kept)) -> bool {
        let from = self.passed.as_ref().map_or(Unbounded, Excluded);
        let mut present = records.range((from, Unbounded)).peekable();
        let mut last = None;
        for _ in 0..count {
            let old = self.aside.first_key_value().map(|(key, _)| key);
            let is_old = match (old, present.peek()) {
                (None, None) => break,
                (Some(old), Some((key, _))) => old <= *key,
                (old, _) => old.is_some(),
            };
            if is_old && let Some((key, old)) = self.aside.pop_first() {
                present.next_if(|(present, _)| **present == key);
                old.iter().for_each(|old| give(&key, old));
                last = Some(key);
            } else if let Some((key, kept)) = present.next() {
                give(key, kept);
                last = Some(key.clone());
            }
        }
        let went_on = last.is_some();
        self.passed = last.or_else(|| self.passed.take());
        went_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_is_bounded() {
        let mut frozen = Frozen::at(7);
        let key = |number: usize| Key::Model(number.to_string());
        assert!((0..MAX_ASIDE).all(|number| frozen.put_aside(&key(number), None)));
        assert!(frozen.put_aside(&key(0), None), "it is there already");
        assert!(!frozen.put_aside(&key(MAX_ASIDE), None));
    }
}
