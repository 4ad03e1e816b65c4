//! Every decoder that reads bytes of others, grouped into targets, with seeds.
//!
//! A target takes bytes whose first one picks a decoder of the group, and the rest are for that decoder. It must neither
//! panic nor take much memory, and what it read must be read again from what it writes. `scripts/fuzz` runs a target under
//! libFuzzer; `tests/it` runs each over its seeds and over seeds with a few bytes changed.

use std::{
    fs,
    path::Path,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;

use atlas_node::{
    api,
    chain::{
        self, abci,
        client::{self, Transport, TransportError},
        embedded,
        ledger::{Economy, Genesis, Key, Ledger, Parameters, Proof},
        records, rpc,
        wire::{Message as LedgerMessage, Transaction, query},
    },
    codec,
    executor::{self, bundle::Bundle, events, gradient, inference},
    gossip::{Announcement, AssignmentNotice, JobMessage, Rollback, StatusChange},
    health,
    identity::Keypair,
    ipfs,
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
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tendermint_proto::v0_38::abci::{Request, RequestCheckTx, RequestQuery, request};

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
        own(&SCRIPT),
        own(&REQUESTS),
        own(&SERVICES),
        own(&ABCI),
    ]
}

fn decoder(page: &'static str, kind: &'static str, run: Decode) -> Decoder {
    Decoder { page, kind, run }
}

