//! The ledger by itself, without a chain around it: what a block of heartbeats costs, and what an operation costs when there is
//! much on the ledger already.
//!
//! Every transaction was checked before its block, as every validator does when it comes in, but where it is said that it was not.
//! Beside the times stand the nodes and hashes of the authenticated map that an operation took: those are the same on every machine.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use atlas_node::{
    chain::{
        abci::verify_ahead,
        ledger::{Genesis, Ledger, Parameters},
        wire::{Message, Transaction},
    },
    clock, codec,
    identity::Keypair,
    types::{
        AggregationRule, Beat, ContentId, Digest, Generation, JobId, JobSpec, Load, OuterStep, OutputKind, Quorum,
        Resources, Settle, ShardSpec, Signed, TaskId, TaskType, Time, UpdateCodec,
    },
};

use super::{Arguments, report::Report, shard::seconds_since};

const CHAIN: &str = "atlas-bench";
/// Heartbeats in one transaction: as many as it may have.
const BEATS: usize = 1_000;
/// Nodes of the block of heartbeats.
const BEATING: usize = 10_000;
/// Tasks of one job: as many as it may have.
const SLOTS: usize = 1_000;
/// Jobs of one creator, under the limit of open ones.
const JOBS: usize = 90;
/// Operations measured in one block.
const OPERATIONS: usize = 200;
/// Nodes and tasks on the ledger. Each has ten times the records of the one before.
const SIZES: [(usize, usize); 3] = [(1_000, 10_000), (10_000, 100_000), (100_000, 1_000_000)];
/// The nodes of the map that an operation takes grow with the logarithm of the records: by one number for each tenfold, which a test of
/// the ledger holds them to. Then so does the time, if a node takes as long in the greatest ledger as in the least, but for caches.
const AS_LONG: &str = "<= 1.2";

pub(crate) fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let mut world = World::new(BEATING, 0)?;
    let (mut checked, mut unheard, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        let transactions = world.all_beats();
        checked.push(world.timed(&transactions)? * 1e3);
        let transactions = world.all_beats();
        let began = clock::now_micros();
        verify_ahead(&world.ledger, &transactions);
        unheard.push((seconds_since(began) + world.apply(&transactions)?) * 1e3);
        let transactions = world.all_beats();
        alone.push(world.apply(&transactions)? * 1e3);
    }
    report.add("FinalizeBlock, 10,000 heartbeats", "ms", &checked, "");
    report.add("FinalizeBlock, 10,000 never heard of", "ms", &unheard, "");
    report.add("the same, verified by one thread", "ms", &alone, "");

    let mut sized = Vec::new();
    for (nodes, tasks) in SIZES {
        let mut world = World::new(nodes, tasks)?;
        let mut figures = [vec![], vec![], vec![]];
        let mut effort = [vec![], vec![], vec![], vec![]];
        for run in 0..arguments.runs {
            let of = |seconds: f64| seconds * 1e6 / OPERATIONS as f64;
            let begin = run as usize * OPERATIONS;
            let leases: Vec<_> = (begin..begin + OPERATIONS).map(|number| world.lease(number)).collect();
            let (seconds, [nodes_of_lease, hashes_of_lease]) = world.counted(&leases)?;
            figures[0].push(of(seconds));
            let beats = [world.beats(begin % nodes..begin % nodes + OPERATIONS)];
            let (seconds, [nodes_of_beat, hashes_of_beat]) = world.counted(&beats)?;
            figures[1].push(of(seconds));
            figures[2].push(world.timed(&[])? * 1e3);
            let counts = [nodes_of_lease, hashes_of_lease, nodes_of_beat, hashes_of_beat];
            effort.iter_mut().zip(counts).for_each(|(samples, count)| samples.push(count));
        }
        let size = format!("{nodes} nodes, {tasks} tasks: ");
        for (name, samples) in
            ["nodes, lease", "hashes, lease", "nodes, heartbeat", "hashes, heartbeat"].iter().zip(&effort)
        {
            report.add(format!("{size}{name}"), "", samples, "");
        }
        for ((name, unit), samples) in
            [("lease", "µs"), ("heartbeat", "µs"), ("empty block", "ms")].iter().zip(&figures)
        {
            report.add(format!("{size}{name}"), unit, samples, "");
        }
        let began = clock::now_micros();
        let snapshot = world.ledger.snapshot();
        report.add(format!("{size}a snapshot"), "s", &[seconds_since(began)], "");
        let bytes = snapshot.len() as f64 / (nodes + tasks) as f64;
        report.add(format!("{size}a record in a snapshot"), "bytes", &[bytes], "");
        let of_a_node =
            |times: &[f64], nodes: &[f64]| times.iter().zip(nodes).map(|(time, node)| time / node).collect();
        sized.push([of_a_node(&figures[0], &effort[0]), of_a_node(&figures[1], &effort[2])]);
    }
    let (least, greatest): (&[Vec<f64>; 2], &[Vec<f64>; 2]) = (&sized[0], &sized[SIZES.len() - 1]);
    report.ratio("lease by its nodes, greatest ledger to least", &greatest[0], &least[0], AS_LONG);
    report.ratio("heartbeat by its nodes, greatest ledger to least", &greatest[1], &least[1], AS_LONG);
    Ok(())
}

