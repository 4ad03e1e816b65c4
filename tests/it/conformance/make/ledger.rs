//! Transactions, what the ledger answers, and what its app hash commits to.

use std::collections::BTreeMap;

use atlas_node::{
    chain::{
        ledger::{Clock, Economy, Genesis, Inference, Key, NodeClock, Parameters, Payout, Rules, TaskClock},
        records,
        wire::{Evidence, Message, Transaction, VotedOutcome},
    },
    codec,
    types::{
        Digest, JobStatus, ParameterChange, ParameterVote, Receipt, Round, RoundOutcome, RoundVote, TaskStatus, Time,
        VerdictVote,
    },
};
use serde_json::json;

use super::{
    super::{cbor::Cbor, decode, vectors::Page},
    Maker, TRANSACTION, envelope, sample,
    signed::reference,
};

pub(super) fn pages() -> Vec<Page> {
    vec![transaction_page(), query_page(), storage_page(), state_page()]
}

fn transaction(message: Message) -> Transaction {
    Transaction { chain_id: decode::CHAIN.into(), nonce: 0, attempt: 0, message }
}

fn messages() -> Vec<(&'static str, Transaction)> {
    let (job_id, task_id) = (sample::job(), sample::task(1));
    let register = Message::RegisterNode {
        node_id: "one".into(),
        address: Some("atlas1qqqsyqcyq5rqwzqfpg9scrgwpugpzysn7hzdtn".into()),
        resources: sample::resources(),
        listen: sample::node_record().listen,
        attributes: sample::node_record().attributes,
    };
    let report = Message::UpdateTaskStatus {
        task_id,
        generation: 1,
        status: TaskStatus::InProgress,
        progress: 6_250,
        checkpoint: Some(reference(3, 40)),
        delegate: None,
        error: None,
    };
    let delegated = Message::UpdateTaskStatus {
        task_id,
        generation: 1,
        status: TaskStatus::Delegated,
        progress: 6_250,
        checkpoint: None,
        delegate: Some(sample::key(3)),
        error: Some("this machine goes away".into()),
    };
    let receipt = sample::keypair(2).seal(&sample::receipt());
    let attestation = sample::keypair(3).seal(&sample::attestation());
    let votes = [2, 3].map(|voter| sample::keypair(voter).seal(&sample::vote(voter))).to_vec();
    let (name, version, cid) = ("digits".into(), "1".into(), sample::cid("model"));
    vec![
        ("RegisterNode", transaction(register)),
        (
            "UpdateHeartbeat",
            transaction(Message::UpdateHeartbeat { beats: vec![sample::keypair(1).seal(&sample::beat())] }),
        ),
        ("SubmitJob", transaction(Message::SubmitJob { spec: Box::new(sample::spec()), shards: sample::shards() })),
        ("CreateTask", transaction(Message::CreateTask { job_id, shard: sample::shards().remove(0) })),
        ("TakeLease", transaction(Message::TakeLease { task_id, generation: 0 })),
        ("UpdateTaskStatus with a checkpoint", transaction(report)),
        ("UpdateTaskStatus that delegates", transaction(delegated)),
        ("SubmitReceipt", transaction(Message::SubmitReceipt { receipt, attestation })),
        ("CloseRound", transaction(Message::CloseRound { outcome: Box::new(sample::outcome()), votes })),
        ("CancelJob", transaction(Message::CancelJob { job_id })),
        ("PauseJob", transaction(Message::PauseJob { job_id, paused: true })),
        ("RegisterModel", transaction(Message::RegisterModel { name, version, cid, metadata: BTreeMap::new() })),
        ("ReportInference", transaction(Message::ReportInference { job_id, answered: 100, failed: 1, round: 3 })),
    ]
}

fn verdict_vote(validator: u8) -> VerdictVote {
    let (node, evidence) = (sample::key(2), sample::digest("evidence"));
    VerdictVote { node, job: sample::job(), round: 3, evidence, validator: sample::key(validator) }
}

