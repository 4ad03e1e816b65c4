//! A ledger in this process, for one machine or one lab, that looks from outside like any Tendermint chain.
//!
//! It exists so that a network can begin with nothing: `start --ledger embedded` carries a ledger for a lab, and a
//! job with `settle = "none"` lives on one that its submitter's node carries for it. Both are used only through
//! Tendermint's JSON-RPC ([`Embedded::rpc`], [`Embedded::serve`]), exactly as a real chain is.
//!
//! - `block` makes genuine headers and commits, signed by the host's key, which is the only validator.
//! - `chain` keeps them: log, index, snapshots; `synced` remembers how far. A block is synced before the application sees
//!   it.
//! - `writer` is the one thread that makes blocks, when a transaction waits and once a second while work is open.
//! - `rpc` answers JSON-RPC; `server` carries it over HTTP and websocket.
//!
//! It never acknowledges what is not on disk, never makes two blocks of one height, and never answers from a state
//! that is not final. It tolerates no fault of its host: who needs that runs the same ledger under CometBFT.

mod application;
mod archive;
mod block;
mod chain;
mod index;
mod recorded;
mod rpc;
mod server;
mod synced;
mod websocket;
mod writer;

use std::{
    fs::{self, File, TryLockError},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::{
    application::Application, archive::Error as ArchiveError, block::ChainIdError, index::Error as IndexError,
    recorded::Told,
};
use self::{archive::Archive, block::Host, chain::Chain, recorded::Recorded, writer::Mempool};
pub(in crate::chain) use self::{
    archive::finalize_block,
    block::{APP_VERSION, MAX_BLOCK_BYTES, tendermint_time},
};
pub use crate::chain::log::Error as LogError;
use crate::{
    chain::{
        directory_lock,
        ledger::{Genesis, GenesisError, Ledger, Parameters, USUAL_MAX_OBJECTS},
    },
    clock, codec,
    identity::Keypair,
    record::Recording,
    types::{Digest, LedgerId, NodeKey},
};

/// The longest genesis file in bytes: 100,000 accounts. A longer one is not ours.
const MAX_GENESIS: usize = 16 * 1024 * 1024;
/// What an account gets when it registers on a job's own ledger: more than any budget, because nobody pays there.
const JOB_FAUCET: u64 = 1_000_000_000_000;

/// Why an embedded ledger does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it began from can't be read.
    #[error(
        "{path} is no genesis of this program: restore it from a copy, or choose another --data-dir for a new ledger"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: codec::Error,
    },
    /// What it began from is not what was written.
    #[error(
        "{path} is not what was written (its SHA-256 is {found}, `genesis.sha256` beside it says {written}): restore both \
         from a copy, or choose another --data-dir for a new ledger"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Of what is there.
        found: Digest,
        /// What stands in the other file.
        written: String,
    },
    /// The disk.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{path} is in use by another process: stop that node, or give this one another --data-dir")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The genesis is not sound.
    #[error("the genesis is not sound")]
    Genesis(#[from] GenesisError),
    /// The chain id is not Tendermint's.
    #[error(transparent)]
    ChainId(#[from] ChainIdError),
    /// The directory holds another ledger.
    #[error(
        "{path} holds the ledger `{found}`, not `{wanted}`: choose another directory, or keep its chain id and key"
    )]
    OtherLedger {
        /// The directory.
        path: PathBuf,
        /// The chain id there.
        found: LedgerId,
        /// The chain id of the genesis given.
        wanted: LedgerId,
    },
    /// The genesis names another host.
    #[error("the genesis names {wanted} as the ledger's host, but this node's key is {found}")]
    OtherHost {
        /// The key of the genesis.
        wanted: NodeKey,
        /// This node's key.
        found: NodeKey,
    },
    /// The block log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A block can't be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The log does not follow from the genesis with this program.
    #[error(
        "block {height} on disk does not follow from the blocks before it: another version of the program or another key \
         wrote it, or the disk changed what was written: restore the directory from a copy; what is not `blocks.log` or \
         `genesis.cbor` may also be removed, and is then made again from them"
    )]
    Diverged {
        /// The first block that does not.
        height: u64,
    },
    /// The RPC address is taken.
    #[error("{address} is in use: choose another address with --chain-rpc, or stop what listens there")]
    PortBusy {
        /// The address.
        address: SocketAddr,
    },
    /// The RPC address can't be listened on.
    #[error("can't listen on {address}: choose another address with --chain-rpc")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A running embedded ledger. Dropping it stops it after the block in work; see [`Embedded::stop`].
