//! What a node uses for any ledger: an outbox, a view of what changed, queries. Only through Tendermint's JSON-RPC.
//!
//! It exists so that the rest of the node never sees connections, nonces or lost transactions: it submits a message
//! and hears once what became of it, and it hears what changed on the ledger after each block. The ledger may be a
//! CometBFT chain, an embedded one on this machine, or one at a peer ([`Transport`]); the requests are the same.
//!
//! - `outbox` is the pure part: ids, nonces, what is in flight, what to send again; `facts` is what it is told.
//! - `journal` keeps it on disk, `connection` is one way to a ledger (`http` carries it), `watch` hears of blocks, `driver` is the task.
//! - For a chain of validators ([`Trust`]) no endpoint is believed: `verifier` fetches `evidence` for the light client
//!   (`chain::light`), `proof` is of single answers, `witness` asks a second endpoint, `trust` keeps the newest trusted header.
//!
//! It never reports what is not final, never signs a message anew while its bytes could still be included, and
//! never talks to a ledger of another name than its own.

mod backoff;
mod connection;
mod driver;
mod evidence;
mod facts;
mod http;
mod journal;
mod outbox;
mod proof;
mod transaction;
mod trust;
mod verifier;
mod watch;
mod witness;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch as channel};
use tokio_util::sync::CancellationToken;

pub use crate::chain::log::Error;
use crate::{
    chain::{Key, light, records::Changes, wire::Message},
    clock,
    identity::Keypair,
    types::{Digest, LedgerId, NodeKey},
};
pub use connection::examine;
use connection::{Failure, Rpc};
use driver::{Command, Driver, Ends};
use journal::Journal;
use outbox::Outbox;
use verifier::Verifier;

/// Submissions on their way to the outbox; a further one is refused, and its sender tries again.
const MAX_COMMANDS: usize = 1_024;
/// Events that the node has not read yet; while it is full, the client waits.
const MAX_EVENTS: usize = 256;

/// Which ledger, and the ways there.
#[derive(Clone, Debug)]
pub struct Config {
    /// The chain id. An endpoint that carries another is not used.
    pub ledger: LedgerId,
    /// If set, an endpoint whose status shows another validator key is not used: the ledger's host, for a ledger
    /// that is reached through strangers.
    pub validator: Option<NodeKey>,
    /// Tried in this order; the first that works is used until it fails.
    pub endpoints: Vec<Endpoint>,
    /// Where the outbox is kept; one file a ledger.
    pub outbox_dir: PathBuf,
    /// How often blocks are asked for where no websocket tells of them.
    pub poll: Poll,
    /// For a chain of validators: everything is proven. None for a ledger that one machine hosts, whose word is taken.
    pub trust: Option<Trust>,
}

impl Config {
    /// The ways beside the one that is `used`.
    fn others(&self, used: &str) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(move |endpoint| endpoint.name() != used)
    }
}

/// How a chain of validators is verified.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Height and hash of a block that the operator knows; none to begin at the first block seen.
    pub beginning: Option<(u64, Digest)>,
    /// Where the newest trusted header is kept, so that a restart goes on from it.
    pub file: PathBuf,
    /// How long a header is trusted without a newer one. It must be well below the time in which evidence against validators counts
    /// (`evidence.max_age_duration` of the chain's genesis): after that, one that signs another history loses nothing.
    pub period: Duration,
    /// An endpoint whose newest block is this much older than another's proven one is stale.
    pub stale_after: Duration,
}

impl Trust {
    /// A week: half as long as evidence counts on a chain of this program's genesis.
    pub const PERIOD: Duration = light::TRUSTING_PERIOD;
    /// Ten blocks of three seconds, and a third of the silence after which a node is offline.
    pub const STALE_AFTER: Duration = Duration::from_secs(30);

    /// Begins where it is said and keeps what it trusts in `file`, with the usual times.
    pub fn new(beginning: Option<(u64, Digest)>, file: PathBuf) -> Self {
        Self { beginning, file, period: Self::PERIOD, stale_after: Self::STALE_AFTER }
    }
}

/// How often blocks are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    /// The first wait after something happened.
    pub shortest: Duration,
    /// The wait doubles up to this while nothing happens.
    pub longest: Duration,
}

impl Default for Poll {
    /// A submission on an embedded ledger is final in about 10 ms; a quarter of a second is the most that a change made by others waits.
    fn default() -> Self {
        Self { shortest: Duration::from_millis(10), longest: Duration::from_millis(250) }
    }
}

