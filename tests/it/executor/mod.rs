//! The executor with real processes behind the real launcher.

mod bundles;
mod conformance;
mod digits;
mod hostile;
pub(crate) mod host;
mod inference;
mod known_answer;
mod sandbox;
