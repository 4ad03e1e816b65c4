//! Requests and answers.

use atlas_node::{
    chain::rpc,
    codec, executor,
    executor::{ProcessState, ProgressReport, StopMode, inference},
    health, proof,
    protocol::Message,
    shard,
};
use serde_bytes::ByteBuf;
use serde_json::json;

use super::{
    super::{cbor::Cbor, vectors::Bytes, vectors::Page},
    Maker, bend, gossip, sample,
};

pub(super) fn pages() -> Vec<Page> {
    vec![health_page(), task_page(), infer_page(), proof_page(), ledger_rpc_page(), shard_page()]
}

fn health_page() -> Page {
    use health::wire::{Request, Response};
    let mut maker = Maker::new("health");
    let node = sample::key(2);
    maker.cbor(
        "health-request",
        &[
            ("ProbeFor", Request::ProbeFor { node }),
            ("Probe", Request::Probe),
            ("Ping", Request::Ping { nonce: 7 }),
            ("Ping with the largest nonce", Request::Ping { nonce: u64::MAX }),
            ("Download", Request::Download { bytes: 1 << 20 }),
            ("Upload", Request::Upload(ByteBuf::from(b"no meaning"))),
            ("Beat", Request::Beat(sample::keypair(1).seal(&sample::beat()))),
        ],
    );
    let ping = Request::Ping { nonce: 7 }.encode().concat();
    let long_integer = [&ping[..ping.len() - 1], &[0x1b, 0, 0, 0, 0, 0, 0, 0, 7]].concat();
    maker.valid("health-request", "integer in nine bytes", &long_integer);
    let negative = [&ping[..ping.len() - 1], &[0x20]].concat();
    maker.invalid("health-request", "negative nonce", &negative[..], "malformed", "a u64 is not negative");
    let short = Cbor::Map(vec![("ProbeFor".into(), Cbor::Map(vec![("node".into(), Cbor::Bytes(vec![7; 31]))]))]);
    maker.invalid("health-request", "key of 31 bytes", &short.encode()[..], "malformed", "a node key has 32 bytes");
    let large = Cbor::Map(vec![("Download".into(), Cbor::Map(vec![("bytes".into(), Cbor::Unsigned(1 << 32))]))]);
    maker.invalid("health-request", "2^32 bytes", &large.encode()[..], "malformed", "`bytes` is a u32");
    maker.cbor(
        "health-response",
        &[
            ("Alive", Response::Alive { sequence: 1_760_000_000_000, watched: true }),
            ("Noted", Response::Noted),
            ("Refused", Response::Refused { reason: "1024 nodes are watched here already".into() }),
            ("NotReached", Response::NotReached),
            ("Pong", Response::Pong { nonce: 7 }),
            ("Data", Response::Data(ByteBuf::from([0; 5]))),
            ("Received", Response::Received { bytes: 10 }),
            ("Busy", Response::Busy),
        ],
    );
    maker.done()
}

/// A key of 32 bytes 3, sealed by the second reader for the node of secret 1, the task and generation below, and an ephemeral secret
/// of 32 bytes 7.
const SEALED_KEY: &str = "13be4feaeaf204c7fd3358fc9c00721881d174278128227ec674f37f7fe97b6ddd86207ea0cda0c1\
                          ac7d4cb34387fc9911cd4c59734ba9ef3f744ba2dd82e1d5c5cbc8c45f2fd6eb9902f6bb980cdf2c";

