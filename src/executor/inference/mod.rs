//! Answers requests with warm workers: a bundle in `serve` mode for each pair of bundle and model.
//!
//! [`State`] decides (who waits, which worker is started, which one makes room for another); [`edge::Workers`] does
//! (processes, HTTP over their Unix sockets). Content that a worker needs must be in the store before it is started: for
//! every request the coordinator is asked, and answers with the content that serves it, or with a refusal. Models are
//! cached where they are: in memory by the warm workers, keyed by CID, and on disk by the block store.
//!
//! What it never does: choose a node for a request, judge an answer, or keep a request across a restart. A result is
//! what the script said, flat: `{"result": …, "latency_ms": …, "model_id": …}`.

pub mod behaviour;
pub mod edge;
mod state;
mod wire;

pub use behaviour::Behaviour;
pub use state::{Config, Event, Input, State, WorkerSpec};
pub use wire::{Answer, MAX_INPUT, MAX_RESULT, Request, Response, Target};
