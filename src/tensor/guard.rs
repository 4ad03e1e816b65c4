//! An edge gives exactly one answer, also when its work panics.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs `work`; a panic becomes an error that names it.
pub(crate) fn guarded<T, E: From<io::Error>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // The closure owns what it touches: whatever it left half done is dropped with it.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(io::Error::other(format!("the computation panicked, which is a bug worth reporting: {text}")).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_answer() {
        let answer = guarded::<(), io::Error>(|| panic!("boom {}", 1));
        assert!(answer.unwrap_err().to_string().contains("boom 1"));
    }
}