pub(super) fn parameter_vote(validator: u8) -> ParameterVote {
    let values = [("base_reward".to_owned(), 2_000), ("economy.shares_by_reputation".to_owned(), 1)].into();
    let change = ParameterChange { chain_id: decode::CHAIN.into(), values, from_height: 1_000 };
    ParameterVote { change, validator: sample::key(validator) }
}

/// The messages of a ledger with an economy.
fn of_an_economy() -> Vec<(&'static str, Transaction)> {
    let second = Receipt { out_state_root: sample::digest("another"), ..sample::receipt() };
    let [first, second] = [sample::receipt(), second].map(|receipt| sample::keypair(2).seal(&receipt));
    let voted = |outcome: RoundOutcome| {
        let vote = RoundVote { outcome: outcome.digest(), ..sample::vote(2) };
        VotedOutcome { outcome, vote: sample::keypair(2).seal(&vote) }
    };
    let lie = RoundOutcome { params_root: sample::digest("lie"), ..sample::outcome() };
    let report = |evidence| transaction(Message::ReportOffence { evidence: Box::new(evidence) });
    let receipt = first.clone();
    let votes = [3, 4].map(|number| sample::keypair(number).seal(&verdict_vote(number))).to_vec();
    let parameter_votes = [3, 4].map(|number| sample::keypair(number).seal(&parameter_vote(number))).to_vec();
    vec![
        ("Verdict", transaction(Message::Verdict { votes })),
        ("ChangeParameters", transaction(Message::ChangeParameters { votes: parameter_votes })),
        ("Bond", transaction(Message::Bond { amount: 1_000 })),
        ("Unbond", transaction(Message::Unbond { amount: u64::MAX })),
        ("Send", transaction(Message::Send { to: sample::key(3), amount: 7 })),
        ("ReportOffence of two receipts", report(Evidence::TwoReceipts { first, second })),
        (
            "ReportOffence of two roots",
            report(Evidence::TwoRoots { first: voted(sample::outcome()), second: voted(lie) }),
        ),
        ("ReportOffence of a forged receipt", report(Evidence::ForgedReceipt { receipt })),
    ]
}

/// The messages of a ledger with storage.
fn of_storage() -> Vec<(&'static str, Transaction)> {
    let (owner, root) = (sample::key(3), sample::cid("kept"));
    let keep = Message::Keep { root, bytes: 3_145_890, copies: 2, until: sample::NOW };
    vec![
        ("OfferStorage", transaction(Message::OfferStorage { bytes: 100_000_000_000 })),
        ("Keep", transaction(keep)),
        ("Held", transaction(Message::Held { owner, root })),
        ("Dropped", transaction(Message::Dropped { owner, root })),
        ("Release", transaction(Message::Release { root })),
    ]
}