fn target(name: &'static str, page: &'static str, decoders: &[(&'static str, Decode)]) -> Target {
    Target { name, decoders: decoders.iter().map(|(kind, run)| decoder(page, kind, *run)).collect() }
}

/// A target without vectors: its name, and its decoders by the names of their seeds.
type Own = (&'static str, &'static [(&'static str, Decode)]);

/// What a script writes.
const SCRIPT: Own = ("script", &[("events", script_events), ("gradient", script_gradient)]);
/// What the embedded ledger is asked.
const REQUESTS: Own = ("requests", &[("request", ledger_request), ("uri", ledger_uri)]);
/// What Kubo and a chain's RPC answer.
const SERVICES: Own = ("services", &[("kubo", kubo_answer), ("chain", chain_answer)]);

/// What comes to the application's socket.
const ABCI: Own = ("abci", &[("frames", abci_frames), ("abci-query", abci_query)]);

fn own((name, decoders): &Own) -> Target {
    target(name, "", decoders)
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
        decoder("ledger-query", "updates", plain::<records::Updates>),
        decoder("ledger-query", "stake-record", plain::<records::Stake>),
        decoder("ledger-query", "offence-record", plain::<records::Offence>),
        decoder("ledger-query", "proposals-record", plain::<records::Proposals>),
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
        decoder("control-api", "Payment", json::<api::Payment>),
        decoder("control-api", "ParameterVotes", json::<api::ParameterVotes>),
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
        parameters: Parameters { faucet_per_account: 1_000, max_objects: 3, ..Parameters::default() },
        accounts: [(rich, 1_000_000)].into(),
        time: Time::from_millis(1_760_000_000_000),
        validator: rich,
        economy: Some(Economy { transaction_fee: 1, ..Economy::default() }),
    })
    .expect("the genesis is sound")
}

/// A path by the first byte, then its data.
fn queries(bytes: &[u8]) {
    const PATHS: [&str; 23] = [
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
        query::UPDATES,
        query::GET_STAKE,
        query::GET_STANDING,
        query::GET_OFFENCE,
        query::LIST_OFFENCES,
        query::GET_TOTALS,
        query::GET_VALIDATORS,
        query::GET_RECORD,
        query::GET_OBJECT,
        query::LIST_OBJECTS,
        query::GET_OBJECTS_BY_OWNER,
        query::GET_OBJECTS_BY_ROOT,
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

/// Frames as CometBFT sends them, whole or not; what asks is answered.
fn abci_frames(bytes: &[u8]) {
    let mut received = BytesMut::from(bytes);
    while let Ok(Some(request)) = abci::wire::take_request(&mut received) {
        if let request::Value::Query(request) = request {
            answer_abci(&request);
        }
    }
    assert!(received.len() <= bytes.len(), "nothing is made out of nothing");
}

fn abci_query(bytes: &[u8]) {
    if let Ok(request) = RequestQuery::decode(bytes) {
        answer_abci(&request);
    }
}

/// An answer is one of three: a refusal with words, a value alone, or the value of an account with a proof that holds.
fn answer_abci(request: &RequestQuery) {
    static LEDGER: OnceLock<Ledger> = OnceLock::new();
    let ledger = LEDGER.get_or_init(ledger);
    let response = abci::answer_query(Some(ledger), request);
    assert!((response.code == 0) != response.value.is_empty(), "an answer or a refusal, never both");
    assert!((response.code == 0) == response.log.is_empty(), "a refusal has words");
    let Some(proof) = response.proof_ops else { return };
    assert!(request.prove && proof.ops.len() == 1, "one operator, and only for who asks for it");
    if request.path == query::GET_ACCOUNT {
        let key = Key::Account(codec::decode(&request.data, MAX_ANSWER).expect("it was answered"));
        let proof: Proof = codec::decode(&proof.ops[0].data, MAX_ANSWER).expect("a proof is what protocols/ says");
        assert!(proof.verify(ledger.app_hash(), &key), "the proof of {key:?} holds");
    }
}

/// Queries for an account that is there and for one that is not, and one for a height that is gone.
fn abci_query_seeds() -> Vec<RequestQuery> {
    let ask = |path: &str, data: Vec<u8>, height| RequestQuery {
        path: path.to_owned(),
        data: data.into(),
        height,
        prove: true,
    };
    let account = |secret| codec::encode(&Keypair::from_secret(&[secret; 32]).node_key());
    vec![
        ask(query::GET_ACCOUNT, account(1), 0),
        ask(query::GET_ACCOUNT, account(200), 0),
        ask(query::GET_MODEL, codec::encode(&"mine:1"), 0),
        ask(query::LIST_JOBS, Vec::new(), 7),
        ask(query::PROVE, codec::encode(&Key::Clock), 0),
    ]
}

fn abci_frame_seeds() -> Vec<Vec<u8>> {
    let frame = |value| Request { value: Some(value) }.encode_length_delimited_to_vec();
    let check = request::Value::CheckTx(RequestCheckTx { tx: Bytes::from_static(b"x"), r#type: 0 });
    let asked = abci_query_seeds().into_iter().map(request::Value::Query).chain([check]).map(frame);
    let frames: Vec<Vec<u8>> = asked.collect();
    let all = frames.concat();
    frames.into_iter().chain([all]).collect()
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

/// Cut anywhere, a stream says the same.
fn script_events(bytes: &[u8]) {
    let whole = events::Lines::default().feed(bytes);
    let mut parts = events::Lines::default();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut cut = parts.feed(first);
    cut.extend(parts.feed(second));
    assert_eq!(whole, cut);
}

fn script_gradient(bytes: &[u8]) {
    let model = gradient_model();
    if let Ok(gradient) = gradient::parse(bytes, &model.schema()) {
        assert!(gradient.iter().all(|(name, _)| model.get(name).is_some()));
    }
}

/// Two values in `a`, one in `b`.
fn gradient_model() -> Tensors {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[],"data_offsets":[8,12]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 12]].concat();
    Tensors::parse(file.into()).expect("the model is sound")
}

fn ledger_request(bytes: &[u8]) {
    refused_in_json(embedded::refusal(bytes));
}

/// `method?name=value&name=value`.
fn ledger_uri(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (method, rest) = text.split_once('?').unwrap_or((&text, ""));
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    refused_in_json(embedded::refusal_of_uri(method, rest.split('&').filter_map(pair).collect()));
}

fn refused_in_json(refusal: Option<Vec<u8>>) {
    if let Some(refusal) = refusal {
        let answer: Value = serde_json::from_slice(&refusal).expect("a refusal is JSON");
        assert!(answer["error"]["code"].as_i64().is_some_and(|code| code <= -32600), "{answer}");
    }
}

/// The first byte picks the command.
fn kubo_answer(bytes: &[u8]) {
    use ipfs::answers;
    let Some((command, body)) = bytes.split_first() else { return };
    let root = dag_pb::content_id(dag_pb::RAW, b"root");
    let _ = match command % 6 {
        0 => answers::version(body).map(drop),
        1 => answers::pins(body).map(drop),
        2 => answers::stat(body).map(drop),
        3 => answers::imported(body, &root).map(drop),
        4 => answers::refusal(body).map(drop),
        _ => answers::any(body),
    };
}

/// Gives one answer to every question.
struct Canned(Vec<u8>);

#[async_trait]
impl Transport for Canned {
    async fn call(&self, _request: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        Ok(self.0.clone())
    }

    fn describe(&self) -> String {
        "bytes".into()
    }
}

fn chain_answer(bytes: &[u8]) {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime without threads")
    });
    let config = client::Config {
        ledger: CHAIN.into(),
        validator: None,
        endpoints: Vec::new(),
        outbox_dir: "/nonexistent".into(),
        poll: client::Poll::default(),
        trust: None,
    };
    let failures = runtime.block_on(client::examine(Arc::new(Canned(bytes.to_vec())), &config));
    assert!(!failures.is_empty(), "no answer is one to every question");
    assert!(failures.iter().all(|failure| failure.len() < 2_000), "nonsense is not repeated at length");
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
    if page.is_empty() {
        return Vec::new();
    }
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
        "frames" => abci_frame_seeds(),
        "abci-query" => abci_query_seeds().iter().map(RequestQuery::encode_to_vec).collect(),
        "genesis" => vec![serde_json::to_vec(ledger().genesis()).expect("a genesis has text keys")],
        "evidence" => vec![evidence_seed()],
        "manifest" => vec![
            br#"{"format":{"kind":"lines","header":true},"seed":42,"records":23,"held_out":null,"shards":[]}"#.to_vec(),
        ],
        "events" => texts(&[
            "{\"event\":\"started\",\"pid\":7}\n{\"event\":\"progress\",\"step\":3,\"of\":9,\"loss\":0.5}\n",
            "{\"event\":\"checkpoint\",\"step\":4,\"dir\":\"ckpt/step-00000004\"}\n{\"event\":\"metric\",\"name\":\"a\",\"value\":1}\n",
            "{\"event\":\"done\",\"steps\":9,\"samples\":90}\n",
            "{\"event\":\"error\",\"code\":\"out_of_memory\",\"msg\":\"no\",\"retryable\":false}\nnot json\n",
        ]),
        "gradient" => {
            texts(&["{\"gradients\": {\"a\": [0.25, -1], \"b\": 2e-3}}", "{\"gradients\": {\"a\": [[1], 2]}}"])
        }
        "request" => texts(&[
            "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"status\",\"params\":{}}",
            "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"broadcast_tx_sync\",\"params\":{\"tx\":\"AAAA\"}}",
            "{\"id\":1,\"method\":\"abci_query\",\"params\":{\"path\":\"/changes\",\"data\":\"00\",\"height\":\"0\",\"prove\":false}}",
            "{\"id\":1,\"method\":\"block\",\"params\":{\"height\":\"5\"}}",
            "{\"id\":1,\"method\":\"tx\",\"params\":{\"hash\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"}}",
            "{\"id\":1,\"method\":\"subscribe\",\"params\":{\"query\":\"tm.event = 'Tx' AND tx.height > 2\"}}",
            "{\"id\":1,\"method\":\"subscribe\",\"params\":{\"query\":\"a CONTAINS 'b' AND c EXISTS AND d = DATE 2026-01-02\"}}",
        ]),
        "uri" => {
            texts(&["block?height=\"5\"", "tx?hash=0x00ff&prove=true", "abci_query?path=\"/a\"&data=0x0102", "status"])
        }
        "kubo" => texts(&[
            "\0{\"Version\":\"0.42.0\",\"Commit\":\"\"}",
            "\u{1}{\"Cid\":\"QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn\",\"Name\":\"m\",\"Type\":\"recursive\"}\n",
            "\u{2}{\"UniqueBlocks\":3,\"TotalSize\":2097262,\"Ratio\":1,\"DagStats\":[]}",
            "\u{3}{\"Root\":{\"Cid\":{\"/\":\"QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn\"},\"PinErrorMsg\":\"\"}}\n",
            "\u{4}{\"Message\":\"no\",\"Code\":0,\"Type\":\"error\"}",
        ]),
        "chain" => chain_seeds(),
        "car" => vec![[&[0x0a, 0xa1, 0x67][..], b"version\x01"].concat()],
        _ => Vec::new(),
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// An answer of each kind, and one in words.
fn chain_seeds() -> Vec<Vec<u8>> {
    let answer = |result: Value| serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string();
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let status = serde_json::json!({
        "node_info": {
            "protocol_version": { "p2p": "8", "block": "11", "app": "1" }, "id": "00".repeat(20),
            "listen_addr": "tcp://127.0.0.1:26656", "network": CHAIN, "version": "0.38.25", "channels": "40",
            "moniker": "m", "other": { "tx_index": "on", "rpc_address": "tcp://127.0.0.1:26657" }
        },
        "sync_info": {
            "latest_block_hash": "", "latest_app_hash": "", "latest_block_height": "7",
            "latest_block_time": "2026-01-02T03:04:05Z", "earliest_block_hash": "", "earliest_app_hash": "",
            "earliest_block_height": "1", "earliest_block_time": "2026-01-02T03:04:05Z", "catching_up": false
        },
        "validator_info": {
            "address": "00".repeat(20), "pub_key": { "type": "tendermint/PubKeyEd25519", "value": key }, "voting_power": "1"
        }
    });
    let query = serde_json::json!({ "response": {
        "code": 0, "log": "", "info": "", "index": "0", "key": null, "value": "AA==", "proofOps": null, "height": "1",
        "codespace": ""
    } });
    let sent = serde_json::json!({ "code": 0, "data": "", "log": "", "codespace": "", "hash": "00".repeat(32) });
    let found = serde_json::json!({
        "hash": "00".repeat(32), "height": "1", "index": 0, "tx": "AA==",
        "tx_result": { "code": 0, "data": null, "log": "", "info": "", "gas_wanted": "0", "gas_used": "0", "events": [],
                       "codespace": "" }
    });
    let error = r#"{"jsonrpc":"2.0","id":-1,"error":{"code":-32603,"message":"Internal error","data":"tx not found"}}"#;
    let answers = [status, query, sent, found].map(answer);
    answers.into_iter().chain([error.to_owned()]).map(String::into_bytes).collect()
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
