//! `/atlas/ledger-rpc/1`: a ledger's JSON-RPC, carried between peers.
//!
//! It exists so that a ledger can be used where no address reaches it: the ledger of a job with `settle = "none"`,
//! carried by its submitter's node behind some router; or a configured chain whose `--chain-rpc` does not answer
//! here and answers at a peer. The bytes are those of HTTP, so that one client serves both ways.
//!
//! It never looks into a request and never decides who may ask: every transaction inside is signed, and what the
//! ledger answers is public. The coordinator knows which ledgers this node carries or reaches.

pub mod behaviour;
mod state;
mod wire;

pub use state::{CallError, Config, Event, Input, State};
pub use wire::{MAX_BODY, MAX_REQUEST, MAX_RESPONSE, Request, Response};
