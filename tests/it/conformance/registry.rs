//! Every type of the wire, with its page and its decoder. [`super::coverage`] finds those that are missing here.

use atlas_node::{
    api,
    chain::{
        ledger::{Clock, Inference, Key, NodeClock, Payout, Proof, Rules, TaskClock},
        records, rpc,
        wire::{MAX_TRANSACTION, Transaction},
    },
    executor, gossip, health, proof,
    protocol::{Message, State},
    shard,
    types::{
        Attestation, Beat, CheckpointManifest, JobId, JobSpec, NodeKey, ParameterVote, Receipt, RoundOutcome,
        RoundVote, ShardSpec, SignedObject, TaskId, VerdictVote,
    },
};

use super::decode::{self, Read};

/// A type of the wire.
pub(crate) struct WireType {
    /// Its name in `schema.cddl`, or on its page.
    pub(crate) name: &'static str,
    /// Where it is implemented: the file below `src/`, and the type in it. None for what has no trait of the wire.
    pub(crate) source: Option<(&'static str, &'static str)>,
    /// The page that describes it.
    pub(crate) page: &'static str,
    /// The most bytes of it (of a signed object: of its body), which its page states.
    pub(crate) limit: Option<usize>,
    decode: fn(&[u8]) -> Result<Read, String>,
}

impl WireType {
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<Read, String> {
        (self.decode)(bytes)
    }
}

pub(crate) fn find(name: &str) -> WireType {
    all().into_iter().find(|known| known.name == name).unwrap_or_else(|| panic!("no type `{name}`"))
}

/// Both messages of a protocol.
macro_rules! protocol {
    ($state:ty, $file:literal, $page:literal, $request:literal, $response:literal) => {
        [
            WireType {
                name: $request,
                source: Some(($file, "Request")),
                page: $page,
                limit: Some(<$state as State>::Request::LIMIT),
                decode: decode::request::<$state>,
            },
            WireType {
                name: $response,
                source: Some(($file, "Response")),
                page: $page,
                limit: Some(<$state as State>::Response::LIMIT),
                decode: decode::response::<$state>,
            },
        ]
    };
}

fn signed<T: SignedObject>(
    name: &'static str,
    file: &'static str,
    object: &'static str,
    page: &'static str,
) -> WireType {
    WireType { name, source: Some((file, object)), page, limit: Some(T::LIMIT), decode: decode::signed::<T> }
}

fn plain(name: &'static str, page: &'static str, decode: fn(&[u8]) -> Result<Read, String>) -> WireType {
    WireType { name, source: None, page, limit: None, decode }
}

pub(crate) fn all() -> Vec<WireType> {
    let mut types = Vec::new();
    types.extend(protocol!(health::State, "health/wire.rs", "health", "health-request", "health-response"));
    types.extend(protocol!(executor::State, "executor/wire.rs", "task", "task-request", "task-response"));
    types.extend(protocol!(
        executor::inference::State,
        "executor/inference/wire.rs",
        "infer",
        "infer-request",
        "infer-response"
    ));
    types.extend(protocol!(proof::State, "proof/wire.rs", "proof", "proof-request", "proof-response"));
    types.extend(protocol!(rpc::State, "chain/rpc/wire.rs", "ledger-rpc", "ledger-rpc-request", "ledger-rpc-response"));
    types.extend(shard_messages());
    types.extend(signed_objects());
    types.extend(ledger_values());
    types.extend(files());
    types.extend(control());
    types
}

fn shard_messages() -> [WireType; 2] {
    let message = |name, object, limit, decode| WireType {
        name,
        source: Some(("shard/wire.rs", object)),
        page: "shard",
        limit: Some(limit),
        decode,
    };
    [
        message("shard-request", "Request", shard::wire::Request::LIMIT, decode::shard_request),
        message("shard-response", "Response", shard::wire::Response::LIMIT, decode::shard_response),
    ]
}

fn signed_objects() -> Vec<WireType> {
    let gossip = "gossip/mod.rs";
    vec![
        signed::<Beat>("signed-beat", "types/beat.rs", "Beat", "beat"),
        signed::<Receipt>("signed-receipt", "types/receipt.rs", "Receipt", "receipt"),
        signed::<Attestation>("signed-attestation", "types/receipt.rs", "Attestation", "receipt"),
        signed::<CheckpointManifest>("signed-checkpoint", "types/checkpoint.rs", "CheckpointManifest", "checkpoint"),
        signed::<RoundVote>("signed-round-vote", "types/round.rs", "RoundVote", "round-outcome"),
        signed::<VerdictVote>("signed-verdict-vote", "types/verdict.rs", "VerdictVote", "transaction"),
        signed::<ParameterVote>("signed-parameter-vote", "types/parameters.rs", "ParameterVote", "transaction"),
        signed::<gossip::Announcement>("signed-announcement", gossip, "Announcement", "announcement"),
        signed::<gossip::AssignmentNotice>("signed-assignment-notice", gossip, "AssignmentNotice", "assignment-notice"),
        signed::<gossip::Rollback>("signed-rollback", gossip, "Rollback", "rollback"),
        signed::<gossip::StatusChange>("signed-status-change", gossip, "StatusChange", "status-change"),
        signed::<gossip::JobMessage>("signed-job-message", gossip, "JobMessage", "job-message"),
        WireType {
            name: "signed-transaction",
            source: Some(("chain/wire.rs", "Transaction")),
            page: "transaction",
            limit: Some(MAX_TRANSACTION.max(Transaction::LIMIT)),
            decode: decode::transaction,
        },
    ]
}

