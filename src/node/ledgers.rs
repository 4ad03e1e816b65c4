//! The ledgers that this node follows or carries, each through one client.
//!
//! A ledger is reached over HTTP (`--chain-rpc`), in this process (it carries it) or through a peer
//! (`/atlas/ledger-rpc/1`); the client speaks the same JSON-RPC each way.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};

use super::{coordinator::Input, ledger_host::KnownHost};
use crate::{
    chain::{
        client::{self, Client, Endpoint, Event, Handle, Place, Transport, TransportError, Trust},
        embedded::{self, Embedded},
        wire::Message,
    },
    config,
    identity::{self, Keypair},
    record::Recording,
    types::{LedgerId, NodeKey},
};

/// Calls to peers that wait for the event loop; a further one waits.
const CALL_QUEUE: usize = 64;

/// A JSON-RPC call to a peer, on its way to the event loop.
#[derive(Debug)]
pub struct PeerCall {
    /// Whom.
    pub peer: PeerId,
    /// Which ledger.
    pub ledger: LedgerId,
    /// The request.
    pub body: Vec<u8>,
    /// Takes the one answer.
    pub answer: oneshot::Sender<Result<Vec<u8>, String>>,
}

/// Why a ledger is not carried or followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not start.
    #[error(transparent)]
    Embedded(#[from] embedded::Error),
    /// Its client does not start.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// Who hosts it can't be read.
    #[error("the file {} can't be used", .path.display())]
    Host {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        source: std::io::Error,
    },
}

#[derive(Default)]
struct Open {
    clients: BTreeMap<LedgerId, Handle>,
    carried: BTreeMap<LedgerId, Arc<Embedded>>,
}

/// All of them. Cloning shares.
#[derive(Clone)]
pub struct Ledgers {
    open: Arc<Mutex<Open>>,
    keypair: Keypair,
    /// Holds a directory for each ledger: its outbox, and its chain if it is carried.
    directory: PathBuf,
    events: mpsc::Sender<Input>,
    calls: mpsc::Sender<PeerCall>,
    /// Where the blocks of carried ledgers are written down.
    recording: Option<Recording>,
}

