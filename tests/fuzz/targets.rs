//! Every decoder that reads bytes of others, grouped into targets, with seeds.
//!
//! A target takes bytes whose first one picks a decoder of the group, and the rest are for that decoder. It must neither
//! panic nor take much memory, and what it read must be read again from what it writes. `scripts/fuzz` runs a target under
//! libFuzzer; `tests/it` runs each over its seeds and over seeds with a few bytes changed.

use std::{fs, path::Path, sync::OnceLock};

use atlas_node::{
    api,
    chain::{
        self,
        ledger::{Genesis, Key, Ledger, Parameters, Proof},
        records, rpc,
        wire::{Message as LedgerMessage, Transaction, query},
    },
    codec,
    executor::{self, bundle::Bundle, inference},
    gossip::{Announcement, AssignmentNotice, JobMessage, Rollback, StatusChange},
    health,
    identity::Keypair,
    proof::{self, evidence},
    protocol::Message,
    shard::{self, car, dataset, unixfs},
    store::dag_pb::{self, DAG_PB, MAX_BLOCK_BYTES},
    tensor::{MAX_FILE_BYTES, Tensors, root, update::Update},
    types::{
        Attestation, Beat, CheckpointManifest, Digest, JobSpec, Receipt, RoundOutcome, RoundVote, Signed, SignedObject,
        Time,
    },
};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The ledger of the vectors.
const CHAIN: &str = "atlas-test";
/// Longer than any answer of a ledger.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Decoders that are fuzzed together.
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: &'static str,
    decoders: Vec<Decoder>,
}

/// Reads bytes of others; must neither panic nor take more memory than they are worth.
type Decode = fn(&[u8]);

/// A decoder, and the vectors that are its seeds: a page and a type.
struct Decoder {
    page: &'static str,
    kind: &'static str,
    run: Decode,
}

impl Target {
    /// The target of that name.
    pub(crate) fn find(name: &str) -> Option<Self> {
        all().into_iter().find(|target| target.name == name)
    }

    /// Gives `input` to the decoder that its first byte picks.
    pub(crate) fn run(&self, input: &[u8]) {
        if let Some((pick, bytes)) = input.split_first() {
            (self.decoders[usize::from(*pick) % self.decoders.len()].run)(bytes);
        }
    }

    /// The vectors of its decoders, valid or not, each behind the byte that picks its decoder.
    pub(crate) fn seeds(&self) -> Vec<Vec<u8>> {
        let seeds_of = |(pick, decoder): (u8, &Decoder)| {
            let seeds = vectors(decoder.page, decoder.kind).into_iter().chain(own_seeds(decoder.kind));
            seeds.map(|seed| [&[pick], &seed[..]].concat()).collect::<Vec<_>>()
        };
        (0..).zip(&self.decoders).flat_map(seeds_of).collect()
    }
}

/// All targets.
pub(crate) fn all() -> Vec<Target> {
    vec![
        target(
            "health",
            "health",
            &[
                ("health-request", message::<health::wire::Request>),
                ("health-response", message::<health::wire::Response>),
            ],
        ),
        target(
            "task",
            "task",
            &[("task-request", message::<executor::Request>), ("task-response", message::<executor::Response>)],
        ),
        target(
            "infer",
            "infer",
            &[("infer-request", message::<inference::Request>), ("infer-response", message::<inference::Response>)],
        ),
        target(
            "proof",
            "proof",
            &[("proof-request", message::<proof::wire::Request>), ("proof-response", message::<proof::wire::Response>)],
        ),
        target(
            "shard",
            "shard",
            &[("shard-request", message::<shard::wire::Request>), ("shard-response", message::<shard::wire::Response>)],
        ),
        target(
            "ledger-rpc",
            "ledger-rpc",
            &[("ledger-rpc-request", message::<rpc::Request>), ("ledger-rpc-response", message::<rpc::Response>)],
        ),
        gossip(),
        objects(),
        target("transaction", "transaction", &[("signed-transaction", object::<Transaction>)]),
        target("ledger", "transaction", &[("blocks", blocks)]),
        answers(),
        target("content", "content", &[("dag-pb", dag_pb_node), ("unixfs", unixfs_node), ("car", car_stream)]),
        target("tensors", "state-root", &[("safetensors", safetensors)]),
        target("update", "update", &[("update", encoded_update)]),
        documents(),
    ]
}

fn decoder(page: &'static str, kind: &'static str, run: Decode) -> Decoder {
    Decoder { page, kind, run }
}

