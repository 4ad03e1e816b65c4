//! The fuzz targets without a fuzzer: over their seeds, and over seeds with a few bytes changed. `scripts/fuzz` goes on.

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Changed seeds a target: a second or two for all of them in a build without optimisation.
const ROUNDS: usize = 5_000;

#[test]
fn every_decoder_takes_or_refuses_bent_seeds_without_a_panic() {
    for target in targets::all() {
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        seeds.iter().for_each(|seed| target.run(seed));
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        for _ in 0..ROUNDS {
            let mut input = seeds[chance.below(seeds.len())].clone();
            for _ in 0..=chance.below(3) {
                bend(&mut input, &mut chance);
            }
            target.run(&input);
        }
    }
}

#[test]
fn every_target_is_found_by_its_name() {
    for target in targets::all() {
        assert!(targets::Target::find(target.name).is_some());
    }
}

/// One change: a byte, a cut, a repetition, a number at its edge.
fn bend(input: &mut Vec<u8>, chance: &mut Chance) {
    if input.len() < 2 {
        return input.push(0xff);
    }
    // The first byte picks the decoder.
    let at = 1 + chance.below(input.len() - 1);
    match chance.below(5) {
        0 => input[at] = chance.next().to_le_bytes()[0],
        1 => input[at] ^= 1 << chance.below(8),
        2 => input.truncate(at),
        3 => {
            let end = at + chance.below(input.len() - at);
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        _ => {
            let edge = [0x00, 0x7f, 0x80, 0xff, 0x1b][chance.below(5)];
            let end = input.len().min(at + 8);
            input[at..end].fill(edge);
        }
    }
}

/// Marsaglia's xorshift: the same changes at every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}
