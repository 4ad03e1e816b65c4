//! A ledger with people around it, for the stories in the tests of this module. Every block it makes is checked
//! against the module's promises.

use std::collections::BTreeMap;

use super::{BlockResult, Economy, Genesis, Key, Ledger, Parameters, TransactionResult, entries::Entry, index::Index};
use crate::{
    chain::{
        records::{Account, Changes, Job, Node, Object, ObjectId, Offence, RoundRecord, Stake, Task, Totals},
        wire::{Code, Message, Transaction, query},
    },
    codec,
    identity::Keypair,
    types::{
        AggregationRule, AppliedSlot, AssignmentId, Attestation, Beat, CheckpointRef, ContentId, Digest, JobId,
        JobSpec, Load, Metrics, NodeKey, OuterStep, OutputKind, Quorum, Receipt, Resources, RoundOutcome, RoundVote,
        Settle, ShardSpec, Signed, Slot, TaskId, TaskStatus, TaskType, Time, UpdateCodec,
    },
};

pub(super) const CHAIN: &str = "atlas-test";
/// What each new node gets.
pub(super) const FAUCET: u64 = 1_000_000;

pub(super) struct World {
    pub(super) ledger: Ledger,
    pub(super) now: Time,
}

/// The key of the person with this number.
pub(super) fn person(number: u8) -> Keypair {
    Keypair::from_secret(&[number; 32])
}

pub(super) fn id(number: u8) -> NodeKey {
    person(number).node_key()
}

pub(super) fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

pub(super) fn content(text: &str) -> ContentId {
    let hash = multihash::Multihash::wrap(0x12, &digest(text).0).unwrap();
    ContentId(cid::Cid::new_v1(0x55, hash))
}

pub(super) fn room(tasks: u64) -> Resources {
    Resources { cpu_millicores: 500 * tasks, memory_bytes: 1_000 * tasks, storage_bytes: 1_000 * tasks, gpu_count: 0 }
}

pub(super) fn spec(rounds: u32, quorum: Quorum) -> JobSpec {
    JobSpec {
        name: "digits".to_owned(),
        model_id: "digits-mlp".to_owned(),
        task_type: TaskType::Training,
        bundle: content("bundle"),
        model: content("model"),
        model_root: digest("initial"),
        dataset_cid: content("data"),
        held_out: None,
        seed: 7,
        rounds,
        local_steps: 50,
        checkpoint_every: 10,
        config: "{}".to_owned(),
        output: OutputKind::Model,
        codec: UpdateCodec::F32,
        rule: AggregationRule::NormClippedMean,
        outer: OuterStep::default(),
        quorum,
        resources: room(1),
        round_limit_millis: 300_000,
        deadline_millis: 86_400_000,
        budget: 600_000,
        settle: Settle::Ledger,
        copies: 2,
        session: true,
        data_key: None,
    }
}

pub(super) fn shards(count: u32) -> Vec<ShardSpec> {
    (0..count).map(|slot| ShardSpec { cid: content(&format!("shard {slot}")), size: 10, records: 5 }).collect()
}

pub(super) fn register_message() -> Message {
    Message::RegisterNode {
        node_id: "node".to_owned(),
        address: None,
        resources: room(2),
        listen: vec!["/ip4/127.0.0.1/tcp/4001".to_owned()],
        attributes: BTreeMap::new(),
    }
}

pub(super) fn genesis() -> Genesis {
    Genesis {
        chain_id: CHAIN.to_owned(),
        parameters: Parameters {
            faucet_per_account: FAUCET,
            audit_window_blocks: 3,
            max_objects: 4,
            ..Parameters::default()
        },
        accounts: BTreeMap::from([(id(200), 5_000)]),
        time: Time::from_millis(1_700_000_000_000),
        validator: id(250),
        economy: None,
    }
}

