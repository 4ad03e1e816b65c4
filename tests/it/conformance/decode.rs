//! Bytes to their meaning, through the node's own decoders, and their refusals to the words of the pages.

use std::sync::Arc;

use atlas_node::{
    chain::{
        ledger::{Economy, Genesis, Ledger, Parameters},
        wire::{Code, MAX_TRANSACTION, Transaction},
    },
    codec, gossip,
    protocol::{
        self, Message,
        frame::{self, Incoming},
    },
    shard::{
        unixfs,
        wire::{Request as ShardRequest, Response as ShardResponse, Slot as BlockSlot},
    },
    store::{
        dag_pb::{self, DAG_PB},
        protobuf,
    },
    tensor::{self, Tensors, update::Update},
    types::{NodeKey, Signed, SignedError, SignedObject, Time},
};
use futures::{executor::block_on, io::Cursor};
use libp2p::{StreamProtocol, request_response::Codec as _};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// The ledger that transactions of the vectors are for.
pub(crate) const CHAIN: &str = "atlas-test";
/// Longer than any answer of a ledger.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Keys whose value is a byte string, which `serde_bytes` writes to JSON as a list of numbers.
const BYTE_STRINGS: &[&str] = &["Upload", "Data", "Ok", "body", "bytes", "input", "key", "result", "sealed", "value"];

/// What bytes mean.
pub(crate) struct Read {
    pub(crate) value: Value,
    /// What the encoding is about: the bytes themselves, of a signed object its body.
    pub(crate) read: Vec<u8>,
    /// What the node writes for that value.
    pub(crate) written: Vec<u8>,
}

/// What a value means, in the notation of the vectors.
pub(crate) trait Meaning {
    fn meaning(&self) -> Value;
}

impl<T: Serialize> Meaning for T {
    fn meaning(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap();
        name_bytes(&mut value);
        value
    }
}

fn name_bytes(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(name_bytes),
        Value::Object(entries) => {
            for (key, entry) in entries.iter_mut() {
                match byte_string(entry) {
                    Some(bytes) if BYTE_STRINGS.contains(&key.as_str()) => *entry = json!(hex::encode(bytes)),
                    _ => name_bytes(entry),
                }
            }
        }
        _ => {}
    }
}