/// One way to the ledger.
#[derive(Clone)]
pub enum Endpoint {
    /// The base URL of a Tendermint RPC, for example `http://localhost:26657`.
    Http(String),
    /// Through a peer.
    Peer(Arc<dyn Transport>),
}

/// Where a new way to a ledger stands among those that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is newer, so probably better.
    First,
    /// It is for when the others fail.
    Last,
}

/// Carries a JSON-RPC request to a ledger and its answer back; the node implements it over `/atlas/ledger-rpc/1`.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer. Must end by itself within a few seconds.
    async fn call(&self, request: Vec<u8>) -> Result<Vec<u8>, TransportError>;

    /// Words for `status`: which peer.
    fn describe(&self) -> String;
}

/// The request did not reach the ledger, or its answer did not come back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TransportError {
    /// Why.
    pub reason: String,
}

impl Endpoint {
    /// The URL, or the peer's name.
    fn name(&self) -> String {
        match self {
            Self::Http(url) => url.clone(),
            Self::Peer(transport) => transport.describe(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(url),
            Self::Peer(transport) => write!(f, "peer {}", transport.describe()),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// What the node hears.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The ledger answers.
    Connected {
        /// Which way, for `status`: a URL or a peer id.
        endpoint: String,
        /// The way leads through a peer.
        through_peer: bool,
        /// Who hosts it, if one machine does.
        host: Option<NodeKey>,
    },
    /// The ledger does not answer; the client keeps trying. Sent again when the reason changes.
    Disconnected {
        /// Words for `status`.
        reason: String,
    },
    /// An endpoint lied, or is stale: others are used first. The client goes on.
    Distrusted {
        /// Which: a URL or a peer id.
        endpoint: String,
        /// What did not match.
        reason: String,
    },
    /// What changed: from the very beginning at first (of an empty ledger too), then after each block.
    Changes(Box<Changes>),
    /// A submission is final. Exactly once in the life of the process for each that is not rejected.
    Committed {
        /// The submission.
        id: u64,
        /// 0 if it did what it says; else see [`crate::chain::wire::Code`]. Never `Nonce`: that is signed anew.
        code: u32,
        /// Words for the code.
        log: String,
        /// The answer, if the message has one.
        data: Vec<u8>,
        /// The block.
        height: u64,
        /// The transaction.
        hash: Digest,
    },
    /// A submission that can never be included; or one that was not durable and could not be sent in time.
    Rejected {
        /// The submission.
        id: u64,
        /// Words.
        reason: String,
    },
}

/// A submission was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too much waits already.
    #[error("the ledger client's outbox is full; try again when some of it is committed")]
    Full,
    /// The client was stopped.
    #[error("the ledger client has stopped")]
    Stopped,
}

/// A query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The ledger does not answer.
    #[error("the ledger does not answer: {reason}")]
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The ledger's own answer.
    #[error("{log} (code {code})")]
    Refused {
        /// See [`crate::chain::wire::Code`].
        code: u32,
        /// Words.
        log: String,
    },
    /// The endpoint lied. It is distrusted; ask again.
    #[error("{endpoint} lied: {reason}; another endpoint is asked next time")]
    Lie {
        /// Which: a URL or a peer id.
        endpoint: String,
        /// What did not match.
        reason: String,
    },
    /// The answer can't be proven.
    #[error("the answer can't be proven: {reason}")]
    Unproven {
        /// Why.
        reason: String,
    },
}

/// The way that is in use.
#[derive(Clone, Debug)]
struct Way {
    rpc: Rpc,
    endpoint: String,
    /// Answers are proven.
    verified: bool,
    /// All is known up to here.
    height: u64,
}

/// Starts clients.
#[derive(Debug)]
pub struct Client;

impl Client {
    /// Starts the client of one ledger. Reads its outbox first; must be called inside a runtime.
    pub fn start(config: Config, keypair: &Keypair) -> Result<(Handle, mpsc::Receiver<Event>), Error> {
        let (mut journal, records) = Journal::open(&config.outbox_dir, &config.ledger)?;
        let mut outbox = Outbox::new(config.ledger.clone(), keypair.clone());
        let first_free_id = outbox.restore(records, clock::now());
        journal.rewrite(&outbox.records())?;
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let (events, event_receiver) = mpsc::channel(MAX_EVENTS);
        let (way, way_receiver) = channel::channel(Err("not connected yet".to_owned()));
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let own = keypair.node_key();
        let verifier = config.trust.as_ref().map(|trust| Verifier::open(&config, trust, own)).transpose()?;
        let driver = Driver::new(config, own, outbox, journal, Ends { commands: receiver, events, way }, verifier);
        let (until, end) = (stop.clone(), stopped.clone().drop_guard());
        tokio::spawn(async move {
            driver.run(until).await;
            drop(end);
        });
        Ok((Handle { commands, way: way_receiver, first_free_id, stop, stopped }, event_receiver))
    }
}

/// Speaks to a running client. The client ends when its last handle is dropped.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    way: channel::Receiver<Result<Way, String>>,
    first_free_id: u64,
    /// Asks the driver to end.
    stop: CancellationToken,
    /// It has ended, and the outbox is on disk.
    stopped: CancellationToken,
}

