//! The executor with real processes behind the real launcher.

mod bundles;
mod conformance;
mod digits;
pub(crate) mod host;
mod hostile;
mod inference;
mod known_answer;
mod sandbox;
