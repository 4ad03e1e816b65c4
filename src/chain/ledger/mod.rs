//! The ledger state machine: what all nodes agree on, as a pure function of genesis and blocks.
//!
//! It decides who holds which task, which receipts and rounds count, who is online and what is paid. It never reads a
//! clock (block time comes with the block), never touches a disk or a socket, knows no floats and no chance: two
//! ledgers with equal genesis and equal blocks are equal to the byte, and their app hashes prove it.
//!
//! A message is a function in the file of what it is about (`nodes`, `jobs`, `tasks`, `receipts`, `rounds`, `models`,
//! `stake`, `offences`, `verdicts`, `governance`, `storage`); `transaction` leads to it and undoes what a failed one
//! wrote; `block` adds what time alone brings about; `money` is what all that moves any stands on; `fees` says what a
//! transaction costs, `reputation` what a node's past says of it, `rules` which numbers validators may change, `tally`
//! counts their votes. All records lie in `state`; `authenticated` hashes them, `changes` and `query` read them,
//! `snapshot` keeps them.
//!
//! What holds after every block:
//! - balances, escrow, stakes and waiting payouts add up to the supply, which only the faucet raises and only what is
//!   burned lowers;
//! - a task has at most one holder, and its generation grows whenever one comes or goes;
//! - a slot's update counts at most once a round, and only with an accepted receipt that another node attested;
//! - a job that is open has a deadline, and a held task without a receipt has a time at which it lapses;
//! - what a node's room for others is used for is the sum of the objects that it holds now, and each of these has at most
//!   as many holders as its owner asked for.

mod block;
mod changes;
mod economy;
#[cfg(test)]
mod economy_tests;
mod entries;
mod fees;
mod genesis;
mod governance;
mod index;
mod jobs;
mod models;
mod money;
mod nodes;
mod offences;
mod query;
mod receipts;
mod refusal;
mod removed;
mod reputation;
mod rounds;
mod rules;
mod snapshot;
mod stake;
mod state;
mod storage;
#[cfg(test)]
mod storage_tests;
mod tally;
mod tasks;
#[cfg(test)]
mod testing;
mod transaction;
mod verdicts;

pub use super::{
    authenticated::{Named, Proof},
    key::Key,
};
pub use economy::Economy;
pub use entries::{Clock, Inference, NodeClock, Payout, TaskClock};
pub use genesis::{Genesis, GenesisError, MAX_CHAIN_ID, Parameters, USUAL_MAX_OBJECTS};
pub use rules::Rules;
pub use snapshot::MAX_SNAPSHOT;
pub use transaction::Claim;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::authenticated::Tree;
use crate::{
    chain::records::Validators,
    types::{Digest, NodeKey, Time, Verified},
};
use changes::Changed;
use state::State;

/// What became of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionResult {
    /// A [`super::wire::Code`]; 0 is success.
    pub code: u32,
    /// Words for a person; why it failed.
    pub log: String,
    /// The answer in CBOR, where the message has one.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// What happened; empty if it failed.
    pub events: Vec<Event>,
}

/// Something that happened, for subscribers and indexes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its name, for example `task_status_updated`.
    pub kind: String,
    /// Its attributes, in a fixed order.
    pub attributes: Vec<(String, String)>,
}

impl Event {
    fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), attributes: Vec::new() }
    }

    fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.attributes.push((name.to_owned(), value.to_string()));
        self
    }
}

/// What a block did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockResult {
    /// Its height; the first block has 1.
    pub height: u64,
    /// Its time: never earlier than the block before.
    pub time: Time,
    /// The state after it.
    pub app_hash: Digest,
    /// One a transaction, in order.
    pub results: Vec<TransactionResult>,
    /// What happened at its end: lapses, deadlines, payments.
    pub events: Vec<Event>,
}

/// Why a query was refused.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// No such path.
    #[error("no query `{0}`; see `chain::wire::query`")]
    Path(String),
    /// The data is not what the path takes.
    #[error("the data of query `{path}` is not what it takes")]
    Data {
        /// The path.
        path: String,
        /// What is wrong with it.
        #[source]
        source: crate::codec::Error,
    },
}

