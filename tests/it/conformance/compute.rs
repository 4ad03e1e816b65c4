//! What the pages define as a function of something, computed by the node's own code.

use std::io::Write as _;

use atlas_node::{
    chain::ledger::{Key, Proof},
    codec,
    executor::data_key_purpose,
    gossip, identity,
    proof::{Expected, seed, trace},
    shard::dataset::{self, CutSpec, RecordFormat},
    store::{
        Files as _,
        sealed::{self, SealingWriter},
    },
    tensor::{Tensors, root, update},
    types::{AssignmentId, ContentId, DataKey, Digest, JobId, NodeKey, RoundOutcome, TaskId, UpdateCodec, rendezvous},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::decode;

pub(crate) fn run(function: &str, input: &Value) -> Value {
    match function {
        "digest" => json!(Digest::of(&bytes(&input["bytes"]))),
        "peer-id" => json!(identity::peer_id(&read(&input["key"])).unwrap().to_string()),
        "address" => json!(identity::address(&read(&input["key"]))),
        "job-id" => {
            let JobInput { chain_id, creator, nonce } = read(input);
            json!(JobId::derive(&chain_id, &creator, nonce))
        }
        "task-id" => json!(hex::encode(&codec::encode(&read::<TaskId>(&input["text"]))[2..])),
        "assignment-id" => {
            let AssignmentInput { task, round, generation, lease } = read(input);
            json!(AssignmentId::derive(&task, round, generation, &lease))
        }
        "message-id" => json!(Digest::of(&bytes(&input["data"]))),
        "topic" => json!(gossip::updates_topic(&read(&input["job"]))),
        "seed" => {
            let SeedInput { seed, slot, cursor } = read(input);
            json!(seed::seed(seed, slot, cursor))
        }
        "rendezvous" => rendezvous_order(read(input)),
        "volunteers" => volunteers(read(input)),
        "computation-hash" => computation_hash(read(input)),
        "trace-root" => json!(trace::root(&read::<Vec<Digest>>(&input["trace"]))),
        "trace-path" => json!(trace::path(&read::<Vec<Digest>>(&input["trace"]), read(&input["index"])).unwrap()),
        "opening-holds" => opening_holds(read(input)),
        "outcome-digest" => {
            json!(codec::decode::<RoundOutcome>(&bytes(&input["bytes"]), 1 << 20).unwrap().digest())
        }
        "params-root" => json!(root::of_file(&bytes(&input["file"])).unwrap()),
        "state-root" => {
            let StateInput { params_root, opt_root, step, extra } = read(input);
            json!(root::state_root(&params_root, &opt_root, step, &hex::decode(extra).unwrap()))
        }
        "update" => update_of(read(input)),
        "file-cid" => json!(decode::files().1.import_bytes(&bytes(&input["bytes"])).unwrap()),
        "directory-cid" => directory_cid(input),
        "cut" => cut(read(input)),
        "data-key" => json!(data_key(&input["key"]).commitment()),
        "sealed-file" => sealed_file(input),
        "open-data-key" => open_data_key(input),
        "key-bytes" => json!(hex::encode(codec::decode::<Key>(&bytes(&input["key"]), 1024).unwrap().to_bytes())),
        "app-hash" => json!(decode::ledger().app_hash()),
        "proof-holds" => proof_holds(read(input)),
        _ => panic!("no function `{function}`"),
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// Bytes in the notation of the vectors.
fn bytes(value: &Value) -> Vec<u8> {
    read::<super::vectors::Bytes>(value).joined()
}

#[derive(Deserialize)]
struct JobInput {
    chain_id: String,
    creator: NodeKey,
    nonce: u64,
}

#[derive(Deserialize)]
struct AssignmentInput {
    task: TaskId,
    round: u32,
    generation: u32,
    lease: Digest,
}

#[derive(Deserialize)]
struct SeedInput {
    seed: u64,
    slot: u32,
    cursor: u32,
}

#[derive(Deserialize)]
struct OrderInput {
    domain: String,
    parts: Vec<String>,
    candidates: Vec<NodeKey>,
}

fn rendezvous_order(input: OrderInput) -> Value {
    let parts: Vec<Vec<u8>> = input.parts.iter().map(|part| hex::decode(part).unwrap()).collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    json!(rendezvous::rank(&input.domain, &parts, input.candidates))
}

#[derive(Deserialize)]
struct VolunteersInput {
    job: JobId,
    slot: u32,
    generation: u32,
    candidates: Vec<NodeKey>,
    /// Of the job's tasks that are held, each one's.
    holders: Vec<NodeKey>,
}

fn volunteers(input: VolunteersInput) -> Value {
    let VolunteersInput { job, slot, generation, candidates, holders } = input;
    let held = |node: &NodeKey| holders.iter().filter(|holder| *holder == node).count();
    json!(rendezvous::volunteers(&job, slot, generation, candidates, held))
}

#[derive(Deserialize)]
struct ComputationInput {
    bundle: ContentId,
    shard: ContentId,
    seed: Digest,
    in_params_root: Digest,
    in_opt_root: Digest,
    out_state_root: Digest,
}

fn computation_hash(input: ComputationInput) -> Value {
    let expected = Expected {
        task: TaskId { job: JobId([0; 32]), slot: 0 },
        round: 0,
        generation: 0,
        lease_tx: Digest([0; 32]),
        holder: NodeKey([0; 32]),
        in_params_root: input.in_params_root,
        in_opt_root: input.in_opt_root,
        bundle: input.bundle,
        shard: input.shard,
        seed: input.seed,
        local_steps: 1,
    };
    json!(expected.computation_hash(&input.out_state_root))
}

#[derive(Deserialize)]
struct OpeningInput {
    trace_root: Digest,
    segments: u32,
    index: u32,
    state_root: Digest,
    path: Vec<Digest>,
}

fn opening_holds(input: OpeningInput) -> Value {
    json!(trace::verify(&input.trace_root, input.segments, input.index, &input.state_root, &input.path))
}

#[derive(Deserialize)]
struct StateInput {
    params_root: Digest,
    opt_root: Digest,
    step: u32,
    extra: String,
}

#[derive(Deserialize)]
struct UpdateInput {
    base: String,
    trained: String,
    codec: UpdateCodec,
}

/// The update's bytes, or the word for why there is none.
fn update_of(input: UpdateInput) -> Value {
    let tensors = |text: &str| Tensors::parse(hex::decode(text).unwrap().into()).unwrap();
    match update::encode_difference(&tensors(&input.base), &tensors(&input.trained), input.codec) {
        Ok(update) => json!(hex::encode(update)),
        Err(update::Error::NotFinite { .. }) => json!("not_finite"),
        Err(other) => panic!("{other}"),
    }
}

fn directory_cid(input: &Value) -> Value {
    let (directory, files) = decode::files();
    let source = directory.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for (name, content) in input["files"].as_object().unwrap() {
        std::fs::write(source.join(name), bytes(content)).unwrap();
    }
    json!(files.import_path(&source).unwrap().cid)
}

#[derive(Deserialize)]
struct CutInput {
    bytes: String,
    format: RecordFormat,
    seed: u64,
    slots: u32,
    held_out: u32,
    file_name: String,
}

fn cut(input: CutInput) -> Value {
    let (directory, files) = decode::files();
    let source = directory.path().join("source");
    std::fs::write(&source, hex::decode(input.bytes).unwrap()).unwrap();
    let scratch = directory.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let CutInput { format, seed, slots, held_out, file_name, .. } = input;
    let spec = CutSpec { source, format, seed, slots, held_out, file_name, scratch, key: None };
    let manifest = dataset::cut(&spec, &*files).unwrap();
    json!({ "manifest": manifest, "cid": manifest.store(&*files).unwrap() })
}

fn hex_of<const N: usize>(value: &Value) -> [u8; N] {
    hex::decode(read::<String>(value)).unwrap().try_into().unwrap()
}

fn data_key(value: &Value) -> DataKey {
    DataKey(hex_of(value))
}

fn sealed_file(input: &Value) -> Value {
    let (key, content) = (data_key(&input["key"]), bytes(&input["bytes"]));
    let mut writer = SealingWriter::new(&key, hex_of(&input["prefix"]), Vec::new()).unwrap();
    writer.write_all(&content).unwrap();
    let sealed = writer.finish().unwrap();
    let mut opened = Vec::new();
    sealed::open(&key, sealed.as_slice(), &mut opened, u64::MAX).unwrap();
    assert!(opened == content, "what is sealed comes back");
    json!({ "length": sealed.len(), "digest": Digest::of(&sealed) })
}

fn open_data_key(input: &Value) -> Value {
    let keypair = identity::Keypair::from_secret(&hex_of(&input["secret"]));
    let purpose = data_key_purpose(&read(&input["task"]), read(&input["generation"]));
    json!(hex::encode(keypair.open_sealed(&purpose, &bytes(&input["sealed"])).unwrap()))
}

#[derive(Deserialize)]
struct ProofInput {
    app_hash: Digest,
    key: String,
    proof: String,
}

fn proof_holds(input: ProofInput) -> Value {
    let key: Key = codec::decode(&hex::decode(input.key).unwrap(), 1024).unwrap();
    let proof: Proof = codec::decode(&hex::decode(input.proof).unwrap(), 1 << 20).unwrap();
    json!(proof.verify(input.app_hash, &key))
}
