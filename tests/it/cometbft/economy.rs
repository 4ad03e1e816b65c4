//! A chain whose genesis has an economy: money moves, stake is bonded, and an offence that is shown costs part of it, once.

use std::{collections::BTreeMap, fs};

use atlas_node::{
    chain::{
        Key,
        client::Trust,
        records::{Account, Job, Offence, OffenceId, OffenceKind, Stake, Totals},
        wire::{Code, Evidence, Message, query},
    },
    codec,
    identity::Keypair,
    types::{Digest, JobId, JobSpec, NodeKey, Receipt, Resources, TaskId},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    chain::{Chain, SOON},
    writer::Writer,
};
use crate::{conformance::make::sample, e2e::wait::until};

/// Half of a stake for two receipts, a fifth of that for who shows them.
const ECONOMY: &str = "slash_two_receipts = 500000\nreporter_share = 200000\ntransaction_fee = 3\n";
/// What `Chain` gives every account.
const FAUCET: u64 = 1_000_000;
const CREATOR: u8 = 1;
const WORKER: u8 = 2;
const REPORTER: u8 = 3;

fn key(secret: u8) -> NodeKey {
    Keypair::from_secret(&[secret; 32]).node_key()
}

/// Two validators, whose genesis has the economy.
async fn chain() -> Chain {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("economy.toml");
    fs::write(&file, ECONOMY).unwrap();
    let mut chain = Chain::made_with(2, &["--economy", file.to_str().unwrap()], &[]);
    chain.start_all(0..2).await;
    chain
}

/// What a node lends that has room for a task.
const ROOM: Resources =
    Resources { cpu_millicores: 4_000, memory_bytes: 8 << 30, storage_bytes: 64 << 30, gpu_count: 0 };

/// A node that lends `resources`, through a client that believes none of the endpoints.
pub(super) async fn registered(chain: &Chain, endpoints: &[String], secret: u8, resources: Resources) -> Writer {
    let trust = Trust::new(None, chain.path().join(format!("trust-{secret}")));
    let mut writer = Writer::with(chain.path(), secret, endpoints, Some(trust));
    let message = Message::RegisterNode {
        node_id: format!("node-{secret}"),
        address: None,
        resources,
        listen: Vec::new(),
        attributes: BTreeMap::new(),
    };
    assert_eq!(writer.order(message).await.0, 0);
    writer
}

/// What the chain has, proven; asked again while the header that proves it is not there.
async fn proven<T: DeserializeOwned>(writer: &Writer, path: &str, data: &impl Serialize) -> T {
    let data = codec::encode(data);
    let answer =
        until("the answer is proven", SOON, async || writer.handle().query(path, data.clone()).await.ok()).await;
    codec::decode(&answer, 1 << 20).unwrap()
}

/// Two receipts of the worker for one assignment, with different results.
fn two_receipts(task: TaskId) -> Evidence {
    let worker = Keypair::from_secret(&[WORKER; 32]);
    let first = Receipt { task, round: 0, node: worker.node_key(), ..sample::receipt() };
    let second = Receipt { update_digest: Digest([9; 32]), ..first.clone() };
    Evidence::TwoReceipts { first: worker.seal(&first), second: worker.seal(&second) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bond_a_payment_and_an_offence_with_its_slash_are_on_a_real_chain_and_no_money_is_made_or_lost() {
    let chain = chain().await;
    let endpoints = [chain.url(0), chain.url(1)];
    let mut creator = registered(&chain, &endpoints, CREATOR, ROOM).await;
    let mut worker = registered(&chain, &endpoints, WORKER, ROOM).await;
    let mut reporter = registered(&chain, &endpoints, REPORTER, ROOM).await;

    let (code, bonded) = worker.order(Message::Bond { amount: 1_000 }).await;
    assert_eq!((code, codec::decode::<u64>(&bonded, 9).unwrap()), (0, 1_000));
    assert_eq!(creator.order(Message::Send { to: key(REPORTER), amount: 500 }).await.0, 0);
    assert_eq!(creator.order(Message::Send { to: key(REPORTER), amount: FAUCET }).await.0, Code::Funds as u32);
    let spec = Box::new(JobSpec { budget: 10_000, ..sample::spec() });
    let (code, job) = creator.order(Message::SubmitJob { spec, shards: sample::shards() }).await;
    assert_eq!(code, 0);
    let job: JobId = codec::decode(&job, 100).unwrap();

    let evidence = Box::new(two_receipts(TaskId { job, slot: 0 }));
    let (code, slashed) = reporter.order(Message::ReportOffence { evidence: evidence.clone() }).await;
    assert_eq!((code, codec::decode::<u64>(&slashed, 9).unwrap()), (0, 500));
    let again = creator.order(Message::ReportOffence { evidence }).await.0;
    assert_eq!(again, Code::Conflict as u32, "it is punished once");

    let stake: Stake = proven(&reporter, query::GET_STAKE, &key(WORKER)).await;
    let id = OffenceId { node: key(WORKER), kind: OffenceKind::TwoReceipts, job, round: 0 };
    let offence: Offence = proven::<Option<Offence>>(&reporter, query::GET_OFFENCE, &id).await.unwrap();
    assert_eq!((stake.bonded, offence.slashed, offence.to_reporter, offence.burned), (500, 500, 100, 400));
    assert_eq!(offence.reporter, Some(key(REPORTER)));

    let (mut balances, mut paid) = (BTreeMap::new(), 0);
    for (writer, secret, fees) in [(&creator, CREATOR, 4), (&worker, WORKER, 1), (&reporter, REPORTER, 1)] {
        let account: Account = proven(writer, query::GET_ACCOUNT, &key(secret)).await;
        balances.insert(secret, account.balance);
        paid += 3 * fees;
    }
    let job: Job = proven::<Option<Job>>(&creator, query::GET_JOB, &job).await.unwrap();
    let totals: Totals = proven(&creator, query::GET_RECORD, &Key::Totals).await;
    assert_eq!(balances[&REPORTER], FAUCET + 500 + 100 - 3);
    assert_eq!((totals.fees, totals.burned, totals.bonded), (paid, paid + 400, 500));
    let held = balances.values().sum::<u64>() + job.escrow + stake.bonded;
    assert_eq!(held + totals.burned, 3 * FAUCET, "what is not there was burned");
    for writer in [&creator, &worker, &reporter] {
        assert_eq!(writer.distrusted, []);
    }
}
