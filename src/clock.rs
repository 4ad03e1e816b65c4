//! The only reader of wall time and entropy. Everything else is told what time it is.
#![expect(clippy::disallowed_methods, reason = "this is the module that the rule points to")]

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::types::Time;

/// Now: the wall clock at the first call, plus the monotonic time since. It never goes backwards within a
/// process, and a wall clock that is set later does not move it.
pub fn now() -> Time {
    static ANCHOR: OnceLock<(Time, Instant)> = OnceLock::new();
    let (wall, start) = ANCHOR.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (Time::ZERO + wall, Instant::now())
    });
    *wall + start.elapsed()
}

/// Microseconds since the first call: for measuring short times, of which [`Time`] sees only milliseconds.
pub fn now_micros() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The monotonic instant at which [`now`] will be `time`, for timers.
pub fn instant_at(time: Time) -> Instant {
    Instant::now() + time.since(now())
}

/// Bytes from the operating system's entropy source.
///
/// # Panics
/// If the operating system has no entropy source, in which case no key could be made either.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system provides entropy");
    bytes
}