/// An economy in which a test sees who gets what of a slash: half of a stake, of which a fifth goes to the reporter and
/// three tenths to the creator.
pub(super) fn economy() -> Economy {
    let half = 500_000;
    Economy {
        slash_two_receipts: half,
        slash_two_roots: half,
        slash_forged_receipt: half,
        slash_verdict: half,
        reporter_share: 200_000,
        creator_share: 300_000,
        ..Economy::default()
    }
}

pub(super) fn with_economy(economy: Economy) -> Genesis {
    Genesis { economy: Some(economy), ..genesis() }
}

impl World {
    /// A new ledger and nobody on it.
    pub(super) fn new() -> Self {
        Self::with(genesis())
    }

    pub(super) fn with(genesis: Genesis) -> Self {
        let now = genesis.time;
        Self { ledger: Ledger::new(genesis).unwrap(), now }
    }

    /// A ledger on which the people 1 to `count` have registered nodes with room for two tasks each.
    pub(super) fn of_nodes(count: u8) -> Self {
        Self::populated(genesis(), count)
    }

    /// The same on a ledger with an economy.
    pub(super) fn of_nodes_with(count: u8, economy: Economy) -> Self {
        Self::populated(with_economy(economy), count)
    }

    fn populated(genesis: Genesis, count: u8) -> Self {
        let mut world = Self::with(genesis);
        (1..=count).for_each(|number| world.ok(number, register_message()));
        world
    }

    /// Three nodes; the first two hold the slots of a job of two rounds, and both receipts of round 0 are in.
    pub(super) fn in_a_round() -> Self {
        let mut world = Self::of_nodes(3);
        let job = world.submit(1, spec(2, Quorum::All), 2);
        for (holder, slot) in [(1, 0), (2, 1)] {
            world.lease(holder, job, slot);
            world.prove(holder, 3, job, slot);
        }
        world
    }

    /// One block, `millis` after the one before.
    pub(super) fn block(&mut self, millis: u64, transactions: &[Vec<u8>]) -> BlockResult {
        self.now = Time::from_millis(self.now.as_millis() + millis);
        let height = self.ledger.height();
        let result = self.ledger.apply_block(self.now, transactions);
        assert_eq!((result.height, result.results.len()), (height + 1, transactions.len()));
        check_promises(&self.ledger);
        result
    }

    /// One block a second for so long, in which these people's nodes beat.
    pub(super) fn pass(&mut self, seconds: u64, alive: &[u8]) {
        for _ in 0..seconds {
            self.now = Time::from_millis(self.now.as_millis() + 1_000);
            let beats = alive.iter().map(|number| self.beat(*number, false)).collect::<Vec<_>>();
            let sender = alive.first().copied().unwrap_or(200);
            let relay = self.sign(sender, Message::UpdateHeartbeat { beats });
            let transactions = if alive.is_empty() { vec![] } else { vec![relay] };
            self.block(0, &transactions);
        }
    }

    pub(super) fn beat(&self, number: u8, leaving: bool) -> Signed {
        let sequence = self.now.as_millis() + self.ledger.height();
        person(number).seal(&Beat { node: id(number), sequence, timestamp: self.now, load: Load::default(), leaving })
    }

    pub(super) fn sign(&self, number: u8, message: Message) -> Vec<u8> {
        self.sign_with(number, self.account(number).nonce, message)
    }

    pub(super) fn sign_with(&self, number: u8, nonce: u64, message: Message) -> Vec<u8> {
        let transaction = Transaction { chain_id: CHAIN.to_owned(), nonce, attempt: 0, message };
        codec::encode(&person(number).seal(&transaction))
    }

    /// Sends one message in a block of its own.
    pub(super) fn send(&mut self, number: u8, message: Message) -> TransactionResult {
        let transaction = self.sign(number, message);
        self.block(100, &[transaction]).results.remove(0)
    }

    pub(super) fn ok(&mut self, number: u8, message: Message) {
        let result = self.send(number, message);
        assert_eq!(result.code, 0, "{}", result.log);
    }

