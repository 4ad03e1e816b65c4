//! Blocking and waiting work of the coordinator, off the event loop: one request, one answer, also when it panics.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};

use super::{account, coordinator::Input, keeping, ledgers::Ledgers, parameters};
use crate::{
    api::{self, Reply},
    chain::{records::Account, wire::query},
    codec,
    identity::{self, Keypair, sealing},
    proof, recovery, round,
    shard::{self, Files},
    store::{BlockStore, Files as _, data_keys::DataKeys, sealed},
    submit,
    tensor::checkpoint::Checkpoint,
    types::{ContentId, DataKey, Digest, JobSpec, LedgerId, NodeKey, ShardSpec, Time, words},
};

/// Pieces of work at once. They hash and read: more than a few per core only compete. Further ones wait their turn.
const MAX_AT_ONCE: usize = 8;

/// Work for an edge.
#[derive(Debug)]
pub enum Request {
    /// Keep a checkpoint, or read one.
    Recovery(Box<recovery::edge::Request>),
    /// Make an update, or combine updates.
    Round(Box<round::edge::Request>),
    /// Check what another node's receipt speaks of.
    Proof(Box<proof::edge::Request>),
    /// Read a job file and store what it names.
    Prepare(Box<api::Submit>),
    /// Look how large the content of a prepared job is.
    Measure(Box<api::SubmitPrepared>),
    /// Open a key of sealed data that a peer gave, and keep it if it is the one that is meant.
    OpenDataKey {
        /// As it came.
        sealed: Vec<u8>,
        /// What it was sealed for.
        purpose: Vec<u8>,
        /// Names the key that is meant.
        commitment: Digest,
    },
    /// Seal a key that is here for a node.
    SealDataKey {
        /// Names the key.
        commitment: Digest,
        /// For whom.
        to: NodeKey,
        /// For what.
        purpose: Vec<u8>,
    },
    /// Forget a key.
    ForgetDataKey {
        /// Names it.
        commitment: Digest,
    },
    /// Start a ledger that this process carries for one job.
    CarryLedger {
        /// Its chain id.
        ledger: LedgerId,
    },
    /// Store a file or directory.
    Add(api::ShardAdd),
    /// Write content to a path.
    Export(api::ShardGet),
    /// List what is kept on purpose.
    ListPins,
    /// Only the roots of it.
    ListRoots,
    /// Make a directory of what is here, and pin it.
    Directory {
        /// Names, and what they stand for.
        entries: Vec<(String, ContentId)>,
        /// Why it is pinned.
        reason: &'static str,
    },
    /// List the checkpoints among it.
    ListCheckpoints {
        /// For their age.
        now: Time,
    },
    /// Keep a root, or no longer. Nobody waits for the answer.
    Pin {
        /// What.
        root: ContentId,
        /// Why.
        reason: &'static str,
        /// False to keep it no longer.
        keep: bool,
    },
    /// Look whether an object is whole and no larger than it may be; if so, pin it.
    Keep {
        /// Whose it is.
        owner: NodeKey,
        /// Its root.
        root: ContentId,
        /// Bytes of its blocks, at most.
        most: u64,
    },
    /// Keep an object no longer.
    LetGo {
        /// Whose it was.
        owner: NodeKey,
        /// Its root.
        root: ContentId,
    },
    /// Ask a ledger.
    Query {
        /// Which.
        ledger: LedgerId,
        /// What.
        path: String,
        /// The question.
        data: Vec<u8>,
    },
    /// Look what a ledger asks of nodes, and what one has bonded there.
    Terms {
        /// The ledger.
        ledger: LedgerId,
        /// The node.
        node: NodeKey,
    },
    /// Look at an account and its stake.
    Wallet {
        /// On which ledger.
        ledger: LedgerId,
        /// Whose.
        account: NodeKey,
    },
    /// Look at the numbers that a ledger runs by.
    Parameters {
        /// Which ledger.
        ledger: LedgerId,
    },
    /// Look what waits of a node's rewards.
    Rewards {
        /// Whose.
        node: NodeKey,
        /// On which ledger, and what is known already.
        known: Box<api::Rewards>,
    },
}