impl Handle {
    /// Submits a message. Exactly one [`Event::Committed`] or [`Event::Rejected`] with this id follows. Transactions
    /// are included in the order of submission as long as none is lost; events may come in another.
    ///
    /// `id` must not be in use, also by what was left from before a restart: count from [`Handle::first_free_id`]. What is
    /// `durable` is kept on disk once it is signed or waits, and sent after a restart; the rest (beats) is not.
    pub fn submit(&self, id: u64, message: Message, durable: bool) -> Result<(), SubmitError> {
        self.commands.try_send(Command::Submit { id, message: Box::new(message), durable }).map_err(|error| match error
        {
            mpsc::error::TrySendError::Full(_) => SubmitError::Full,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopped,
        })
    }

    /// The smallest id above all that the outbox had when this client started.
    pub fn first_free_id(&self) -> u64 {
        self.first_free_id
    }

    /// Asks the ledger as it is now; see [`crate::chain::wire::query`] for paths. Of a chain whose endpoints are not believed, the
    /// answer is proven, which takes a block; what reads more than one record is refused there.
    pub async fn query(&self, path: &str, data: Vec<u8>) -> Result<Vec<u8>, QueryError> {
        let way = self.way.borrow().clone().map_err(|reason| QueryError::Disconnected { reason })?;
        if way.verified {
            return self.query_proven(way, path, data).await;
        }
        match way.rpc.ask(path, data).await {
            Ok((0, _, value)) => Ok(value),
            Ok((code, log, _)) => Err(QueryError::Refused { code, log }),
            Err(failure) => Err(QueryError::Disconnected { reason: failure.to_string() }),
        }
    }

    async fn query_proven(&self, way: Way, path: &str, data: Vec<u8>) -> Result<Vec<u8>, QueryError> {
        let unproven = |reason: &str| QueryError::Unproven { reason: reason.to_owned() };
        let key = Key::read_by(path, &data)
            .ok_or_else(|| unproven("a proof is of one record, and that is no query for one"))?;
        let proven = match way.rpc.ask_proven(path, data).await {
            Ok(Ok(proven)) if proven.height < way.height => {
                return Err(self.caught(way.endpoint, &Failure::Behind { found: proven.height, seen: way.height }));
            }
            Ok(Ok(proven)) => proven,
            Ok(Err((code, log))) => return Err(QueryError::Refused { code, log }),
            Err(failure) if failure.is_fault() => return Err(self.caught(way.endpoint, &failure)),
            Err(failure) => return Err(QueryError::Disconnected { reason: failure.to_string() }),
        };
        let (answer, app_hash) = oneshot::channel();
        let asked = Command::AppHash { height: proven.height, answer };
        self.commands.send(asked).await.map_err(|_| unproven("the client has stopped"))?;
        let late = |_| unproven("the header that proves it did not come in time");
        let app_hash = app_hash.await.map_err(late)?;
        proof::check(path, &key, proven, app_hash).map_err(|failure| self.caught(way.endpoint, &failure))
    }

    fn caught(&self, endpoint: String, failure: &Failure) -> QueryError {
        let reason = failure.to_string();
        // If the queue is full, the client has more urgent reasons, and the next query says it again.
        let _ = self.commands.try_send(Command::Caught { endpoint: endpoint.clone(), reason: reason.clone() });
        QueryError::Lie { endpoint, reason }
    }

    /// Adds a way to the ledger, before the others or after them; tried at once if none works.
    pub fn add_endpoint(&self, endpoint: Endpoint, place: Place) -> Result<(), SubmitError> {
        self.commands.try_send(Command::AddEndpoint(endpoint, place)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::Full,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopped,
        })
    }

    /// Stops the client; what is durable is on disk when this returns.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod nonsense_tests;
