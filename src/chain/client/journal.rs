//! The outbox on disk: what was submitted and is not final survives a restart.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::outbox::Record;
use crate::{
    chain::log::{self, Log},
    codec,
    types::{Digest, LedgerId},
};

/// After this many bytes the journal is written anew with what still counts: about a thousand leases and receipts.
const REWRITE_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    log: Log,
    /// Bytes appended since the journal was written anew.
    grown: usize,
}

impl Journal {
    /// Opens the journal of `ledger` in `directory` and reads what it has. A record that this program can't read is an error.
    pub(super) fn open(directory: &Path, ledger: &LedgerId) -> Result<(Self, Vec<Record>), log::Error> {
        // A ledger's name may come from a stranger's announcement: no name is ever joined to a path.
        let name = hex::encode(&Digest::of(ledger.as_bytes()).0[..8]);
        let path = directory.join(format!("outbox-{name}.log"));
        let fail = |source| log::Error::Io { path: path.clone(), source };
        fs::create_dir_all(directory).map_err(fail)?;
        let mut log = Log::open(&path)?;
        let mut records = Vec::new();
        log.replay(0, 0, |_, payload| {
            let batch: Vec<Record> = codec::decode(payload, log::MAX_PAYLOAD)
                .map_err(|error| fail(io::Error::new(io::ErrorKind::InvalidData, error)))?;
            records.extend(batch);
            Ok::<_, log::Error>(())
        })?;
        Ok((Self { path, log, grown: 0 }, records))
    }

    /// Appends records and syncs.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let payload = codec::encode(&records);
        self.log.append(&payload)?;
        self.grown += payload.len();
        Ok(())
    }

    /// True when [`Journal::rewrite`] is worth its while.
    pub(super) fn has_grown(&self) -> bool {
        self.grown > REWRITE_BYTES
    }

    /// Replaces the journal by one with these records alone; the old one counts until the new one is synced.
    pub(super) fn rewrite(&mut self, records: &[Record]) -> Result<(), log::Error> {
        let fail = |source| log::Error::Io { path: self.path.clone(), source };
        let temporary = self.path.with_extension("part");
        if let Err(error) = fs::remove_file(&temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(fail(error));
        }
        let mut log = Log::open(&temporary)?;
        for record in records {
            log.append(&codec::encode(&[record])).map_err(fail)?;
        }
        fs::rename(&temporary, &self.path).map_err(fail)?;
        if let Some(directory) = self.path.parent() {
            fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)?;
        }
        self.log = log;
        self.grown = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chain::wire::Message, types::JobId};

    fn waiting(id: u64) -> Record {
        Record::Waiting { id, message: Box::new(Message::CancelJob { job_id: JobId([1; 32]) }) }
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_and_after_a_rewrite() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = "../../etc".to_owned();
        let (mut journal, records) = Journal::open(directory.path(), &ledger).unwrap();
        assert!(records.is_empty());
        journal.append(&[waiting(1), waiting(2)]).unwrap();
        journal.append(&[Record::Done { ids: vec![1] }]).unwrap();
        let (mut journal, records) = Journal::open(directory.path(), &ledger).unwrap();
        assert_eq!(records, [waiting(1), waiting(2), Record::Done { ids: vec![1] }]);
        journal.rewrite(&[waiting(2)]).unwrap();
        journal.append(&[waiting(3)]).unwrap();
        let (_, records) = Journal::open(directory.path(), &ledger).unwrap();
        assert_eq!(records, [waiting(2), waiting(3)]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