/// What came out.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Of `Recovery`.
    Recovery(Box<recovery::edge::Answer>),
    /// Of `Round`.
    Round(Box<round::edge::Answer>),
    /// Of `Proof`.
    Proof(Box<proof::edge::Answer>),
    /// Of `Prepare` and `Measure`.
    Prepared(Result<Prepared, String>),
    /// Of `CarryLedger`.
    Carried(Result<(), String>),
    /// Of `Pin`.
    Pinned(Result<(), String>),
    /// Of `OpenDataKey` and `ForgetDataKey`: the key's commitment.
    DataKey(Result<Digest, String>),
    /// Of `SealDataKey`.
    SealedDataKey(Result<Vec<u8>, String>),
    /// Of `ListRoots`.
    Roots(Vec<ContentId>),
    /// Of `Directory`: its root.
    Directory(Result<ContentId, String>),
    /// Of `Keep`: bytes of its blocks.
    Kept(Result<u64, String>),
    /// Of `LetGo`.
    LetGo(Result<(), String>),
    /// Of `Terms`.
    Terms(Result<Terms, String>),
    /// Of everything that a person asked for.
    Files(Result<Reply, api::Error>),
}

/// What a ledger asks of nodes, and what one of them has bonded there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Its genesis has an economy: it knows stake and offences.
    pub economy: bool,
    /// Without this stake it gives no lease, in its smallest unit.
    pub min_stake: u64,
    /// What the node has bonded.
    pub bonded: u64,
}

/// A job whose content is in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prepared {
    /// What it asks for.
    pub spec: Box<JobSpec>,
    /// Its shards, by slot.
    pub shards: Vec<ShardSpec>,
    /// Bytes of its roots, where known.
    pub sizes: BTreeMap<ContentId, u64>,
    /// Commitment to the key of its data, if that is sealed and the key is here.
    pub data_key: Option<Digest>,
}

/// What the edges stand on.
#[derive(Clone)]
pub struct Edges {
    files: Arc<Files>,
    keys: Arc<DataKeys>,
    recovery: recovery::edge::Context,
    ledgers: Ledgers,
    turns: Arc<Semaphore>,
    answers: mpsc::Sender<Input>,
}

impl Edges {
    /// Edges that answer into `answers`.
    pub fn new(
        files: Arc<Files>,
        keys: Arc<DataKeys>,
        recovery: recovery::edge::Context,
        ledgers: Ledgers,
        answers: mpsc::Sender<Input>,
    ) -> Self {
        Self { files, keys, recovery, ledgers, turns: Arc::new(Semaphore::new(MAX_AT_ONCE)), answers }
    }

    /// Does the work in a task of its own; [`Input::Edge`] with `id` follows.
    pub fn perform(&self, id: u64, request: Request) {
        let edges = self.clone();
        tokio::spawn(async move {
            let answer = edges.answer(request).await;
            // The loop is gone only when the node exits.
            let _ = edges.answers.send(Input::Edge { id, answer }).await;
        });
    }

    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::CarryLedger { ledger } => {
                Answer::Carried(self.ledgers.carry(&ledger).await.map_err(|error| error.to_string()))
            }
            Request::Query { ledger, path, data } => Answer::Files(self.query(&ledger, &path, data).await),
            Request::Terms { ledger, node } => Answer::Terms(account::terms(&self.ledgers, &ledger, &node).await),
            Request::Wallet { ledger, account } => {
                Answer::Files(account::wallet(&self.ledgers, &ledger, &account).await)
            }
            Request::Parameters { ledger } => Answer::Files(parameters::parameters(&self.ledgers, &ledger).await),
            Request::Rewards { node, known } => Answer::Files(account::rewards(&self.ledgers, &node, *known).await),
            request => self.answer_blocking(request).await,
        }
    }

    async fn answer_blocking(&self, request: Request) -> Answer {
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let files = Arc::clone(&self.files);
        let keys = Arc::clone(&self.keys);
        let recovery = self.recovery.clone();
        let failed = panicked(&request);
        tokio::task::spawn_blocking(move || work(&files, &keys, &recovery, request)).await.unwrap_or(failed)
    }

    async fn query(&self, ledger: &str, path: &str, data: Vec<u8>) -> Result<Reply, api::Error> {
        let unavailable = |error: String| api::Error::new(api::ErrorCode::Unavailable, error);
        let answer = self.ledgers.query(ledger, path, data.clone()).await.map_err(unavailable)?;
        if path != query::GET_ACCOUNT {
            return Err(api::Error::new(api::ErrorCode::Internal, format!("no reply is made of `{path}`")));
        }
        let account: Account = codec::decode(&answer, 1024).map_err(|error| unavailable(error.to_string()))?;
        let key = codec::decode(&data, 64).map_err(|error| unavailable(error.to_string()))?;
        Ok(Reply::Account(api::Account {
            address: identity::address(&key),
            ledger: ledger.to_owned(),
            balance: account.balance,
            nonce: account.nonce,
        }))
    }
}

