//! How long to wait after a failure: longer each time, and never all nodes at once.

use std::time::Duration;

use crate::types::doubled;

/// The first wait, before chance.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait: a ledger that is back is noticed within this.
const LONGEST: Duration = Duration::from_secs(15);

/// Exponential back-off with jitter. Chance comes in as an argument.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: between half and all of a time that doubles up to [`LONGEST`]. `chance` is
    /// uniform over all bytes.
    pub(super) fn next(&mut self, chance: [u8; 2]) -> Duration {
        let whole = doubled(FIRST, self.failures, LONGEST);
        self.failures += 1;
        let half = whole / 2;
        half + half * u32::from(u16::from_be_bytes(chance)) / u32::from(u16::MAX)
    }

    /// It worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_start_anew_after_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..20).map(|_| backoff.next([255, 255])).collect();
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(waits[19], LONGEST);
        assert_eq!(backoff.next([0, 0]), LONGEST / 2);
        backoff.reset();
        assert_eq!(backoff.next([0, 0]), FIRST / 2);
    }
}
