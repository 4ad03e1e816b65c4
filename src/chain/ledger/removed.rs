//! Which records were removed at which height, so that a reader who keeps all records is told.
//!
//! A snapshot does not hold this. Who asks for longer ago than is known begins from nothing, which is always right.

use std::collections::{BTreeMap, BTreeSet};

use super::Key;

/// Removals that are remembered: rewards of rounds, and objects that are over, of some days of a busy ledger, in about 20 MiB.
/// When there are more, the oldest heights are forgotten.
const MAX_REMOVED: usize = 100_000;

/// Records that are gone, each at one height.
#[derive(Default)]
pub(super) struct Removed {
    at: BTreeMap<u64, BTreeSet<Key>>,
    of: BTreeMap<Key, u64>,
    /// What was removed up to this height is not known; none if everything is.
    unknown_until: Option<u64>,
}

impl Removed {
    /// Nothing is known of what was removed up to `height`.
    pub(super) fn after(height: u64) -> Self {
        Self { unknown_until: Some(height), ..Self::default() }
    }

    /// A record was removed.
    pub(super) fn add(&mut self, key: Key, height: u64) {
        self.at.entry(height).or_default().insert(key.clone());
        self.of.insert(key, height);
        while self.of.len() > MAX_REMOVED
            && let Some((height, keys)) = self.at.pop_first()
        {
            for key in &keys {
                self.of.remove(key);
            }
            self.unknown_until = Some(height);
        }
    }

    /// A record is there again.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(height) = self.of.remove(key) {
            take_out(&mut self.at, height, key);
        }
    }

    /// Whether all removals after `height` are known.
    pub(super) fn is_known_after(&self, height: u64) -> bool {
        self.unknown_until.is_none_or(|until| height >= until)
    }

    /// What was removed at a height.
    pub(super) fn at(&self, height: u64) -> Option<&BTreeSet<Key>> {
        self.at.get(&height)
    }

    /// The first height from `from` on at which something was removed.
    pub(super) fn first_from(&self, from: u64) -> Option<u64> {
        self.at.range(from..).next().map(|(height, _)| *height)
    }
}

/// Takes a key out of those of its height, and the height out if it was the last.
pub(super) fn take_out(at: &mut BTreeMap<u64, BTreeSet<Key>>, height: u64, key: &Key) {
    if let Some(keys) = at.get_mut(&height) {
        keys.remove(key);
        if keys.is_empty() {
            at.remove(&height);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Key {
        Key::Model(number.to_string())
    }

    #[test]
    fn the_oldest_removals_are_forgotten_and_that_is_known() {
        let mut removed = Removed::default();
        for number in 0..=MAX_REMOVED {
            removed.add(name(number), number as u64);
        }
        assert!(removed.of.len() == MAX_REMOVED && removed.at(0).is_none());
        assert!(removed.is_known_after(0) && removed.first_from(0) == Some(1));
        removed.add(name(MAX_REMOVED + 1), 0);
        assert!(removed.is_known_after(0) && removed.of.len() == MAX_REMOVED);
        let removed = Removed::after(7);
        assert!(removed.is_known_after(7) && !removed.is_known_after(6));
    }

    #[test]
    fn a_record_that_is_there_again_is_not_removed() {
        let mut removed = Removed::default();
        removed.add(name(1), 3);
        removed.add(name(2), 3);
        removed.forget(&name(1));
        assert_eq!(removed.at(3).map(BTreeSet::len), Some(1));
        removed.forget(&name(2));
        assert_eq!((removed.at(3), removed.first_from(0)), (None, None));
    }
}