fn task_page() -> Page {
    use executor::{MAX_LOG, Request, Response};
    let mut maker = Maker::new("task");
    let (task, generation) = (sample::task(1), 2);
    let announcement = sample::keypair(1).seal(&gossip::announcement());
    maker.cbor(
        "task-request",
        &[
            ("stop", Request::Stop { task, generation, mode: StopMode::Checkpoint }),
            ("stop at once", Request::Stop { task, generation, mode: StopMode::Kill }),
            ("pause", Request::Pause { task, generation }),
            ("resume", Request::Resume { task, generation }),
            ("key of sealed data", Request::DataKey { task, generation }),
            ("progress", Request::Progress { task }),
            ("log from an offset", Request::Log { task, from: Some(1_000_000), max: 1_000 }),
            ("end of a log", Request::Log { task, from: None, max: MAX_LOG }),
            ("offer", Request::Offer { announcement, slot: 1 }),
        ],
    );
    let log = |entries: Vec<(Cbor, Cbor)>| Cbor::Map(vec![("log".into(), Cbor::Map(entries))]).encode();
    let id = || Cbor::Bytes([&sample::job().0[..], &[0, 0, 0, 1]].concat());
    let absent = log(vec![("task".into(), id()), ("max".into(), Cbor::Unsigned(5))]);
    maker.valid("task-request", "absent means null", &absent);
    let short = log(vec![("task".into(), Cbor::Bytes(vec![7; 35])), ("max".into(), Cbor::Unsigned(5))]);
    maker.invalid("task-request", "task id of 35 bytes", &short[..], "malformed", "a task id has 36 bytes");
    let stop = Request::Stop { task, generation, mode: StopMode::Kill };
    let mut unknown = Cbor::parse(&codec::encode(&stop));
    unknown.record().unwrap()[2].1 = "politely".into();
    maker.invalid("task-request", "unknown mode", &unknown.encode()[..], "malformed", "`mode` is a listed word");
    let report = |loss| ProgressReport { state: ProcessState::Running, round: 3, step: 20, of: 60, loss };
    maker.cbor(
        "task-response",
        &[
            ("progress", Response::Progress(report(Some(0.25)))),
            ("progress with a loss that needs 8 bytes", Response::Progress(report(Some(0.1)))),
            ("progress without a loss", Response::Progress(report(None))),
            ("accepted", Response::Accepted),
            ("refused", Response::Refused { reason: "no such task here".into() }),
            ("done", Response::Done),
            ("sealed key", Response::DataKey { sealed: hex::decode(SEALED_KEY).unwrap() }),
            ("log", Response::Log { from: 7, bytes: b"step 20\n\xff".to_vec() }),
        ],
    );
    let secret = hex::encode([1; 32]);
    let input = json!({ "secret": secret, "task": task, "generation": generation, "sealed": SEALED_KEY });
    maker.computed("open-data-key", input);
    maker.done()
}

fn infer_page() -> Page {
    use inference::{Answer, Request, Response, Target};
    let mut maker = Maker::new("infer");
    let input = br#"{"features":[0.5]}"#.to_vec();
    let job = Target::Job { ledger: Some("atlas-test".into()), job: sample::job() };
    let named = Target::ModelId { ledger: None, model_id: "digits-mlp:1".into() };
    let model = Target::Model { bundle: sample::directory("bundle"), model: sample::cid("model") };
    maker.cbor(
        "infer-request",
        &[
            ("a job's model", Request { target: job, input: input.clone() }),
            ("a registered model", Request { target: named, input: input.clone() }),
            ("any model", Request { target: model, input }),
        ],
    );
    let longest = Request { target: Target::ModelId { ledger: None, model_id: "m".into() }, input: vec![0; 9] };
    let head = codec::encode(&longest);
    let head = &head[..head.len() - 10];
    let bytes = Bytes::zeros(&[head, &[0x5a, 0x00, 0x10, 0x00, 0x01]].concat(), (1 << 20) + 1);
    let why = "the message is within its limit, the input over its own by one byte";
    maker.invalid("infer-request", "input one byte too long", bytes, "too_long", why);
    let answer = Answer { result: b"[3]".to_vec(), latency_micros: 850, model_id: "digits-mlp:1".into() };
    maker.cbor(
        "infer-response",
        &[("answer", Response::Answer(answer)), ("refused", Response::Refused { reason: "busy".into() })],
    );
    maker.done()
}