fn ledger_values() -> Vec<WireType> {
    vec![
        plain("round-outcome", "round-outcome", decode::plain::<RoundOutcome>),
        plain("job-spec", "job", decode::plain::<JobSpec>),
        plain("shard", "job", decode::plain::<ShardSpec>),
        plain("account-record", "ledger-query", decode::plain::<records::Account>),
        plain("node-record", "ledger-query", decode::plain::<records::Node>),
        plain("job-record", "ledger-query", decode::plain::<records::Job>),
        plain("task-record", "ledger-query", decode::plain::<records::Task>),
        plain("round-record", "ledger-query", decode::plain::<records::RoundRecord>),
        plain("model-record", "ledger-query", decode::plain::<records::Model>),
        plain("changes", "ledger-query", decode::plain::<records::Changes>),
        plain("updates", "ledger-query", decode::plain::<records::Updates>),
        plain("stake-record", "ledger-query", decode::plain::<records::Stake>),
        plain("standing-record", "ledger-query", decode::plain::<records::Standing>),
        plain("offence-id", "ledger-query", decode::plain::<records::OffenceId>),
        plain("offence-record", "ledger-query", decode::plain::<records::Offence>),
        plain("validators-record", "ledger-query", decode::plain::<records::Validators>),
        plain("proposals-record", "ledger-query", decode::plain::<records::Proposals>),
        plain("object-id", "storage", decode::plain::<records::ObjectId>),
        plain("object-record", "storage", decode::plain::<records::Object>),
        plain("totals-record", "ledger-query", decode::plain::<records::Totals>),
        plain("node-key", "ledger-query", decode::plain::<NodeKey>),
        plain("job-id", "ledger-query", decode::plain::<JobId>),
        plain("task-id", "ledger-query", decode::plain::<TaskId>),
        plain("record-key", "ledger-state", decode::plain::<Key>),
        plain("record-proof", "ledger-state", decode::plain::<Proof>),
        plain("genesis-record", "ledger-state", decode::plain::<atlas_node::chain::ledger::Genesis>),
        plain("rules-record", "ledger-state", decode::plain::<Rules>),
        plain("clock-record", "ledger-state", decode::plain::<Clock>),
        plain("node-clock-record", "ledger-state", decode::plain::<NodeClock>),
        plain("task-clock-record", "ledger-state", decode::plain::<TaskClock>),
        plain("payout-record", "ledger-state", decode::plain::<Payout>),
        plain("inference-record", "ledger-state", decode::plain::<Inference>),
        plain("allowance-record", "ledger-state", decode::plain::<records::Allowance>),
    ]
}

fn files() -> Vec<WireType> {
    vec![
        plain("frame", "encoding", decode::health_frame),
        plain("dag-pb", "content", decode::dag_pb_node),
        plain("unixfs", "content", decode::unixfs_node),
        plain("safetensors", "state-root", decode::safetensors),
        plain("update", "update", decode::update),
        plain("bundle", "script", decode::bundle),
    ]
}

fn control() -> Vec<WireType> {
    vec![
        plain("Submit", "control-api", decode::control::<api::Submit>),
        plain("SubmitPrepared", "control-api", decode::control::<api::SubmitPrepared>),
        plain("Infer", "control-api", decode::control::<api::Infer>),
        plain("Register", "control-api", decode::control::<api::Register>),
        plain("ShardAdd", "control-api", decode::control::<api::ShardAdd>),
        plain("ShardGet", "control-api", decode::control::<api::ShardGet>),
        plain("StorageKeep", "control-api", decode::control::<api::StorageKeep>),
        plain("StorageRelease", "control-api", decode::control::<api::StorageRelease>),
        plain("Payment", "control-api", decode::control::<api::Payment>),
        plain("ParameterVotes", "control-api", decode::control::<api::ParameterVotes>),
        plain("Amount", "control-api", decode::control::<api::Amount>),
        plain("Error", "control-api", decode::control::<api::Error>),
        plain("NodeEvent", "control-api", decode::control::<api::NodeEvent>),
    ]
}
