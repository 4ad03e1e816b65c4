//! A scenario: what is simulated, what goes wrong, and what is expected. Read from TOML; `simulations/README.md`
//! explains each key.

use serde::{Deserialize, Serialize};

use super::{draw::Random, fault::Fault};
use crate::{
    chain::ledger::Economy,
    types::{JobStatus, Quorum},
};

/// Why a scenario can't be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not the TOML that it should be.
    #[error("the scenario can't be read; see simulations/README.md for its keys")]
    Toml(#[from] toml::de::Error),
    /// A number is out of its range.
    #[error("`{key}` of the scenario {fault}")]
    Range {
        /// Which.
        key: &'static str,
        /// What is wrong.
        fault: &'static str,
    },
}

/// A scenario.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// A name for people.
    pub name: String,
    /// Fixes all chance.
    #[serde(default = "one")]
    pub seed: u64,
    /// Machines, each with one node.
    pub nodes: usize,
    /// The run ends at this virtual time at the latest, in seconds.
    #[serde(default = "ten_minutes")]
    pub limit_seconds: u64,
    /// After the job has ended the world goes on for so long, so that payments are made and everybody hears of it.
    #[serde(default = "thirty")]
    pub settle_seconds: u64,
    /// Between two beats of a node, in milliseconds.
    #[serde(default = "one_second")]
    pub beat_millis: u64,
    /// Tasks that each node has room for.
    #[serde(default = "two")]
    pub room: u64,
    /// Nodes start within so many virtual milliseconds.
    #[serde(default = "two_hundred")]
    pub start_millis: u64,
    /// Peers that each node is told of at its start, all of them with a smaller number.
    #[serde(default = "four")]
    pub bootstrap: usize,
    /// The job that is submitted.
    #[serde(default)]
    pub job: Job,
    /// How fast scripts are.
    #[serde(default)]
    pub script: Script,
    /// How slow the network is.
    #[serde(default)]
    pub network: Network,
    /// What others keep for the first node; if absent the ledger has no storage.
    #[serde(default)]
    pub storage: Option<Storage>,
    /// How the ledger behaves.
    #[serde(default)]
    pub ledger: Ledger,
    /// What goes wrong.
    #[serde(default)]
    pub fault: Vec<Fault>,
    /// What else goes wrong, by chance; the network is then by chance too.
    #[serde(default)]
    pub random: Option<Random>,
    /// What must come out.
    #[serde(default)]
    pub expect: Expect,
    /// What came out the last time that somebody looked and found it right, with the scenario's own seed.
    #[serde(default)]
    pub accepted: Option<Accepted>,
}

/// What is compared with what came out before. Times and counts of messages are not: they change with the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// How the job ended.
    pub status: String,
    /// Rounds closed.
    pub rounds: u32,
    /// Root of the last model, in hexadecimal.
    pub model_root: String,
    /// Tasks that changed hands.
    pub reassigned: u32,
    /// Runs that continued inside a round.
    pub resumed: u32,
    /// Updates that came too late.
    pub skipped: u64,
}

/// The job. Node 0 submits it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Job {
    /// When, in virtual milliseconds.
    pub submit_millis: u64,
    /// Tasks.
    pub slots: u32,
    /// Outer steps.
    pub rounds: u32,
    /// Local steps a round.
    pub local_steps: u32,
    /// Steps between checkpoints.
    pub checkpoint_every: u32,
    /// When a round may close.
    pub quorum: Quorum,
    /// Other nodes that must hold the job's content.
    pub copies: u32,
    /// Whether one process stays for all rounds.
    pub session: bool,
    /// Longest time for a round.
    pub round_limit_millis: u64,
    /// The job fails when it is still open after so long.
    pub deadline_millis: u64,
    /// Its escrow.
    pub budget: u64,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            submit_millis: 3_000,
            slots: 4,
            rounds: 20,
            local_steps: 50,
            checkpoint_every: 10,
            quorum: Quorum::All,
            copies: 2,
            session: true,
            round_limit_millis: 60_000,
            deadline_millis: 3_600_000,
            budget: 10_000_000,
        }
    }
}

/// How fast scripts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// From the launch to the first step.
    pub launch_millis: u64,
    /// One step.
    pub step_millis: u64,
}

impl Default for Script {
    /// Python with numpy, and a small model (targets.md).
    fn default() -> Self {
        Self { launch_millis: 138, step_millis: 5 }
    }
}

/// What an overtaken message is late by.
pub(super) const LATE_MILLIS: u64 = 300;

