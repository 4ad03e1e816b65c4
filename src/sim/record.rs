//! What happened, as one digest: two runs of one seed must give the same.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::{
    host::Carried,
    ledger_link::Ask,
    world::{Delivery, Happening},
};
use crate::{
    api::NodeEvent,
    chain::ledger::BlockResult,
    codec,
    types::{Digest, Time},
};

/// Hashes everything that happens, with every byte that is sent.
#[derive(Default)]
pub(super) struct Record(Sha256);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({})", self.digest())
    }
}

impl Record {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    /// Everything so far.
    pub(super) fn digest(&self) -> Digest {
        Digest(self.0.clone().finalize().into())
    }

    pub(super) fn happening(&mut self, at: Time, happening: &Happening) {
        self.number(at.as_millis());
        self.add(happening.word().as_bytes());
        match happening {
            Happening::Reaches { machine, life, what } => {
                self.number(*machine as u64);
                self.number(*life);
                self.delivery(what);
            }
            Happening::AtLedger { machine, what, .. } => {
                self.number(*machine as u64);
                if let Ask::Submit { bytes, .. } = what {
                    self.add(bytes);
                }
            }
            Happening::Start(machine) => self.number(*machine as u64),
            _ => {}
        }
    }

    fn delivery(&mut self, what: &Delivery) {
        match what {
            Delivery::Frame { from, frame } => {
                self.number(*from as u64);
                self.add(frame.protocol.as_bytes());
                self.number(frame.call);
                match &frame.carried {
                    Carried::Request(bytes) | Carried::Response(bytes) => self.add(bytes),
                    Carried::Failed(error) => self.add(error.to_string().as_bytes()),
                }
            }
            Delivery::Gossip { bytes, .. } => self.add(bytes),
            Delivery::Changes(changes) => self.add(&codec::encode(&**changes)),
            Delivery::Edge { id, .. } => self.number(*id),
            Delivery::ShardEdge { id, .. } => self.number(id.0),
            Delivery::Result { key, .. } => self.number(*key),
            Delivery::Nonce(nonce) => self.number(*nonce),
            Delivery::CallFailed { call, .. } => self.number(*call),
            Delivery::Peer { event, .. } => self.add(format!("{event:?}").as_bytes()),
            Delivery::Script(tick) => self.add(format!("{tick:?}").as_bytes()),
            Delivery::Wake | Delivery::Listener | Delivery::LedgerSecond | Delivery::Shutdown => {}
        }
    }

    pub(super) fn block(&mut self, result: &BlockResult) {
        self.add(&codec::encode(result));
    }

    pub(super) fn event(&mut self, node: usize, event: &NodeEvent) {
        self.number(node as u64);
        self.add(format!("{event:?}").as_bytes());
    }
}