fn transaction_page() -> Page {
    let mut maker = Maker::new("transaction");
    maker.signed(TRANSACTION, &messages());
    for (name, sample) in of_an_economy().into_iter().chain(of_storage()) {
        maker.valid(TRANSACTION, name, &envelope(&sample::keypair(1).seal(&sample)));
    }
    maker.signed("signed-verdict-vote", &[("a vote", verdict_vote(3))]);
    maker.signed("signed-parameter-vote", &[("a vote", parameter_vote(3))]);
    let mut unknown = Cbor::parse(&codec::encode(&transaction(Message::Bond { amount: 1 })));
    let evidence = Cbor::Map(vec![("evidence".into(), Cbor::Map(vec![("Rumour".into(), Cbor::Map(vec![]))]))]);
    unknown.record().unwrap()[2].1 = Cbor::Map(vec![("ReportOffence".into(), evidence)]);
    let unknown = envelope(&sample::sign::<Transaction>(&sample::keypair(1), &unknown.encode()));
    maker.invalid(TRANSACTION, "unknown evidence", &unknown[..], "code 1", "a later kind of evidence");
    let cancel = || Message::CancelJob { job_id: sample::job() };
    let later = Transaction { nonce: 5, ..transaction(cancel()) };
    let later = envelope(&sample::keypair(1).seal(&later));
    maker.valid(TRANSACTION, "a later nonce, which a check before the block takes", &later);
    let again = envelope(&sample::keypair(1).seal(&Transaction { attempt: 1, ..transaction(cancel()) }));
    maker.valid(TRANSACTION, "signed anew", &again);
    let elsewhere = Transaction { chain_id: "another".into(), ..transaction(cancel()) };
    let elsewhere = envelope(&sample::keypair(1).seal(&elsewhere));
    maker.invalid(TRANSACTION, "for another ledger", &elsewhere[..], "code 3", "its chain id is not this ledger's");
    let canonical = envelope(&sample::keypair(1).seal(&transaction(cancel())));
    let longer = [&[0xb8, 0x03], &canonical[1..]].concat();
    let why = "the same envelope with a longer head: it would have another hash";
    maker.invalid(TRANSACTION, "envelope in another form", &longer[..], "code 1", why);
    let mut reordered = Cbor::parse(&canonical);
    reordered.record().unwrap().reverse();
    let why = "the same envelope in another order: it would have another hash";
    maker.invalid(TRANSACTION, "envelope in another order", &reordered.encode()[..], "code 1", why);
    let mut unknown = Cbor::parse(&codec::encode(&transaction(cancel())));
    unknown.record().unwrap()[2].1 = Cbor::Map(vec![("MintMoney".into(), Cbor::Map(vec![]))]);
    let unknown = envelope(&sample::sign::<Transaction>(&sample::keypair(1), &unknown.encode()));
    maker.invalid(TRANSACTION, "unknown message", &unknown[..], "code 1", "a later kind of message");
    maker.computed("digest", json!({ "bytes": hex::encode(canonical) }));
    maker.done()
}

fn job_record() -> records::Job {
    records::Job {
        id: sample::job(),
        creator: sample::key(1),
        spec: sample::spec(),
        shards: sample::shards(),
        status: JobStatus::Open,
        paused: false,
        round: 3,
        round_opened_height: 17,
        round_opened_at: sample::NOW,
        model_root: Some(sample::digest("in")),
        model_cid: sample::cid("next model"),
        momentum_root: None,
        momentum_cid: None,
        result_cid: None,
        escrow: 40_000,
        paid: 60_000,
        progress: 6_000,
        created_at: Time(1_759_999_000_000),
        updated_at: sample::NOW,
        error: None,
    }
}

fn task_record() -> records::Task {
    let provisional = records::ProvisionalReceipt {
        receipt: sample::receipt(),
        digest: sample::keypair(2).seal(&sample::receipt()).digest(),
        verifier: sample::key(3),
        height: 21,
        accepted_at: sample::NOW,
    };
    records::Task {
        id: sample::task(1),
        status: TaskStatus::InProgress,
        holder: Some(sample::key(2)),
        generation: 1,
        lease_tx: sample::digest("lease"),
        lease_expires: sample::NOW,
        cursor: 3,
        progress: 6_250,
        checkpoint: Some(sample::reference()),
        opt_root: Digest([0; 32]),
        opt_checkpoint: None,
        receipt: Some(provisional),
        delegate: None,
        reassigned: 0,
        refused_receipts: 0,
        created_at: Time(1_759_999_000_000),
        started_at: Some(sample::NOW),
        completed_at: None,
        error: None,
    }
}

fn pending_task() -> records::Task {
    records::Task {
        status: TaskStatus::Pending,
        holder: None,
        generation: 2,
        lease_tx: Digest([0; 32]),
        lease_expires: Time::ZERO,
        checkpoint: None,
        receipt: None,
        reassigned: 1,
        error: Some("the node went offline".into()),
        ..task_record()
    }
}

fn round_record() -> records::RoundRecord {
    records::RoundRecord {
        outcome: sample::outcome(),
        closer: sample::key(2),
        voters: vec![sample::key(2), sample::key(3)],
        batches: 120,
        verified: 2,
        loss_micros: 312_500,
        height: 22,
        closed_at: sample::NOW,
    }
}