    /// Sends a message that must fail with this code, and change nothing but nonce and clock.
    pub(super) fn refused(&mut self, number: u8, code: Code, message: Message) -> String {
        let before = self.task_records();
        let result = self.send(number, message);
        assert_eq!(result.code, code as u32, "{}", result.log);
        assert!(result.events.is_empty());
        let after = self.task_records();
        assert!(before.iter().zip(&after).all(|(a, b)| {
            let b = Task { refused_receipts: a.refused_receipts, lease_expires: a.lease_expires, ..b.clone() };
            *a == b
        }));
        result.log
    }

    fn task_records(&self) -> Vec<Task> {
        let tasks = self.ledger.state.entries().filter_map(|(_, entry)| match entry {
            Entry::Task(task) => Some((**task).clone()),
            _ => None,
        });
        tasks.collect()
    }

    pub(super) fn submit(&mut self, number: u8, spec: JobSpec, slots: u32) -> JobId {
        let message = Message::SubmitJob { spec: Box::new(spec), shards: shards(slots) };
        let result = self.send(number, message);
        assert_eq!(result.code, 0, "{}", result.log);
        codec::decode(&result.data, 64).unwrap()
    }

    pub(super) fn lease(&mut self, number: u8, job: JobId, slot: Slot) {
        let message = self.lease_message(job, slot);
        self.ok(number, message);
    }

    pub(super) fn lease_message(&self, job: JobId, slot: Slot) -> Message {
        Message::TakeLease { task_id: TaskId { job, slot }, generation: self.task(job, slot).generation }
    }

    pub(super) fn report(&self, job: JobId, slot: Slot, status: TaskStatus) -> Message {
        Message::UpdateTaskStatus {
            task_id: TaskId { job, slot },
            generation: self.task(job, slot).generation,
            status,
            progress: 0,
            checkpoint: None,
            delegate: None,
            error: None,
        }
    }

    pub(super) fn checkpoint(&self, job: JobId, slot: Slot, step: u32) -> Message {
        let cid = content(&format!("checkpoint {slot} {step}"));
        let round = self.job(job).round;
        match self.report(job, slot, TaskStatus::InProgress) {
            Message::UpdateTaskStatus { task_id, generation, status, progress, delegate, error, .. } => {
                let checkpoint = Some(CheckpointRef { cid, round, step });
                Message::UpdateTaskStatus { task_id, generation, status, progress, checkpoint, delegate, error }
            }
            _ => unreachable!(),
        }
    }

    /// The receipt that the holder of a task would sign now.
    pub(super) fn receipt(&self, job: JobId, slot: Slot) -> Receipt {
        let (job, task) = (self.job(job), self.task(job, slot));
        let name = format!("{} round {}", task.id, job.round);
        Receipt {
            assignment: AssignmentId::derive(&task.id, job.round, task.generation, &task.lease_tx),
            task: task.id,
            round: job.round,
            node: task.holder.unwrap_or(id(99)),
            timestamp: self.now,
            class_id: digest("class"),
            kat_root: digest("kat"),
            in_params_root: job.model_root.unwrap_or(digest("initial")),
            in_opt_root: task.opt_root,
            trace_root: digest("trace"),
            segments: 5,
            out_state_root: digest("out"),
            out_opt_root: digest(&format!("optimizer of {name}")),
            update_digest: digest(&format!("update of {name}")),
            update_cid: content(&name),
            update_length: 1_000,
            checkpoint: CheckpointRef { cid: content(&format!("end of {name}")), round: job.round, step: 50 },
            computation_hash: digest("computation"),
            metrics: Metrics { iterations: 50, samples: 100, loss_micros: 2_000_000, ..Metrics::default() },
        }
    }

    /// A receipt and its attestation by `verifier`, signed by `worker`.
    pub(super) fn receipt_message(&self, worker: u8, verifier: u8, receipt: &Receipt) -> Message {
        let receipt = person(worker).seal(receipt);
        let attestation = Attestation { receipt: receipt.digest(), verifier: id(verifier), timestamp: self.now };
        Message::SubmitReceipt { attestation: person(verifier).seal(&attestation), receipt }
    }