#[derive(Debug)]
pub struct Embedded {
    node: Arc<Node>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    stopped: CancellationToken,
    /// Held as long as the directory is ours.
    _lock: File,
}

/// What the RPC answers from.
struct Node {
    host: Host,
    genesis: Genesis,
    archive: Arc<Archive>,
    application: chain::Shared,
    mempool: Mempool,
}

impl Embedded {
    /// Opens the ledger in `directory`, or begins one there from `genesis`, signed by `keypair`.
    ///
    /// A ledger that exists keeps the genesis that it began from; its chain id and host must be those of `genesis`.
    /// Its blocks go into `recording`, those that it replays too. Blocks while it replays: call it off the event loop.
    pub fn start(
        directory: &Path,
        genesis: Genesis,
        keypair: &Keypair,
        recording: Option<&Recording>,
    ) -> Result<Arc<Self>, Error> {
        // An unsound genesis must not become the directory's.
        Ledger::new(genesis.clone())?;
        let lock = lock(directory)?;
        let genesis = keep_genesis(directory, genesis)?;
        if genesis.validator != keypair.node_key() {
            return Err(Error::OtherHost { wanted: genesis.validator, found: keypair.node_key() });
        }
        let ledger = Ledger::new(genesis.clone())?;
        let application: Box<dyn Application> = match recording {
            Some(recording) => Box::new(Recorded::new(ledger, &genesis.chain_id, &genesis, recording)),
            None => Box::new(ledger),
        };
        Self::start_with(directory, lock, genesis, application, keypair)
    }

    fn start_with(
        directory: &Path,
        lock: File,
        genesis: Genesis,
        application: Box<dyn Application>,
        keypair: &Keypair,
    ) -> Result<Arc<Self>, Error> {
        let host = Host::new(&genesis.chain_id, keypair.clone())?;
        let chain = Chain::open(directory, host.clone(), application)?;
        let (archive, application) = (chain.archive(), chain.application());
        let (mempool, writer) =
            writer::spawn(chain).map_err(|source| Error::Io { path: directory.to_owned(), source })?;
        Ok(Arc::new(Self {
            node: Arc::new(Node { host, genesis, archive, application, mempool }),
            writer: Mutex::new(Some(writer)),
            stopped: CancellationToken::new(),
            _lock: lock,
        }))
    }

    /// The chain id.
    pub fn chain_id(&self) -> LedgerId {
        self.node.genesis.chain_id.clone()
    }

    /// Height of the last block.
    pub fn height(&self) -> u64 {
        self.node.archive.last().map_or(0, |block| block.sealed.height())
    }

    /// Answers one JSON-RPC request, the same for HTTP and for peers. What is no request gets a JSON-RPC error.
    pub async fn rpc(&self, request: &[u8]) -> Vec<u8> {
        rpc::answer(&self.node, request).await
    }

    /// Serves HTTP and websocket on `listener` until [`Embedded::stop`]. See [`listen`].
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        server::serve(self.node.clone(), listener, self.stopped.clone()).await
    }

    /// Stops: no further block is made, the server's connections close, the directory is free when this is dropped.
    /// Blocks until the block in work is synced.
    pub fn stop(&self) {
        self.stopped.cancel();
        self.node.mempool.stop();
        let writer = self.writer.lock().expect("no holder of this lock panics").take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the ledger's writer ended with a panic");
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.genesis.chain_id)
    }
}

/// Listens on the address of `--chain-rpc`, for [`Embedded::serve`].
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortBusy { address },
        _ => Error::Listen { address, source },
    })
}

/// The answer that refuses a request; `None` for one that would be performed. Reads as the server does, over HTTP and
/// websocket alike, and does nothing.
pub fn refusal(body: &[u8]) -> Option<Vec<u8>> {
    let request = match rpc::Request::read(body) {
        Ok(request) => request,
        Err(refusal) => return Some(refusal),
    };
    let read = match request.method.as_str() {
        "subscribe" => websocket::read_query(request.params).map(drop),
        method => rpc::Call::from_json(method, request.params).map(drop),
    };
    read.err().map(|error| rpc::envelope(&request.id, Err(error)))
}