fn model_record() -> records::Model {
    records::Model {
        id: "digits:1".into(),
        name: "digits".into(),
        version: "1".into(),
        cid: sample::cid("model"),
        creator: sample::key(1),
        created_at: sample::NOW,
        metadata: [("root".to_owned(), sample::digest("next").to_string())].into(),
    }
}

fn offence_id() -> records::OffenceId {
    records::OffenceId { node: sample::key(2), kind: records::OffenceKind::TwoReceipts, job: sample::job(), round: 3 }
}

fn offence_record() -> records::Offence {
    records::Offence {
        id: offence_id(),
        reporter: Some(sample::key(3)),
        evidence: sample::digest("evidence"),
        slashed: 50,
        to_reporter: 5,
        to_creator: 10,
        burned: 35,
        withheld: 20_000,
        height: 23,
        punished_at: sample::NOW,
    }
}

/// What only a ledger with an economy has.
fn economy_records(maker: &mut Maker) {
    let unbonding = vec![records::Unbonding { amount: 200, releases_at: sample::NOW }];
    let stake = records::Stake { bonded: 1_000, unbonding };
    maker.cbor("stake-record", &[("with an unbonding", stake), ("of nobody", records::Stake::default())]);
    let standing =
        records::Standing { at: 110_000, presence: 1 << 31, settled: 2_500_000, lost: 1_000_000, penalty: 500_000 };
    maker.cbor("standing-record", &[("after an offence", standing)]);
    let kinds = [
        ("two receipts", records::OffenceKind::TwoReceipts),
        ("two roots", records::OffenceKind::TwoRoots),
        ("a forged receipt", records::OffenceKind::ForgedReceipt),
        ("a verdict", records::OffenceKind::Verdict),
    ];
    maker.cbor("offence-id", &kinds.map(|(name, kind)| (name, records::OffenceId { kind, ..offence_id() })));
    let verdict = records::OffenceId { kind: records::OffenceKind::Verdict, ..offence_id() };
    let verdict = records::Offence { id: verdict, reporter: None, to_reporter: 0, burned: 40, ..offence_record() };
    maker.cbor("offence-record", &[("reported", offence_record()), ("found by the validators", verdict)]);
    let powers = [(sample::key(1), 10), (sample::key(2), u64::MAX)].into();
    maker.cbor("validators-record", &[("two validators", records::Validators { powers })]);
    let proposal = records::Proposal {
        id: parameter_vote(3).change.id(),
        change: parameter_vote(3).change,
        opened_by: sample::key(3),
        opened_height: 900,
        voters: [sample::key(3), sample::key(4)].into(),
        accepted_height: None,
    };
    let accepted = records::Proposal { accepted_height: Some(910), ..proposal.clone() };
    let proposals = [vec![proposal], vec![accepted]].map(|open| records::Proposals { open });
    let [open, accepted] = proposals;
    maker.cbor("proposals-record", &[("one that is open", open), ("one that is accepted", accepted)]);
    let totals = records::Totals { bonded: 1_000, unbonding: 200, burned: 42, fees: 7 };
    maker.cbor("totals-record", &[("sums", totals)]);
}

fn object_id() -> records::ObjectId {
    records::ObjectId::of(sample::key(3), &sample::cid("kept"))
}

fn object_record() -> records::Object {
    records::Object {
        owner: sample::key(3),
        root: sample::cid("kept"),
        bytes: 3_145_890,
        copies: 2,
        until: sample::NOW,
        created_at: Time(1_759_000_000_000),
        holders: vec![
            records::Holder { node: sample::key(1), epoch: 0 },
            records::Holder { node: sample::key(2), epoch: 7 },
        ],
    }
}

fn storage_page() -> Page {
    let mut maker = Maker::new("storage");
    maker.cbor("object-id", &[("an object", object_id())]);
    let wanted = records::Object { holders: vec![], ..object_record() };
    maker.cbor("object-record", &[("with two holders", object_record()), ("without", wanted)]);
    maker.done()
}