/// The answer if the work panics, which is a bug in it.
fn panicked(request: &Request) -> Answer {
    const WORDS: &str = "the work panicked; this is a bug, see the log";
    match request {
        Request::Prepare(_) | Request::Measure(_) => Answer::Prepared(Err(WORDS.into())),
        Request::OpenDataKey { .. } | Request::ForgetDataKey { .. } => Answer::DataKey(Err(WORDS.into())),
        Request::SealDataKey { .. } => Answer::SealedDataKey(Err(WORDS.into())),
        Request::Directory { .. } => Answer::Directory(Err(WORDS.into())),
        Request::Pin { .. } => Answer::Pinned(Err(WORDS.into())),
        Request::Keep { .. } => Answer::Kept(Err(WORDS.into())),
        Request::LetGo { .. } => Answer::LetGo(Err(WORDS.into())),
        _ => Answer::Files(Err(api::Error::new(api::ErrorCode::Internal, WORDS))),
    }
}

/// Blocks.
fn work(files: &Files, keys: &DataKeys, recovery: &recovery::edge::Context, request: Request) -> Answer {
    match request {
        // These three answer their own panics.
        Request::Recovery(request) => Answer::Recovery(Box::new(recovery::edge::perform(recovery, &request))),
        Request::Round(request) => Answer::Round(Box::new(round::edge::perform(files, &request))),
        Request::Proof(request) => Answer::Proof(Box::new(proof::edge::perform(files, &request))),
        Request::Prepare(request) => Answer::Prepared(prepare(files, keys, &recovery.staging, &request)),
        Request::OpenDataKey { sealed, purpose, commitment } => {
            Answer::DataKey(open_data_key(keys, &recovery.keypair, &sealed, &purpose, &commitment))
        }
        Request::SealDataKey { commitment, to, purpose } => {
            Answer::SealedDataKey(seal_data_key(keys, &commitment, &to, &purpose))
        }
        Request::ForgetDataKey { commitment } => {
            Answer::DataKey(keys.forget(&commitment).map(|()| commitment).map_err(|error| words(&error)))
        }
        Request::Measure(request) => Answer::Prepared(Ok(measure(files, keys, *request))),
        Request::Add(request) => Answer::Files(add(files, &request)),
        Request::Export(request) => Answer::Files(export(files, keys, &recovery.staging, &request)),
        Request::ListPins => Answer::Files(Ok(list_pins(files))),
        Request::ListRoots => Answer::Roots(list_roots(files)),
        Request::Directory { entries, reason } => Answer::Directory(directory(files, entries, reason)),
        Request::ListCheckpoints { now } => Answer::Files(Ok(list_checkpoints(files, now))),
        Request::Pin { root, reason, keep } => {
            let store = files.store();
            let result = if keep { store.pin(&root, reason) } else { store.unpin(&root, reason) };
            Answer::Pinned(result.map_err(|error| words(&error)))
        }
        Request::Keep { owner, root, most } => Answer::Kept(keeping::keep(files.store(), &owner, &root, most)),
        Request::LetGo { owner, root } => Answer::LetGo(keeping::let_go(files.store(), &owner, &root)),
        Request::Terms { .. }
        | Request::CarryLedger { .. }
        | Request::Query { .. }
        | Request::Wallet { .. }
        | Request::Parameters { .. }
        | Request::Rewards { .. } => Answer::Files(Err(api::Error::new(api::ErrorCode::Internal, "not blocking work"))),
    }
}

