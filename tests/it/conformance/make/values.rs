//! What no message carries: identifiers, orders, seeds, topics.

use atlas_node::{
    codec,
    types::{JobSpec, rendezvous},
};
use serde_json::json;

use super::{
    super::{cbor::Cbor, vectors::Bytes, vectors::Page},
    Maker, sample,
};

pub(super) fn pages() -> Vec<Page> {
    vec![encoding_page(), network_page(), job_page(), rendezvous_page()]
}

fn encoding_page() -> Page {
    let mut maker = Maker::new("encoding");
    let ping = hex::decode("a16450696e67a1656e6f6e636507").unwrap();
    let frame = [&[0, 0, 0, 14], &ping[..]].concat();
    maker.valid("frame", "Ping of the health protocol", &frame);
    maker.invalid("frame", "cut head", &frame[..3], "cut", "the length has four bytes");
    maker.invalid("frame", "cut body", &frame[..frame.len() - 1], "cut", "fewer bytes than announced");
    let long = 1_049_600_u32 + 1;
    maker.invalid("frame", "too long", &long.to_be_bytes()[..], "too_long", "refused before a byte of the body");
    let little = [&[14, 0, 0, 0], &ping[..]].concat();
    maker.invalid("frame", "length in the wrong order", &little[..], "too_long", "14 << 24 is over the limit");
    for person in [1, 2, 9] {
        maker.computed("peer-id", json!({ "key": sample::key(person) }));
        maker.computed("address", json!({ "key": sample::key(person) }));
    }
    for (chain_id, nonce) in [("atlas-test", 0_u64), ("atlas-test", 1 << 40), ("a", 7)] {
        maker.computed("job-id", json!({ "chain_id": chain_id, "creator": sample::key(1), "nonce": nonce }));
    }
    for slot in [0, 12, u32::MAX] {
        maker.computed("task-id", json!({ "text": sample::task(slot) }));
    }
    for (round, generation) in [(0, 1), (3, 70_000)] {
        let lease = sample::digest("lease");
        let input = json!({ "task": sample::task(1), "round": round, "generation": generation, "lease": lease });
        maker.computed("assignment-id", input);
    }
    maker.computed("digest", json!({ "bytes": Bytes::zeros(b"atlas", 3) }));
    maker.done()
}

fn network_page() -> Page {
    let mut maker = Maker::new("network");
    maker.computed("topic", json!({ "job": sample::job() }));
    let data = codec::encode(&sample::keypair(1).seal(&super::gossip::announcement()));
    maker.computed("message-id", json!({ "data": hex::encode(data) }));
    maker.done()
}

fn job_page() -> Page {
    let mut maker = Maker::new("job");
    let sealed = JobSpec { data_key: Some(sample::digest("data key")), ..sample::spec() };
    maker.cbor("job-spec", &[("training", sample::spec()), ("with sealed data", sealed)]);
    let mut absent = Cbor::parse(&codec::encode(&sample::spec()));
    absent.record().unwrap().retain(|(key, _)| *key != "held_out".into());
    maker.valid("job-spec", "absent means null", &absent.encode());
    let bent = |field: &str, change: &dyn Fn(&mut Cbor)| {
        let mut spec = Cbor::parse(&codec::encode(&sample::spec()));
        let entry = spec.record().unwrap().iter_mut().find(|(key, _)| *key == field.into()).unwrap();
        change(&mut entry.1);
        spec.encode()
    };
    let later = |record: &mut Cbor| record.record().unwrap().push(("later".into(), Cbor::Unsigned(1)));
    let fewer = |record: &mut Cbor| record.record().unwrap().truncate(1);
    maker.valid("job-spec", "absent resources are 0", &bent("resources", &fewer));
    let why = "`resources` is closed: a mistyped name must not mean 0";
    maker.invalid("job-spec", "unknown resource", &bent("resources", &later)[..], "malformed", why);
    let why = "`outer` is closed";
    maker.invalid("job-spec", "unknown field of outer", &bent("outer", &later)[..], "malformed", why);
    maker.invalid("job-spec", "missing field of outer", &bent("outer", &fewer)[..], "malformed", "both are needed");
    for field in ["task_type", "output", "codec", "rule", "quorum", "settle"] {
        let word = bent(field, &|value| *value = "later".into());
        maker.invalid("job-spec", &format!("unknown {field}"), &word[..], "malformed", "a word that is not listed");
    }
    let cid = bent("bundle", &|value| *value = Cbor::Bytes(vec![1, 0x70, 0x12]));
    maker.invalid("job-spec", "cut CID", &cid[..], "malformed", "the bytes are no CID");
    let cid = bent("bundle", &|value| {
        if let Cbor::Bytes(bytes) = value {
            bytes.push(0);
        }
    });
    maker.invalid("job-spec", "CID with a byte after it", &cid[..], "malformed", "a CID ends where its hash ends");
    maker.cbor("shard", &sample::shards().into_iter().map(|shard| ("a shard", shard)).collect::<Vec<_>>()[..1]);
    for (seed, slot, cursor) in [(1_u64, 2_u32, 3_u32), (u64::MAX, 0, 0), (42, 70_000, 1)] {
        maker.computed("seed", json!({ "seed": seed, "slot": slot, "cursor": cursor }));
    }
    maker.done()
}

fn rendezvous_page() -> Page {
    let mut maker = Maker::new("rendezvous");
    let number = |number: u32| hex::encode(number.to_be_bytes());
    let job = sample::job().to_string();
    let candidates: Vec<_> = (1..=9).chain([3]).map(sample::key).collect();
    let mut order = |domain, parts: Vec<String>| {
        maker.computed("rendezvous", json!({ "domain": domain, "parts": parts, "candidates": candidates }));
    };
    order(rendezvous::VOLUNTEER, vec![job.clone()]);
    order(rendezvous::AGGREGATOR, vec![job.clone(), number(3)]);
    order(rendezvous::WATCHER, vec![sample::key(1).to_string()]);
    order(rendezvous::PROBER, vec![sample::key(1).to_string(), sample::key(2).to_string()]);
    order(rendezvous::VERIFIER, vec![job.clone(), number(1), number(3)]);
    for (slot, generation, holders) in
        [(0, 0, vec![]), (1, 0, vec![]), (1, 12, vec![2, 2, 4]), (u32::MAX, u32::MAX, vec![1])]
    {
        let holders: Vec<_> = holders.into_iter().map(sample::key).collect();
        let input =
            json!({ "job": job, "slot": slot, "generation": generation, "candidates": candidates, "holders": holders });
        maker.computed("volunteers", input);
    }
    maker.done()
}
