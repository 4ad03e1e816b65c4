//! Integration tests: real processes, real files, real sockets. One binary, because each binary links everything again.
#![allow(clippy::unwrap_used, reason = "a test that can't set its scene has failed, and the line says where")]

mod architecture;
mod conformance;
mod content;
mod e2e;
mod executor;
mod hostile;
#[path = "../hostile/mod.rs"]
mod hostile_peer;
mod interop;
mod kubo;
#[path = "../link/mod.rs"]
mod link;
mod links;
mod listed;
mod scenarios;