    pub(super) fn prove(&mut self, worker: u8, verifier: u8, job: JobId, slot: Slot) {
        let message = self.receipt_message(worker, verifier, &self.receipt(job, slot));
        self.ok(worker, message);
    }

    /// The outcome that applies every slot with a receipt.
    pub(super) fn outcome(&self, job: JobId) -> RoundOutcome {
        let round = self.job(job).round;
        let tasks = self.tasks(job);
        let applied = tasks.iter().filter_map(|task| {
            task.receipt.as_ref().map(|provisional| AppliedSlot {
                slot: task.id.slot,
                update_digest: provisional.receipt.update_digest,
                node: provisional.receipt.node,
                samples: provisional.receipt.metrics.samples,
            })
        });
        RoundOutcome {
            job,
            round,
            params_root: digest(&format!("params {round}")),
            momentum_root: digest(&format!("momentum {round}")),
            model_cid: content(&format!("params {round}")),
            momentum_cid: content(&format!("momentum {round}")),
            applied: applied.collect(),
            skipped: tasks.iter().filter(|task| task.receipt.is_none()).map(|task| task.id.slot).collect(),
        }
    }

    pub(super) fn close_message(&self, outcome: &RoundOutcome, voters: &[u8]) -> Message {
        let vote = |number: &u8| {
            let (job, round, outcome) = (outcome.job, outcome.round, outcome.digest());
            person(*number).seal(&RoundVote { job, round, outcome, node: id(*number) })
        };
        Message::CloseRound { outcome: Box::new(outcome.clone()), votes: voters.iter().map(vote).collect() }
    }

    pub(super) fn close(&mut self, job: JobId, voters: &[u8]) {
        let message = self.close_message(&self.outcome(job), voters);
        self.ok(voters[0], message);
    }

    pub(super) fn query<T: serde::de::DeserializeOwned>(&self, path: &str, data: &impl serde::Serialize) -> T {
        let answer = self.ledger.query(path, &codec::encode(data)).unwrap();
        codec::decode(&answer, usize::MAX).unwrap()
    }

    pub(super) fn node(&self, number: u8) -> Node {
        self.query::<Option<Node>>(query::GET_NODE, &id(number)).unwrap()
    }

    pub(super) fn account(&self, number: u8) -> Account {
        self.query(query::GET_ACCOUNT, &id(number))
    }

    pub(super) fn stake(&self, number: u8) -> Stake {
        self.query(query::GET_STAKE, &id(number))
    }

    pub(super) fn offences(&self) -> Vec<Offence> {
        let answer = self.ledger.query(query::LIST_OFFENCES, &[]).unwrap();
        codec::decode(&answer, usize::MAX).unwrap()
    }

    pub(super) fn object(&self, owner: u8, root: ContentId) -> Option<Object> {
        self.query(query::GET_OBJECT, &ObjectId::of(id(owner), &root))
    }

    pub(super) fn job(&self, job: JobId) -> Job {
        self.query::<Option<Job>>(query::GET_JOB, &job).unwrap()
    }

    pub(super) fn task(&self, job: JobId, slot: Slot) -> Task {
        self.query::<Option<Task>>(query::GET_TASK, &TaskId { job, slot }).unwrap()
    }

    pub(super) fn tasks(&self, job: JobId) -> Vec<Task> {
        self.query(query::GET_TASKS_BY_JOB, &job)
    }

    pub(super) fn rounds(&self, job: JobId) -> Vec<RoundRecord> {
        let rounds = self.ledger.state.entries().filter_map(|(_, entry)| match entry {
            Entry::Round(round) if round.outcome.job == job => Some((**round).clone()),
            _ => None,
        });
        rounds.collect()
    }

    pub(super) fn changes(&self, height: u64) -> Changes {
        self.query(query::CHANGES, &height)
    }
}