fn query_page() -> Page {
    let mut maker = Maker::new("ledger-query");
    maker.cbor("node-key", &[("data of GetNode, ListNodes and GetAccount", sample::key(1))]);
    maker.cbor("job-id", &[("data of GetJob, ListJobs and GetTasksByJob", sample::job())]);
    maker.cbor("task-id", &[("data of GetTask", sample::task(1))]);
    maker.cbor("account-record", &[("an account", records::Account { balance: u64::MAX, nonce: 12 })]);
    let (storage_offered, storage_used, storage_epoch) = (100_000_000_000, 3_145_890, 7);
    let holder = records::Node { storage_offered, storage_used, storage_epoch, ..sample::node_record() };
    let leaving = records::Node { address: Some("atlas1…".into()), ..sample::node_record() };
    maker.cbor(
        "node-record",
        &[("a node", sample::node_record()), ("with an address", leaving), ("that holds content of others", holder)],
    );
    maker.cbor("job-record", &[("an open job", job_record())]);
    maker.cbor("task-record", &[("with a receipt", task_record()), ("free again", pending_task())]);
    maker.cbor("round-record", &[("a closed round", round_record())]);
    maker.cbor("model-record", &[("a model", model_record())]);
    let empty = records::Changes {
        height: 22,
        time: sample::NOW,
        app_hash: sample::digest("app"),
        more: false,
        nodes: vec![],
        jobs: vec![],
        tasks: vec![],
        rounds: vec![],
        models: vec![],
        objects: vec![],
        gone: vec![],
    };
    let full = records::Changes {
        more: true,
        nodes: vec![sample::node_record()],
        jobs: vec![job_record()],
        tasks: vec![task_record()],
        rounds: vec![round_record()],
        models: vec![model_record()],
        objects: vec![object_record()],
        gone: vec![object_id()],
        ..empty.clone()
    };
    maker.cbor("changes", &[("nothing changed", empty), ("one of each", full)]);
    let written =
        records::Update { key: Key::Model("digits:1".into()).to_bytes(), value: Some(codec::encode(&model_record())) };
    let removed = records::Update { key: Key::Payout(42, sample::job(), 3).to_bytes(), value: None };
    let nothing = records::Updates { height: 22, more: false, whole: false, records: vec![] };
    let some = records::Updates { more: true, whole: true, records: vec![written, removed], ..nothing.clone() };
    maker.cbor("updates", &[("nothing happened", nothing), ("one written, one removed", some)]);
    economy_records(&mut maker);
    maker.done()
}

