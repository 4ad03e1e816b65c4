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

/// Longer byte strings (the pieces of a speed test) are folded first: two runs are compared, nobody is deceived.
const WHOLE: usize = 8_192;

/// 64 bits of a long byte string, by folded multiplication (as in wyhash, Wang 2019): 10 bytes a nanosecond.
fn fold(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0xa076_1d64_78bd_642f;
    bytes.chunks(8).fold(ODD, |state, chunk| {
        let word = chunk
            .try_into()
            .map_or_else(|_| chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), u64::from_le_bytes);
        let product = (u128::from(state ^ word) * u128::from(ODD)).to_le_bytes();
        product.chunks_exact(8).fold(0, |folded, half| folded ^ half.try_into().map_or(0, u64::from_le_bytes))
    })
}

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
        if bytes.len() <= WHOLE {
            self.0.update(bytes);
        } else {
            self.0.update(fold(bytes).to_be_bytes());
        }
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
            Delivery::Changes(page) => self.add(&page.digest.0),
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
