//! Writes a recording in a thread of its own, so that no part of the node waits for the disk.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::{EXTENSION, Entry, Error, MAGIC, MAX_ENTRY, MAX_RECORDING, Recorder};
use crate::{codec, types::Time};

/// Bytes that wait for the disk, in all; a second of a node at full transfer. Over it the recording ends.
const MAX_QUEUED: usize = 256 << 20;
/// Others may not read what a node was told.
const PRIVATE_DIRECTORY: u32 = 0o700;
/// The same, of a file.
const PRIVATE_FILE: u32 = 0o600;

/// A recording in progress. Cloning shares it.
#[derive(Clone)]
pub struct Recording(Arc<Shared>);

struct Shared {
    path: PathBuf,
    frames: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    /// Bytes on their way to the thread.
    queued: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Recording {
    /// Begins a recording in `directory`, which is made if need be, in a file named after `now`: each start of a node
    /// has its own.
    pub fn create(directory: &Path, now: Time) -> Result<Self, Error> {
        let path = directory.join(format!("{}.{EXTENSION}", now.as_millis()));
        let file = create(directory, &path).map_err(|source| Error::Create { path: path.clone(), source })?;
        let (sender, frames) = mpsc::channel();
        let (queued, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let thread = {
            let (path, queued, ended) = (path.clone(), Arc::clone(&queued), Arc::clone(&ended));
            let write = move || {
                let result = write_all(file, &frames, &queued);
                if let Err(error) = result {
                    ended.store(true, Ordering::Relaxed);
                    tracing::warn!(path = %path.display(), %error, "the recording ends here; what was written can be replayed");
                }
            };
            thread::Builder::new().name("recording".into()).spawn(write)
        };
        let thread = thread.map_err(|source| Error::Create { path: path.clone(), source })?;
        tracing::warn!(path = %path.display(), "recording what this node is told, job files and questions included: keep it to yourself");
        let frames = Mutex::new(Some(sender));
        Ok(Self(Arc::new(Shared { path, frames, queued, ended, thread: Mutex::new(Some(thread)) })))
    }

    /// Writes down what happens to `part`.
    pub fn of(&self, part: &str) -> Recorder {
        Recorder::new(self.clone(), part)
    }

    /// Ends the recording and waits until it is on disk. Blocks.
    pub fn finish(&self) {
        drop(self.0.frames.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(path = %self.0.path.display(), "the recording's writer ended with a panic");
        }
    }

    pub(super) fn write(&self, entry: &Entry) {
        if self.0.ended.load(Ordering::Relaxed) {
            return;
        }
        let body = codec::encode(entry);
        let queued = self.0.queued.fetch_add(body.len(), Ordering::Relaxed) + body.len();
        let Some(length) = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_ENTRY && queued <= MAX_QUEUED)
        else {
            return self.end("an input was too long, or the disk is slower than the node");
        };
        let frame = [&length.to_be_bytes()[..], &body].concat();
        if let Some(frames) = &*self.0.frames.lock().unwrap_or_else(PoisonError::into_inner) {
            // The thread is gone only after an error, which it told.
            let _ = frames.send(frame);
        }
    }

    /// Nothing is written from now on: a recording with a gap would be worth nothing.
    fn end(&self, reason: &str) {
        if !self.0.ended.swap(true, Ordering::Relaxed) {
            tracing::warn!(path = %self.0.path.display(), reason, "the recording ends here; what was written can be replayed");
        }
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording({})", self.0.path.display())
    }
}

fn create(directory: &Path, path: &Path) -> io::Result<File> {
    if !fs::exists(directory)? {
        DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY).create(directory)?;
    }
    OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(path)
}

/// Writes frames until their sender is gone. What was sent is with the system whenever nothing waits.
fn write_all(file: File, frames: &mpsc::Receiver<Vec<u8>>, queued: &AtomicUsize) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, file);
    file.write_all(MAGIC)?;
    let mut written = 0;
    loop {
        let frame = match frames.try_recv() {
            Ok(frame) => frame,
            Err(mpsc::TryRecvError::Disconnected) => break,
            Err(mpsc::TryRecvError::Empty) => {
                file.flush()?;
                let Ok(frame) = frames.recv() else { break };
                frame
            }
        };
        written += frame.len() as u64;
        if written > MAX_RECORDING {
            file.flush()?;
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it would be over {MAX_RECORDING} bytes")));
        }
        file.write_all(&frame)?;
        queued.fetch_sub(frame.len() - size_of::<u32>(), Ordering::Relaxed);
    }
    file.flush()?;
    file.get_ref().sync_all()
}