fn prepare(files: &Files, keys: &DataKeys, scratch: &Path, request: &api::Submit) -> Result<Prepared, String> {
    let job = submit::JobFile::parse(&request.job_file).map_err(|error| words(&error))?;
    let overrides = submit::Overrides { shards: request.shards, copies: request.copies };
    let prepared =
        submit::prepare(&job, &request.base_directory, scratch, overrides, files).map_err(|error| words(&error))?;
    if let Some(key) = prepared.data_key {
        keys.keep(key).map_err(|error| words(&error))?;
    }
    let request = api::SubmitPrepared { spec: Box::new(prepared.spec), shards: prepared.shards };
    let prepared = measure(files, keys, request);
    let store = files.store();
    for root in prepared.sizes.keys() {
        // What was submitted must stay until others hold it, and is the submitter's to keep afterwards.
        store.pin(root, "submission").map_err(|error| words(&error))?;
    }
    store.sync().map_err(|error| words(&error))?;
    Ok(prepared)
}

fn open_data_key(
    keys: &DataKeys,
    keypair: &Keypair,
    sealed: &[u8],
    purpose: &[u8],
    commitment: &Digest,
) -> Result<Digest, String> {
    let bytes = keypair.open_sealed(purpose, sealed).map_err(|error| words(&error))?;
    let key = bytes.try_into().map(DataKey).ok().filter(|key| key.commitment() == *commitment);
    keys.keep(key.ok_or("it is not the key that the job names")?).map_err(|error| words(&error))
}

fn seal_data_key(keys: &DataKeys, commitment: &Digest, to: &NodeKey, purpose: &[u8]) -> Result<Vec<u8>, String> {
    let key = keys.get(commitment).ok_or("the key is not here any more")?;
    sealing::seal_to(to, purpose, &key.0).map_err(|error| words(&error))
}

fn directory(files: &Files, entries: Vec<(String, ContentId)>, reason: &str) -> Result<ContentId, String> {
    let root = files.put_directory(entries).map_err(|error| words(&error))?;
    let store = files.store();
    store.pin(&root, reason).and_then(|()| store.sync()).map_err(|error| words(&error))?;
    Ok(root)
}

fn measure(files: &Files, keys: &DataKeys, request: api::SubmitPrepared) -> Prepared {
    let spec = &request.spec;
    let mut sizes = BTreeMap::new();
    let roots = [spec.bundle, spec.model, spec.dataset_cid];
    for root in roots.into_iter().chain(spec.held_out) {
        sizes.insert(root, dag_size(files.store(), &root));
    }
    sizes.extend(request.shards.iter().map(|shard| (shard.cid, shard.size)));
    let data_key = request.spec.data_key.filter(|key| keys.get(key).is_some());
    Prepared { spec: request.spec, shards: request.shards, sizes, data_key }
}

/// Bytes of a DAG's blocks that are here.
fn dag_size(store: &BlockStore, root: &ContentId) -> u64 {
    shard::edge::dag_bytes(store, root).unwrap_or(0)
}

fn add(files: &Files, request: &api::ShardAdd) -> Result<Reply, api::Error> {
    let cid = if request.car { import_car(files, &request.path)? } else { import(files, &request.path)? };
    files.store().pin(&cid, "added").map_err(|error| internal(&error))?;
    files.store().sync().map_err(|error| internal(&error))?;
    Ok(Reply::Shard(api::Shard { cid, size: dag_size(files.store(), &cid), pins: vec!["added".into()] }))
}

