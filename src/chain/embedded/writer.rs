//! The one thread that makes blocks: it gathers what waits, commits it, and tells everybody.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, oneshot};

use super::{
    archive::{Committed, Place},
    block::MAX_BLOCK_BYTES,
    chain::Chain,
};
use crate::{
    clock,
    types::{Digest, Time, words},
};

/// A first transaction waits at most this long for others to share its block and its sync.
const GATHER: Duration = Duration::from_millis(5);
/// It waits no longer once nothing came for this long: a lone transaction should not pay for a crowd.
const GATHER_QUIET: Duration = Duration::from_millis(1);
/// While work is open, time must pass on the ledger: a block comes at least this often.
const TICK: Duration = Duration::from_secs(1);
/// Transactions that wait for a block; a further one is refused, and its sender tries again.
const MAX_WAITING: usize = 4_096;
/// The same in KiB (16 MiB), because a transaction may have half a MiB.
const MAX_WAITING_KIB: u32 = 16 * 1024;
/// Blocks that a subscriber may lag behind before it is dropped.
const MAX_LAG: usize = 64;
/// The longest transaction in bytes: the message limit, plus signer, signature and CBOR around it.
const MAX_TRANSACTION: usize = crate::chain::wire::MAX_TRANSACTION + 1024;

/// Why a transaction does not wait for a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("tx too large: {0} bytes, at most {MAX_TRANSACTION} are taken")]
    TooLong(usize),
    /// CometBFT's words, which clients know.
    #[error("tx already exists in cache")]
    Known,
    #[error("mempool is full: too many transactions wait; try again")]
    Full,
    #[error("{0}")]
    Failed(String),
    #[error("the ledger on this host has stopped")]
    Stopped,
}

/// What a transaction came to, once it is final and synced.
pub(super) type Outcome = Result<Place, Refused>;

/// The way in, for many senders.
#[derive(Debug)]
pub(super) struct Mempool {
    sender: SyncSender<Command>,
    waiting: Arc<Mutex<BTreeSet<Digest>>>,
    room: Arc<Semaphore>,
    blocks: broadcast::Sender<Arc<Committed>>,
}

enum Command {
    Transaction(Waiting),
    Stop,
}

struct Waiting {
    bytes: Vec<u8>,
    hash: Digest,
    answer: oneshot::Sender<Outcome>,
    /// Its share of the room for waiting bytes.
    _room: OwnedSemaphorePermit,
}

struct Writer {
    chain: Chain,
    commands: Receiver<Command>,
    waiting: Arc<Mutex<BTreeSet<Digest>>>,
    blocks: broadcast::Sender<Arc<Committed>>,
    /// Did not fit into the last block.
    carried: Option<Waiting>,
    stopping: bool,
    /// The wall clock at the last block that was made or tried.
    last_tried: Time,
}

/// Starts the writer.
pub(super) fn spawn(chain: Chain) -> std::io::Result<(Mempool, thread::JoinHandle<()>)> {
    let (sender, commands) = sync_channel(MAX_WAITING);
    let (blocks, _) = broadcast::channel(MAX_LAG);
    let waiting = Arc::<Mutex<BTreeSet<Digest>>>::default();
    let room = Arc::new(Semaphore::new(MAX_WAITING_KIB as usize));
    let mempool = Mempool { sender, waiting: waiting.clone(), room, blocks: blocks.clone() };
    let writer = Writer { chain, commands, waiting, blocks, carried: None, stopping: false, last_tried: clock::now() };
    let thread = thread::Builder::new().name("ledger-writer".to_owned()).spawn(move || writer.run())?;
    Ok((mempool, thread))
}