/// Why a snapshot was refused.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not a snapshot.
    #[error("the bytes are not a ledger snapshot")]
    Decode(#[from] crate::codec::Error),
    /// Written by another version of the program.
    #[error("the snapshot has format {found}, this program reads {expected}")]
    Format {
        /// The format it has.
        found: u32,
        /// The format that is read here.
        expected: u32,
    },
    /// Its state is of a version that this program does not know.
    #[error(
        "the snapshot has a state of version {found}, this program knows versions up to {newest}: use a newer program"
    )]
    Version {
        /// The version it has.
        found: u32,
        /// The newest that is read here.
        newest: u32,
    },
    /// Its records are not those of the version it states.
    #[error(
        "the snapshot states version {stated} of the state, its records are of version {found}: it is damaged; delete it and replay"
    )]
    OtherVersion {
        /// What it says.
        stated: u32,
        /// What it holds.
        found: u32,
    },
    /// Its records don't give the app hash it states.
    #[error("the snapshot states app hash {stated}, its records give {computed}: it is damaged; delete it and replay")]
    AppHash {
        /// What it says.
        stated: Digest,
        /// What it holds.
        computed: Digest,
    },
    /// A record stands under the key of another.
    #[error("the snapshot has another kind of record under {0}")]
    Misplaced(String),
    /// It lacks a record that every ledger has.
    #[error("the snapshot lacks its {0} record")]
    Missing(&'static str),
}

/// A ledger at one height.
pub struct Ledger {
    state: State,
    tree: Tree,
    changed: Changed,
    /// No part of the ledger's state.
    verified: Verified,
}

