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

use super::coordinator::Input;
use crate::{
    chain::{
        client::{self, Client, Endpoint, Handle, Transport, TransportError},
        embedded::{self, Embedded},
        wire::Message,
    },
    identity::Keypair,
    types::LedgerId,
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

/// Why a ledger is not carried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not start.
    #[error(transparent)]
    Embedded(#[from] embedded::Error),
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
}

impl Ledgers {
    /// No ledger yet; also the queue of calls to peers, which the event loop must serve.
    pub fn new(keypair: Keypair, directory: PathBuf, events: mpsc::Sender<Input>) -> (Self, mpsc::Receiver<PeerCall>) {
        let (calls, queue) = mpsc::channel(CALL_QUEUE);
        (Self { open: Arc::default(), keypair, directory, events, calls }, queue)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a ledger through `endpoints`, beside those it is followed through already.
    pub fn follow(&self, ledger: &str, endpoints: Vec<Endpoint>) -> Result<(), client::Error> {
        let mut open = self.open();
        if let Some(handle) = open.clients.get(ledger) {
            for endpoint in endpoints {
                if let Err(error) = handle.add_endpoint(endpoint) {
                    tracing::debug!(ledger, %error, "a way to the ledger was not added");
                }
            }
            return Ok(());
        }
        let config = client::Config {
            ledger: ledger.to_owned(),
            validator: None,
            endpoints,
            outbox_dir: self.directory.join("outbox"),
            poll: client::Poll::default(),
        };
        let (handle, mut reports) = Client::start(config, &self.keypair)?;
        open.clients.insert(ledger.to_owned(), handle);
        let (ledger, events) = (ledger.to_owned(), self.events.clone());
        tokio::spawn(async move {
            while let Some(event) = reports.recv().await {
                let input = Input::Ledger { ledger: ledger.clone(), event };
                if events.send(input).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Follows a ledger through a peer.
    pub fn follow_through(&self, ledger: &str, peer: PeerId) -> Result<(), client::Error> {
        let transport = ThroughPeer { peer, ledger: ledger.to_owned(), calls: self.calls.clone() };
        self.follow(ledger, vec![Endpoint::Peer(Arc::new(transport))])
    }

    /// Carries a ledger of one job and follows it.
    pub async fn carry(&self, ledger: &str) -> Result<(), Error> {
        let genesis = embedded::job_genesis(ledger.to_owned(), self.keypair.node_key());
        let directory = self.directory.join(ledger).join("chain");
        let keypair = self.keypair.clone();
        let started = tokio::task::spawn_blocking(move || Embedded::start(&directory, genesis, &keypair)).await;
        let embedded = started.map_err(|error| embedded::Error::Io {
            path: self.directory.clone(),
            source: std::io::Error::other(error),
        })??;
        self.carried(ledger, embedded);
        Ok(())
    }

    /// Answers for a ledger that was started elsewhere, and follows it.
    pub fn carried(&self, ledger: &str, embedded: Arc<Embedded>) {
        self.open().carried.insert(ledger.to_owned(), Arc::clone(&embedded));
        if let Err(error) = self.follow(ledger, vec![Endpoint::Peer(Arc::new(Here(embedded)))]) {
            tracing::error!(ledger, %error, "the ledger that this node carries can't be followed");
        }
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