/// The network. Both ways of a path are alike but for faults.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// One way, at least.
    pub latency_millis: u64,
    /// And up to so much more, each message by chance.
    pub jitter_millis: u64,
    /// What one message gets of a path, in kilobits (1,000 bits) a second; paths are not shared.
    pub kilobits: u64,
    /// Gossip messages of 1,000 that never arrive, and requests and answers of 1,000 whose stream breaks.
    pub loss_permille: u32,
    /// Gossip messages and transactions of 1,000 that arrive twice.
    pub duplicate_permille: u32,
    /// Messages of 1,000 that are overtaken: they take [`LATE_MILLIS`] longer.
    pub late_permille: u32,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            latency_millis: 1,
            jitter_millis: 4,
            kilobits: 10_000,
            loss_permille: 0,
            duplicate_permille: 0,
            late_permille: 0,
        }
    }
}

/// The ledger, on a machine of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ledger {
    /// Nodes without a beat for so long are offline.
    pub offline_after_millis: u64,
    /// Credited at registration.
    pub faucet: u64,
    /// Shortest life of a lease.
    pub lease_millis: u64,
    /// Blocks until a round's rewards are paid.
    pub audit_window_blocks: u64,
    /// Stake, offences, reputation that fades, and fees, by the names that they have in a genesis; none of them if absent.
    pub economy: Option<Economy>,
}

impl Default for Ledger {
    /// As `testnet` runs it.
    fn default() -> Self {
        Self {
            offline_after_millis: 3_500,
            faucet: 1_000_000_000,
            lease_millis: 120_000,
            audit_window_blocks: 20,
            economy: None,
        }
    }
}

/// Content that others keep. Node 0 owns it; every node lends room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Bytes of room that each node lends.
    pub room_bytes: u64,
    /// Objects.
    pub objects: u32,
    /// Bytes of each.
    pub object_bytes: usize,
    /// Other nodes that shall hold each.
    pub copies: u32,
    /// When the owner asks for them, in virtual milliseconds.
    #[serde(default = "two_thousand")]
    pub ask_millis: u64,
}

/// The largest object: the network moves one block a root, and this is a chunk.
const MAX_OBJECT: usize = 1 << 20;

impl Storage {
    /// The key of a number out of its range, and what is wrong with it.
    fn fault(&self, nodes: usize) -> Option<(&'static str, &'static str)> {
        match self {
            Self { objects: 0, .. } => Some(("storage.objects", "must be 1 at least")),
            Self { object_bytes, .. } if !(8..=MAX_OBJECT).contains(object_bytes) => {
                Some(("storage.object_bytes", "must be from 8 to 1,048,576"))
            }
            Self { copies, .. } if *copies == 0 || *copies as usize >= nodes => {
                Some(("storage.copies", "must be 1 at least, and smaller than `nodes`"))
            }
            _ => None,
        }
    }
}

/// What must come out; what is absent is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// How the job ends.
    pub status: Option<JobStatus>,
    /// Tasks that changed hands, at least.
    pub reassigned_at_least: Option<u32>,
    /// Tasks that changed hands, at most.
    pub reassigned_at_most: Option<u32>,
    /// A successor continued later than at a round's start, so many times at least.
    pub resumed_at_least: Option<u32>,
    /// Updates that came too late, at most.
    pub skipped_at_most: Option<u64>,
    /// Offences that the ledger punishes, at least.
    pub punished_at_least: Option<u32>,
    /// Nodes that it punishes.
    pub offenders: Option<u32>,
    /// Holders of objects whose place another node took, at least.
    pub repaired_at_least: Option<u32>,
}

impl Scenario {
    /// Reads a scenario.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let scenario: Self = toml::from_str(text)?;
        let range = |key, fault| Err(Error::Range { key, fault });
        if let Some((key, fault)) = scenario.storage.and_then(|storage| storage.fault(scenario.nodes)) {
            return range(key, fault);
        }
        match () {
            () if scenario.nodes < 2 => range("nodes", "must be 2 at least: nobody else could hold a checkpoint"),
            () if scenario.nodes > MAX_NODES => range("nodes", "is too large: the most is 65,536"),
            () if scenario.job.slots == 0 => range("job.slots", "must be 1 at least"),
            () if scenario.network.kilobits == 0 => range("network.kilobits", "must not be 0"),
            () if scenario.random.is_some_and(|random| random.from_millis > random.until_millis) => {
                range("random.until_millis", "must not be before `from_millis`")
            }
            () if scenario.beat_millis == 0 => range("beat_millis", "must not be 0"),
            () => Ok(scenario),
        }
    }
}

/// Machines have addresses of 16 bits.
const MAX_NODES: usize = 65_536;

fn one() -> u64 {
    1
}

fn two() -> u64 {
    2
}

fn four() -> usize {
    4
}

fn two_thousand() -> u64 {
    2_000
}

fn two_hundred() -> u64 {
    200
}

fn thirty() -> u64 {
    30
}

fn one_second() -> u64 {
    1_000
}

fn ten_minutes() -> u64 {
    600
}
