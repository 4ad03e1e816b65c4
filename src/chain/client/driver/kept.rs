//! The driver and its journal: what must survive is on disk before it is acted on.

use std::io;

use super::Driver;
use crate::chain::client::{journal::Journal, outbox::Record};

impl Driver {
    /// Brings the journal up to date; false if it can't be written now.
    pub(super) async fn keep(&mut self) -> bool {
        let records = self.outbox.unkept();
        if !self.append(records.clone()).await {
            self.outbox.on_unkept(records);
            return false;
        }
        if self.journal.lock().expect("no holder of this lock panics").has_grown() {
            let records = self.outbox.records();
            return self.on_disk(move |journal| journal.rewrite(&records).map_err(io::Error::other)).await;
        }
        true
    }

    pub(super) async fn append(&mut self, records: Vec<Record>) -> bool {
        records.is_empty() || self.on_disk(move |journal| journal.append(&records)).await
    }

    /// Works on the journal off the runtime's threads; false after an error, which is logged.
    async fn on_disk(&mut self, work: impl FnOnce(&mut Journal) -> io::Result<()> + Send + 'static) -> bool {
        let journal = self.journal.clone();
        let work = move || work(&mut journal.lock().expect("no holder of this lock panics"));
        self.writing = Some(tokio::task::spawn_blocking(work));
        self.finish_writing().await
    }

    /// Waits for the write under way. A stop may end the wait, never the write.
    pub(super) async fn finish_writing(&mut self) -> bool {
        let Some(writing) = &mut self.writing else {
            return true;
        };
        let result = writing.await;
        self.writing = None;
        match result {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the ledger client's outbox can't be written; is the disk full?");
                false
            }
            Err(_) => false,
        }
    }
}