fn target(name: &'static str, page: &'static str, decoders: &[(&'static str, Decode)]) -> Target {
    Target { name, decoders: decoders.iter().map(|(kind, run)| decoder(page, kind, *run)).collect() }
}

fn gossip() -> Target {
    let decoders = vec![
        decoder("announcement", "signed-announcement", object::<Announcement>),
        decoder("assignment-notice", "signed-assignment-notice", object::<AssignmentNotice>),
        decoder("rollback", "signed-rollback", object::<Rollback>),
        decoder("status-change", "signed-status-change", object::<StatusChange>),
        decoder("job-message", "signed-job-message", object::<JobMessage>),
        decoder("announcement", "envelope", envelope),
    ];
    Target { name: "gossip", decoders }
}

fn objects() -> Target {
    let decoders = vec![
        decoder("beat", "signed-beat", object::<Beat>),
        decoder("receipt", "signed-receipt", object::<Receipt>),
        decoder("receipt", "signed-attestation", object::<Attestation>),
        decoder("checkpoint", "signed-checkpoint", object::<CheckpointManifest>),
        decoder("round-outcome", "signed-round-vote", object::<RoundVote>),
        decoder("round-outcome", "round-outcome", plain::<RoundOutcome>),
        decoder("job", "job-spec", plain::<JobSpec>),
    ];
    Target { name: "objects", decoders }
}

fn answers() -> Target {
    let decoders = vec![
        decoder("ledger-query", "account-record", plain::<records::Account>),
        decoder("ledger-query", "node-record", plain::<records::Node>),
        decoder("ledger-query", "job-record", plain::<records::Job>),
        decoder("ledger-query", "task-record", plain::<records::Task>),
        decoder("ledger-query", "round-record", plain::<records::RoundRecord>),
        decoder("ledger-query", "model-record", plain::<records::Model>),
        decoder("ledger-query", "changes", plain::<records::Changes>),
        decoder("ledger-query", "query", queries),
        decoder("ledger-state", "record-key", plain::<Key>),
        decoder("ledger-state", "record-proof", proof_of_record),
        decoder("ledger-state", "snapshot", snapshot),
    ];
    Target { name: "answers", decoders }
}

fn documents() -> Target {
    let decoders = vec![
        decoder("script", "bundle", bundle),
        decoder("content", "manifest", json::<dataset::Manifest>),
        decoder("receipt", "evidence", evidence_file),
        decoder("ledger-state", "genesis", json::<Genesis>),
        decoder("control-api", "Submit", json::<api::Submit>),
        decoder("control-api", "SubmitPrepared", json::<api::SubmitPrepared>),
        decoder("control-api", "Infer", json::<api::Infer>),
        decoder("control-api", "Register", json::<api::Register>),
        decoder("control-api", "ShardAdd", json::<api::ShardAdd>),
        decoder("control-api", "ShardGet", json::<api::ShardGet>),
        decoder("control-api", "NodeEvent", json::<api::NodeEvent>),
    ];
    Target { name: "documents", decoders }
}

/// A message is written to the same bytes after it was read from what was written.
fn message<M: Message + Clone>(bytes: &[u8]) {
    let Ok(read) = M::decode(Bytes::copy_from_slice(bytes)) else { return };
    let written: Bytes = read.encode().concat().into();
    // What is written can be longer than what was read: a reader takes an entry of null that is missing.
    if written.len() <= M::LIMIT {
        let again = M::decode(written.clone()).expect("what was written is read");
        assert_eq!(again.encode().concat(), written, "and written again as it was");
    }
}

/// The same for a record.
fn plain<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    record::<T>(bytes, MAX_ANSWER);
}

/// The same for what is signed. The signature is left out: no fuzzer finds one.
fn object<T: SignedObject>(bytes: &[u8]) {
    record::<T>(bytes, T::LIMIT);
}

fn record<T: Serialize + DeserializeOwned>(bytes: &[u8], limit: usize) {
    let Ok(read) = codec::decode::<T>(bytes, limit) else { return };
    let written = codec::encode(&read);
    let again: T = codec::decode(&written, usize::MAX).expect("what was written is read");
    assert_eq!(codec::encode(&again), written, "and written again as it was");
}

fn envelope(bytes: &[u8]) {
    if let Ok(signed) = codec::decode::<Signed>(bytes, MAX_ANSWER) {
        let _ = signed.open::<Announcement>();
        let _ = signed.digest();
    }
}

/// Blocks of one transaction each, rightly signed, in the order in which they come: creator, length (two bytes), message.
fn blocks(bytes: &[u8]) {
    let mut ledger = ledger();
    let people = [1, 2, 3].map(|number| Keypair::from_secret(&[number; 32]));
    let mut nonces = [0; 3];
    let mut time = ledger.time();
    let mut rest = bytes;
    while let Some((&[creator, high, low], tail)) = rest.split_first_chunk() {
        let creator = usize::from(creator) % people.len();
        let (bytes, tail) = tail.split_at(tail.len().min(usize::from(u16::from_be_bytes([high, low]))));
        rest = tail;
        let Ok(message) = codec::decode::<LedgerMessage>(bytes, chain::wire::MAX_TRANSACTION) else { continue };
        let transaction = Transaction { chain_id: CHAIN.into(), nonce: nonces[creator], attempt: 0, message };
        let signed = codec::encode(&people[creator].seal(&transaction));
        time = time + std::time::Duration::from_secs(u64::from(low));
        let result = ledger.apply_block(time, &[signed]);
        assert_eq!(result.results.len(), 1, "one result a transaction");
        nonces[creator] += u64::from(result.results[0].code != chain::wire::Code::Malformed as u32);
    }
    // One input in eight, because it is the slowest part.
    if !bytes.len().is_multiple_of(8) {
        return;
    }
    let restored = Ledger::restore(&ledger.snapshot()).expect("a ledger restores from its own snapshot");
    assert_eq!(restored.app_hash(), ledger.app_hash());
}

fn ledger() -> Ledger {
    let rich = Keypair::from_secret(&[1; 32]).node_key();
    Ledger::new(Genesis {
        chain_id: CHAIN.into(),
        parameters: Parameters { faucet_per_account: 1_000, ..Parameters::default() },
        accounts: [(rich, 1_000_000)].into(),
        time: Time::from_millis(1_760_000_000_000),
        validator: rich,
    })
    .expect("the genesis is sound")
}

/// A path by the first byte, then its data.
fn queries(bytes: &[u8]) {
    const PATHS: [&str; 11] = [
        query::GET_NODE,
        query::LIST_NODES,
        query::GET_JOB,
        query::LIST_JOBS,
        query::GET_TASK,
        query::GET_TASKS_BY_JOB,
        query::GET_MODEL,
        query::LIST_MODELS,
        query::GET_ACCOUNT,
        query::CHANGES,
        query::PROVE,
    ];
    static LEDGER: OnceLock<Ledger> = OnceLock::new();
    if let Some((path, data)) = bytes.split_first() {
        let _ = LEDGER.get_or_init(ledger).query(PATHS[usize::from(*path) % PATHS.len()], data);
    }
}

fn proof_of_record(bytes: &[u8]) {
    plain::<Proof>(bytes);
    if let Ok(proof) = codec::decode::<Proof>(bytes, MAX_ANSWER) {
        let holds = proof.verify(Digest([7; 32]), &Key::Genesis);
        assert!(!holds, "nobody finds a proof for that app hash");
    }
}

fn snapshot(bytes: &[u8]) {
    if let Ok(ledger) = Ledger::restore(bytes) {
        Ledger::restore(&ledger.snapshot()).expect("what was restored restores again");
    }
}

fn dag_pb_node(bytes: &[u8]) {
    if let Ok(node) = dag_pb::Node::decode(bytes) {
        assert_eq!(dag_pb::Node::decode(&node.encode()), Ok(node), "what was written is read");
    }
}

fn unixfs_node(bytes: &[u8]) {
    let _ = unixfs::decode(&dag_pb::content_id(DAG_PB, bytes), bytes);
}

fn car_stream(bytes: &[u8]) {
    let Ok(mut reader) = car::Reader::new(bytes) else { return };
    while let Ok(Some((_, block))) = reader.next_block() {
        assert!(block.len() <= MAX_BLOCK_BYTES + 104);
    }
}

fn safetensors(bytes: &[u8]) {
    assert!((bytes.len() as u64) < MAX_FILE_BYTES);
    let Ok(tensors) = Tensors::parse(Bytes::copy_from_slice(bytes)) else { return };
    let _ = tensors.check_finite();
    let canonical = Tensors::parse(tensors.to_safetensors().into()).expect("what was written is read");
    assert_eq!(canonical, tensors);
    assert_eq!(root::of_tensors(&tensors), root::of_file(bytes).expect("it was read above"));
}

fn encoded_update(bytes: &[u8]) {
    let Ok(update) = Update::parse(Bytes::copy_from_slice(bytes)) else { return };
    if update.check_values().is_ok() {
        for (_, payload) in update.payloads() {
            let mut values = vec![0.0; payload.elements];
            payload.read(0, &mut values);
            assert!(values.iter().all(|value| value.is_finite()));
        }
    }
}

fn bundle(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Bundle::parse(text);
    }
}

