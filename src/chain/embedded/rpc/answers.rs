//! What each call answers.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};
use tendermint::{
    Hash,
    abci::{response::CheckTx, types::ExecTxResult},
    consensus, evidence, public_key, validator,
};
use tendermint_proto::serializers::bytes::base64string;
use tendermint_rpc::endpoint;
use tokio::sync::oneshot;

use super::{
    super::{
        Node,
        archive::{Committed, Place},
        block,
        block::{APP_VERSION, MAX_BLOCK_BYTES},
        writer::{Outcome, Refused},
    },
    Call, Error,
    request::Broadcast,
};
use crate::{
    chain::{ledger::TransactionResult, light::EVIDENCE_AGE, wire},
    types::Digest,
};

/// How long `broadcast_tx_commit` waits for the block (CometBFT's `timeout_broadcast_tx_commit`). The transaction
/// goes on after that.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The protocol that clients choose their dialect by: the CometBFT line whose RPC this is.
const TENDERMINT_VERSION: &str = "0.38.0";

/// Answers a call. What computes or reads the disk does so off the runtime's threads.
pub(super) async fn perform(node: Arc<Node>, call: Call) -> Result<Value, Error> {
    match call {
        Call::Broadcast { mode: Broadcast::Async, transaction } => {
            let hash = Digest::of(&transaction);
            tokio::spawn(async move { blocking(move || submit(&node, transaction)).await });
            broadcast_answer(&hash, &TransactionResult::default())
        }
        Call::Broadcast { mode: Broadcast::Sync, transaction } => {
            let hash = Digest::of(&transaction);
            let submitted = blocking(move || submit(&node, transaction)).await?;
            broadcast_answer(&hash, &submitted.check)
        }
        Call::Broadcast { mode: Broadcast::Commit, transaction } => broadcast_commit(node, transaction).await,
        call => blocking(move || read(&node, call)).await,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let work = tokio::task::spawn_blocking(work);
    work.await.unwrap_or_else(|_| Err(Error::internal("the ledger failed on this request")))
}

fn read(node: &Node, call: Call) -> Result<Value, Error> {
    match call {
        Call::Health => Ok(json!({})),
        Call::Status => status(node),
        Call::AbciInfo => abci_info(node),
        Call::AbciQuery { path, data } => abci_query(node, &path, &data),
        Call::Transaction { hash } => transaction(node, &hash),
        Call::Block { height } => block_answer(&*block_at(node, height)?),
        Call::BlockResults { height } => block_results(&*block_at(node, height)?),
        Call::Header { height } => header(&*block_at(node, height)?),
        Call::Commit { height } => commit(&*block_at(node, height)?),
        Call::Validators { height } => validators(node, height),
        Call::Genesis => genesis(node),
        Call::NetInfo => Ok(json!({ "listening": true, "listeners": [], "n_peers": "0", "peers": [] })),
        Call::Broadcast { .. } => Err(Error::internal("a broadcast is no read")),
    }
}

/// A transaction that was checked and, if that was fine, waits.
struct Submitted {
    check: TransactionResult,
    outcome: Option<oneshot::Receiver<Outcome>>,
}

fn submit(node: &Node, transaction: Vec<u8>) -> Result<Submitted, Error> {
    let hash = Digest::of(&transaction);
    if node.archive.transaction(&hash).map_err(Error::internal)?.is_some() {
        return Err(Error::internal(Refused::Known));
    }
    let check = node.application.read().map_err(|_| Error::internal(Refused::Stopped))?.check(&transaction);
    if check.code != wire::Code::Ok as u32 {
        return Ok(Submitted { check, outcome: None });
    }
    let outcome = node.mempool.submit(transaction, hash).map_err(Error::internal)?;
    Ok(Submitted { check, outcome: Some(outcome) })
}

fn broadcast_answer(hash: &Digest, check: &TransactionResult) -> Result<Value, Error> {
    encode(&endpoint::broadcast::tx_sync::Response {
        codespace: String::new(),
        code: check.code.into(),
        data: check.data.clone().into(),
        log: check.log.clone(),
        hash: Hash::Sha256(hash.0),
    })
}

async fn broadcast_commit(node: Arc<Node>, transaction: Vec<u8>) -> Result<Value, Error> {
    let hash = Digest::of(&transaction);
    let Submitted { check, outcome } = blocking(move || submit(&node, transaction)).await?;
    let place = match outcome {
        None => None,
        Some(outcome) => Some(committed(outcome).await?),
    };
    let height = place.as_ref().map_or(0, |place| place.block.sealed.height());
    let tx_result = place.map_or_else(ExecTxResult::default, |place| place.block.result(place.position));
    let data = base64(&tx_result.data)?;
    let mut answer = encode(&endpoint::broadcast::tx_commit::Response {
        check_tx: CheckTx { code: check.code.into(), log: check.log, ..CheckTx::default() },
        tx_result,
        hash: Hash::Sha256(hash.0),
        height: block::height(height),
    })?;
    answer["check_tx"]["data"] = base64(&check.data)?;
    answer["tx_result"]["data"] = data;
    Ok(answer)
}

/// Bytes as CometBFT writes them. The library writes those of a result as a list of numbers.
fn base64(bytes: &[u8]) -> Result<Value, Error> {
    base64string::serialize(&bytes, serde_json::value::Serializer).map_err(Error::internal)
}

async fn committed(outcome: oneshot::Receiver<Outcome>) -> Result<Place, Error> {
    match tokio::time::timeout(COMMIT_TIMEOUT, outcome).await {
        Ok(Ok(outcome)) => outcome.map_err(Error::internal),
        Ok(Err(_)) => Err(Error::internal(Refused::Stopped)),
        Err(_) => Err(Error::internal("timed out waiting for tx to be included in a block")),
    }
}

fn transaction(node: &Node, hash: &Digest) -> Result<Value, Error> {
    let place = node.archive.transaction(hash).map_err(Error::internal)?;
    // CometBFT's words.
    let Place { block, position } =
        place.ok_or_else(|| Error::internal(format!("tx ({}) not found", Hash::Sha256(hash.0))))?;
    let bytes = usize::try_from(position).ok().and_then(|position| block.sealed.block.data.get(position));
    let tx_result = block.result(position);
    let data = base64(&tx_result.data)?;
    let mut answer = encode(&endpoint::tx::Response {
        hash: Hash::Sha256(hash.0),
        height: block.sealed.block.header.height,
        index: position,
        tx_result,
        tx: bytes.cloned().unwrap_or_default(),
        proof: None,
    })?;
    answer["tx_result"]["data"] = data;
    Ok(answer)
}

fn abci_query(node: &Node, path: &str, data: &[u8]) -> Result<Value, Error> {
    let application = node.application.read().map_err(|_| Error::internal(Refused::Stopped))?;
    let answer = application.query(path, data);
    let height = application.height();
    drop(application);
    let (code, log, value) = match answer {
        Ok(value) => (0, String::new(), value),
        Err(error) => (wire::Code::Invalid as u32, error.to_string(), Vec::new()),
    };
    encode(&endpoint::abci_query::Response {
        response: endpoint::abci_query::AbciQuery {
            code: code.into(),
            log,
            key: data.to_vec(),
            value,
            height: block::height(height),
            ..endpoint::abci_query::AbciQuery::default()
        },
    })
}

fn abci_info(node: &Node) -> Result<Value, Error> {
    let application = node.application.read().map_err(|_| Error::internal(Refused::Stopped))?;
    let app_hash = base64(&application.app_hash().0)?;
    let mut answer = encode(&endpoint::abci_info::Response {
        response: tendermint::abci::response::Info {
            data: "atlas".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            app_version: APP_VERSION,
            last_block_height: block::height(application.height()),
            last_block_app_hash: block::app_hash(&application.app_hash()),
        },
    })?;
    answer["response"]["last_block_app_hash"] = app_hash;
    Ok(answer)
}

fn status(node: &Node) -> Result<Value, Error> {
    let latest = node.archive.last();
    let earliest = node.archive.block(1).map_err(Error::internal)?;
    let (latest, earliest) = (SyncPoint::of(node, latest.as_deref()), SyncPoint::of(node, earliest.as_deref()));
    Ok(json!({
        "node_info": {
            "protocol_version": { "p2p": "8", "block": "11", "app": APP_VERSION.to_string() },
            "id": hex::encode(node.host.validator().address.as_bytes()),
            "listen_addr": "",
            "network": node.genesis.chain_id,
            "version": TENDERMINT_VERSION,
            "channels": "",
            "moniker": wire::EMBEDDED_MONIKER,
            "other": { "tx_index": "on", "rpc_address": "" },
        },
        "sync_info": {
            "latest_block_hash": latest.block_hash,
            "latest_app_hash": latest.app_hash,
            "latest_block_height": latest.height,
            "latest_block_time": latest.time,
            "earliest_block_hash": earliest.block_hash,
            "earliest_app_hash": earliest.app_hash,
            "earliest_block_height": earliest.height,
            "earliest_block_time": earliest.time,
            "catching_up": false,
        },
        "validator_info": validator_json(node.host.validator())?,
    }))
}

/// One end of the chain, as `status` says it.
struct SyncPoint {
    block_hash: String,
    app_hash: String,
    height: String,
    time: tendermint::Time,
}

impl SyncPoint {
    fn of(node: &Node, block: Option<&Committed>) -> Self {
        match block {
            Some(block) => Self {
                block_hash: block.sealed.block_id.hash.to_string(),
                app_hash: hex::encode_upper(block.sealed.block.header.app_hash.as_bytes()),
                height: block.sealed.height().to_string(),
                time: block.sealed.block.header.time,
            },
            None => Self {
                block_hash: String::new(),
                app_hash: String::new(),
                height: "0".to_owned(),
                time: block::tendermint_time(node.genesis.time),
            },
        }
    }
}

/// The block at `height`, or the latest.
fn block_at(node: &Node, height: Option<u64>) -> Result<Arc<Committed>, Error> {
    let last = node.archive.last().ok_or_else(|| Error::internal("there is no block yet"))?;
    let latest = last.sealed.height();
    match height {
        None => Ok(last),
        // CometBFT's words, up to the numbers.
        Some(height) if height > latest => Err(Error::internal(format!(
            "height {height} must be less than or equal to the current blockchain height {latest}"
        ))),
        Some(height) => {
            let block = node.archive.block(height).map_err(Error::internal)?;
            block.ok_or_else(|| Error::internal(format!("block {height} is missing on disk")))
        }
    }
}

/// Block id and block, as `block` answers them and subscribers get them.
pub(in super::super) fn block_identity(block: &Committed) -> endpoint::block::Response {
    endpoint::block::Response { block_id: block.sealed.block_id, block: block.sealed.block.clone() }
}

fn block_answer(block: &Committed) -> Result<Value, Error> {
    encode(&block_identity(block))
}

fn block_results(block: &Committed) -> Result<Value, Error> {
    let results = &block.results;
    let mut answer = encode(&endpoint::block_results::Response {
        height: block.sealed.block.header.height,
        txs_results: Some(results.tx_results.clone()),
        finalize_block_events: results.events.clone(),
        begin_block_events: None,
        end_block_events: None,
        validator_updates: Vec::new(),
        consensus_param_updates: None,
        app_hash: results.app_hash.clone(),
    })?;
    for (position, result) in results.tx_results.iter().enumerate() {
        answer["txs_results"][position]["data"] = base64(&result.data)?;
    }
    Ok(answer)
}

fn header(block: &Committed) -> Result<Value, Error> {
    encode(&endpoint::header::Response { header: block.sealed.block.header.clone() })
}

fn commit(block: &Committed) -> Result<Value, Error> {
    let signed = tendermint::block::signed_header::SignedHeader::new(
        block.sealed.block.header.clone(),
        block.sealed.commit.clone(),
    );
    encode(&endpoint::commit::Response { signed_header: signed.map_err(Error::internal)?, canonical: true })
}

fn validators(node: &Node, height: Option<u64>) -> Result<Value, Error> {
    let height = match height {
        Some(height) => height,
        None => block_at(node, None)?.sealed.height(),
    };
    Ok(json!({
        "block_height": height.to_string(),
        "validators": [validator_json(node.host.validator())?],
        "count": "1",
        "total": "1",
    }))
}

/// A validator as CometBFT writes it: `voting_power`, and the priority that a lone validator always has.
fn validator_json(info: &validator::Info) -> Result<Value, Error> {
    Ok(json!({
        "address": info.address,
        "pub_key": encode(&info.pub_key)?,
        "voting_power": info.power,
        "proposer_priority": "0",
    }))
}

fn genesis(node: &Node) -> Result<Value, Error> {
    let genesis = tendermint::Genesis {
        genesis_time: block::tendermint_time(node.genesis.time),
        chain_id: node.host.chain_id().clone(),
        initial_height: 1,
        consensus_params: consensus_params(),
        validators: vec![node.host.validator().clone()],
        app_hash: tendermint::AppHash::default(),
        app_state: node.genesis.clone(),
    };
    Ok(json!({ "genesis": encode(&genesis)? }))
}

fn consensus_params() -> consensus::Params {
    consensus::Params {
        block: tendermint::block::Size { max_bytes: MAX_BLOCK_BYTES as u64, max_gas: -1, time_iota_ms: 1 },
        evidence: evidence::Params {
            max_age_num_blocks: 100_000,
            max_age_duration: evidence::Duration(EVIDENCE_AGE),
            max_bytes: 1024 * 1024,
        },
        validator: consensus::params::ValidatorParams { pub_key_types: vec![public_key::Algorithm::Ed25519] },
        version: None,
        abci: consensus::params::AbciParams::default(),
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(Error::internal)
}
