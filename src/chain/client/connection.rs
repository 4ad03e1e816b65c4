//! One way to a ledger, and the few things that the client asks there.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt as _;
use tendermint::block::Height;
use tendermint_rpc::{
    Client as _, Error as RpcError, SimpleRequest, client::CompatMode, error::ErrorDetail, response::Response as _,
};

use super::{
    Config, Endpoint, Transport,
    facts::{Found, Searched, Sent},
    http::Http,
    transaction::{Find, FindResults},
    verifier::HOLD,
};
use crate::{
    chain::{
        light,
        records::{Account, Changes},
        wire::{Code, EMBEDDED_MONIKER, query},
    },
    codec,
    types::{Digest, LedgerId, NodeKey},
};

/// A request without an answer for this long means that the endpoint is gone.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Blocks that are looked through for a transaction, from the one at which it was signed on. It is in one of the first, if
/// in any: it was sent at once, and until its nonce was used.
const MAX_SEARCH: u64 = 1_000;
/// The longest answer of a query in bytes: a page of changes with a thousand jobs of many shards.
pub(super) const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Why an endpoint is of no use now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("it carries the ledger `{found}`, not `{wanted}`")]
    WrongLedger { found: String, wanted: LedgerId },
    #[error(
        "its ledger `{ledger}` is signed by another key ({found}) than the expected {wanted}; if it was made anew, name its host with --ledger-host"
    )]
    WrongValidator { ledger: LedgerId, found: String, wanted: NodeKey },
    #[error("it is at height {found}, behind height {seen} that was seen already")]
    Behind { found: u64, seen: u64 },
    #[error("it speaks an unknown version of the protocol: {}", brief(.0))]
    Version(#[source] RpcError),
    #[error("its address is not usable: {}", brief(.0))]
    Address(#[source] RpcError),
    #[error("{}", brief(.0))]
    Rpc(RpcError),
    #[error("no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    #[error("its answer to `{path}` is an error: {}", cut(log))]
    Query { path: &'static str, log: String },
    #[error("it has no result for every transaction of block {height}")]
    Results { height: u64 },
    #[error("its answer to `{path}` is not what it should be")]
    Answer { path: &'static str, source: codec::Error },
    #[error(transparent)]
    Header(#[from] light::Refusal),
    #[error(transparent)]
    Records(#[from] light::Untrue),
    #[error(transparent)]
    Block(#[from] light::block::Mismatch),
    #[error("its answer to `{path}` at block {height} is not what the chain's app hash commits to")]
    Proof { path: String, height: u64 },
    #[error("it has placed a transaction in block {height}, which does not hold it")]
    Placed { height: u64 },
    #[error("it has no block {height}, which is needed for a proof")]
    Lacks { height: u64 },
    #[error("it has told of records after block {height}, and for {} s of no next block that would prove them", HOLD.as_secs())]
    Withheld { height: u64 },
    #[error("its validators of block {height} are no set of validators")]
    Validators { height: u64 },
    #[error("the header of block {height} has no app hash of this ledger")]
    OtherApplication { height: u64 },
    #[error("it says that one machine hosts the ledger `{ledger}`, which is known to be a chain of validators")]
    Hosted { ledger: LedgerId },
    #[error("it is stale: {other} has a proven block that is {seconds} s newer than its newest")]
    Stale { other: String, seconds: u64 },
    #[error(
        "its block {height} is signed by the validators as {other}'s other block of that height is: the chain has forked"
    )]
    Fork { height: u64, other: String },
    #[error("its block {height} has the hash {hash}, and is not signed; {other} has the chain's")]
    Contradicts { height: u64, hash: String, other: String },
    #[error("it was caught by a query: {reason}")]
    Caught { reason: String },
}

impl Failure {
    /// Whether an honest endpoint that is up to date never gives cause for it: it is named, and the others are used first.
    pub(super) fn is_fault(&self) -> bool {
        match self {
            Self::Header(refusal) => refusal.is_lie(),
            Self::Records(refusal) => refusal.is_lie(),
            Self::Block(_)
            | Self::Answer { .. }
            | Self::Proof { .. }
            | Self::Placed { .. }
            | Self::Validators { .. }
            | Self::Hosted { .. }
            | Self::Stale { .. }
            | Self::Fork { .. }
            | Self::Contradicts { .. }
            | Self::Caught { .. }
            | Self::Behind { .. } => true,
            _ => false,
        }
    }
}

/// One line, without the trace that the library adds.
fn brief(error: &RpcError) -> String {
    // The library's own words are "HTTP error" and "serde parse error"; what happened is the last of the causes.
    let cause = || error.trace().chain().last().map(ToString::to_string).unwrap_or_default();
    let text = match error.detail() {
        ErrorDetail::Http(_) => cause(),
        ErrorDetail::Response(response) => response.source.to_string(),
        ErrorDetail::Serde(_) => format!("its answer is not what a chain's RPC answers: {}", cause()),
        detail => detail.to_string(),
    };
    cut(&text)
}

/// What somebody else wrote is repeated as one line of at most 300 characters.
fn cut(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

/// A way to a ledger's JSON-RPC; the library's client trait gives it all calls.
#[derive(Clone)]
pub(super) enum Rpc {
    Http(Http),
    Peer(Arc<dyn Transport>),
}

#[async_trait]
impl tendermint_rpc::Client for Rpc {
    async fn perform<R: SimpleRequest>(&self, request: R) -> Result<R::Output, RpcError> {
        // The library panics on some answers (base64 that is padding alone), and a ledger may answer anything.
        let asked = AssertUnwindSafe(self.perform_unguarded(request)).catch_unwind().await;
        asked.unwrap_or_else(|_| Err(RpcError::client_internal("its answer can't be decoded".to_owned())))
    }
}

impl Rpc {
    async fn perform_unguarded<R: SimpleRequest>(&self, request: R) -> Result<R::Output, RpcError> {
        let answer = match self {
            Self::Http(client) => client.call(request.into_json()).await?,
            Self::Peer(transport) => {
                let answer = transport.call(request.into_json().into_bytes()).await;
                answer.map_err(|error| RpcError::client_internal(error.to_string()))?
            }
        };
        R::Response::from_string(answer).map(Into::into)
    }
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http(_) => "Rpc::Http",
            Self::Peer(_) => "Rpc::Peer",
        })
    }
}

/// An endpoint that carries the right ledger.
pub(super) struct Opened {
    pub(super) rpc: Rpc,
    /// Who hosts the ledger, if one machine does.
    pub(super) host: Option<NodeKey>,
}

/// Opens `endpoint` if it carries the ledger that `config` names, and is not behind `seen`.
pub(super) async fn connect(endpoint: &Endpoint, config: &Config, seen: u64) -> Result<Opened, Failure> {
    let rpc = open(endpoint)?;
    let status = timed(rpc.status()).await?;
    let found = status.node_info.network.to_string();
    if found != config.ledger {
        return Err(Failure::WrongLedger { found, wanted: config.ledger.clone() });
    }
    let signer = status.validator_info.pub_key.to_bytes();
    let host = <[u8; 32]>::try_from(signer.as_slice()).ok().map(NodeKey);
    if let Some(wanted) = config.validator
        && host != Some(wanted)
    {
        let found = host.map_or_else(|| hex::encode(&signer), |host| host.to_string());
        return Err(Failure::WrongValidator { ledger: config.ledger.clone(), found, wanted });
    }
    let single = status.node_info.moniker.to_string() == EMBEDDED_MONIKER;
    let height = status.sync_info.latest_block_height.value();
    if height < seen {
        return Err(Failure::Behind { found: height, seen });
    }
    // Of what is asked here, nothing depends on which it is.
    CompatMode::from_version(status.node_info.version).map_err(Failure::Version)?;
    Ok(Opened { rpc, host: host.filter(|_| single) })
}

fn open(endpoint: &Endpoint) -> Result<Rpc, Failure> {
    Ok(match endpoint {
        Endpoint::Http(url) => Rpc::Http(Http::new(url).map_err(Failure::Address)?),
        Endpoint::Peer(transport) => Rpc::Peer(transport.clone()),
    })
}

pub(super) async fn timed<T>(call: impl Future<Output = Result<T, RpcError>>) -> Result<T, Failure> {
    match tokio::time::timeout(REQUEST_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(Failure::Rpc),
        Err(_) => Err(Failure::Timeout),
    }
}

/// What the ledger itself said, if `failure` is its answer and not the way there.
pub(super) fn said(failure: &Failure) -> Option<String> {
    match failure {
        Failure::Rpc(error) => match error.detail() {
            ErrorDetail::Response(response) => Some(response.source.to_string()),
            _ => None,
        },
        _ => None,
    }
}

impl Rpc {
    /// Any query of [`query`]: code, log and answer.
    pub(super) async fn ask(&self, path: &str, data: Vec<u8>) -> Result<(u32, String, Vec<u8>), Failure> {
        let answer = timed(self.abci_query(Some(path.to_owned()), data, None, false)).await?;
        Ok((answer.code.value(), answer.log, answer.value))
    }

    pub(super) async fn ask_for<T: serde::de::DeserializeOwned>(
        &self,
        path: &'static str,
        data: Vec<u8>,
    ) -> Result<T, Failure> {
        match self.ask(path, data).await? {
            (0, _, value) => codec::decode(&value, MAX_ANSWER).map_err(|source| Failure::Answer { path, source }),
            (_, log, _) => Err(Failure::Query { path, log }),
        }
    }

    /// A page of what changed after `height`.
    pub(super) async fn changes(&self, height: u64) -> Result<Changes, Failure> {
        self.ask_for(query::CHANGES, codec::encode(&height)).await
    }

    /// The nonce of an account; 0 for one that the ledger does not know yet.
    pub(super) async fn nonce(&self, account: &NodeKey) -> Result<u64, Failure> {
        let account: Account = self.ask_for(query::GET_ACCOUNT, codec::encode(account)).await?;
        Ok(account.nonce)
    }

    /// Offers a transaction. The error is the way there; it may have arrived.
    pub(super) async fn send(&self, bytes: Vec<u8>) -> Result<Sent, Failure> {
        match timed(self.broadcast_tx_sync(bytes)).await {
            Ok(answer) if answer.code.is_ok() => Ok(Sent::Accepted),
            Ok(answer) => Ok(Sent::Refused { code: answer.code.value(), log: answer.log }),
            Err(failure) => match said(&failure) {
                Some(text) => Ok(refusal(text)),
                None => Err(failure),
            },
        }
    }

    /// A transaction that is in a block.
    pub(super) async fn find(&self, hash: &Digest) -> Result<Option<Found>, Failure> {
        match timed(self.perform(Find::new(hash))).await {
            Ok(answer) => Ok(Some(answer.into())),
            // Any other word may mean that it is there and can't be shown: no reason to send it again.
            Err(failure) if said(&failure).is_some_and(|text| text.contains("not found")) => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

impl Rpc {
    /// Looks for a transaction in the blocks behind `after`, which need no index.
    pub(super) async fn search(&self, hash: &Digest, after: u64) -> Result<Searched, Failure> {
        let known = timed(self.status()).await?.sync_info;
        let (first, last) = (known.earliest_block_height.value(), known.latest_block_height.value());
        if first > after.saturating_add(1) {
            return Ok(Searched::Unknown { reason: gone(after, first) });
        }
        for height in after.saturating_add(1)..=last.min(after.saturating_add(MAX_SEARCH)) {
            let at = block_height(height);
            let block = timed(self.block(at)).await?.block;
            if let Some(position) = block.data.iter().position(|bytes| Digest::of(bytes) == *hash) {
                let results = timed(self.perform(FindResults::at(at))).await?;
                let found = results.found(position);
                return found.map(Searched::Found).ok_or(Failure::Results { height });
            }
        }
        Ok(Searched::Absent)
    }
}

/// The blocks that could hold a transaction are not there.
pub(super) fn gone(after: u64, first: u64) -> String {
    format!(
        "its nonce is used, and the blocks after {after}, which tell whether by itself, are gone there ({first} is the first); look at the ledger before you submit it again"
    )
}

pub(super) fn block_height(height: u64) -> Height {
    Height::try_from(height).unwrap_or_default()
}

/// Asks a ledger everything that a client asks, once, and says what is wrong with its answers. Changes nothing there: the
/// transaction that it offers is none.
pub async fn examine(ledger: Arc<dyn Transport>, config: &Config) -> Vec<String> {
    let rpc = Rpc::Peer(ledger.clone());
    let failures = [
        connect(&Endpoint::Peer(ledger), config, 0).await.err(),
        rpc.changes(0).await.err(),
        rpc.nonce(&NodeKey([0; 32])).await.err(),
        rpc.send(Vec::new()).await.err(),
        rpc.find(&Digest([0; 32])).await.err(),
        rpc.search(&Digest([0; 32]), 0).await.err(),
        rpc.updates(None).await.err(),
        rpc.light_block(1, None).await.err(),
        rpc.block_with_results(1).await.err(),
        rpc.ask_proven(query::GET_ACCOUNT, Vec::new()).await.err(),
    ];
    failures.into_iter().flatten().map(|failure| failure.to_string()).collect()
}

/// What CometBFT's words for a refused transaction mean; they are not codes in every version.
fn refusal(text: String) -> Sent {
    if text.contains("already exists in cache") {
        Sent::Accepted
    } else if text.contains("too large") {
        Sent::Impossible { reason: text }
    } else if text.contains("decod") || text.contains("unmarshal") {
        Sent::Refused { code: Code::Malformed as u32, log: text }
    } else {
        tracing::debug!(%text, "the ledger takes no transaction now");
        Sent::NotNow
    }
}