/// The same for a GET of `method` with these parameters.
pub fn refusal_of_uri(method: &str, params: std::collections::BTreeMap<String, String>) -> Option<Vec<u8>> {
    let call = rpc::Uri(params).into_json().and_then(|params| rpc::Call::from_json(method, params));
    call.err().map(|error| rpc::envelope(&serde_json::Value::Null, Err(error)))
}

/// A chain id for the ledger of one job with `settle = "none"`: `atlas-job-` and 8 hexadecimal digits.
pub fn job_chain_id() -> LedgerId {
    format!("atlas-job-{}", hex::encode(clock::random_bytes::<4>()))
}

/// The genesis of such a ledger: everybody who registers may work, nothing has a price.
pub fn job_genesis(chain_id: LedgerId, host: NodeKey) -> Genesis {
    Genesis {
        chain_id,
        parameters: Parameters { faucet_per_account: JOB_FAUCET, ..Parameters::default() },
        accounts: std::collections::BTreeMap::new(),
        time: clock::now(),
        validator: host,
        economy: None,
    }
}

/// The genesis of a ledger that a node carries for a machine or a lab (`start --ledger embedded`): each account gets
/// `faucet` units when it registers, a node is offline after `offline_after` without a beat.
pub fn lab_genesis(chain_id: LedgerId, host: NodeKey, faucet: u64, offline_after: Duration) -> Genesis {
    let offline_after_millis = u64::try_from(offline_after.as_millis()).unwrap_or(u64::MAX);
    let parameters = Parameters {
        faucet_per_account: faucet,
        max_objects: USUAL_MAX_OBJECTS,
        ..Parameters::with_offline_after(offline_after_millis)
    };
    Genesis { parameters, ..job_genesis(chain_id, host) }
}

/// Makes `directory` and takes it for this process.
fn lock(directory: &Path) -> Result<File, Error> {
    directory_lock::take(directory).map_err(|refused| match refused {
        TryLockError::WouldBlock => Error::Locked { path: directory.to_owned() },
        TryLockError::Error(source) => Error::Io { path: directory.to_owned(), source },
    })
}

/// The genesis that the ledger in `directory` began from; `genesis` if it begins now.
fn keep_genesis(directory: &Path, genesis: Genesis) -> Result<Genesis, Error> {
    let path = directory.join("genesis.cbor");
    let fail = |source| Error::Io { path: path.clone(), source };
    match fs::read(&path) {
        Ok(bytes) => {
            let damaged = |source| Error::Damaged { path: path.clone(), source };
            check_genesis(&path, &bytes)?;
            let kept: Genesis = codec::decode(&bytes, MAX_GENESIS).map_err(damaged)?;
            if kept.chain_id == genesis.chain_id {
                Ok(kept)
            } else {
                Err(Error::OtherLedger { path: directory.to_owned(), found: kept.chain_id, wanted: genesis.chain_id })
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_genesis(directory, &path, &genesis).map_err(fail)?;
            Ok(genesis)
        }
        Err(error) => Err(fail(error)),
    }
}

fn write_genesis(directory: &Path, path: &Path, genesis: &Genesis) -> io::Result<()> {
    let bytes = codec::encode(genesis);
    // The digest first: a crash in between leaves one of a ledger that never began, and it is written anew.
    write_synced(directory, &path.with_extension("sha256"), digest_line(&bytes).as_bytes())?;
    write_synced(directory, path, &bytes)
}

fn write_synced(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("part");
    fs::write(&temporary, bytes)?;
    File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// As `sha256sum --check` reads it.
fn digest_line(genesis: &[u8]) -> String {
    format!("{}  genesis.cbor\n", Digest::of(genesis))
}

/// Compares a genesis with its digest. A ledger of an earlier program has none.
fn check_genesis(path: &Path, genesis: &[u8]) -> Result<(), Error> {
    let beside = path.with_extension("sha256");
    match fs::read(&beside) {
        Ok(line) if line == digest_line(genesis).as_bytes() => Ok(()),
        Ok(line) => {
            let written = String::from_utf8_lossy(&line).chars().take(64).collect();
            Err(Error::Changed { path: path.to_owned(), found: Digest::of(genesis), written })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { path: beside, source }),
    }
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod full_disk_tests;
#[cfg(test)]
mod tests;