fn byte_string(value: &Value) -> Option<Vec<u8>> {
    value.as_array()?.iter().map(|item| item.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect()
}

/// A request of the protocol of `S`, out of a frame.
pub(crate) fn request<S: protocol::State>(bytes: &[u8]) -> Result<Read, String>
where
    S::Request: Clone + Serialize,
{
    let request = read_request::<S>(&framed(bytes))?;
    Ok(Read { value: request.meaning(), read: bytes.to_vec(), written: request.encode().concat() })
}

/// An answer of the protocol of `S`, out of a frame.
pub(crate) fn response<S: protocol::State>(bytes: &[u8]) -> Result<Read, String>
where
    S::Response: Clone + Serialize,
{
    let response = read_response::<S>(&framed(bytes))?;
    Ok(Read { value: response.meaning(), read: bytes.to_vec(), written: response.encode().concat() })
}

/// A whole frame with a request of the health protocol in it.
pub(crate) fn health_frame(bytes: &[u8]) -> Result<Read, String> {
    let request = read_request::<atlas_node::health::State>(bytes)?;
    let value = request.meaning();
    Ok(Read { value, read: bytes.to_vec(), written: framed(&request.encode().concat()) })
}

fn read_request<S: protocol::State>(frame: &[u8]) -> Result<S::Request, String> {
    let mut codec = frame::Codec::<S>::default();
    let protocol = StreamProtocol::new(S::PROTOCOL);
    match block_on(codec.read_request(&protocol, &mut Cursor::new(frame))) {
        Ok(Incoming::Good(request)) => Ok(request),
        Ok(Incoming::Bad(fault)) => Err(of_stream(&fault.into())),
        Err(error) => Err(of_stream(&error)),
    }
}

fn read_response<S: protocol::State>(frame: &[u8]) -> Result<S::Response, String> {
    let mut codec = frame::Codec::<S>::default();
    let protocol = StreamProtocol::new(S::PROTOCOL);
    block_on(codec.read_response(&protocol, &mut Cursor::new(frame))).map_err(|error| of_stream(&error))
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn of_stream(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return "cut".into();
    }
    of_text(&error.to_string())
}

/// The word for a message's error, which says it in a sentence.
fn of_text(text: &str) -> String {
    let words = [
        ("over the limit", "too_long"),
        ("an input of more than", "too_long"),
        ("nested deeper", "too_deep"),
        ("not the CBOR", "malformed"),
        ("ends too early", "cut"),
        ("is no kind of", "kind"),
        ("entries, not", "count"),
        ("after the end", "trailing"),
        ("not a CID", "cid"),
        ("is too large", "block"),
        ("makes no sense", "state"),
        ("neither yes nor no", "flag"),
        ("no reason to refuse", "reason"),
    ];
    let word = words.into_iter().find(|(part, _)| text.contains(part)).map(|(_, word)| word);
    word.unwrap_or_else(|| panic!("no word for `{text}`")).into()
}

fn of_codec(error: &codec::Error) -> String {
    match error {
        codec::Error::TooLong { .. } => "too_long",
        codec::Error::TooDeep => "too_deep",
        codec::Error::Cbor(_) => "malformed",
    }
    .into()
}

/// A signed object that stands alone.
pub(crate) fn signed<T: SignedObject>(bytes: &[u8]) -> Result<Read, String> {
    let signed: Signed = codec::decode(bytes, T::LIMIT + gossip::ENVELOPE).map_err(|error| of_codec(&error))?;
    let object: T = signed.open().map_err(|error| of_signed(&error))?;
    assert_eq!(codec::encode(&signed).len(), bytes.len(), "vectors have canonical envelopes");
    Ok(opened(&signed, &object))
}

fn opened<T: SignedObject>(signed: &Signed, object: &T) -> Read {
    let value = json!({
        "signer": signed.signer,
        "signature": signed.signature,
        "digest": signed.digest(),
        "object": object.meaning(),
    });
    Read { value, read: signed.body.clone(), written: codec::encode(object) }
}

fn of_signed(error: &SignedError) -> String {
    match error {
        SignedError::TooLong { .. } => "too_long",
        SignedError::Signer => "signer",
        SignedError::Signature => "signature",
        SignedError::Body(_) => "body",
        SignedError::Speaker => "speaker",
    }
    .into()
}

/// A transaction, as a ledger with an economy and storage that has seen none takes it.
pub(crate) fn transaction(bytes: &[u8]) -> Result<Read, String> {
    let parameters = Parameters { max_objects: 10, ..Parameters::default() };
    let genesis = Genesis { economy: Some(Economy::default()), parameters, ..ledger().genesis().clone() };
    let checked = Ledger::new(genesis).unwrap().check(bytes);
    if checked.code != Code::Ok as u32 {
        return Err(format!("code {}", checked.code));
    }
    let signed: Signed = codec::decode(bytes, MAX_TRANSACTION).unwrap();
    Ok(opened(&signed, &signed.open::<Transaction>().unwrap()))
}

/// A ledger with one account, at height 0.
pub(crate) fn ledger() -> Ledger {
    let rich = atlas_node::identity::Keypair::from_secret(&[1; 32]).node_key();
    Ledger::new(Genesis {
        chain_id: CHAIN.into(),
        parameters: Parameters::default(),
        accounts: [(rich, 1_000_000)].into(),
        time: Time::from_millis(1_760_000_000_000),
        validator: NodeKey([9; 32]),
        economy: None,
    })
    .unwrap()
}

/// A value of the ledger, or an id that a query takes.
pub(crate) fn plain<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Read, String> {
    let value: T = codec::decode(bytes, MAX_ANSWER).map_err(|error| of_codec(&error))?;
    Ok(Read { value: value.meaning(), read: bytes.to_vec(), written: codec::encode(&value) })
}

/// A body of the control API, which is JSON.
pub(crate) fn control<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Read, String> {
    let value: T = serde_json::from_slice(bytes).map_err(|_| "invalid".to_owned())?;
    let written = serde_json::to_vec(&value).unwrap();
    Ok(Read { value: serde_json::to_value(&value).unwrap(), read: bytes.to_vec(), written })
}

/// What a bundle says of itself. It is never written.
pub(crate) fn bundle(bytes: &[u8]) -> Result<Read, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "invalid".to_owned())?;
    let bundle = atlas_node::executor::bundle::Bundle::parse(text).map_err(|_| "invalid".to_owned())?;
    let value = json!({
        "contract": bundle.contract,
        "name": bundle.name,
        "version": bundle.version,
        "entry": bundle.entry,
        "deterministic": bundle.deterministic,
        "peak_memory_mib": bundle.peak_memory_mib,
        "requires": bundle.python.requires,
        "packages": bundle.python.packages,
        "site_packages": bundle.python.site_packages,
        "interpreter": bundle.python.interpreter,
        "channels": bundle.inputs.channels,
        "files": bundle.outputs.files,
    });
    Ok(Read { value, read: bytes.to_vec(), written: bytes.to_vec() })
}