/// The promises of the module's documentation, and that the indexes are what the records give.
pub(super) fn check_promises(ledger: &Ledger) {
    let mut money = 0;
    let mut staked = Totals::default();
    let index = Index::over(ledger.state.entries());
    let mut held = BTreeMap::<NodeKey, u32>::new();
    let mut kept = BTreeMap::<NodeKey, u64>::new();
    for (key, entry) in ledger.state.entries() {
        assert!(entry.fits(key), "{key:?}");
        match entry {
            Entry::Account(account) => money += account.balance,
            Entry::Job(job) => money += job.escrow,
            Entry::Payout(payout) => money += payout.shares.values().sum::<u64>(),
            Entry::Stake(stake) => {
                let amounts = stake.unbonding.iter().map(|unbonding| unbonding.amount);
                let waiting = amounts.clone().sum::<u64>();
                assert!(amounts.clone().all(|amount| amount > 0) && stake.bonded + waiting > 0, "{stake:?}");
                assert!(stake.unbonding.is_sorted_by_key(|unbonding| unbonding.releases_at), "{stake:?}");
                money += stake.bonded + waiting;
                staked.bonded += stake.bonded;
                staked.unbonding += waiting;
            }
            Entry::Offence(offence) => {
                assert_eq!(offence.slashed, offence.to_reporter + offence.to_creator + offence.burned, "{offence:?}");
            }
            Entry::Proposals(proposals) => {
                let open = &proposals.open;
                assert!(open.is_sorted_by_key(|one| (one.change.from_height, one.id)) && !open.is_empty());
                assert!(open.iter().all(|one| one.change.from_height > ledger.height() + 1), "one is overdue");
                let powers = &ledger.state.validators().unwrap().powers;
                assert!(open.iter().flat_map(|one| &one.voters).all(|voter| powers.contains_key(voter)));
                assert!(open.len() <= powers.len());
            }
            Entry::Object(object) => {
                let live: Vec<NodeKey> = object.live(|node| ledger.state.node(node)).collect();
                assert!(live.len() <= usize::try_from(object.copies).unwrap(), "{object:?}");
                assert!(!live.contains(&object.owner) && object.bytes > 0, "{object:?}");
                let nodes: std::collections::BTreeSet<NodeKey> = live.iter().copied().collect();
                assert_eq!(nodes.len(), live.len(), "one holds it twice: {object:?}");
                live.into_iter().for_each(|node| *kept.entry(node).or_default() += object.bytes);
            }
            Entry::Task(task) => {
                let open = matches!(
                    task.status,
                    TaskStatus::Assigned | TaskStatus::InProgress | TaskStatus::Paused | TaskStatus::Delegated
                );
                assert_eq!(task.holder.is_some(), open, "{task:?}");
                assert!(task.receipt.is_none() || open);
                let clock = ledger.state.task_clock(&task.id);
                let paused = ledger.state.job(&task.id.job).is_some_and(|job| job.paused);
                let due = clock.is_some_and(|clock| clock.lapses_at.is_some());
                assert!(!open || due || paused || task.receipt.is_some());
                task.holder.iter().for_each(|holder| *held.entry(*holder).or_default() += 1);
            }
            _ => {}
        }
    }
    assert_eq!(money, ledger.state.clock().supply, "money was made or lost");
    let totals = ledger.state.totals();
    assert_eq!((totals.bonded, totals.unbonding), (staked.bonded, staked.unbonding));
    assert_eq!(&index, ledger.state.index());
    for (key, entry) in ledger.state.entries() {
        if let (Key::Node(node), Entry::Node(record)) = (key, entry) {
            assert_eq!(record.active_tasks, held.get(node).copied().unwrap_or(0));
            assert_eq!(record.storage_used, kept.get(node).copied().unwrap_or(0), "{record:?}");
            let offline = record.status == crate::types::NodeStatus::Offline;
            assert!(!offline || record.storage_used == 0, "{record:?}");
        }
    }
}
