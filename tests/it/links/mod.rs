//! Far lines: the emulator against its own formula, and content that crosses it between two real nodes.
//!
//! What a debug build reaches in seconds is told here; the figures are `scripts/bench links`.

mod far;
mod formula;