fn evidence_file(bytes: &[u8]) {
    let _ = evidence::verify_file(bytes);
}

fn json<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(read) = serde_json::from_slice::<T>(bytes) {
        let written = serde_json::to_vec(&read).expect("it was read from JSON");
        serde_json::from_slice::<T>(&written).expect("what was written is read");
    }
}

/// The vectors of a type; of a signed one its bodies, which is what its decoder is given.
fn vectors(page: &str, kind: &str) -> Vec<Vec<u8>> {
    /// Longer ones say only that they are too long.
    const LONGEST: usize = 64 * 1024;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("protocols/vectors/{page}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let page: Value = serde_json::from_str(&text).expect("vectors are JSON");
    let of_kind = page["vectors"].as_array().into_iter().flatten().filter(|vector| vector["type"] == kind);
    let bytes = of_kind.filter_map(|vector| hex::decode(vector["bytes"].as_str()?).ok());
    let inner = |bytes: Vec<u8>| match codec::decode::<Signed>(&bytes, LONGEST) {
        Ok(signed) if kind.starts_with("signed-") => signed.body,
        _ => bytes,
    };
    bytes.map(inner).filter(|bytes| bytes.len() <= LONGEST).collect()
}

/// Seeds of decoders that no vector is for.
fn own_seeds(kind: &str) -> Vec<Vec<u8>> {
    match kind {
        "blocks" => block_seeds(),
        "envelope" => vec![codec::encode(&Keypair::from_secret(&[1; 32]).seal(&beat()))],
        "query" => {
            (0..11).map(|path| vec![path]).chain([vec![9, 0], vec![10, 0x65, b'C', b'l', b'o', b'c', b'k']]).collect()
        }
        "snapshot" => vec![ledger().snapshot()],
        "genesis" => vec![serde_json::to_vec(ledger().genesis()).expect("a genesis has text keys")],
        "evidence" => vec![evidence_seed()],
        "manifest" => vec![
            br#"{"format":{"kind":"lines","header":true},"seed":42,"records":23,"held_out":null,"shards":[]}"#.to_vec(),
        ],
        "car" => vec![[&[0x0a, 0xa1, 0x67][..], b"version\x01"].concat()],
        _ => Vec::new(),
    }
}

fn beat() -> Beat {
    let node = Keypair::from_secret(&[1; 32]).node_key();
    Beat { node, sequence: 1, timestamp: Time(1), load: atlas_node::types::Load::default(), leaving: false }
}

/// The messages of the vectors, one a seed and all in a row: the first person submits, the others take and report.
fn block_seeds() -> Vec<Vec<u8>> {
    let bodies = vectors("transaction", "signed-transaction");
    let transactions = bodies.iter().filter_map(|body| codec::decode::<Transaction>(body, body.len()).ok());
    let messages: Vec<Vec<u8>> = transactions.map(|transaction| codec::encode(&transaction.message)).collect();
    let step = |creator: u8, message: &Vec<u8>| {
        let length = u16::try_from(message.len()).expect("the vectors' messages are short");
        [&[creator][..], &length.to_be_bytes(), message].concat()
    };
    let is = |message: &Vec<u8>, name: &str| message.get(2..2 + name.len()) == Some(name.as_bytes());
    let find = |name: &str| messages.iter().find(|message| is(message, name)).expect("there is one of each kind");
    let story =
        ["SubmitJob", "RegisterNode", "TakeLease", "UpdateTaskStatus", "SubmitReceipt", "CloseRound", "PauseJob"];
    let creators = [0, 1, 1, 1, 1, 1, 0];
    let story: Vec<u8> = story.iter().zip(creators).flat_map(|(name, creator)| step(creator, find(name))).collect();
    messages.iter().map(|message| step(0, message)).chain([story]).collect()
}

fn evidence_seed() -> Vec<u8> {
    let receipts = vectors("receipt", "signed-receipt");
    let receipt: Receipt = codec::decode(&receipts[0], receipts[0].len()).expect("the first vector is valid");
    codec::encode(&evidence::Evidence::of_receipt(Keypair::from_secret(&[2; 32]).seal(&receipt)))
}
