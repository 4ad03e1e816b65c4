//! The control API: bodies of requests, errors, events. JSON.

use super::{super::vectors::Page, Maker, ledger, sample};

pub(super) fn pages() -> Vec<Page> {
    let mut maker = Maker::new("control-api");
    let cid = sample::directory("bundle");
    let job = sample::job();
    let spec = serde_json::to_string(&sample::spec()).unwrap();
    let shards = serde_json::to_string(&sample::shards()).unwrap();
    let vote = serde_json::to_string(&sample::keypair(3).seal(&ledger::parameter_vote(3))).unwrap();
    let prepared = format!(r#"{{"spec":{spec},"shards":{shards}}}"#);
    let bodies = [
        ("Submit", "with defaults", r#"{"job_file":"name = \"x\"","base_directory":"/home/me"}"#.to_owned()),
        ("Submit", "all", r#"{"job_file":"","base_directory":"/","shards":4,"copies":1}"#.to_owned()),
        ("SubmitPrepared", "a job", prepared),
        ("Infer", "a job's model", format!(r#"{{"job":"{job}","input":{{"features":[1,2]}}}}"#)),
        ("Infer", "a registered model", r#"{"model":"digits:1","input":[],"via":"12D3KooW"}"#.to_owned()),
        ("Register", "nothing new", "{}".to_owned()),
        ("Register", "a label", r#"{"node_id":"two"}"#.to_owned()),
        ("ShardAdd", "a file", r#"{"path":"/tmp/data.csv"}"#.to_owned()),
        ("ShardAdd", "a CAR", r#"{"path":"/tmp/data.car","car":true}"#.to_owned()),
        ("ShardGet", "kept", format!(r#"{{"cid":"{cid}"}}"#)),
        ("ShardGet", "written", format!(r#"{{"cid":"{cid}","to":"/tmp/out"}}"#)),
        ("StorageKeep", "a month", format!(r#"{{"cid":"{cid}","copies":2,"seconds":2592000}}"#)),
        ("StorageRelease", "an object", format!(r#"{{"cid":"{cid}"}}"#)),
        ("Payment", "to a peer", format!(r#"{{"to":"{}","amount":5}}"#, sample::keypair(2).peer_id())),
        ("Payment", "to a key", format!(r#"{{"to":"{}","amount":18446744073709551615}}"#, sample::key(2))),
        ("ParameterVotes", "one", format!(r#"{{"votes":[{vote}]}}"#)),
        ("Amount", "some", r#"{"amount":1}"#.to_owned()),
        ("Error", "with a hint", r#"{"code":"not_found","message":"no such job","hint":"atlas-node jobs"}"#.to_owned()),
        ("Error", "without", r#"{"code":"busy","message":"ask again"}"#.to_owned()),
        ("NodeEvent", "lost", r#"{"event":"lost","count":3}"#.to_owned()),
        (
            "NodeEvent",
            "progress",
            format!(r#"{{"event":"progress","task":"{job}-1","round":3,"step":20,"of":60,"loss":null}}"#),
        ),
    ];
    for (kind, name, body) in &bodies {
        maker.valid(kind, name, body.as_bytes());
    }
    let refused = [
        ("Submit", "missing field", r#"{"job_file":""}"#.to_owned(), "`base_directory` is needed"),
        (
            "Submit",
            "unknown field",
            r#"{"job_file":"","base_directory":"/","later":1}"#.to_owned(),
            "bodies are closed",
        ),
        ("SubmitPrepared", "no JSON", "{".to_owned(), "not JSON"),
        ("Infer", "no input", format!(r#"{{"job":"{job}"}}"#), "`input` is needed"),
        ("Infer", "no job id", r#"{"job":"../x","input":1}"#.to_owned(), "an id has 64 hexadecimal digits"),
        ("Register", "mistyped", r#"{"node_id":7}"#.to_owned(), "a label is text"),
        ("ShardAdd", "negative", r#"{"path":-1}"#.to_owned(), "a path is text"),
        ("ShardGet", "no CID", r#"{"cid":"bafy"}"#.to_owned(), "the text is no CID"),
        ("StorageKeep", "no time", format!(r#"{{"cid":"{cid}","copies":2}}"#), "`seconds` is needed"),
        ("StorageRelease", "no CID", r#"{"cid":"bafy"}"#.to_owned(), "the text is no CID"),
        ("Payment", "nobody", r#"{"to":"anna","amount":5}"#.to_owned(), "an account is a node key or a peer id"),
        ("Payment", "no key", format!(r#"{{"to":"{}","amount":5}}"#, "02".repeat(32)), "no point of the curve"),
        ("Payment", "negative", format!(r#"{{"to":"{}","amount":-5}}"#, sample::key(2)), "an amount is not below 0"),
        ("ParameterVotes", "no list", format!(r#"{{"votes":{vote}}}"#), "votes are a list"),
        ("Amount", "unknown field", r#"{"amount":1,"from":2}"#.to_owned(), "bodies are closed"),
        ("Error", "unknown code", r#"{"code":"later","message":""}"#.to_owned(), "codes are listed"),
        ("NodeEvent", "unknown event", r#"{"event":"later"}"#.to_owned(), "a reader of the stream skips it"),
    ];
    for (kind, name, body, why) in &refused {
        maker.invalid(kind, name, body.as_bytes(), "invalid", why);
    }
    vec![maker.done()]
}
