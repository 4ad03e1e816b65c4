//! What of the outbox a journal keeps, and what comes back from it.

use serde::{Deserialize, Serialize};

use super::{Flight, Key, Outbox, Stage, TRY_AGAIN};
use crate::{
    chain::wire::{MAX_TRANSACTION, Message, Transaction},
    codec,
    types::{Digest, Signed, Time},
};

/// A submission in the journal, before or after it was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::chain::client) enum Record {
    /// It waits for its turn.
    Waiting { id: u64, message: Box<Message> },
    /// These bytes may be on their way.
    Signed {
        id: u64,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        /// No block up to this one can hold them.
        #[serde(default)]
        after: u64,
    },
    /// Nothing more happens for these.
    Done { ids: Vec<u64> },
}

impl Outbox {
    /// Takes over what a journal had; the next free id.
    pub(in crate::chain::client) fn restore(&mut self, records: impl IntoIterator<Item = Record>, now: Time) -> u64 {
        let mut free = 0;
        for record in records {
            match record {
                Record::Waiting { id, message } => {
                    free = free.max(id.saturating_add(1));
                    self.insert(id, *message, 0, Stage::Waiting, now);
                }
                Record::Signed { id, bytes, after } => {
                    free = free.max(id.saturating_add(1));
                    self.restore_signed(id, bytes, after, now);
                }
                Record::Done { ids } => {
                    free = ids.iter().fold(free, |free, id| free.max(id.saturating_add(1)));
                    self.entries.retain(|_, entry| !ids.contains(&entry.id));
                }
            }
        }
        free
    }

    fn restore_signed(&mut self, id: u64, bytes: Vec<u8>, after: u64, now: Time) {
        let transaction: Option<Transaction> =
            codec::decode::<Signed>(&bytes, MAX_TRANSACTION + 1024).ok().and_then(|signed| signed.open().ok());
        let Some(transaction) = transaction else {
            return;
        };
        // It may have been included while nobody looked: that comes first.
        let flight = Flight::Sent { since: Time::ZERO, look_at: now };
        let stage = Stage::Signed { nonce: transaction.nonce, hash: Digest::of(&bytes), bytes, after, flight };
        match self.entries.values_mut().find(|entry| entry.id == id) {
            Some(entry) => (entry.attempt, entry.stage) = (transaction.attempt, stage),
            None => self.insert(id, transaction.message, transaction.attempt, stage, now),
        }
    }

    /// What the journal must still learn: durable submissions that wait, and those that are over.
    pub(in crate::chain::client) fn unkept(&mut self) -> Vec<Record> {
        let done = std::mem::take(&mut self.done);
        let done = (!done.is_empty()).then_some(Record::Done { ids: done });
        let waiting = self.entries.values_mut().filter(|entry| !entry.kept).map(|entry| {
            entry.kept = true;
            Record::Waiting { id: entry.id, message: Box::new(entry.message.clone()) }
        });
        done.into_iter().chain(waiting).collect()
    }

    /// The journal did not take these: they come again.
    pub(in crate::chain::client) fn on_unkept(&mut self, records: Vec<Record>) {
        for record in records {
            match record {
                Record::Done { ids } => self.done.extend(ids),
                Record::Waiting { id, .. } | Record::Signed { id, .. } => {
                    self.entries.values_mut().filter(|entry| entry.id == id).for_each(|entry| entry.kept = false);
                }
            }
        }
    }

    /// Everything durable, for a journal that is written anew.
    pub(in crate::chain::client) fn records(&self) -> Vec<Record> {
        let durable = self.entries.values().filter(|entry| entry.durable);
        durable
            .map(|entry| match &entry.stage {
                Stage::Waiting => Record::Waiting { id: entry.id, message: Box::new(entry.message.clone()) },
                Stage::Signed { bytes, after, .. } => {
                    Record::Signed { id: entry.id, bytes: bytes.clone(), after: *after }
                }
            })
            .collect()
    }

    /// The journal has the record of this step, so the bytes may leave.
    pub(in crate::chain::client) fn on_kept(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.kept = true;
        }
    }

    /// The journal can't be written now: nothing leaves until it can.
    pub(in crate::chain::client) fn on_not_kept(&mut self, now: Time) {
        self.not_before = now + TRY_AGAIN;
    }
}