fn proof_page() -> Page {
    use proof::wire::{Opening, Refused, Request, Response};
    let mut maker = Maker::new("proof");
    maker.cbor(
        "proof-request",
        &[
            ("Challenge", Request::Challenge { receipt: sample::digest("receipt"), index: 2 }),
            ("Receipt", Request::Receipt(sample::keypair(2).seal(&sample::receipt()))),
        ],
    );
    let trace: Vec<_> = (0..4).map(|index| sample::digest(&format!("state {index}"))).collect();
    let path = atlas_node::proof::trace::path(&trace, 2).unwrap();
    let opening = Opening { state_root: trace[2], path, checkpoint: Some(sample::directory("checkpoint")) };
    let start = Opening { state_root: trace[0], path: vec![], checkpoint: None };
    maker.cbor(
        "proof-response",
        &[
            ("Opening", Response::Opening(opening)),
            ("Opening of the round's start", Response::Opening(start)),
            ("Verified", Response::Verified(sample::keypair(3).seal(&sample::attestation()))),
            ("Refused", Response::Refused(Refused { retryable: true, reason: "busy".into() })),
        ],
    );
    let long = Refused { retryable: false, reason: "ü".repeat(300) };
    maker.valid(
        "proof-response",
        "reason of 600 bytes, which the reader cuts",
        &codec::encode(&Response::Refused(long)),
    );
    for count in [2_u32, 3, 4, 7, 256] {
        let trace: Vec<_> = (0..count).map(|index| sample::digest(&format!("state {index}"))).collect();
        maker.computed("trace-root", json!({ "trace": trace }));
        for index in [0, 1, count - 1] {
            let path = proof::trace::path(&trace, index).unwrap();
            maker.computed("trace-path", json!({ "trace": trace, "index": index }));
            let opening = |index: u32, path: &[_]| json!({ "trace_root": proof::trace::root(&trace), "segments": count - 1, "index": index, "state_root": trace[index as usize % trace.len()], "path": path });
            maker.computed("opening-holds", opening(index, &path));
            maker.computed("opening-holds", opening(index + 1, &path));
            maker.computed("opening-holds", opening(index, &path[..path.len() - 1]));
            maker.computed("opening-holds", opening(index, &[&path[..], &[trace[0]]].concat()));
        }
    }
    maker.done()
}

fn ledger_rpc_page() -> Page {
    use rpc::{Request, Response};
    let mut maker = Maker::new("ledger-rpc");
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"status","params":{}}"#.to_vec();
    maker.cbor("ledger-rpc-request", &[("status", Request { ledger: "atlas-test".into(), body })]);
    maker.cbor(
        "ledger-rpc-response",
        &[
            ("Refused", Response::Refused { reason: "no such ledger here".into() }),
            ("Ok", Response::Ok(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_vec())),
        ],
    );
    maker.done()
}

fn shard_page() -> Page {
    let mut maker = Maker::new("shard");
    shard_requests(&mut maker);
    shard_responses(&mut maker);
    maker.done()
}