fn import(files: &Files, path: &Path) -> Result<ContentId, api::Error> {
    let imported = files.import_path(path).map_err(|error| api::Error::new(api::ErrorCode::Invalid, words(&error)))?;
    Ok(imported.cid)
}

fn import_car(files: &Files, path: &Path) -> Result<ContentId, api::Error> {
    let invalid = |error: &dyn std::error::Error| api::Error::new(api::ErrorCode::Invalid, words(error));
    let file = std::fs::File::open(path).map_err(|error| invalid(&error))?;
    let roots =
        shard::archive::import(files.store(), std::io::BufReader::new(file)).map_err(|error| invalid(&error))?;
    let [root] = roots[..] else {
        let message = format!("the CAR names {} roots; one is wanted", roots.len());
        return Err(api::Error::new(api::ErrorCode::Invalid, message));
    };
    Ok(root)
}

/// Writes sealed content opened.
fn open_sealed(files: &Files, keys: &DataKeys, staging: &Path, cid: &ContentId, to: &Path) -> Result<(), api::Error> {
    let invalid = |error: &dyn std::error::Error| api::Error::new(api::ErrorCode::Invalid, words(error));
    let aside = tempfile::tempdir_in(staging).map_err(|error| invalid(&error))?;
    let sealed = aside.path().join("sealed");
    files.export(cid, &sealed).map_err(|error| invalid(&error))?;
    sealed::open_path(&|wanted| keys.get(wanted), &sealed, to, u64::MAX).map_err(|error| invalid(&error))?;
    Ok(())
}

fn export(files: &Files, keys: &DataKeys, staging: &Path, request: &api::ShardGet) -> Result<Reply, api::Error> {
    let pins = match &request.to {
        Some(to) if request.open => {
            open_sealed(files, keys, staging, &request.cid, to)?;
            Vec::new()
        }
        Some(to) => {
            files.export(&request.cid, to).map_err(|error| api::Error::new(api::ErrorCode::Invalid, words(&error)))?;
            Vec::new()
        }
        None => {
            files.store().pin(&request.cid, "fetched").map_err(|error| internal(&error))?;
            files.store().sync().map_err(|error| internal(&error))?;
            vec!["fetched".into()]
        }
    };
    Ok(Reply::Shard(api::Shard { cid: request.cid, size: dag_size(files.store(), &request.cid), pins }))
}

fn list_pins(files: &Files) -> Reply {
    let mut pins: BTreeMap<ContentId, Vec<String>> = BTreeMap::new();
    for pin in files.store().pins() {
        pins.entry(pin.root).or_default().push(pin.reason);
    }
    let shard = |(cid, pins)| api::Shard { cid, size: dag_size(files.store(), &cid), pins };
    Reply::Shards(pins.into_iter().map(shard).collect())
}

fn list_roots(files: &Files) -> Vec<ContentId> {
    let roots: BTreeSet<ContentId> = files.store().pins().into_iter().map(|pin| pin.root).collect();
    roots.into_iter().collect()
}

/// Every pinned root that is a checkpoint, ours or held for another.
fn list_checkpoints(files: &Files, now: Time) -> Reply {
    let roots = list_roots(files);
    let line = |root: ContentId| {
        let checkpoint = Checkpoint::open(files, &root, now).ok()?;
        let manifest = checkpoint.manifest;
        Some(api::CheckpointLine {
            cid: root,
            task_id: manifest.task,
            epoch: manifest.epoch,
            iteration: manifest.iteration,
            node_id: api::views::peer_text(&manifest.node),
            size: manifest.size,
            timestamp: manifest.timestamp,
            holders: Vec::new(),
        })
    };
    Reply::Checkpoints(roots.into_iter().filter_map(line).collect())
}

fn internal(error: &dyn std::error::Error) -> api::Error {
    api::Error::new(api::ErrorCode::Internal, words(error))
}
