//! Runs the Python programs of strangers, under supervision and within limits.
//!
//! A **run** is one round of one task. [`State`] decides (admission, restarts by exit code, stalls, grace, whether a
//! session's process serves the next round); [`edge::Supervisor`] does (work directories, processes, event files,
//! logs); the [`launcher`] is what stands between the node and the script; [`inference`] keeps warm workers that
//! answer requests. The contract with the script is `atlas-script/1`.
//!
//! # What it never does
//! - It never pastes text from the network into code, a command line or a path: parameters are files and environment,
//!   names of directories are digests of identifiers.
//! - It never decides which task to run, books resources, or speaks to the ledger: the coordinator does.
//! - It never lets a process outlive the node: the launcher watches a pipe whose other end dies with the node.
//! - It never follows a link that a script made: what a script wrote is taken out of its reach first.
//!
//! # Work directory
//! ```text
//! {work}/{digest of task and generation}/   0700, one a process
//!     bundle/            the script                                     the script may read
//!     inputs/{n}/        job.json, model.safetensors, data/ …           the script may read
//!     rounds/{n}/        the contract's work directory; `in` and `job.json` are links into inputs/{n}
//!         out/ ckpt/ tmp/ events.jsonl logs/                            the script may write
//!     kept/{n}/          checkpoints and outputs, moved here when the script says so
//! ```
//! `n` counts the runs of one process. Sockets live in a directory of their own with a short path, because a
//! socket's path holds 107 bytes.
//!
//! # Sessions
//! With `session = true` the script, after `done`, listens on `ATLAS_SOCKET`. For the next round the node connects,
//! sends one line of JSON, `{"contract": 1, "work_dir": …, "env": {…}}`, and reads one line, `{"ok": true}`. `env` has
//! every variable that a fresh process would have been given; the script forgets the old ones (all that begin with
//! `ATLAS_` or `SM_`), takes these, makes `work_dir` its current directory and begins as if it had just been started.

mod alone;
pub mod behaviour;
pub mod bundle;
pub mod conformance;
mod data;
pub mod edge;
mod environment;
pub mod events;
mod exit;
pub mod gradient;
pub mod inference;
mod interface;
pub mod known_answer;
pub mod launcher;
mod logs;
mod overrun;
mod process;
mod python;
pub mod scratch;
mod session;
mod spec;
mod state;
mod task;
mod tree;
mod usage;
mod watch;
mod wire;
mod work_dir;

pub use behaviour::Behaviour;
pub use exit::{Exit, FailureFile, Killed};
pub use interface::{Control, ControlReply, Event, Input};
pub use spec::{FailureKind, Mode, Outputs, ProcessState, Resume, RunSpec, StopMode};
pub use state::{Config, State};
pub use wire::{MAX_LOG, MAX_REASON, ProgressReport, Request, Response, SEALED_DATA_KEY, data_key_purpose};