impl Mempool {
    /// Puts a transaction in line. The receiver has the outcome; without it the writer is gone.
    pub(super) fn submit(&self, bytes: Vec<u8>, hash: Digest) -> Result<oneshot::Receiver<Outcome>, Refused> {
        if bytes.len() > MAX_TRANSACTION {
            return Err(Refused::TooLong(bytes.len()));
        }
        let kib = u32::try_from(bytes.len().div_ceil(1024).max(1)).map_err(|_| Refused::TooLong(bytes.len()))?;
        let room = self.room.clone().try_acquire_many_owned(kib).map_err(|_| Refused::Full)?;
        let (answer, outcome) = oneshot::channel();
        // Held while sending, so that the hash is in the set exactly as long as the transaction is in line.
        let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
        if !waiting.insert(hash) {
            return Err(Refused::Known);
        }
        self.sender.try_send(Command::Transaction(Waiting { bytes, hash, answer, _room: room })).map_err(|error| {
            waiting.remove(&hash);
            match error {
                TrySendError::Full(_) => Refused::Full,
                TrySendError::Disconnected(_) => Refused::Stopped,
            }
        })?;
        Ok(outcome)
    }

    /// Every block from now on; one that lags more than [`MAX_LAG`] blocks is told so.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Committed>> {
        self.blocks.subscribe()
    }

    /// Asks the writer to end after what is in line before this.
    pub(super) fn stop(&self) {
        // A full queue or a writer that is gone: it ends when the last sender is dropped, or has ended.
        let _ = self.sender.try_send(Command::Stop);
    }
}

impl Writer {
    fn run(mut self) {
        while !self.stopping {
            match self.next_command() {
                Ok(Command::Transaction(first)) => {
                    let batch = self.gather(first);
                    self.commit(batch);
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => self.stopping = true,
                Err(RecvTimeoutError::Timeout) => self.tick(),
            }
        }
        let carried = self.carried.take().into_iter().collect();
        self.fail(carried, &Refused::Stopped);
    }

    fn next_command(&mut self) -> Result<Command, RecvTimeoutError> {
        match self.carried.take() {
            Some(waiting) => Ok(Command::Transaction(waiting)),
            None => {
                let due = self.last_tried + TICK;
                self.commands.recv_timeout(due.since(clock::now()).max(Duration::from_millis(1)))
            }
        }
    }

    /// The first transaction and those that come within moments, as far as a block holds them.
    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let deadline = clock::now() + GATHER;
        let mut bytes = first.bytes.len();
        let mut batch = vec![first];
        loop {
            let patience = deadline.since(clock::now()).min(GATHER_QUIET);
            match self.commands.recv_timeout(patience) {
                Ok(Command::Transaction(next)) if bytes + next.bytes.len() > MAX_BLOCK_BYTES => {
                    self.carried = Some(next);
                    return batch;
                }
                Ok(Command::Transaction(next)) => {
                    bytes += next.bytes.len();
                    batch.push(next);
                }
                Ok(Command::Stop) => {
                    self.stopping = true;
                    return batch;
                }
                Err(_) => return batch,
            }
            if batch.len() >= MAX_WAITING {
                return batch;
            }
        }
    }

    fn tick(&mut self) {
        if self.chain.has_open_work() {
            self.commit(Vec::new());
        } else {
            self.last_tried = clock::now();
        }
    }

    fn commit(&mut self, mut batch: Vec<Waiting>) {
        self.last_tried = clock::now();
        let time = self.last_tried.max(self.chain.last_time() + Duration::from_millis(1));
        let transactions = batch.iter_mut().map(|waiting| std::mem::take(&mut waiting.bytes)).collect();
        match self.chain.commit(time, transactions) {
            Ok(block) => self.answer(batch, &block),
            Err(error) => {
                let error = words(&error);
                tracing::error!(error, transactions = batch.len(), "a block was not made");
                self.fail(batch, &Refused::Failed(error));
            }
        }
    }

    fn answer(&self, batch: Vec<Waiting>, block: &Arc<Committed>) {
        self.forget(&batch);
        for (position, waiting) in (0..).zip(batch) {
            // The sender may not wait for it.
            let _ = waiting.answer.send(Ok(Place { block: block.clone(), position }));
        }
        // Nobody may listen.
        let _ = self.blocks.send(block.clone());
    }

    fn fail(&self, batch: Vec<Waiting>, reason: &Refused) {
        self.forget(&batch);
        for waiting in batch {
            let _ = waiting.answer.send(Err(reason.clone()));
        }
    }

    fn forget(&self, batch: &[Waiting]) {
        let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
        for transaction in batch {
            waiting.remove(&transaction.hash);
        }
    }
}
