//! Keeps the daemon's pins as this node wants them, whether the daemon is there or not.
//!
//! Each wish is a small file until it is fulfilled, so that a node or daemon that restarts forgets none. What waits
//! to be sent is pinned in the block store meanwhile.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Client, Endpoint,
    client::{self, Verified},
};
use crate::{
    clock,
    store::{BlockStore, blocks},
    types::{ContentId, Time, doubled},
};

/// Wishes that wait at most; a further one is refused.
pub const MAX_QUEUED: usize = 10_000;
/// Longest name of a pin in bytes, Kubo's own limit.
pub const MAX_NAME_BYTES: usize = 255;
/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, of the daemon as a whole and of a single wish.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// With nothing to do, the daemon is asked this often whether it is there.
const PROBE_PAUSE: Duration = Duration::from_secs(30);
/// Under this reason roots are kept in the block store until they are sent.
const PIN_REASON: &str = "waits for kubo";
/// Bytes of a wish's file.
const MAX_WISH_BYTES: u64 = 4096;

/// Why a wish can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The queue's directory can't be used.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too many wait.
    #[error("{MAX_QUEUED} pins wait for the Kubo daemon already; start it, or change --ipfs-api")]
    Full,
    /// The name is too long.
    #[error("the name of a pin is over {MAX_NAME_BYTES} bytes")]
    Name,
    /// The block store can't keep the root meanwhile.
    #[error(transparent)]
    Store(#[from] blocks::Error),
    /// The client can't be made.
    #[error(transparent)]
    Client(#[from] client::Error),
}

/// Whether the daemon is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Daemon {
    /// Not asked yet.
    #[default]
    Unknown,
    /// It answers.
    Answers {
        /// Its version.
        version: String,
    },
    /// It does not.
    Away {
        /// Why, in words.
        reason: String,
    },
}