fn state_page() -> Page {
    let mut maker = Maker::new("ledger-state");
    let (job, node, round): (_, _, Round) = (sample::job(), sample::key(1), 3);
    let keys = [
        ("Genesis", Key::Genesis),
        ("Account", Key::Account(node)),
        ("Clock", Key::Clock),
        ("Node", Key::Node(node)),
        ("NodeClock", Key::NodeClock(node)),
        ("Job", Key::Job(job)),
        ("Task", Key::Task(sample::task(1))),
        ("TaskClock", Key::TaskClock(sample::task(1))),
        ("Round", Key::Round(job, round)),
        ("Payout", Key::Payout(42, job, round)),
        ("Model", Key::Model("digits:1".into())),
        ("Inference", Key::Inference(job, node)),
        ("Stake", Key::Stake(node)),
        ("Offence", Key::Offence(offence_id())),
        ("Standing", Key::Standing(node)),
        ("Allowance", Key::Allowance(node)),
        ("Totals", Key::Totals),
        ("Validators", Key::Validators),
        ("Rules", Key::Rules),
        ("Proposals", Key::Proposals),
        ("Object", Key::Object(object_id())),
    ];
    maker.cbor("record-key", &keys);
    for (_, key) in &keys {
        maker.computed("key-bytes", json!({ "key": hex::encode(codec::encode(key)) }));
    }
    let ledger = decode::ledger();
    let rich = Genesis { economy: Some(Economy::default()), ..ledger.genesis().clone() };
    let with_storage = Parameters { max_objects: 1_000, ..Parameters::default() };
    maker.cbor(
        "genesis-record",
        &[
            ("a ledger with one account", ledger.genesis().clone()),
            ("a ledger with an economy", rich.clone()),
            ("a ledger with storage", Genesis { parameters: with_storage, ..ledger.genesis().clone() }),
        ],
    );
    let rules = Rules { since: 1_000, ..Rules::of(&rich).expect("it has an economy") };
    let clock = Clock { height: 22, time: sample::NOW, live: 110_000, supply: 1_000_000 };
    maker.cbor("clock-record", &[("a clock", clock)]);
    maker.cbor("rules-record", &[("of a ledger whose validators changed them", rules)]);
    let online = NodeClock { registered: 5_000, last_beat: 100_000, online_since: Some(50_000), online_before: 20_000 };
    let offline = NodeClock { online_since: None, ..online };
    maker.cbor("node-clock-record", &[("online", online), ("offline", offline)]);
    let task = TaskClock {
        round_from: 90_000,
        renewed_until: 700_000,
        lapses_at: Some(390_000),
        failed_by: [(sample::key(3), 80_000)].into(),
        failures: 1,
    };
    maker.cbor("task-clock-record", &[("held", task)]);
    maker.cbor("payout-record", &[("a share", Payout { shares: [(sample::key(2), 20_000)].into() })]);
    maker.cbor("allowance-record", &[("a busy minute", records::Allowance { minute: 1, used: 12 })]);
    maker.cbor("inference-record", &[("a tally", Inference { answered: 100, failed: 1, round: 3 })]);
    proofs(&mut maker);
    maker.done()
}

/// The records of a ledger at height 0, its app hash, and proofs of what is there and what is not.
fn proofs(maker: &mut Maker) {
    let ledger = decode::ledger();
    let known = [Key::Genesis, Key::Clock, Key::Account(sample::key(1))];
    let record = |key: &Key| {
        let value = ledger.prove(key).value.expect("it is there from the start");
        json!({ "key": hex::encode(key.to_bytes()), "value": hex::encode(value) })
    };
    let records: Vec<_> = known.iter().map(record).collect();
    maker.computed("app-hash", json!({ "records": records }));
    let strangers = (2..=8).map(|number| Key::Account(sample::key(number)));
    let proofs: Vec<_> = known.iter().cloned().chain(strangers).map(|key| (ledger.prove(&key), key)).collect();
    let named: Vec<_> = proofs.iter().map(|(proof, key)| (key_name(key), proof.clone())).collect();
    let named: Vec<_> = named.iter().map(|(name, proof)| (name.as_str(), proof)).collect();
    maker.cbor_with("record-proof", &named, 1);
    let mut holds = |app_hash: Digest, key: &Key, proof: &atlas_node::chain::ledger::Proof| {
        let (key, proof) = (hex::encode(codec::encode(key)), hex::encode(codec::encode(proof)));
        maker.computed("proof-holds", json!({ "app_hash": app_hash, "key": key, "proof": proof }));
    };
    for (proof, key) in &proofs {
        holds(ledger.app_hash(), key, proof);
    }
    let (proof, key) = &proofs[0];
    holds(sample::digest("another"), key, proof);
    holds(ledger.app_hash(), &Key::Clock, proof);
    let mut lie = proof.clone();
    lie.value = None;
    holds(ledger.app_hash(), key, &lie);
    lie.value = Some(b"another".to_vec());
    holds(ledger.app_hash(), key, &lie);
}

fn key_name(key: &Key) -> String {
    match key {
        Key::Genesis => "of the genesis".into(),
        Key::Clock => "of the clock".into(),
        Key::Account(node) => format!("of the account {node}"),
        other => panic!("not proved here: {other:?}"),
    }
}
