//! What a ledger begins from.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
};

use super::Economy;
use crate::types::{NodeKey, Time};

/// The longest chain id in bytes (CometBFT's own limit).
pub const MAX_CHAIN_ID: usize = 50;

/// The first state of a ledger. Two ledgers with equal genesis and equal blocks are equal, to the byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// Names the ledger; 1 to [`MAX_CHAIN_ID`] printable ASCII characters. Transactions carry it.
    pub chain_id: String,
    /// The numbers it runs by.
    #[serde(default)]
    pub parameters: Parameters,
    /// Balances that exist from the start, in the smallest unit.
    #[serde(default, deserialize_with = "each_account_once")]
    pub accounts: BTreeMap<NodeKey, u64>,
    /// Block time of height 0.
    pub time: Time,
    /// The key that signs an embedded ledger's blocks; under CometBFT, the first validator's.
    pub validator: NodeKey,
    /// Stake, offences, reputation that fades, and fees; none of them where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub economy: Option<Economy>,
}

/// The numbers a ledger runs by. They stand in the genesis and change by votes in blocks alone ([`super::Rules`]), so that a
/// replay of the blocks takes the same decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Credited once to an account when it first registers a node. A real chain's genesis has 0 here; an embedded
    /// ledger needs some, because nobody sells its unit.
    pub faucet_per_account: u64,
    /// A node whose last beat is more than this many milliseconds of live time ago is offline (origin: more than
    /// 90 s, which is three beats).
    pub offline_after_millis: u64,
    /// A beat's own timestamp may differ by this much from block time. It keeps a hoard of beats that were signed
    /// ahead from standing in for a dead node; a guess, wide enough for clocks that nobody sets.
    pub beat_skew_millis: u64,
    /// The most live time one block adds: longer gaps mean that the ledger was away, and must lapse nobody.
    pub live_step_max_millis: u64,
    /// Shortest life of a lease in milliseconds of live time, from its start or its last checkpoint. A lease lives
    /// at least twice its job's `round_limit`, so that the order `round_limit` < lease holds for every job.
    pub lease_millis: u64,
    /// Milliseconds of live time that a named node has to accept a delegated task. A guess: two beats.
    pub delegate_millis: u64,
    /// Blocks between a round's closing and the release of its rewards: the time in which a wrong root can still be
    /// proved. A guess: twenty blocks of a second each.
    pub audit_window_blocks: u64,
    /// Paid for one local step at full reputation, in the smallest unit, as far as the job's budget for the round goes.
    pub base_reward: u64,
    /// A task that its holders reported as failed this often fails, and its job with it. Fewer than that go to
    /// another node, because a failure may be the machine's. It starts anew with each applied round. A guess.
    pub task_failures: u32,
    /// Milliseconds of live time for which a node that failed a task cannot take it again: others go first. A guess.
    pub failure_pause_millis: u64,
    /// The most shards of a job: a close of that many slots with its votes is as large as a transaction may be.
    pub max_slots: u32,
    /// The most rounds of a job. A guess.
    pub max_rounds: u32,
    /// The longest `round_limit` in milliseconds. A guess: one day.
    pub max_round_limit_millis: u64,
    /// The longest deadline of a job in milliseconds after its submission. A guess: ninety days.
    pub max_deadline_millis: u64,
    /// The most open jobs of one creator; another is refused until one ends. A guess against floods.
    pub max_open_jobs: u32,
    /// The most objects that others keep for one account; another is refused until one is over. With 0 the ledger has no
    /// storage and knows none of its messages, and is written as it was before there was any.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_objects: u32,
}

/// [`Parameters::max_objects`] of the ledgers that begin now. An object is a whole model or data set, not a file. A guess
/// against floods.
pub const USUAL_MAX_OBJECTS: u32 = 1_000;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            faucet_per_account: 0,
            offline_after_millis: 90_000,
            beat_skew_millis: 600_000,
            live_step_max_millis: 5_000,
            lease_millis: 600_000,
            delegate_millis: 60_000,
            audit_window_blocks: 20,
            base_reward: 1_000,
            task_failures: 3,
            failure_pause_millis: 60_000,
            max_slots: 1_000,
            max_rounds: 100_000,
            max_round_limit_millis: 24 * 3600 * 1000,
            max_deadline_millis: 90 * 24 * 3600 * 1000,
            max_open_jobs: 100,
            max_objects: 0,
        }
    }
}

impl Parameters {
    /// The defaults for a ledger on which nodes are offline after so many milliseconds. One block adds at most a third of
    /// them to live time: the first block after the ledger was away must not use them up before a beat could come.
    pub fn with_offline_after(millis: u64) -> Self {
        let default = Self::default();
        let step = default.live_step_max_millis.min(millis / 3).max(1);
        Self { offline_after_millis: millis, live_step_max_millis: step, ..default }
    }

    /// Refuses what no ledger could run by.
    pub(super) fn check(&self) -> Result<(), GenesisError> {
        let never_zero = [
            (self.offline_after_millis, "offline_after_millis"),
            (self.live_step_max_millis, "live_step_max_millis"),
            (self.lease_millis, "lease_millis"),
            (u64::from(self.task_failures), "task_failures"),
            (u64::from(self.max_slots), "max_slots"),
            (u64::from(self.max_rounds), "max_rounds"),
        ];
        let zero = never_zero.into_iter().find(|(value, _)| *value == 0);
        zero.map_or(Ok(()), |(_, name)| Err(GenesisError::Zero(name)))
    }
}

/// Why a genesis was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// The chain id is empty, too long or not printable ASCII.
    #[error(
        "chain id `{0}` must have 1 to {MAX_CHAIN_ID} printable ASCII characters without spaces; change `chain_id`"
    )]
    ChainId(String),
    /// The balances overflow.
    #[error("the balances under `accounts` add up to more than {}", u64::MAX)]
    Supply,
    /// A parameter that must not be zero is.
    #[error("parameter `{0}` must not be 0")]
    Zero(&'static str),
    /// A parameter is larger than what it is a part of.
    #[error("parameter `{name}` is {value}; it must be at most {most}")]
    TooLarge {
        /// Which.
        name: &'static str,
        /// What it is.
        value: u32,
        /// What it may be.
        most: u32,
    },
}

/// A JSON object may name a key twice, and the last would win: of two balances one would be lost without a word.
fn each_account_once<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<NodeKey, u64>, D::Error> {
    struct Accounts;

    impl<'de> Visitor<'de> for Accounts {
        type Value = BTreeMap<NodeKey, u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of node keys to balances")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut accounts = BTreeMap::new();
            while let Some((account, balance)) = map.next_entry()? {
                if accounts.insert(account, balance).is_some() {
                    return Err(A::Error::custom(format!(
                        "account {account} stands twice under `accounts`; remove one"
                    )));
                }
            }
            Ok(accounts)
        }
    }

    deserializer.deserialize_map(Accounts)
}

impl Genesis {
    /// The sum of all balances, if the genesis is sound.
    pub(super) fn check(&self) -> Result<u64, GenesisError> {
        let printable = self.chain_id.bytes().all(|byte| byte.is_ascii_graphic());
        if self.chain_id.is_empty() || self.chain_id.len() > MAX_CHAIN_ID || !printable {
            return Err(GenesisError::ChainId(self.chain_id.chars().take(MAX_CHAIN_ID).collect()));
        }
        self.parameters.check()?;
        self.economy.as_ref().map_or(Ok(()), Economy::check)?;
        self.accounts.values().try_fold(0_u64, |sum, balance| sum.checked_add(*balance)).ok_or(GenesisError::Supply)
    }
}