fn shard_requests(maker: &mut Maker) {
    use shard::wire::Request;
    let kind = "shard-request";
    let root = sample::directory("root");
    let cids: Vec<_> = (0..5).map(|number| sample::cid(&format!("block {number}"))).collect();
    let get = Request::Get { cids: cids[..2].to_vec(), budget: 1 << 20 }.encode().concat();
    maker.valid(kind, "Get", &get);
    maker.valid(kind, "Have", &Request::Have { cids: cids.clone() }.encode().concat());
    let hold = Request::Hold { root, size: 1 << 33 }.encode().concat();
    maker.valid(kind, "Hold", &hold);
    maker.valid(kind, "Held", &Request::Held { root }.encode().concat());
    maker.invalid(kind, "empty", &[][..], "cut", "no byte at all");
    maker.invalid(kind, "cut", &get[..get.len() - 1], "cut", "the last byte of a CID is missing");
    maker.invalid(kind, "byte after the end", &[&get[..], &[0]].concat()[..], "trailing", "a byte after the last CID");
    maker.invalid(kind, "no CID", &[1, 0, 0, 0, 1, 0][..], "count", "a Get has at least one CID");
    let five = Request::Have { cids }.encode().concat();
    let five = [&[1, 0, 0, 0, 1], &five[1..]].concat();
    maker.invalid(kind, "Get of five", &five[..], "count", "a Get has at most four CIDs");
    maker.invalid(kind, "Have of 65", &[2, 65][..], "count", "a Have has at most 64 CIDs");
    maker.invalid(kind, "length of a CID reaches past the end", &[4, 200, 1][..], "cut", "200 bytes are announced");
    maker.invalid(kind, "no CID but bytes", &[4, 2, 9, 9][..], "cid", "two bytes are no binary CID");
    let padded = [&[4, 38][..], &root.0.to_bytes(), &[0, 0]].concat();
    maker.invalid(kind, "CID with bytes after it", &padded[..], "cid", "a CID ends where its hash ends");
    maker.invalid(kind, "unknown kind", &[5][..], "kind", "a later kind of request");
    maker.invalid(kind, "CBOR", &bend::deep()[..], "kind", "0x81 is no kind of request");
    maker.invalid(kind, "one byte too long", Bytes::zeros(&hold, 6_729 - hold.len()), "too_long", "refused unread");
}

fn shard_responses(maker: &mut Maker) {
    use shard::wire::{Refusal, Response, Slot};
    let kind = "shard-response";
    let slots = vec![
        Slot::Present(b"first".to_vec().into()),
        Slot::Missing,
        Slot::Present(b"2".to_vec().into()),
        Slot::Omitted,
    ];
    let blocks = Response::Blocks(slots).encode().concat();
    maker.valid(kind, "Blocks", &blocks);
    maker.valid(kind, "an empty block", &Response::Blocks(vec![Slot::Present(Vec::new().into())]).encode().concat());
    maker.valid(kind, "Have", &Response::Have(vec![true, false, true]).encode().concat());
    maker.valid(kind, "Accepted", &Response::Accepted.encode().concat());
    for refusal in [Refusal::Busy, Refusal::NoRoom, Refusal::Banned] {
        maker.valid(kind, &format!("Refused: {refusal:?}"), &Response::Refused(refusal).encode().concat());
    }
    maker.valid(kind, "Noted", &Response::Noted.encode().concat());
    maker.invalid(kind, "cut", &blocks[..blocks.len() - 1], "cut", "the last block is shorter than announced");
    maker.invalid(
        kind,
        "byte after the end",
        &[&blocks[..], &[0]].concat()[..],
        "trailing",
        "a byte after the last block",
    );
    maker.invalid(kind, "no block", &[1, 0][..], "count", "an answer has at least one state");
    maker.invalid(kind, "five blocks", &[1, 5][..], "count", "an answer has at most four states");
    maker.invalid(kind, "block of 4 GiB", &[1, 1, 1, 0xff, 0xff, 0xff, 0xff][..], "block", "over 2 MiB");
    maker.invalid(kind, "missing with bytes", &[1, 1, 0, 0, 0, 0, 1, 7][..], "state", "missing has length 0");
    maker.invalid(kind, "unknown state", &[1, 1, 3, 0, 0, 0, 0][..], "state", "states are 0, 1 and 2");
    maker.invalid(kind, "neither yes nor no", &[2, 1, 2][..], "flag", "0 or 1");
    maker.invalid(kind, "unknown reason", &[4, 3][..], "reason", "reasons are 0, 1 and 2");
    maker.invalid(kind, "unknown kind", &[6][..], "kind", "a later kind of answer");
    let too_long = Bytes::zeros(&[1], 4_194_326);
    maker.invalid(kind, "one byte too long", too_long, "too_long", "refused unread");
}
