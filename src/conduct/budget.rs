//! How much of something is too much: token buckets, one for each peer or address, and a bounded number of them.

use std::collections::BTreeMap;

use crate::types::Time;

/// Buckets kept of one kind, a few tens of bytes each. When there are more, full ones are forgotten: they say nothing.
const MAX_BUCKETS: usize = 4_096;
/// A token in the unit in which buckets fill: a rate of one a minute gives one unit a millisecond.
const TOKEN: u64 = 60_000;

/// How much a peer may do: at once, and again as time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// What a peer that was never seen may do at once. Less than `burst`: new names cost nothing.
    pub start: u32,
    /// The most at once.
    pub burst: u32,
    /// How much comes back in a minute.
    pub per_minute: u32,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u64,
    at: Time,
}

impl Bucket {
    fn fill(&mut self, budget: &Budget, now: Time) {
        let millis = now.as_millis().saturating_sub(self.at.as_millis());
        let gained = millis.saturating_mul(u64::from(budget.per_minute));
        self.level = self.level.saturating_add(gained).min(u64::from(budget.burst) * TOKEN);
        self.at = self.at.max(now);
    }

    fn tokens(&self) -> u32 {
        u32::try_from(self.level / TOKEN).unwrap_or(u32::MAX)
    }
}

/// What is left of one budget for each of many.
#[derive(Debug)]
pub struct Buckets<K> {
    budget: Budget,
    of: BTreeMap<K, Bucket>,
}

impl<K: Ord + Clone> Buckets<K> {
    /// Nobody has used any of it yet.
    pub fn new(budget: Budget) -> Self {
        Self { budget, of: BTreeMap::new() }
    }

    /// The budget.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What `key` may do now.
    pub fn left(&mut self, key: &K, now: Time) -> u32 {
        self.bucket(key, now).tokens()
    }

    /// Uses up to `wanted`; returns how much of that was not there.
    pub fn take(&mut self, key: &K, wanted: u32, now: Time) -> u32 {
        let bucket = self.bucket(key, now);
        let granted = wanted.min(bucket.tokens());
        bucket.level -= u64::from(granted) * TOKEN;
        wanted - granted
    }

    fn bucket(&mut self, key: &K, now: Time) -> &mut Bucket {
        let budget = self.budget;
        if !self.of.contains_key(key) && self.of.len() >= MAX_BUCKETS {
            self.make_room(now);
        }
        let fresh = Bucket { level: u64::from(budget.start) * TOKEN, at: now };
        let bucket = self.of.entry(key.clone()).or_insert(fresh);
        bucket.fill(&budget, now);
        bucket
    }

    /// Forgets those that have used nothing lately; if all have, the one that used it longest ago.
    fn make_room(&mut self, now: Time) {
        let budget = self.budget;
        self.of.retain(|_, bucket| {
            bucket.fill(&budget, now);
            bucket.level < u64::from(budget.burst) * TOKEN
        });
        if self.of.len() >= MAX_BUCKETS
            && let Some(key) = self.of.iter().max_by_key(|(_, bucket)| bucket.level).map(|(key, _)| key.clone())
        {
            self.of.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BUDGET: Budget = Budget { start: 2, burst: 5, per_minute: 60 };
    const NOW: Time = Time::from_millis(1_000_000);

    #[test]
    fn a_newcomer_has_less_and_gets_as_much_as_time_gives() {
        let mut buckets = Buckets::new(BUDGET);
        assert_eq!(buckets.take(&1, 3, NOW), 1, "two of three");
        assert_eq!(buckets.take(&1, 1, NOW), 1, "nothing is left");
        assert_eq!(buckets.take(&2, 2, NOW), 0, "another has its own");
        assert_eq!(buckets.left(&1, NOW + Duration::from_millis(1_999)), 1, "one a second");
        assert_eq!(buckets.left(&1, NOW + Duration::from_secs(3_600)), 5, "and never more than the burst");
        assert_eq!(buckets.left(&1, NOW), 5, "time that goes back changes nothing");
    }

    #[test]
    fn names_without_end_take_no_memory_without_end() {
        let mut buckets = Buckets::new(BUDGET);
        for name in 0..3 * MAX_BUCKETS {
            buckets.take(&name, 2, NOW);
            assert!(buckets.of.len() <= MAX_BUCKETS);
        }
        buckets.take(&usize::MAX, 1, NOW + Duration::from_secs(60));
        assert_eq!(buckets.of.len(), 1, "full ones go first");
    }
}