pub(crate) fn shard_request(bytes: &[u8]) -> Result<Read, String> {
    let request = read_request::<atlas_node::shard::State>(&framed(bytes))?;
    let value = match &request {
        ShardRequest::Get { cids, budget } => json!({ "Get": { "cids": cids, "budget": budget } }),
        ShardRequest::Have { cids } => json!({ "Have": { "cids": cids } }),
        ShardRequest::Hold { root, size } => json!({ "Hold": { "root": root, "size": size } }),
        ShardRequest::Held { root } => json!({ "Held": { "root": root } }),
    };
    Ok(Read { value, read: bytes.to_vec(), written: request.encode().concat() })
}

pub(crate) fn shard_response(bytes: &[u8]) -> Result<Read, String> {
    let response = read_response::<atlas_node::shard::State>(&framed(bytes))?;
    let value = match &response {
        ShardResponse::Blocks(slots) => json!({ "Blocks": slots.iter().map(block).collect::<Vec<_>>() }),
        ShardResponse::Have(here) => json!({ "Have": here }),
        ShardResponse::Accepted => json!("Accepted"),
        ShardResponse::Refused(refusal) => json!({ "Refused": format!("{refusal:?}") }),
        ShardResponse::Noted => json!("Noted"),
    };
    Ok(Read { value, read: bytes.to_vec(), written: response.encode().concat() })
}

fn block(slot: &BlockSlot) -> Value {
    match slot {
        BlockSlot::Missing => json!("missing"),
        BlockSlot::Present(bytes) => json!({ "present": hex::encode(bytes) }),
        BlockSlot::Omitted => json!("omitted"),
    }
}

pub(crate) fn dag_pb_node(bytes: &[u8]) -> Result<Read, String> {
    let node = dag_pb::Node::decode(bytes).map_err(|error| of_dag_pb(&error))?;
    let link = |link: &dag_pb::Link| json!({ "cid": link.cid, "name": link.name, "total_size": link.total_size });
    let value = json!({ "links": node.links.iter().map(link).collect::<Vec<_>>(), "data": hex::encode(&node.data) });
    Ok(Read { value, read: bytes.to_vec(), written: node.encode() })
}

fn of_dag_pb(error: &dag_pb::Error) -> String {
    match error {
        dag_pb::Error::Protobuf(_) => "protobuf",
        dag_pb::Error::Field => "field",
        dag_pb::Error::Link => "link",
        dag_pb::Error::Name => "name",
        dag_pb::Error::Codec(_) => "codec",
    }
    .into()
}