/// What `status` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the daemon is there.
    pub daemon: Daemon,
    /// Wishes that wait.
    pub queued: usize,
    /// Wishes fulfilled since the start.
    pub done: u64,
    /// The last thing that the daemon refused, and its words.
    pub last_refusal: Option<(ContentId, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wish {
    Pin { root: ContentId, name: String },
    Unpin { root: ContentId },
}

impl Wish {
    fn root(&self) -> ContentId {
        match self {
            Self::Pin { root, .. } | Self::Unpin { root } => *root,
        }
    }
}

#[derive(Clone, Debug)]
struct Queued {
    wish: Wish,
    /// Tells a wish from the one that replaced it.
    number: u64,
    failures: u32,
    due: Time,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    store: Arc<BlockStore>,
    directory: PathBuf,
    /// One wish a root: the last one counts.
    queue: Mutex<BTreeMap<ContentId, Queued>>,
    status: Mutex<Status>,
    wake: Notify,
}

/// The task that pins. It ends when the last handle is dropped; its wishes stay on the disk.
#[derive(Clone, Debug)]
pub struct Pinner {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Pinner {
    /// Takes up the wishes in `directory` (made if it is not there) and begins. Must be called inside a runtime.
    pub fn start(endpoint: Endpoint, store: Arc<BlockStore>, directory: &Path) -> Result<Self, Error> {
        let at = |source| Error::Io { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(at)?;
        let queue = load(directory).map_err(at)?;
        let shared = Arc::new(Shared {
            client: Client::new(endpoint)?,
            store,
            directory: directory.to_owned(),
            queue: Mutex::new(queue),
            status: Mutex::default(),
            wake: Notify::new(),
        });
        let task = tokio::spawn(work(shared.clone()));
        Ok(Self { shared, _task: Arc::new(AbortOnDropHandle::new(task)) })
    }

    /// Wants `root`, which is in the block store, pinned as `name`. On the disk when it returns. Blocks shortly.
    pub fn pin(&self, root: ContentId, name: &str) -> Result<(), Error> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Error::Name);
        }
        self.shared.store.pin(&root, PIN_REASON)?;
        self.shared.add(Wish::Pin { root, name: name.to_owned() })
    }

    /// Wants `root` pinned no more. On the disk when it returns. Blocks shortly.
    pub fn unpin(&self, root: ContentId) -> Result<(), Error> {
        self.shared.store.unpin(&root, PIN_REASON)?;
        self.shared.add(Wish::Unpin { root })
    }

    /// Asks the daemon whether it pins `root` and has all of it.
    pub async fn verify(&self, root: &ContentId) -> Result<Verified, client::Error> {
        self.shared.client.verify(root).await
    }

    /// The client, for listing.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        let mut status = self.shared.status().clone();
        status.queued = self.shared.queue().len();
        status
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, BTreeMap<ContentId, Queued>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, root: &ContentId) -> PathBuf {
        self.directory.join(format!("{root}.json"))
    }

    fn add(&self, wish: Wish) -> Result<(), Error> {
        let root = wish.root();
        let mut queue = self.queue();
        if queue.len() >= MAX_QUEUED && !queue.contains_key(&root) {
            return Err(Error::Full);
        }
        let path = self.path(&root);
        write(&path, &wish).map_err(|source| Error::Io { path, source })?;
        let number = queue.values().map(|queued| queued.number + 1).max().unwrap_or(0);
        queue.insert(root, Queued { wish, number, failures: 0, due: Time::ZERO });
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    /// The oldest wish whose time has come.
    fn next_due(&self, now: Time) -> Option<Queued> {
        let queue = self.queue();
        queue.values().filter(|queued| queued.due <= now).min_by_key(|queued| queued.number).cloned()
    }

    /// How long nothing will be due.
    fn pause(&self, now: Time) -> Duration {
        let next = self.queue().values().map(|queued| queued.due).min();
        next.map_or(PROBE_PAUSE, |due| due.since(now).min(PROBE_PAUSE))
    }

    async fn fulfil(&self, wish: &Wish) -> Result<(), client::Error> {
        match wish {
            Wish::Pin { root, name } => self.client.pin(self.store.clone(), *root, name).await,
            Wish::Unpin { root } => self.client.unpin(root).await,
        }
    }

    /// Forgets a wish, unless another took its place meanwhile.
    fn finished(&self, done: &Queued) {
        let root = done.wish.root();
        let mut queue = self.queue();
        if queue.get(&root).is_some_and(|queued| queued.number == done.number) {
            queue.remove(&root);
            // Left behind, it would be fulfilled once more, which does no harm.
            let removed = fs::remove_file(self.path(&root)).map_err(|error| error.to_string());
            let released = self.store.unpin(&root, PIN_REASON).map_err(|error| error.to_string());
            if let Err(error) = removed.and(released) {
                tracing::warn!(%root, error, "a fulfilled pin could not be taken off the queue");
            }
        }
        drop(queue);
        self.status().done += 1;
    }

    fn refused(&self, wish: &Queued, error: &client::Error, now: Time) {
        let root = wish.wish.root();
        tracing::warn!(%root, %error, "the Kubo daemon did not do as wanted");
        if let Some(queued) = self.queue().get_mut(&root).filter(|queued| queued.number == wish.number) {
            queued.due = now + pause_after(queued.failures);
            queued.failures = queued.failures.saturating_add(1);
        }
        self.status().last_refusal = Some((root, error.to_string()));
    }

    /// Fulfils what is due; an error if the daemon is away.
    async fn pass(&self) -> Result<(), client::Error> {
        let version = self.client.version().await?;
        self.status().daemon = Daemon::Answers { version };
        while let Some(queued) = self.next_due(clock::now()) {
            match self.fulfil(&queued.wish).await {
                Ok(()) => self.finished(&queued),
                Err(error) if error.is_away() => return Err(error),
                Err(error) => self.refused(&queued, &error, clock::now()),
            }
        }
        Ok(())
    }
}

async fn work(shared: Arc<Shared>) {
    let mut failures = 0;
    loop {
        let pause = match shared.pass().await {
            Ok(()) => {
                failures = 0;
                shared.pause(clock::now())
            }
            Err(error) => {
                shared.status().daemon = Daemon::Away { reason: error.to_string() };
                failures += 1;
                pause_after(failures - 1)
            }
        };
        // A new wish does not cut the pause of an absent daemon short by much: each wakes it once.
        let _ = tokio::time::timeout(pause, shared.wake.notified()).await;
    }
}

fn pause_after(failures: u32) -> Duration {
    doubled(FIRST_PAUSE, failures, MAX_PAUSE)
}

fn write(path: &Path, wish: &Wish) -> io::Result<()> {
    let temporary = path.with_extension("part");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(wish)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// The wishes on the disk, in the order in which they were written. What can't be read is left alone and said.
fn load(directory: &Path) -> io::Result<BTreeMap<ContentId, Queued>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let metadata = entry.metadata()?;
        let wish = (metadata.len() <= MAX_WISH_BYTES).then(|| fs::read(&path)).transpose()?;
        match wish.and_then(|bytes| serde_json::from_slice::<Wish>(&bytes).ok()) {
            Some(wish) => found.push((metadata.modified()?, wish)),
            None => tracing::warn!(path = %path.display(), "not a pin that waits; left alone"),
        }
    }
    found.sort_by_key(|(modified, _)| *modified);
    let queued = |(number, (_, wish)): (usize, (_, Wish))| {
        (wish.root(), Queued { wish, number: number as u64, failures: 0, due: Time::ZERO })
    };
    Ok(found.into_iter().enumerate().map(queued).collect())
}

#[cfg(test)]
mod tests;