/// A ledger and those who use it.
struct World {
    ledger: Ledger,
    now: u64,
    /// Nodes first, then creators of jobs, each with its next nonce.
    people: Vec<(Keypair, u64)>,
    jobs: Vec<JobId>,
}

impl World {
    fn new(nodes: usize, tasks: usize) -> Result<Self> {
        let jobs = tasks / SLOTS;
        let people: Vec<(Keypair, u64)> = (0..nodes + jobs.div_ceil(JOBS))
            .map(|number| (Keypair::from_secret(&Digest::of(&number.to_le_bytes()).0), 0))
            .collect();
        let now = 1_760_000_000_000;
        let genesis = Genesis {
            chain_id: CHAIN.to_owned(),
            parameters: Parameters { faucet_per_account: 1, ..Parameters::default() },
            accounts: people[nodes..].iter().map(|(creator, _)| (creator.node_key(), 1_000_000)).collect(),
            time: Time::from_millis(now),
            validator: people[0].0.node_key(),
            economy: None,
        };
        let mut world = Self { ledger: Ledger::new(genesis)?, now, people, jobs: Vec::new() };
        for first in (0..nodes).step_by(BEATS) {
            let block: Vec<_> = (first..nodes.min(first + BEATS)).map(|node| world.sign(node, register())).collect();
            world.block(&block)?;
        }
        for number in 0..jobs {
            let message = Message::SubmitJob { spec: Box::new(spec()), shards: vec![shard(); SLOTS] };
            let transaction = world.sign(nodes + number / JOBS, message);
            let result = world.block(&[transaction])?.pop().unwrap_or_default();
            world.jobs.push(codec::decode(&result, 1024)?);
        }
        Ok(world)
    }

    fn sign(&mut self, person: usize, message: Message) -> Vec<u8> {
        let (keypair, nonce) = &mut self.people[person];
        let transaction = Transaction { chain_id: CHAIN.to_owned(), nonce: *nonce, attempt: 0, message };
        *nonce += 1;
        codec::encode(&Signed::seal(keypair.signing_key(), &transaction))
    }

    /// One heartbeat of each of these nodes, sent by the first.
    fn beats(&mut self, nodes: std::ops::Range<usize>) -> Vec<u8> {
        let now = self.now;
        let beat = |(keypair, _): &(Keypair, u64)| {
            let (node, timestamp) = (keypair.node_key(), Time::from_millis(now));
            Signed::seal(
                keypair.signing_key(),
                &Beat { node, sequence: now, timestamp, load: Load::default(), leaving: false },
            )
        };
        let beats = self.people[nodes.clone()].iter().map(beat).collect();
        self.sign(nodes.start, Message::UpdateHeartbeat { beats })
    }