/// A dag-pb block as a part of a file or directory. It is written by its parent's writer, so not here.
pub(crate) fn unixfs_node(bytes: &[u8]) -> Result<Read, String> {
    let cid = dag_pb::content_id(DAG_PB, bytes);
    let value = match unixfs::decode(&cid, bytes).map_err(|error| of_unixfs(&error))? {
        unixfs::Node::Leaf(leaf) => json!({ "leaf": hex::encode(&leaf) }),
        unixfs::Node::Branch { size, parts } => {
            let part = |part: &unixfs::Part| json!({ "cid": part.cid, "size": part.size });
            json!({ "file": { "size": size, "parts": parts.iter().map(part).collect::<Vec<_>>() } })
        }
        unixfs::Node::Directory(links) => {
            let link = |link: &dag_pb::Link| json!({ "name": link.name, "cid": link.cid });
            json!({ "directory": links.iter().map(link).collect::<Vec<_>>() })
        }
        unixfs::Node::Shard { entries, nodes } => json!({ "sharded": { "entries": entries.len(), "nodes": nodes } }),
    };
    Ok(Read { value, read: bytes.to_vec(), written: bytes.to_vec() })
}

fn of_unixfs(error: &unixfs::Error) -> String {
    match error {
        unixfs::Error::Node(error) => return of_dag_pb(error),
        unixfs::Error::Protobuf(protobuf::Error::Cut | protobuf::Error::Varint | protobuf::Error::Key) => "protobuf",
        unixfs::Error::Field => "field",
        unixfs::Error::Sizes => "sizes",
        unixfs::Error::Type(_) => "type",
        unixfs::Error::Sharded => "sharded",
        unixfs::Error::Name(_) => "name",
        unixfs::Error::Order => "order",
    }
    .into()
}

pub(crate) fn safetensors(bytes: &[u8]) -> Result<Read, String> {
    let tensors = Tensors::parse(bytes.to_vec().into()).map_err(|error| of_tensors(&error))?;
    let tensor = |(name, tensor): (&str, &tensor::Tensor)| {
        let (spec, data) = (&tensor.spec, hex::encode(&tensor.data));
        (name.to_owned(), json!({ "dtype": spec.dtype.to_string(), "shape": spec.shape, "data": data }))
    };
    let value = Value::Object(tensors.iter().map(tensor).collect());
    Ok(Read { value, read: bytes.to_vec(), written: tensors.to_safetensors() })
}

fn of_tensors(error: &tensor::Error) -> String {
    match error {
        tensor::Error::FileTooLong { .. } => "too_long",
        tensor::Error::Header { .. } | tensor::Error::Json(_) | tensor::Error::Tensor { .. } => "header",
        tensor::Error::Gap { .. } => "gap",
        tensor::Error::Schema { .. } | tensor::Error::Io(_) => panic!("a file in memory has neither: {error}"),
    }
    .into()
}

/// The values of an encoded update; there is one encoding of them.
pub(crate) fn update(bytes: &[u8]) -> Result<Read, String> {
    let update = Update::parse(bytes.to_vec().into()).map_err(|error| of_update(&error))?;
    update.check_values().map_err(|error| of_update(&error))?;
    let values = |(name, payload): (&str, tensor::update::Payload<'_>)| {
        let mut values = vec![0.0; payload.elements];
        payload.read(0, &mut values);
        (name.to_owned(), json!(values))
    };
    let value = Value::Object(update.payloads().map(values).collect());
    Ok(Read { value, read: bytes.to_vec(), written: bytes.to_vec() })
}

fn of_update(error: &tensor::update::Error) -> String {
    match error {
        tensor::update::Error::NotFinite { .. } => "not_finite",
        tensor::update::Error::Malformed(_) => "malformed",
        tensor::update::Error::Schema => "schema",
        tensor::update::Error::Model(_) | tensor::update::Error::Dtype { .. } => panic!("not of an update: {error}"),
    }
    .into()
}

/// A store in a directory that goes when the store does.
pub(crate) fn files() -> (tempfile::TempDir, Arc<atlas_node::shard::Files>) {
    let directory = tempfile::tempdir().unwrap();
    let store =
        atlas_node::store::BlockStore::open(directory.path(), atlas_node::store::Quota { bytes: 1 << 30 }).unwrap();
    (directory, Arc::new(atlas_node::shard::Files::new(store)))
}