impl Ledgers {
    /// No ledger yet; also the queue of calls to peers, which the event loop must serve.
    pub fn new(
        keypair: Keypair,
        directory: PathBuf,
        events: mpsc::Sender<Input>,
        recording: Option<Recording>,
    ) -> (Self, mpsc::Receiver<PeerCall>) {
        let (calls, queue) = mpsc::channel(CALL_QUEUE);
        (Self { open: Arc::default(), keypair, directory, events, calls, recording }, queue)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a ledger through `endpoints`, beside those it is followed through already.
    pub fn follow(&self, ledger: &str, endpoints: Vec<Endpoint>) -> Result<(), client::Error> {
        let mut open = self.open();
        if let Some(handle) = open.clients.get(ledger) {
            for endpoint in endpoints {
                if let Err(error) = handle.add_endpoint(endpoint, Place::First) {
                    tracing::debug!(ledger, %error, "a way to the ledger was not added");
                }
            }
            return Ok(());
        }
        let (handle, reports) = self.start_client(ledger, endpoints, None, None)?;
        open.clients.insert(ledger.to_owned(), handle);
        tokio::spawn(self.clone().relay(ledger.to_owned(), reports, None));
        Ok(())
    }

    /// Follows the configured ledger over RPC, and through its host (as the operator says, or as it was the first time)
    /// when no RPC endpoint answers. If it has no host it is a chain of validators, and what endpoints say of it is verified.
    pub fn follow_configured(&self, config: &config::Ledger) -> Result<(), Error> {
        let ledger = &config.chain_id;
        let known = KnownHost::new(self.directory.join(format!("{ledger}.host")));
        let pinned = match config.host {
            Some(host) => identity::node_key(&host),
            None => known.load().map_err(|source| Error::Host { path: known.path().to_owned(), source })?,
        };
        let through_host = pinned.as_ref().and_then(identity::peer_id).map(|peer| self.through(ledger, peer));
        let endpoints = config.rpc.iter().cloned().map(Endpoint::Http).chain(through_host).collect();
        let verified = pinned.is_none() || config.trust.is_some();
        let trust = verified.then(|| Trust {
            period: config.trusting_period,
            ..Trust::new(config.trust, self.directory.join(format!("{ledger}.trust")))
        });
        let (handle, reports) = self.start_client(ledger, endpoints, pinned, trust)?;
        self.open().clients.insert(ledger.to_owned(), handle);
        let to_learn = pinned.is_none().then_some(known);
        tokio::spawn(self.clone().relay(ledger.to_owned(), reports, to_learn));
        Ok(())
    }

    fn start_client(
        &self,
        ledger: &str,
        endpoints: Vec<Endpoint>,
        validator: Option<NodeKey>,
        trust: Option<Trust>,
    ) -> Result<(Handle, mpsc::Receiver<Event>), client::Error> {
        let config = client::Config {
            ledger: ledger.to_owned(),
            validator,
            endpoints,
            outbox_dir: self.directory.join("outbox"),
            poll: client::Poll::default(),
            trust,
        };
        Client::start(config, &self.keypair)
    }

    /// Carries a client's reports to the event loop, and learns on the way who hosts the ledger.
    async fn relay(self, ledger: LedgerId, mut reports: mpsc::Receiver<Event>, mut to_learn: Option<KnownHost>) {
        while let Some(event) = reports.recv().await {
            if let Event::Connected { host: Some(host), .. } = &event
                && let Some(known) = to_learn.take()
            {
                self.learn(&ledger, *host, known).await;
            }
            if self.events.send(Input::Ledger { ledger: ledger.clone(), event }).await.is_err() {
                return;
            }
        }
    }

    async fn learn(&self, ledger: &str, host: NodeKey, known: KnownHost) {
        let saved = tokio::task::spawn_blocking(move || known.save(&host)).await;
        let Some(peer) = identity::peer_id(&host).filter(|_| saved.is_ok()) else { return };
        tracing::info!(ledger, host = %peer, "this ledger's host is remembered");
        if let Some(handle) = self.open().clients.get(ledger)
            && let Err(error) = handle.add_endpoint(self.through(ledger, peer), Place::Last)
        {
            tracing::debug!(ledger, %error, "the way through the ledger's host was not added");
        }
    }

    fn through(&self, ledger: &str, peer: PeerId) -> Endpoint {
        Endpoint::Peer(Arc::new(ThroughPeer { peer, ledger: ledger.to_owned(), calls: self.calls.clone() }))
    }

    /// Follows a ledger through a peer.
    pub fn follow_through(&self, ledger: &str, peer: PeerId) -> Result<(), client::Error> {
        self.follow(ledger, vec![self.through(ledger, peer)])
    }

    /// Carries a ledger of one job and follows it.
    pub async fn carry(&self, ledger: &str) -> Result<(), Error> {
        let genesis = embedded::job_genesis(ledger.to_owned(), self.keypair.node_key());
        let directory = self.directory.join(ledger).join("chain");
        let (keypair, recording) = (self.keypair.clone(), self.recording.clone());
        let start = move || Embedded::start(&directory, genesis, &keypair, recording.as_ref());
        let started = tokio::task::spawn_blocking(start).await;
        let embedded = started.map_err(|error| embedded::Error::Io {
            path: self.directory.clone(),
            source: std::io::Error::other(error),
        })??;
        Ok(self.carried(ledger, embedded)?)
    }

    /// Answers for a ledger that was started elsewhere, and follows it.
    pub fn carried(&self, ledger: &str, embedded: Arc<Embedded>) -> Result<(), client::Error> {
        self.open().carried.insert(ledger.to_owned(), Arc::clone(&embedded));
        self.follow(ledger, vec![Endpoint::Peer(Arc::new(Here(embedded)))])
    }

    /// Sends a transaction; the client reports what became of it under `id`.
    pub fn submit(&self, ledger: &str, id: u64, message: Message, durable: bool) -> Result<(), String> {
        let open = self.open();
        let handle = open.clients.get(ledger).ok_or("the ledger is not followed here")?;
        handle.submit(id, message, durable).map_err(|error| error.to_string())
    }

    /// Asks a ledger.
    pub async fn query(&self, ledger: &str, path: &str, data: Vec<u8>) -> Result<Vec<u8>, String> {
        let handle = self.open().clients.get(ledger).cloned().ok_or("the ledger is not followed here")?;
        handle.query(path, data).await.map_err(|error| error.to_string())
    }

    /// A peer asks a ledger that this node carries: answers it, or says that it does not.
    pub async fn answer(&self, ledger: &str, body: &[u8]) -> Result<Vec<u8>, String> {
        let embedded = self.open().carried.get(ledger).cloned();
        match embedded {
            Some(embedded) => Ok(embedded.rpc(body).await),
            None => Err(format!("this node does not carry ledger `{ledger}`")),
        }
    }

    /// Follows a ledger no longer. Its client ends with its last handle.
    pub fn close(&self, ledger: &str) {
        self.open().clients.remove(ledger);
    }

    /// Stops clients, then the ledgers that are carried here; what is durable is on disk afterwards.
    pub async fn stop(&self) {
        let open = std::mem::take(&mut *self.open());
        for handle in open.clients.values() {
            handle.stop().await;
        }
        open.carried.values().for_each(|embedded| embedded.stop());
    }
}

/// A ledger in this process.
struct Here(Arc<Embedded>);

#[async_trait]
impl Transport for Here {
    async fn call(&self, request: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        Ok(self.0.rpc(&request).await)
    }

    fn describe(&self) -> String {
        "in this process".into()
    }
}

/// A ledger behind a peer.
struct ThroughPeer {
    peer: PeerId,
    ledger: LedgerId,
    calls: mpsc::Sender<PeerCall>,
}

#[async_trait]
impl Transport for ThroughPeer {
    async fn call(&self, request: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let (answer, result) = oneshot::channel();
        let call = PeerCall { peer: self.peer, ledger: self.ledger.clone(), body: request, answer };
        let gone = || TransportError { reason: "the node is stopping".into() };
        self.calls.send(call).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?.map_err(|reason| TransportError { reason })
    }

    fn describe(&self) -> String {
        self.peer.to_string()
    }
}
