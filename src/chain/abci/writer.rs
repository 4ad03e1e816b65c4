//! Writes the snapshot of a large ledger while the chain goes on.
//!
//! The ledger keeps what it was after the snapshot's block, and gives it out a part at a time. The thread here asks for a part, lets
//! go of the ledger, so that who makes blocks gets it, and asks again; the disk is its own affair. One snapshot is written at a
//! time: one that is due meanwhile is left out, and so is one that can't keep up with what changes. Nobody waits for a
//! snapshot but this thread. What is lost by it is the time of a longer replay.

use std::{
    mem,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{state::State, store::Store};
use crate::chain::{
    ledger::{Beginning, Ledger, Part},
    snapshot::Snapshot,
};

/// Records of one part: they take the ledger for about 5 ms.
const PART: usize = 2_000;
/// The time between two parts, in which others have the ledger: with none, who waits for the lock might not get it.
const PAUSE: Duration = Duration::from_millis(2);

/// The thread that writes, and what it writes from and to.
#[derive(Debug)]
pub(super) struct Writer {
    state: Arc<RwLock<State>>,
    store: Arc<Store>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stopping: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn new(state: Arc<RwLock<State>>, store: Arc<Store>) -> Self {
        Self { state, store, thread: Mutex::new(None), stopping: Arc::default() }
    }

    /// Begins the snapshot of the last block, which has this height. Returns at once.
    pub(super) fn begin(&self, height: u64) {
        let mut thread = self.thread.lock().expect("no holder of this lock panics");
        if thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            tracing::warn!(height, "this snapshot is left out: the one before it is still being written");
            return;
        }
        let mut state = self.state.write().expect("a failure under this lock ends the chain here");
        let Some(begun) = state.ledger_mut().map(Ledger::begin_snapshot) else { return };
        drop(state);
        let (state, store, stopping) = (self.state.clone(), self.store.clone(), self.stopping.clone());
        let write = move || write(&state, &store, &stopping, begun);
        match thread::Builder::new().name("snapshot".to_owned()).spawn(write) {
            Ok(begun) => *thread = Some(begun),
            Err(error) => {
                tracing::warn!(height, %error, "no thread for the snapshot; the next one is tried in its time")
            }
        }
    }

    /// Waits until the snapshot that is being written is there.
    #[cfg(test)]
    pub(super) fn finish(&self) {
        if let Some(thread) = self.thread.lock().unwrap().take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Writer {
    /// What is not written by now is left out.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let thread = self.thread.get_mut().ok().and_then(Option::take);
        if let Some(thread) = thread {
            thread.thread().unpark();
            // Its panic has been logged by the thread itself.
            let _ = thread.join();
        }
    }
}

fn write(state: &RwLock<State>, store: &Store, stopping: &AtomicBool, begun: Beginning) {
    let height = begun.height;
    let Some(state) = gather(state, stopping, begun) else {
        tracing::warn!(height, "the snapshot could not be gathered; the next one is tried in its time");
        return;
    };
    match store.write(&Snapshot { height, offset: 0, state }) {
        Ok(()) => tracing::info!(height, "the snapshot is written"),
        Err(error) => {
            tracing::warn!(height, %error, "the snapshot could not be written; the next one is tried in its time");
        }
    }
}

/// All parts; `None` if the ledger has no more of them to give, or the application stops.
fn gather(state: &RwLock<State>, stopping: &AtomicBool, mut begun: Beginning) -> Option<Vec<u8>> {
    let mut bytes = mem::take(&mut begun.bytes);
    while !stopping.load(Ordering::Relaxed) {
        let mut state = state.write().expect("a failure under this lock ends the chain here");
        let part = state.ledger_mut()?.snapshot_part(&begun, PART);
        drop(state);
        match part {
            Part::Bytes(part) => bytes.extend(part),
            Part::End => return Some(bytes),
            Part::Gone => return None,
        }
        thread::park_timeout(PAUSE);
    }
    None
}