    /// One heartbeat of each of the [`BEATING`] nodes.
    fn all_beats(&mut self) -> Vec<Vec<u8>> {
        (0..BEATING / BEATS).map(|part| self.beats(part * BEATS..(part + 1) * BEATS)).collect()
    }

    /// A node takes the lease of one task.
    fn lease(&mut self, number: usize) -> Vec<u8> {
        let (job, slot) = (self.jobs[number / SLOTS], u32::try_from(number % SLOTS).unwrap_or(u32::MAX));
        let node = number % self.people.len().min(SIZES[0].0);
        self.sign(node, Message::TakeLease { task_id: TaskId { job, slot }, generation: Generation::default() })
    }

    /// Seconds of the next block with these transactions, which were checked before.
    fn timed(&mut self, transactions: &[Vec<u8>]) -> Result<f64> {
        for transaction in transactions {
            self.ledger.check(transaction);
        }
        self.apply(transactions)
    }

    /// The same, and how many nodes and hashes each of the [`OPERATIONS`] in it took.
    fn counted(&mut self, transactions: &[Vec<u8>]) -> Result<(f64, [f64; 2])> {
        let before = self.ledger.effort();
        let seconds = self.timed(transactions)?;
        let after = self.ledger.effort();
        let counts = [after.nodes - before.nodes, after.hashes - before.hashes];
        Ok((seconds, counts.map(|count| count as f64 / OPERATIONS as f64)))
    }

    /// Seconds of the next block with these transactions.
    fn apply(&mut self, transactions: &[Vec<u8>]) -> Result<f64> {
        let began = clock::now_micros();
        self.block(transactions)?;
        Ok(seconds_since(began))
    }

    /// The next block, a millisecond later, so that nobody goes offline meanwhile; the answers of its transactions.
    fn block(&mut self, transactions: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        self.now += 1;
        let done = self.ledger.apply_block(Time::from_millis(self.now), transactions);
        for result in &done.results {
            ensure!(result.code == 0, "a transaction failed: {}", result.log);
        }
        Ok(done.results.into_iter().map(|result| result.data).collect())
    }
}

fn register() -> Message {
    Message::RegisterNode {
        node_id: "node".to_owned(),
        address: None,
        resources: Resources { cpu_millicores: 64_000, memory_bytes: 1 << 40, storage_bytes: 1 << 40, gpu_count: 0 },
        listen: vec!["/ip4/192.0.2.1/tcp/4001".to_owned()],
        attributes: BTreeMap::new(),
    }
}

fn content(name: &str) -> ContentId {
    atlas_node::store::dag_pb::content_id(0x55, name.as_bytes())
}

fn shard() -> ShardSpec {
    ShardSpec { cid: content("shard"), size: 1_000_000, records: 1_000 }
}

fn spec() -> JobSpec {
    JobSpec {
        name: "digits".to_owned(),
        model_id: "digits".to_owned(),
        task_type: TaskType::Training,
        bundle: content("bundle"),
        model: content("model"),
        model_root: Digest::of(b"model"),
        dataset_cid: content("data"),
        held_out: None,
        seed: 7,
        rounds: 10,
        local_steps: 50,
        checkpoint_every: 10,
        config: "{}".to_owned(),
        output: OutputKind::Model,
        codec: UpdateCodec::F32,
        rule: AggregationRule::NormClippedMean,
        outer: OuterStep::default(),
        quorum: Quorum::TwoThirds,
        resources: Resources { cpu_millicores: 100, memory_bytes: 1_000, storage_bytes: 1_000, gpu_count: 0 },
        round_limit_millis: 300_000,
        deadline_millis: 86_400_000,
        budget: 1,
        settle: Settle::Ledger,
        copies: 2,
        session: false,
        data_key: None,
    }
}