impl Ledger {
    /// The ledger at height 0, whose blocks the genesis' validator makes alone.
    pub fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        let alone = BTreeMap::from([(genesis.validator, 1)]);
        Self::with_validators(genesis, alone)
    }

    /// The ledger at height 0, whose blocks these validators make with these powers. Without an economy nobody asks for
    /// them, and they are not kept.
    pub fn with_validators(genesis: Genesis, powers: BTreeMap<NodeKey, u64>) -> Result<Self, GenesisError> {
        let supply = genesis.check()?;
        let clock = Clock { height: 0, time: genesis.time, live: 0, supply };
        let balances = genesis.accounts.clone();
        let mut state = State::new(genesis, clock);
        balances.iter().for_each(|(account, balance)| money::credit(&mut state, account, *balance));
        if state.economy().is_some() {
            state.put_validators(Validators { powers });
        }
        let mut ledger = Self { state, tree: Tree::new(), changed: Changed::default(), verified: Verified::default() };
        ledger.commit();
        Ok(ledger)
    }

    /// What it began from.
    pub fn genesis(&self) -> &Genesis {
        self.state.genesis()
    }

    /// Blocks applied so far.
    pub fn height(&self) -> u64 {
        self.state.clock().height
    }

    /// Time of the last block, or of the genesis.
    pub fn time(&self) -> Time {
        self.state.clock().time
    }

    /// Root of the authenticated map of all records. It changes with every block, because the clock is a record.
    pub fn app_hash(&self) -> Digest {
        self.tree.root()
    }

    /// The name of this ledger.
    pub fn chain_id(&self) -> &str {
        &self.state.genesis().chain_id
    }

    /// Whether a transaction may wait for a block: its size, signature, chain id, and a nonce that is not used yet.
    pub fn check(&self, transaction: &[u8]) -> TransactionResult {
        transaction::check(&self.state, &self.verified, transaction)
    }

    /// Whose a transaction is and which nonce it has, if it is whole, authentic and for this ledger; else why not.
    pub fn claim(&self, transaction: &[u8]) -> Result<Claim, TransactionResult> {
        transaction::claim(&self.state, &self.verified, transaction).map_err(TransactionResult::from)
    }

    /// The nonce that the account's next transaction must have.
    pub fn next_nonce(&self, account: &NodeKey) -> u64 {
        transaction::next_nonce(&self.state, account)
    }

    /// Applies the next block: its transactions in order, then what time alone brings about. Exactly one result a
    /// transaction, whatever its bytes are. A `time` before the last block's counts as the last block's.
    pub fn apply_block(&mut self, time: Time, transactions: &[Vec<u8>]) -> BlockResult {
        block::apply(self, time, transactions)
    }

    /// Answers a query of [`super::wire::query`] from the last block's state.
    pub fn query(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, QueryError> {
        query::answer(self, path, data)
    }

    /// Proves to anyone who knows the app hash what the record under `key` is, or that there is none.
    pub fn prove(&self, key: &Key) -> Proof {
        let value = self.state.get(key).map(entries::Entry::to_bytes);
        self.tree.prove(key, value).expect("the genesis has been committed")
    }

    /// Everything, for [`Ledger::restore`].
    pub fn snapshot(&self) -> Vec<u8> {
        snapshot::write(self)
    }

    /// The ledger that gave this snapshot. Its app hash is computed anew and compared.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        snapshot::read(bytes)
    }

    /// Whether time alone can change something soon. An embedded ledger makes a block a second while it is true.
    pub fn has_open_work(&self) -> bool {
        block::has_open_work(&self.state)
    }

    /// Brings tree and index of changes up to the records.
    fn commit(&mut self) {
        let height = self.height();
        let mut writes = Vec::new();
        for key in self.state.take_changed() {
            let value = self.state.get(&key).map(entries::Entry::to_bytes);
            match &value {
                Some(value) => self.changed.set(key.clone(), height, value.len()),
                // Made and removed within the block.
                None if !self.changed.contains(&key) => continue,
                None => self.changed.remove(&key, height),
            }
            writes.push((key, value));
        }
        self.tree.update(writes);
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({} at height {}, {})", self.chain_id(), self.height(), self.app_hash())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        testing::{World, check_promises, content, genesis, id, person, register_message, shards, spec},
        *,
    };
    use crate::{
        chain::wire::{Message, Transaction},
        codec,
        types::{JobId, Quorum, Slot, TaskId, TaskStatus},
    };

    /// What a person does next; numbers are folded into what exists.
    #[derive(Clone, Debug)]
    enum Act {
        Register,
        Beat {
            leaving: bool,
        },
        Submit {
            slots: u32,
            rounds: u32,
            budget: u64,
            all: bool,
        },
        Lease {
            task: usize,
        },
        Report {
            task: usize,
            status: u8,
            step: u32,
        },
        Receipt {
            task: usize,
            verifier: u8,
        },
        Close {
            job: usize,
            voters: u8,
        },
        /// Every task of a job that is free is taken, every one that is held is proved.
        Work {
            job: usize,
        },
        Cancel {
            job: usize,
        },
        Pause {
            job: usize,
            paused: bool,
        },
        Grow {
            job: usize,
        },
        Model {
            version: u8,
        },
        Inference {
            job: usize,
            round: u32,
        },
        Wait {
            millis: u64,
        },
        Bytes {
            bytes: Vec<u8>,
        },
        Damage {
            act: Box<Act>,
            at: usize,
            bit: u8,
        },
    }

    fn act() -> impl Strategy<Value = Act> {
        let task = || 0..12_usize;
        let act = prop_oneof![
            2 => Just(Act::Register),
            4 => proptest::bool::weighted(0.1).prop_map(|leaving| Act::Beat { leaving }),
            2 => (1..4_u32, 1..3_u32, 0..2_000_000_u64, any::<bool>())
                .prop_map(|(slots, rounds, budget, all)| Act::Submit { slots, rounds, budget, all }),
            8 => task().prop_map(|task| Act::Lease { task }),
            6 => (task(), prop_oneof![Just(0_u8), 0..8_u8], 1..60_u32).prop_map(|(task, status, step)| Act::Report { task, status, step }),
            8 => (task(), 1..5_u8).prop_map(|(task, verifier)| Act::Receipt { task, verifier }),
            6 => (0..4_usize, prop_oneof![3 => Just(0_u8), 1 => 0..32_u8])
                .prop_map(|(job, voters)| Act::Close { job, voters }),
            6 => (0..4_usize).prop_map(|job| Act::Work { job }),
            1 => (0..8_usize).prop_map(|job| Act::Cancel { job }),
            1 => (0..4_usize, any::<bool>()).prop_map(|(job, paused)| Act::Pause { job, paused }),
            1 => (0..4_usize).prop_map(|job| Act::Grow { job }),
            1 => any::<u8>().prop_map(|version| Act::Model { version }),
            1 => (0..4_usize, 0..3_u32).prop_map(|(job, round)| Act::Inference { job, round }),
            2 => (0..400_000_u64).prop_map(|millis| Act::Wait { millis }),
            1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| Act::Bytes { bytes }),
        ];
        act.prop_flat_map(|act| {
            prop_oneof![
                12 => Just(act.clone()),
                1 => (any::<usize>(), 0..8_u8).prop_map(move |(at, bit)| {
                    Act::Damage { act: Box::new(act.clone()), at, bit }
                }),
            ]
        })
    }

    fn jobs(world: &World) -> Vec<JobId> {
        world.changes(0).jobs.iter().map(|job| job.id).collect()
    }

    fn job(world: &World, index: usize) -> Option<JobId> {
        let jobs = jobs(world);
        jobs.get(index % jobs.len().max(1)).copied()
    }

    fn task(world: &World, index: usize) -> Option<(JobId, Slot)> {
        let tasks = world.changes(0).tasks;
        let TaskId { job, slot } = tasks.get(index % tasks.len().max(1))?.id;
        Some((job, slot))
    }

    /// Whoever may do it does it, but for the fourth person, who tries everything.
    fn actor(world: &World, who: u8, act: &Act) -> u8 {
        let entitled = match act {
            Act::Damage { act, .. } => return actor(world, who, act),
            Act::Report { task: index, .. } | Act::Receipt { task: index, .. } => {
                task(world, *index).and_then(|(job, slot)| world.task(job, slot).holder)
            }
            Act::Cancel { job } | Act::Pause { job, .. } | Act::Grow { job } => {
                jobs(world).get(*job).map(|job| world.job(*job).creator)
            }
            _ => None,
        };
        let number = (1..5).find(|number| entitled == Some(id(*number)));
        number.filter(|_| who != 4).unwrap_or(who)
    }

    /// The transaction of an act, or nothing if it is about what does not exist.
    fn transaction(world: &World, who: u8, act: &Act) -> Option<Vec<u8>> {
        let job = |index: usize| job(world, index);
        let message = match act {
            Act::Wait { .. } | Act::Work { .. } => return None,
            Act::Bytes { bytes } => return Some(bytes.clone()),
            Act::Damage { act, at, bit } => {
                let mut bytes = transaction(world, who, act)?;
                let at = at % bytes.len().max(1);
                *bytes.get_mut(at)? ^= 1 << bit;
                return Some(bytes);
            }
            Act::Register => register_message(),
            Act::Beat { leaving } => Message::UpdateHeartbeat { beats: vec![world.beat(who, *leaving)] },
            Act::Submit { slots, rounds, budget, all } => {
                let quorum = if *all { Quorum::All } else { Quorum::TwoThirds };
                let spec = crate::types::JobSpec { budget: *budget, ..spec(*rounds, quorum) };
                Message::SubmitJob { spec: Box::new(spec), shards: shards(*slots) }
            }
            Act::Lease { task: index } => {
                let (job, slot) = task(world, *index)?;
                world.lease_message(job, slot)
            }
            Act::Report { task: index, status, step } => {
                use TaskStatus::{Assigned, Completed, Delegated, Failed, InProgress, Paused, Pending, Rollback};
                let all = [InProgress, Paused, Delegated, Rollback, Failed, Assigned, Pending, Completed];
                let (job, slot) = task(world, *index)?;
                match (all[usize::from(*status)], world.report(job, slot, all[usize::from(*status)])) {
                    (InProgress, _) => world.checkpoint(job, slot, *step),
                    (_, Message::UpdateTaskStatus { task_id, generation, status, progress, checkpoint, error, .. }) => {
                        let delegate = Some(id(who % 4 + 1));
                        Message::UpdateTaskStatus { task_id, generation, status, progress, checkpoint, delegate, error }
                    }
                    (_, message) => message,
                }
            }
            Act::Receipt { task: index, verifier } => {
                let (job, slot) = task(world, *index)?;
                world.receipt_message(who, *verifier, &world.receipt(job, slot))
            }
            Act::Close { job: index, voters } => {
                let job = job(*index)?;
                let holders: Vec<_> = world.tasks(job).iter().filter_map(|task| task.holder).collect();
                let votes = |number: &u8| holders.contains(&id(*number)) || voters >> number & 1 == 1;
                let voters: Vec<u8> = (1..5).filter(votes).collect();
                world.close_message(&world.outcome(job), &voters)
            }
            Act::Cancel { job: index } => Message::CancelJob { job_id: *jobs(world).get(*index)? },
            Act::Pause { job: index, paused } => Message::PauseJob { job_id: job(*index)?, paused: *paused },
            Act::Grow { job: index } => Message::CreateTask { job_id: job(*index)?, shard: shards(1).remove(0) },
            Act::Model { version } => Message::RegisterModel {
                name: "mine".to_owned(),
                version: version.to_string(),
                cid: content("mine"),
                metadata: BTreeMap::new(),
            },
            Act::Inference { job: index, round } => {
                Message::ReportInference { job_id: job(*index)?, answered: 5, failed: 1, round: *round }
            }
        };
        Some(world.sign(who, message))
    }

    /// What the holders of a job's tasks do when all goes well, in one block.
    fn work(world: &World, job: JobId) -> Vec<Vec<u8>> {
        let mut sent = BTreeMap::<u8, u64>::new();
        let mut sign = |who: u8, message| {
            let count = sent.entry(who).or_default();
            *count += 1;
            world.sign_with(who, world.account(who).nonce + *count - 1, message)
        };
        let step = |task: crate::chain::records::Task| {
            let slot = task.id.slot;
            let holder = (1..5).find(|number| task.holder == Some(id(*number)));
            match holder {
                Some(holder) => sign(holder, world.receipt_message(holder, holder % 3 + 1, &world.receipt(job, slot))),
                None => {
                    let taker = u8::try_from(slot % 3).unwrap() + 1;
                    sign(taker, world.lease_message(job, slot))
                }
            }
        };
        world.tasks(job).into_iter().map(step).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_people_send_money_is_conserved_and_replay_and_snapshot_agree(
            acts in proptest::collection::vec((1..5_u8, act()), 1..100),
            cut in 0..100_usize,
        ) {
            let mut world = World::in_a_round();
            let mut restored: Option<Ledger> = None;
            let mut blocks: Vec<(Time, Vec<Vec<u8>>)> = Vec::new();
            let replay_from = world.ledger.snapshot();
            for (index, (who, act)) in acts.iter().enumerate() {
                if index == cut {
                    restored = Some(Ledger::restore(&world.ledger.snapshot()).unwrap());
                }
                let millis = if let Act::Wait { millis } = act { *millis } else { 500 };
                let who = actor(&world, *who, act);
                let transactions: Vec<Vec<u8>> = match act {
                    Act::Work { job: index } => job(&world, *index).map_or(Vec::new(), |job| work(&world, job)),
                    act => transaction(&world, who, act).into_iter().collect(),
                };
                // Checks the promises.
                let result = world.block(millis, &transactions);
                blocks.push((world.now, transactions.clone()));
                if let Some(restored) = &mut restored {
                    prop_assert_eq!(&restored.apply_block(world.now, &transactions), &result);
                }
            }
            let mut replayed = Ledger::restore(&replay_from).unwrap();
            for (time, transactions) in &blocks {
                replayed.apply_block(*time, transactions);
            }
            prop_assert_eq!(replayed.app_hash(), world.ledger.app_hash());
            prop_assert_eq!(replayed.snapshot(), world.ledger.snapshot());
        }

        #[test]
        fn damaged_snapshots_are_refused_without_a_panic(at in any::<usize>(), bit in 0..8_u8, cut in any::<bool>()) {
            let mut bytes = World::of_nodes(2).ledger.snapshot();
            let at = at % bytes.len();
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            if let Ok(ledger) = Ledger::restore(&bytes) {
                check_promises(&ledger);
            }
        }
    }

    #[test]
    #[should_panic(expected = "money was made or lost")]
    fn money_from_nowhere_would_be_noticed() {
        let mut world = World::of_nodes(1);
        money::credit(&mut world.ledger.state, &id(1), 1);
        check_promises(&world.ledger);
    }

    #[test]
    #[should_panic(expected = "left == right")]
    fn a_holder_without_a_lease_would_be_noticed() {
        let mut world = World::in_a_round();
        let job = jobs(&world)[0];
        world.ledger.state.edit_task(&TaskId { job, slot: 0 }, |task| task.status = TaskStatus::Pending);
        check_promises(&world.ledger);
    }

    #[test]
    fn two_ledgers_with_equal_genesis_are_equal_and_with_another_parameter_are_not() {
        let equal = [genesis(), genesis()].map(|genesis| Ledger::new(genesis).unwrap().app_hash());
        assert_eq!(equal[0], equal[1]);
        let parameters = Parameters { base_reward: 7, ..genesis().parameters };
        assert_ne!(Ledger::new(Genesis { parameters, ..genesis() }).unwrap().app_hash(), equal[0]);
    }

    #[test]
    fn a_genesis_reads_back_from_json_and_says_what_is_wrong_with_it() {
        let json = serde_json::to_string(&genesis()).unwrap();
        assert_eq!(serde_json::from_str::<Genesis>(&json).unwrap(), genesis());
        let decoded: Genesis = codec::decode(&codec::encode(&genesis()), 10_000).unwrap();
        assert_eq!(decoded, genesis());
        let refused = |genesis| Ledger::new(genesis).unwrap_err();
        assert!(matches!(refused(Genesis { chain_id: "two words".to_owned(), ..genesis() }), GenesisError::ChainId(_)));
        let accounts = BTreeMap::from([(id(1), u64::MAX), (id(2), 1)]);
        assert_eq!(refused(Genesis { accounts, ..genesis() }), GenesisError::Supply);
        let parameters = Parameters { offline_after_millis: 0, ..Parameters::default() };
        assert_eq!(refused(Genesis { parameters, ..genesis() }), GenesisError::Zero("offline_after_millis"));
    }

    #[test]
    fn a_reader_with_the_app_hash_can_check_one_record() {
        let world = World::of_nodes(2);
        let (key, nobody) = (Key::Node(id(1)), Key::Node(NodeKey([9; 32])));
        let proof: Proof = world.query(crate::chain::wire::query::PROVE, &key);
        assert!(proof.verify(world.ledger.app_hash(), &key));
        assert_eq!(proof.value, Some(codec::encode(&world.node(1))));
        assert!(world.ledger.prove(&nobody).verify(world.ledger.app_hash(), &nobody));
        assert!(!proof.verify(World::of_nodes(3).ledger.app_hash(), &key));
    }

    #[test]
    fn a_transaction_for_another_ledger_or_out_of_turn_is_refused_and_a_failed_one_uses_its_nonce() {
        let mut world = World::of_nodes(1);
        let foreign = Transaction { chain_id: "other".to_owned(), nonce: 1, attempt: 0, message: register_message() };
        let foreign = codec::encode(&person(1).seal(&foreign));
        assert_eq!(world.ledger.check(&foreign).code, super::super::wire::Code::ChainId as u32);
        let used = world.sign_with(1, 0, register_message());
        assert_eq!(world.ledger.check(&used).code, super::super::wire::Code::Nonce as u32);
        let early = world.sign_with(1, 2, register_message());
        assert_eq!(world.ledger.check(&early).code, 0);
        let codes = |results: Vec<TransactionResult>| results.iter().map(|result| result.code).collect::<Vec<_>>();
        let early_result = world.block(100, &[early.clone(), foreign, used]);
        assert_eq!(codes(early_result.results), [4, 3, 4]);
        let failing = world.sign(1, Message::CancelJob { job_id: JobId([1; 32]) });
        assert_eq!(codes(world.block(100, &[failing.clone(), failing, early]).results), [5, 4, 0]);
        assert_eq!(world.account(1).nonce, 3);
    }
}
