//! All chance in a simulated world, from one seed.

use std::ops::RangeInclusive;

use crate::types::Digest;

/// A generator of random numbers: xoshiro256++ (Blackman and Vigna, 2019), seeded by SHA-256 of seed and purpose. Each
/// purpose has its own, so that a fault more does not change the latencies of everything after it.
#[derive(Clone, Debug)]
pub struct Chance([u64; 4]);

impl Chance {
    /// The generator for `purpose` in the world of this seed.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let digest = Digest::of_parts("atlas/sim/chance", &[&seed.to_be_bytes(), purpose.as_bytes()]).0;
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(8)) {
            *word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        Self(words)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number of `range`, all equally likely (to one part in 2⁶⁴ divided by its size).
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        let size = u128::from(high.saturating_sub(low)) + 1;
        let scaled = (u128::from(self.bits()) * size) >> 64;
        low + u64::try_from(scaled).expect("a product with a fraction of 2⁶⁴ is below the size")
    }

    /// True in `permille` of 1,000 cases.
    pub fn happens(&mut self, permille: u32) -> bool {
        permille > 0 && self.within(0..=999) < u64::from(permille)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut chance = Chance::new(1, "test");
        let drawn: Vec<u64> = (0..1_000).map(|_| chance.within(3..=6)).collect();
        assert!((3..=6).all(|number| drawn.contains(&number)) && drawn.iter().all(|number| (3..=6).contains(number)));
        assert_eq!(chance.within(5..=5), 5);
    }

    #[test]
    fn a_seed_and_a_purpose_fix_every_number() {
        let draw = |seed, purpose| Chance::new(seed, purpose).bits();
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
    }

    #[test]
    fn something_rare_happens_rarely() {
        let mut chance = Chance::new(1, "test");
        let count = (0..10_000).filter(|_| chance.happens(100)).count();
        assert!((800..1_200).contains(&count), "{count}");
        assert!(!chance.happens(0) && chance.happens(1_000));
    }
}
